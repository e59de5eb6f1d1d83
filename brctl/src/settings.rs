//! From what was typed and what the environment says to what holds: a flag wins over the environment, which wins over
//! the context file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use breakwater_core::PlaceUrl;
use clap::ValueEnum;

use crate::args::{Format, GlobalArgs, duration};
use crate::failure::Failure;

/// How long one answer may take unless said otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What holds for this run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The form of the output, where one was chosen.
    pub(crate) format: Option<Format>,
    /// Only what was asked for.
    pub(crate) quiet: bool,
    /// 0, 1 or 2.
    pub(crate) verbose: u8,
    /// How long one answer may take.
    pub(crate) timeout: Duration,
    /// Namespace of objects and jobs; empty: the controller's default.
    pub(crate) namespace: String,
    /// What `--repository` names while not offline.
    pub(crate) repository: Option<String>,
    /// How the controller is to be found.
    pub(crate) choice: ContextChoice,
    /// Where to work without a controller, if so.
    pub(crate) offline: Option<OfflineSettings>,
}

/// How a person said which controller is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContextChoice {
    /// Its address.
    pub(crate) controller: Option<String>,
    /// A context's name.
    pub(crate) context: Option<String>,
    /// A context file.
    pub(crate) file: Option<PathBuf>,
    /// The operator token.
    pub(crate) token: Option<String>,
    /// File with the certificate authority, PEM.
    pub(crate) ca: Option<PathBuf>,
    /// Where contexts lie unless said otherwise.
    pub(crate) default_file: Option<PathBuf>,
}

/// A repository to work on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OfflineSettings {
    /// Its regions: name and place.
    pub(crate) regions: Vec<(String, String)>,
    /// What opens it: a key file, shares of one, a grant, the word `passphrase`, or the address of a key service's key.
    pub(crate) keys: Vec<String>,
    /// The identity that a grant is for.
    pub(crate) identity: Option<PathBuf>,
    /// The file with the passphrase.
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Looks up environment variables.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Resolves global flags.
pub(crate) fn resolve(args: &GlobalArgs, environment: Environment<'_>) -> Result<Settings, Failure> {
    let text = |name: &str| environment(name).filter(|value| !value.is_empty()).map(|value| text_of(name, value));
    let variable = |name: &str| text(name).transpose();
    let format = match (args.output, variable("BRCTL_OUTPUT")?) {
        (Some(format), _) => Some(format),
        (None, Some(word)) => Some(
            Format::from_str(&word, false)
                .map_err(|_| Failure::usage(format!("BRCTL_OUTPUT: unknown form `{word}`")))?,
        ),
        (None, None) => None,
    };
    let timeout = match (args.timeout, variable("BRCTL_TIMEOUT")?) {
        (Some(timeout), _) => timeout,
        (None, Some(word)) => duration(&word).map_err(|why| Failure::usage(format!("BRCTL_TIMEOUT: {why}")))?,
        (None, None) => TIMEOUT,
    };
    let offline = if args.offline {
        let mut offline = offline(args, variable("BRCTL_REPOSITORY")?, variable("BRCTL_KEY")?)?;
        let file = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        offline.identity = args.identity.clone().or_else(|| file("BRCTL_IDENTITY"));
        offline.passphrase_file = file("BRCTL_PASSPHRASE_FILE");
        Some(offline)
    } else {
        if !args.key.is_empty() {
            return Err(Failure::usage("--key is for --offline only: agents hold their keys themselves"));
        }
        None
    };
    let repository = match (&offline, args.repository.as_slice()) {
        (Some(_), _) | (None, []) => None,
        (None, [one]) => Some(one.clone()),
        (None, _) => return Err(Failure::usage("several --repository are for --offline only")),
    };
    // A context that was typed is meant, whatever file the environment names.
    let file = match (&args.context_file, &args.context) {
        (Some(file), _) => Some(file.clone()),
        (None, Some(_)) => None,
        (None, None) => environment("BRCTL_CONTEXT_FILE").filter(|value| !value.is_empty()).map(PathBuf::from),
    };
    let choice = ContextChoice {
        controller: args.controller.clone().or(variable("BRCTL_CONTROLLER")?),
        context: args.context.clone().or(variable("BRCTL_CONTEXT")?),
        file,
        token: variable("BRCTL_TOKEN")?,
        ca: args.ca.clone().or(environment("BRCTL_CA").filter(|value| !value.is_empty()).map(PathBuf::from)),
        default_file: default_file(environment),
    };
    Ok(Settings {
        format,
        quiet: args.quiet,
        verbose: args.verbose,
        timeout,
        namespace: args.namespace.clone().or(variable("BRCTL_NAMESPACE")?).unwrap_or_default(),
        repository,
        choice,
        offline,
    })
}

fn text_of(name: &str, value: OsString) -> Result<String, Failure> {
    value.into_string().map_err(|_| Failure::usage(format!("{name} is not text")))
}

/// `$XDG_CONFIG_HOME/breakwater/contexts.json`, with `~/.config` for the first part unless set.
fn default_file(environment: Environment<'_>) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(config.join("breakwater/contexts.json"))
}

