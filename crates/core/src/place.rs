//! The names of places that hold regions, as people write them: a scheme, what lies there, and options.
//!
//! A name holds no secret: credentials come from the environment, from files that options name, or from the host's own identity.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A place by its URL: `/srv/r1`, `file:///srv/r1`, `s3://bucket/prefix?region=eu-west-1`.
///
/// Paths of the file system are taken as they stand. In every other URL the text behind `?` is options, `name=value` joined by
/// `&`, where `%26` stands for `&`, `%25` for `%`, and likewise for any other byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceUrl {
    scheme: String,
    host: String,
    path: String,
    options: BTreeMap<String, String>,
}

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceUrlError {
    /// Neither an absolute path nor a URL.
    #[error("`{0}` names no place (hint: an absolute path, or a URL such as file:///srv/backup or s3://bucket/prefix)")]
    NoUrl(String),
    /// The part of the URL is not as it must be.
    #[error("`{url}`: {trouble}")]
    Part {
        /// The whole text.
        url: String,
        /// What is wrong.
        trouble: String,
    },
}

impl PlaceUrl {
    /// The scheme; `file` for a plain path.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between `//` and the next `/`: a bucket, an account, a host with user and port. Empty for files.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What comes behind it, without a `/` at its end. Begins with `/` or is empty.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path as a prefix of keys: `a/b/`, or nothing.
    pub fn prefix(&self) -> String {
        let inner = self.path.trim_matches('/');
        if inner.is_empty() { String::new() } else { format!("{inner}/") }
    }

    /// The place `name` within this one, reached in the same way.
    #[must_use]
    pub fn join(&self, name: &str) -> PlaceUrl {
        PlaceUrl { path: format!("{}/{name}", self.path.trim_end_matches('/')), ..self.clone() }
    }

    /// An option, if it is said.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// An option that is `true` or `false`; false unless said.
    pub fn flag(&self, name: &str) -> Result<bool, PlaceUrlError> {
        match self.option(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(self.trouble(format!("option `{name}` is true or false, not `{other}`"))),
        }
    }

    /// Refuses options that are not among `known`, by name.
    pub fn only_options(&self, known: &[&str]) -> Result<(), PlaceUrlError> {
        match self.options.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) if known.is_empty() => Err(self.trouble(format!("there is no option `{name}` here"))),
            Some(name) => {
                Err(self.trouble(format!("there is no option `{name}` here (hint: there are {})", known.join(", "))))
            }
        }
    }

    /// The error that says `trouble` of this URL.
    pub fn trouble(&self, trouble: impl Into<String>) -> PlaceUrlError {
        PlaceUrlError::Part { url: self.to_string(), trouble: trouble.into() }
    }

    /// Whether both name the same objects, whatever their options say of the way there.
    pub fn is_same_place(&self, other: &PlaceUrl) -> bool {
        let endpoint = |url: &PlaceUrl| url.option("endpoint").map(|text| text.trim_end_matches('/').to_owned());
        (&self.scheme, &self.host, self.path.trim_end_matches('/'), endpoint(self))
            == (&other.scheme, &other.host, other.path.trim_end_matches('/'), endpoint(other))
    }
}

impl FromStr for PlaceUrl {
    type Err = PlaceUrlError;

    fn from_str(text: &str) -> Result<PlaceUrl, PlaceUrlError> {
        let plain = |scheme: &str, path: &str| PlaceUrl {
            scheme: scheme.to_owned(),
            host: String::new(),
            path: path.to_owned(),
            options: BTreeMap::new(),
        };
        if text == "memory:" {
            return Ok(plain("memory", ""));
        }
        if let Some(path) = text.strip_prefix("file://").or(text.starts_with('/').then_some(text)) {
            let is_path = path.starts_with('/') && !path.contains('\0');
            return if is_path { Ok(plain("file", path)) } else { Err(PlaceUrlError::NoUrl(text.to_owned())) };
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| PlaceUrlError::NoUrl(text.to_owned()))?;
        let is_word = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        // The memory of a process has no other name than `memory:`.
        let is_scheme = is_word && scheme != "memory";
        let trouble = |trouble: String| PlaceUrlError::Part { url: text.to_owned(), trouble };
        if !is_scheme {
            return Err(PlaceUrlError::NoUrl(text.to_owned()));
        }
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let slash = location.find('/').unwrap_or(location.len());
        let (host, path) = location.split_at(slash);
        if host.is_empty() {
            return Err(trouble(format!("a name must follow `{scheme}://`")));
        }
        if host.split_once('@').is_some_and(|(user, _)| user.contains(':')) {
            return Err(PlaceUrlError::Part {
                url: format!("{scheme}://…"),
                trouble: "a password in a URL would be shown and logged (hint: put it into a file and name that)"
                    .to_owned(),
            });
        }
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value =
                decoded(value).ok_or_else(|| trouble(format!("option `{name}` is not valid percent-encoding")))?;
            if options.insert(name.to_owned(), value).is_some() {
                return Err(trouble(format!("option `{name}` is said twice")));
            }
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(PlaceUrl { scheme: scheme.to_owned(), host: host.to_owned(), path, options })
    }
}

