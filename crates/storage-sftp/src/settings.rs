//! What a URL says about a place: where it is, how to prove who we are, and whose host keys are trusted.
//!
//! Secrets come from files that options name, never from the URL. Everything is checked here, without the network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use breakwater_core::{PlaceUrl, PlaceUrlError};

use crate::credentials::Credentials;
use crate::host_key::Trust;

/// How the URLs look.
pub(crate) const FORM: &str = "sftp://[USER@]HOST[:PORT]/ABSOLUTE/PATH";

const OPTIONS: [&str; 6] = ["identity", "passphrase-file", "password-file", "known-hosts", "host-key", "connections"];

const DEFAULT_PORT: u16 = 22;

/// Connections to one place unless the URL says otherwise. The server does one thing at a time on each, so that an fsync
/// holds up one of them; more would meet the limits that hosts of storage set.
const DEFAULT_CONNECTIONS: usize = 4;

/// Where the keys of hosts are kept for all users of this one.
const SYSTEM_KNOWN_HOSTS: &str = "/etc/ssh/ssh_known_hosts";

/// What the process was given: who runs it, and where its SSH agent listens.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The name of the user.
    pub user: Option<String>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The socket of an SSH agent.
    pub agent: Option<PathBuf>,
}

impl Environment {
    /// That of this process: `USER` or `LOGNAME`, `HOME`, `SSH_AUTH_SOCK`.
    pub fn of_process() -> Environment {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Environment {
            user: set("USER").or_else(|| set("LOGNAME")).and_then(|user| user.into_string().ok()),
            home: set("HOME").map(PathBuf::from),
            agent: set("SSH_AUTH_SOCK").map(PathBuf::from),
        }
    }
}

/// How long is waited before a place counts as unreachable.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection, with its proof of who we are.
    pub connect: Duration,
    /// For the answer to one request. A disk that is only busy answers within this time. Whole seconds.
    pub answer: Duration,
    /// For a free connection among those that there may be.
    pub turn: Duration,
    /// For a sign of life, while nothing is heard; after three times as long the connection is given up.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(120),
            turn: Duration::from_secs(120),
            silence: Duration::from_secs(15),
        }
    }
}

/// A place, and the way there.
#[derive(Debug)]
pub struct Settings {
    pub(crate) user: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The directory on the server: absolute, without a `/` at its end.
    pub(crate) root: String,
    pub(crate) credentials: Credentials,
    pub(crate) trust: Trust,
    /// How many connections there may be; two at least, since the server must be seen to arbitrate between them.
    pub(crate) connections: usize,
    pub(crate) patience: Patience,
}

impl Settings {
    /// Reads what `url` says, and the files that it names.
    pub fn of(url: &PlaceUrl, environment: &Environment) -> Result<Settings, PlaceUrlError> {
        url.only_options(&OPTIONS)?;
        let (user, host, port) = authority(url)?;
        let user = match (user, &environment.user) {
            (Some(user), _) => user.to_owned(),
            (None, Some(user)) => user.clone(),
            (None, None) => return Err(url.trouble(format!("it is not said as which user (hint: {FORM})"))),
        };
        if url.path().is_empty() {
            return Err(url.trouble(format!("a directory must be named (hint: {FORM})")));
        }
        let connections =
            match url.option("connections") {
                None => DEFAULT_CONNECTIONS,
                Some(text) => text.parse().ok().filter(|count| (2..=32).contains(count)).ok_or_else(|| {
                    url.trouble(format!("option `connections` is a number from 2 to 32, not `{text}`"))
                })?,
            };
        let file = |name| match url.option(name) {
            None => Ok(None),
            Some(path) if Path::new(path).is_absolute() => Ok(Some(PathBuf::from(path))),
            Some(path) => Err(url.trouble(format!("option `{name}` is an absolute path, not `{path}`"))),
        };
        let (identity, passphrase, password) = (file("identity")?, file("passphrase-file")?, file("password-file")?);
        let credentials =
            Credentials::read(identity.as_deref(), passphrase.as_deref(), password.as_deref(), &environment.agent)
                .map_err(|error| url.trouble(breakwater_core::Chain(&error).to_string()))?;
        Ok(Settings {
            user,
            host,
            port,
            root: url.path().to_owned(),
            credentials,
            trust: trust(url, file("known-hosts")?, environment)?,
            connections,
            patience: Patience::default(),
        })
    }

