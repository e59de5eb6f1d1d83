//! Opens `gs://BUCKET[/PREFIX]`. Every option is listed in docs/storage/gcs.md.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use breakwater_core::PlaceUrl;
use breakwater_runtime::SystemEntropy;
use breakwater_storage::key::check_key;
use breakwater_storage::places::{UseAs, invalid};
use breakwater_storage::{Backend, Provider, StorageError};
use reqwest::{Certificate, Proxy, Url};

use crate::gcs::Gcs;
use crate::login::{Login, Source};
use crate::wire::Wire;

const ENDPOINT: &str = "https://storage.googleapis.com";
const OPTIONS: [&str; 6] = ["endpoint", "credentials", "anonymous", "quota-project", "ca", "proxy"];

/// Opens places in buckets of Google Cloud Storage.
#[derive(Clone, Copy, Debug, Default)]
pub struct GcsProvider;

#[async_trait]
impl Provider for GcsProvider {
    fn scheme(&self) -> &'static str {
        "gs"
    }

    fn form(&self) -> &'static str {
        "gs://BUCKET[/PREFIX]"
    }

    async fn open(&self, url: &PlaceUrl, _: UseAs) -> Result<Arc<dyn Backend>, StorageError> {
        let gcs = place(url, |name| std::env::var_os(name)).map_err(|why| invalid(url, why))?;
        Ok(Arc::new(gcs))
    }
}

/// The place that `url` names. `variable` reads the environment.
fn place(url: &PlaceUrl, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Gcs, String> {
    url.only_options(&OPTIONS).map_err(|error| error.to_string())?;
    check_bucket(url.host())?;
    let prefix = url.prefix();
    if !prefix.is_empty() {
        check_key(prefix.trim_end_matches('/'))
            .map_err(|why| format!("`{prefix}` cannot be a prefix of keys: {why}"))?;
    }
    let endpoint = endpoint(url.option("endpoint").unwrap_or(ENDPOINT))?;
    let source = if url.flag("anonymous").map_err(|error| error.to_string())? {
        if !is_loopback(&endpoint) {
            return Err(
                "anonymous is for servers of tests on this host (hint: leave it out, or name one by endpoint=)".into(),
            );
        }
        Source::Anonymous
    } else {
        Source::choose(url.option("credentials"), &variable)
    };
    let project = url.option("quota-project").map(str::to_owned);
    let project = project.or_else(|| variable("GOOGLE_CLOUD_QUOTA_PROJECT")?.into_string().ok());
    let login = Login::new(source, project.filter(|project| !project.is_empty()))?;
    let authorities = url.option("ca").map(authorities).transpose()?.unwrap_or_default();
    let proxy = url.option("proxy").map(proxy).transpose()?;
    let wire = Wire::new(endpoint, login, authorities, proxy).map_err(|error| format!("no client: {error}"))?;
    Ok(Gcs::new(url.host(), prefix, wire, Arc::new(SystemEntropy)))
}

/// <https://cloud.google.com/storage/docs/buckets#naming>.
fn check_bucket(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    if (3..=222).contains(&bytes.len())
        && bytes.iter().copied().all(allowed)
        && ends(bytes.first())
        && ends(bytes.last())
    {
        return Ok(());
    }
    Err(format!(
        "`{name}` is no name of a bucket (hint: 3 or more small letters, digits, -, _ and ., with a letter or digit at both ends)"
    ))
}

fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("endpoint `{text}`: {error}"))?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.username().is_empty() && url.password().is_none();
    match url.scheme() {
        "https" | "http" if !is_bare => {
            Err(format!("endpoint `{text}` is more than a host (hint: https://HOST[:PORT])"))
        }
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => {
            Err(format!("endpoint `{text}` would show tokens to the network (hint: https, or a host on loopback)"))
        }
        _ => Err(format!("endpoint `{text}` is neither http nor https")),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn authorities(path: &str) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(Path::new(path)).map_err(|error| format!("ca `{path}` cannot be read: {error}"))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("ca `{path}` holds no certificate (hint: PEM)")),
    }
}

fn proxy(text: &str) -> Result<Proxy, String> {
    let url = Url::parse(text).map_err(|error| format!("proxy `{text}`: {error}"))?;
    if url.password().is_some() {
        return Err(
            "a password in a URL would be shown and logged (hint: a proxy that knows this host, or HTTPS_PROXY)".into(),
        );
    }
    Proxy::all(url.as_str()).map_err(|error| format!("proxy `{text}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(text: &str) -> Result<Gcs, String> {
        place(&text.parse().unwrap(), |_| None)
    }

    #[tokio::test]
    async fn a_url_names_a_place() {
        for (url, location) in [
            ("gs://bucket", "gs://bucket"),
            ("gs://bucket/a/b/?quota-project=p&endpoint=https://storage-x.p.googleapis.com", "gs://bucket/a/b"),
            ("gs://a.b_c-1?endpoint=http://127.0.0.1:4443&anonymous&proxy=http://127.0.0.1:3128", "gs://a.b_c-1"),
        ] {
            assert_eq!(opened(url).unwrap().location(), location);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_before_anything_is_asked() {
        for (url, word) in [
            ("gs://UPPER", "is no name of a bucket"),
            ("gs://ab", "is no name of a bucket"),
            ("gs://bucket/a//b", "cannot be a prefix"),
            ("gs://bucket?region=x", "no option `region`"),
            ("gs://bucket?anonymous", "servers of tests"),
            ("gs://bucket?anonymous&endpoint=https://example.com", "servers of tests"),
            ("gs://bucket?endpoint=http://example.com", "would show tokens"),
            ("gs://bucket?endpoint=http://127.0.0.1.example.com", "would show tokens"),
            ("gs://bucket?endpoint=ftp://127.0.0.1", "neither http nor https"),
            ("gs://bucket?endpoint=http://127.0.0.1/path", "more than a host"),
            ("gs://bucket?credentials=/nowhere/key.json", "/nowhere/key.json cannot be read"),
            ("gs://bucket?ca=/nowhere/ca.pem", "cannot be read"),
            ("gs://bucket?proxy=http://me:secret@127.0.0.1:3128", "a password in a URL"),
        ] {
            let error = opened(url).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