impl fmt::Display for PlaceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme == "memory" {
            return f.write_str("memory:");
        }
        write!(f, "{}://{}{}", self.scheme, self.host, self.path)?;
        for (index, (name, value)) in self.options.iter().enumerate() {
            write!(f, "{}{name}={}", if index == 0 { '?' } else { '&' }, Encoded(value))?;
        }
        Ok(())
    }
}

/// Writes a value of an option so that it can be read again.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '%' | '&' | '#' => write!(f, "%{:02X}", u32::from(c))?,
                c if c.is_ascii_control() => write!(f, "%{:02X}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> PlaceUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_has_parts() {
        let url = parse("s3://bucket/a/b/?region=eu-west-1&endpoint=http://127.0.0.1:5000&path-style");
        assert_eq!((url.scheme(), url.host(), url.path(), &*url.prefix()), ("s3", "bucket", "/a/b", "a/b/"));
        assert_eq!(url.option("endpoint"), Some("http://127.0.0.1:5000"));
        assert_eq!(
            url.join("c").to_string(),
            "s3://bucket/a/b/c?endpoint=http://127.0.0.1:5000&path-style=&region=eu-west-1"
        );
        assert_eq!((url.flag("path-style"), url.flag("absent")), (Ok(true), Ok(false)));
        assert!(url.flag("region").unwrap_err().to_string().contains("`region` is true or false, not `eu-west-1`"));
        assert!(url.only_options(&["region", "endpoint", "path-style"]).is_ok());
        let error = url.only_options(&["region", "endpoint"]).unwrap_err().to_string();
        assert!(error.contains("`path-style`") && error.contains("region, endpoint"), "{error}");
    }

    #[test]
    fn paths_stand_as_they_are() {
        for text in ["/srv/a?b=c&d", "file:///srv/a?b=c&d"] {
            assert_eq!((parse(text).scheme(), parse(text).path()), ("file", "/srv/a?b=c&d"));
        }
        assert_eq!(parse("/srv/r1").to_string(), "file:///srv/r1");
    }

    #[test]
    fn what_names_no_place_is_refused_by_name() {
        for bad in [
            "",
            "relative/path",
            "file://relative",
            "memory",
            "S3://b",
            "://b",
            "s3://",
            "s3:///key",
            "memory://x",
            "s3://b?a=%2",
            "s3://b?a=1&a=2",
        ] {
            let error = bad.parse::<PlaceUrl>().unwrap_err().to_string();
            assert!(error.contains(bad), "{bad}: {error}");
        }
        let error = "sftp://me:secret@host/x".parse::<PlaceUrl>().unwrap_err().to_string();
        assert!(error.contains("password") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn one_place_by_two_names() {
        let same = |a: &str, b: &str| parse(a).is_same_place(&parse(b));
        assert!(same("/srv/r1", "file:///srv/r1/"));
        assert!(same("s3://b/p?region=x", "s3://b/p/?region=y&path-style"));
        assert!(!same("s3://b/p?endpoint=http://one", "s3://b/p?endpoint=http://two"));
        assert!(!same("s3://b/p", "gs://b/p"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(value in ".*") {
            let mut url = parse("gs://bucket/p");
            url.options.insert("o".to_owned(), value);
            prop_assert_eq!(parse(&url.to_string()), url);
        }
    }
}