    /// The same, waiting as long as `patience` says.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Settings {
        Settings { patience, ..self }
    }

    /// The host and port as people and `known_hosts` write them.
    pub(crate) fn address(&self) -> String {
        crate::host_key::address(&self.host, self.port)
    }

    /// The place, for people.
    pub(crate) fn location(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = if self.port == DEFAULT_PORT { String::new() } else { format!(":{}", self.port) };
        format!("sftp://{}@{host}{port}{}", self.user, self.root)
    }
}

/// The user if one is said, the host in lower case, and the port.
fn authority(url: &PlaceUrl) -> Result<(Option<&str>, String, u16), PlaceUrlError> {
    let (user, address) = match url.host().rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, url.host()),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) =
                rest.split_once(']').ok_or_else(|| url.trouble("the bracket of the address is not closed"))?;
            (host, behind.strip_prefix(':'))
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() || user == Some("") {
        let what = format!("no host or an empty user (hint: {FORM}; an IPv6 address stands in brackets)");
        return Err(url.trouble(what));
    }
    let port =
        match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                url.trouble(format!("`{port}` is no port (hint: an IPv6 address stands in brackets)"))
            })?,
        };
    Ok((user, host.to_ascii_lowercase(), port))
}

fn trust(url: &PlaceUrl, known_hosts: Option<PathBuf>, environment: &Environment) -> Result<Trust, PlaceUrlError> {
    match (url.option("host-key"), known_hosts) {
        (Some(_), Some(_)) => Err(url.trouble("either `host-key` or `known-hosts` says whom to trust, not both")),
        (Some(pin), None) => Trust::pinned(pin).ok_or_else(|| {
            url.trouble(format!(
                "option `host-key` is a fingerprint such as SHA256:Nh0Me49Zh9fDw/VYUfq43IJmI1T+XrjiYONPND8GzaM, not `{pin}` \
                 (hint: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server shows it)"
            ))
        }),
        (None, Some(path)) => Ok(Trust::Files(vec![path])),
        (None, None) => {
            let own = environment.home.as_ref().map(|home| home.join(".ssh/known_hosts"));
            Ok(Trust::Files(own.into_iter().chain([PathBuf::from(SYSTEM_KNOWN_HOSTS)]).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment { user: Some("me".to_owned()), home: Some(PathBuf::from("/home/me")), agent: Some("/a".into()) }
    }

    fn settings(text: &str) -> Result<Settings, PlaceUrlError> {
        Settings::of(&text.parse().unwrap(), &environment())
    }

    #[test]
    fn a_url_says_who_and_where() {
        let check = |text: &str, expected: (&str, &str, u16, &str), location: &str| {
            let settings = settings(text).unwrap();
            assert_eq!((&*settings.user, &*settings.host, settings.port, &*settings.root), expected, "{text}");
            assert_eq!(settings.location(), location);
        };
        check("sftp://h/r", ("me", "h", 22, "/r"), "sftp://me@h/r");
        check("sftp://you@H.example:2222/a/b/", ("you", "h.example", 2222, "/a/b"), "sftp://you@h.example:2222/a/b");
        check("sftp://a@b@h/r", ("a@b", "h", 22, "/r"), "sftp://a@b@h/r");
        check("sftp://[::1]:2222/r?connections=2", ("me", "::1", 2222, "/r"), "sftp://me@[::1]:2222/r");
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_by_name() {
        let check = |text: &str, expected: &str| {
            let error = settings(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("sftp://"), "{text}: {error}");
        };
        check("sftp://h", "directory");
        check("sftp://h/", "directory");
        check("sftp://@h/r", "empty user");
        check("sftp://h:x/r", "`x` is no port");
        check("sftp://h:0/r", "`0` is no port");
        check("sftp://::1/r", "brackets");
        check("sftp://[::1/r", "bracket");
        check("sftp://h/r?connections=1", "from 2 to 32");
        check("sftp://h/r?port=3", "`port`");
        check("sftp://h/r?host-key=MD5:aa", "fingerprint");
        check("sftp://h/r?host-key=SHA256:Nh0Me49Zh9fDw/VYUfq43IJmI1T%2bXrjiYONPND8GzaM&known-hosts=/k", "not both");
        check("sftp://h/r?identity=id", "absolute");
        check("sftp://h/r?identity=/does/not/exist", "/does/not/exist");
        let nobody = Settings::of(&"sftp://h/r".parse().unwrap(), &Environment::default()).unwrap_err();
        assert!(nobody.to_string().contains("which user"), "{nobody}");
    }
}