fn offline(args: &GlobalArgs, repository: Option<String>, key: Option<String>) -> Result<OfflineSettings, Failure> {
    let places: Vec<String> = if args.repository.is_empty() {
        repository.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
    } else {
        args.repository.clone()
    };
    if places.is_empty() {
        return Err(Failure::usage(
            "--offline needs to know where the repository is (hint: --repository URL, repeated for several regions, or BRCTL_REPOSITORY)",
        ));
    }
    let keys = if args.key.is_empty() { key.into_iter().collect() } else { args.key.clone() };
    if keys.is_empty() {
        return Err(Failure::usage(
            "--offline needs the key that opens the repository (hint: --key FILE, or BRCTL_KEY; the recovery key will do)",
        ));
    }
    let mut regions: Vec<(String, String)> = Vec::new();
    for place in &places {
        let (name, url) = region(place)?;
        let taken = |name: &str| regions.iter().any(|(other, _)| other == name);
        let name = match name {
            Some(name) if taken(&name) => {
                return Err(Failure::usage(format!("two regions are named `{name}`")));
            }
            Some(name) => name,
            None => {
                let base = base_name(&url);
                let numbered = (2..).map(|n| format!("{base}-{n}"));
                std::iter::once(base.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(base)
            }
        };
        regions.push((name, url));
    }
    Ok(OfflineSettings { regions, keys, identity: None, passphrase_file: None })
}

/// Reads `[NAME=]URL`; a relative path becomes an absolute one.
pub(crate) fn region(text: &str) -> Result<(Option<String>, String), Failure> {
    let (name, url) = match text.split_once('=') {
        // `=` may also stand in a path.
        Some((name, url)) if breakwater_core::Name::new(name).is_ok() => (Some(name.to_owned()), url),
        _ => (None, text),
    };
    if url.is_empty() {
        return Err(Failure::usage(format!("`{text}` names no place (hint: [NAME=]file:///path, or [NAME=]/path)")));
    }
    if url.contains("://") || url.starts_with('/') || url == "memory:" {
        return Ok((name, url.to_owned()));
    }
    let absolute = std::path::absolute(url).map_err(|error| Failure::io(url, &error))?;
    Ok((name, absolute.display().to_string()))
}

/// The last part of a place, as far as it can be a name.
fn base_name(url: &str) -> String {
    let location = url.parse().map_or_else(|_| url.to_owned(), |url: PlaceUrl| format!("{}{}", url.host(), url.path()));
    let last = location.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
    if breakwater_core::Name::new(&last).is_ok() { last } else { "region".to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn check(line: &str, variables: &[(&str, &str)]) -> Result<Settings, Failure> {
        let words = std::iter::once("brctl").chain(line.split(' ')).chain(["status"]);
        let args = Args::try_parse_from(words).expect(line);
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let lookup =
            move |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| OsString::from(value));
        resolve(&args.global, &lookup)
    }

    #[test]
    fn flags_win_over_the_environment() {
        let variables = [
            ("BRCTL_CONTROLLER", "https://env"),
            ("BRCTL_TIMEOUT", "5s"),
            ("BRCTL_OUTPUT", "yaml"),
            ("BRCTL_NAMESPACE", "shop"),
            ("BRCTL_CONTEXT_FILE", "/env.json"),
            ("BRCTL_TOKEN", "secret"),
            ("HOME", "/home/me"),
        ];
        let settings = check("-q", &variables).unwrap();
        assert_eq!(settings.choice.controller.as_deref(), Some("https://env"));
        assert_eq!((settings.timeout, settings.format), (Duration::from_secs(5), Some(Format::Yaml)));
        assert_eq!(settings.namespace, "shop");
        assert_eq!(settings.choice.file, Some(PathBuf::from("/env.json")));
        let default = PathBuf::from("/home/me/.config/breakwater/contexts.json");
        assert_eq!(settings.choice.default_file, Some(default));
        let settings = check("--controller https://flag --timeout 7 -o name -n db --context prod", &variables).unwrap();
        assert_eq!(settings.choice.controller.as_deref(), Some("https://flag"));
        assert_eq!((settings.timeout, settings.format), (Duration::from_secs(7), Some(Format::Name)));
        assert_eq!((settings.namespace.as_str(), settings.choice.file), ("db", None));
        assert!(check("-q", &[("BRCTL_TIMEOUT", "soon")]).unwrap_err().message().contains("BRCTL_TIMEOUT"));
        assert!(check("-q", &[("BRCTL_OUTPUT", "xml")]).unwrap_err().message().contains("BRCTL_OUTPUT"));
    }

    #[test]
    fn offline_needs_a_place_and_a_key() {
        let named = |settings: Settings| settings.offline.expect("offline").regions;
        let pair = |name: &str, url: &str| (name.to_owned(), url.to_owned());
        let regions =
            named(check("--offline --repository /srv/one --repository west=file:///srv/two --key k", &[]).unwrap());
        assert_eq!(regions, [pair("one", "/srv/one"), pair("west", "file:///srv/two")]);
        let regions = named(check("--offline", &[("BRCTL_REPOSITORY", "/a/r,/b/r"), ("BRCTL_KEY", "k")]).unwrap());
        assert_eq!(regions, [pair("r", "/a/r"), pair("r-2", "/b/r")]);
        assert_eq!(check("--offline --key k", &[]).unwrap_err().code(), 2);
        assert_eq!(check("--offline --repository /a", &[]).unwrap_err().code(), 2);
        assert_eq!(check("--offline --key k --repository a=/a --repository a=/b", &[]).unwrap_err().code(), 2);
        assert_eq!(check("--key k", &[]).unwrap_err().code(), 2);
        // The environment's repository is for offline work; it does not choose one of the controller's.
        assert_eq!(check("-q", &[("BRCTL_REPOSITORY", "/a")]).unwrap().repository, None);
        assert_eq!(check("--repository main", &[]).unwrap().repository.as_deref(), Some("main"));
    }
}
