//! Where a PostgreSQL server is and who we are to it.
//!
//! Invariants: a password never leaves the machine in the clear, so a server is reached over a Unix socket or loopback
//! only (this version has no TLS); a password is never shown by `Debug` or in an error.
//!
//! Reading order: this file (the settings), `conninfo` (how they are written), `passfile` (where a password may stand),
//! `dial` (the socket), [`sql`] (a session for SQL).

mod conninfo;
mod dial;
mod passfile;
pub mod sql;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use breakwater_core::ErrorClass;

pub(crate) use dial::{Socket, dial};
pub use sql::SqlClient;

/// Where servers of Debian and its kin put their socket.
const DEFAULT_SOCKET_DIR: &str = "/var/run/postgresql";
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach one server and log in. Read from text: `host=/var/run/postgresql user=breakwater dbname=postgres` or
/// `postgres://user@localhost:5432/postgres`.
///
/// Known settings: `host`, `port`, `user`, `dbname`, `password`, `passfile` (libpq's format), `password-file` (a file
/// that holds the password alone), `application_name`, `connect_timeout` (seconds), `sslmode` (must not require TLS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    host: Host,
    port: u16,
    user: String,
    database: String,
    application_name: String,
    connect_timeout: Duration,
    password: PasswordSource,
}

/// The place of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// The directory of its Unix socket.
    SocketDir(PathBuf),
    /// An address of this machine's loopback.
    Loopback(IpAddr),
    /// `localhost`, in either address family.
    Localhost,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::SocketDir(path) => write!(f, "{}", path.display()),
            Host::Loopback(address) => write!(f, "{address}"),
            Host::Localhost => f.write_str("localhost"),
        }
    }
}

/// Where the password stands.
#[derive(Clone, PartialEq, Eq)]
enum PasswordSource {
    None,
    Given(String),
    /// A file in libpq's format: `host:port:database:user:password` lines.
    PassFile(PathBuf),
    /// A file that holds nothing else.
    PasswordFile(PathBuf),
}

impl fmt::Debug for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordSource::None => f.write_str("none"),
            PasswordSource::Given(_) => f.write_str("(hidden)"),
            PasswordSource::PassFile(path) | PasswordSource::PasswordFile(path) => fmt::Debug::fmt(path, f),
        }
    }
}

impl ConnectionSettings {
    /// The place of the server.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The directory of the Unix socket; none over TCP.
    pub fn socket_dir(&self) -> Option<&Path> {
        match &self.host {
            Host::SocketDir(path) => Some(path),
            Host::Loopback(_) | Host::Localhost => None,
        }
    }

    /// The port, which is part of the socket's name too.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The role to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database for SQL sessions.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The name that `pg_stat_activity` and `synchronous_standby_names` see.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// How long reaching the server and logging in may take together.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The same settings under another application name.
    #[must_use]
    pub fn with_application_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.application_name);
        self
    }

    /// The password, read from its file at each call so that a changed one is taken up. `database` selects the line of a
    /// libpq password file (`replication` for replication connections).
    pub(crate) async fn password(&self, database: &str) -> Result<Option<String>, ConnectionError> {
        match &self.password {
            PasswordSource::None => Ok(None),
            PasswordSource::Given(password) => Ok(Some(password.clone())),
            PasswordSource::PassFile(path) => {
                let content = passfile::read_private(path).await?;
                let host = match &self.host {
                    Host::SocketDir(dir) if dir == Path::new(DEFAULT_SOCKET_DIR) => "localhost".to_owned(),
                    other => other.to_string(),
                };
                Ok(passfile::look_up(&content, &host, self.port, database, &self.user))
            }
            PasswordSource::PasswordFile(path) => {
                let content = passfile::read_private(path).await?;
                Ok(Some(content.trim_end_matches(['\r', '\n']).to_owned()))
            }
        }
    }
}

impl FromStr for ConnectionSettings {
    type Err = ConnectionError;

    fn from_str(text: &str) -> Result<Self, ConnectionError> {
        let mut host = None;
        let mut settings = ConnectionSettings {
            host: Host::SocketDir(PathBuf::from(DEFAULT_SOCKET_DIR)),
            port: 5432,
            user: String::new(),
            database: String::new(),
            application_name: "breakwater".to_owned(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            password: PasswordSource::None,
        };
        for (key, value) in conninfo::pairs(text)? {
            let bad = |expected| ConnectionError::BadValue { key: key.clone(), expected };
            match key.as_str() {
                "host" => host = Some(value),
                "port" => settings.port = value.parse().ok().filter(|port| *port > 0).ok_or_else(|| bad("a port"))?,
                "user" => settings.user = value,
                "dbname" => settings.database = value,
                "password" => settings.set_password(PasswordSource::Given(value))?,
                "passfile" => settings.set_password(PasswordSource::PassFile(value.into()))?,
                "password-file" | "password_file" => {
                    settings.set_password(PasswordSource::PasswordFile(value.into()))?;
                }
                "application_name" => settings.application_name = value,
                "connect_timeout" => {
                    let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                    settings.connect_timeout = Duration::from_secs(seconds.ok_or_else(|| bad("whole seconds"))?);
                }
                "sslmode" => match value.as_str() {
                    "disable" | "allow" | "prefer" => {}
                    "require" | "verify-ca" | "verify-full" => {
                        return Err(ConnectionError::TlsRequired { mode: value });
                    }
                    _ => return Err(bad("`disable`, `allow` or `prefer`")),
                },
                _ => return Err(ConnectionError::UnknownSetting { key }),
            }
        }
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            settings.host = parse_host(&host)?;
        }
        if settings.user.is_empty() {
            return Err(ConnectionError::NoUser);
        }
        if settings.database.is_empty() {
            settings.database.clone_from(&settings.user);
        }
        if [&settings.user, &settings.database, &settings.application_name].iter().any(|text| text.contains('\0')) {
            return Err(ConnectionError::Syntax { problem: "a value contains a zero byte" });
        }
        Ok(settings)
    }
}

impl ConnectionSettings {
    fn set_password(&mut self, source: PasswordSource) -> Result<(), ConnectionError> {
        if self.password != PasswordSource::None {
            return Err(ConnectionError::Syntax { problem: "the password is given in two ways" });
        }
        self.password = source;
        Ok(())
    }
}

/// `HOST, port PORT`: for messages.
impl fmt::Display for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, port {}", self.host, self.port)
    }
}

fn parse_host(text: &str) -> Result<Host, ConnectionError> {
    if text.starts_with('/') {
        return Ok(Host::SocketDir(PathBuf::from(text)));
    }
    if text == "localhost" {
        return Ok(Host::Localhost);
    }
    let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    match address.filter(IpAddr::is_loopback) {
        Some(address) => Ok(Host::Loopback(address)),
        None => Err(ConnectionError::NotLocal { host: text.to_owned() }),
    }
}

/// Why settings were not accepted or a server was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The text is not a connection string.
    #[error("connection string: {problem}")]
    Syntax {
        /// What is wrong with it; never a part of it, which may be a password.
        problem: &'static str,
    },
    /// A setting that is not known here.
    #[error(
        "unknown connection setting `{key}`, hint: known are host, port, user, dbname, password, passfile, password-file, application_name, connect_timeout, sslmode"
    )]
    UnknownSetting {
        /// Its name.
        key: String,
    },
    /// A value that does not fit its setting.
    #[error("connection setting `{key}` must be {expected}")]
    BadValue {
        /// The setting.
        key: String,
        /// What it takes.
        expected: &'static str,
    },
    /// No role to log in as.
    #[error("the connection string names no user, hint: add user=NAME")]
    NoUser,
    /// A server on another machine.
    #[error(
        "host `{host}` is not on this machine, and connections have no TLS yet, hint: run the agent on the database's host and use its Unix socket or localhost"
    )]
    NotLocal {
        /// The host.
        host: String,
    },
    /// TLS was asked for.
    #[error("sslmode `{mode}` asks for TLS, which this version does not have, hint: use the Unix socket or localhost")]
    TlsRequired {
        /// The mode.
        mode: String,
    },
    /// The file of the password cannot be read.
    #[error("cannot read the password file {}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others can read the file of the password.
    #[error("password file {} can be read by others, hint: chmod 600 {}", path.display(), path.display())]
    PasswordFileOpen {
        /// The file.
        path: PathBuf,
    },
    /// The server is not there.
    #[error("cannot reach the server at {target}")]
    Unreachable {
        /// The socket's path or the address.
        target: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing answered in time.
    #[error("the server at {target} did not answer within {} s", timeout.as_secs())]
    Timeout {
        /// The socket's path or the address.
        target: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The server refused the session.
    #[error("cannot open a session at {target}")]
    Session {
        /// The socket's path or the address.
        target: String,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl ConnectionError {
    /// What the error means to a caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            ConnectionError::Syntax { .. }
            | ConnectionError::UnknownSetting { .. }
            | ConnectionError::BadValue { .. }
            | ConnectionError::NoUser
            | ConnectionError::NotLocal { .. }
            | ConnectionError::TlsRequired { .. } => ErrorClass::Invalid,
            ConnectionError::PasswordFile { source, .. } => ErrorClass::of_io(source),
            ConnectionError::PasswordFileOpen { .. } => ErrorClass::Refused,
            ConnectionError::Unreachable { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => ErrorClass::Denied,
                // A missing socket is a server that is down, not a missing object.
                _ => ErrorClass::Unavailable,
            },
            ConnectionError::Timeout { .. } => ErrorClass::Unavailable,
            ConnectionError::Session { source, .. } => class_of_session(source),
        }
    }
}

/// The meaning of an error of the SQL client, which tells its kinds apart by their sources only.
fn class_of_session(error: &tokio_postgres::Error) -> ErrorClass {
    if let Some(error) = error.as_db_error() {
        return crate::walsender::class_of_sqlstate(error.code().code());
    }
    match std::error::Error::source(error) {
        _ if error.is_closed() => ErrorClass::Unavailable,
        Some(source) if source.is::<std::io::Error>() => ErrorClass::Unavailable,
        // A password that the server wants and that is not set.
        Some(_) => ErrorClass::Denied,
        None => ErrorClass::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConnectionSettings, ConnectionError> {
        text.parse()
    }

    #[test]
    fn both_forms_are_read() {
        let settings = parse("host=/run/pg port=5433 user=breakwater dbname='my db' connect_timeout = 3").unwrap();
        assert_eq!(settings.socket_dir(), Some(Path::new("/run/pg")));
        assert_eq!((settings.port(), settings.user(), settings.database()), (5433, "breakwater", "my db"));
        assert_eq!(settings.connect_timeout(), Duration::from_secs(3));

        let settings = parse("postgresql://bob%40x:se%3Acret@127.0.0.1:6000/app?application_name=x").unwrap();
        assert_eq!((settings.port(), settings.user(), settings.database()), (6000, "bob@x", "app"));
        assert_eq!(settings.password, PasswordSource::Given("se:cret".into()));
        assert_eq!(settings.application_name(), "x");

        let settings = parse("postgres://bob@/app?host=/run/pg").unwrap();
        assert_eq!(settings.socket_dir(), Some(Path::new("/run/pg")));
        let settings = parse("postgres://bob@[::1]:7/").unwrap();
        assert_eq!((settings.host(), settings.port()), (&Host::Loopback("::1".parse().unwrap()), 7));
        assert_eq!(parse("user=bob").unwrap().socket_dir(), Some(Path::new(DEFAULT_SOCKET_DIR)));
        assert_eq!(parse("user=bob").unwrap().database(), "bob");
    }

    #[test]
    fn bad_settings_say_what_is_wrong() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert!(message("user=a sslmode=require").contains("sslmode `require`"));
        assert!(message("user=a host=db.example.org").contains("`db.example.org` is not on this machine"));
        assert!(message("user=a host=10.0.0.7").contains("is not on this machine"));
        assert!(message("user=a hots=/x").contains("`hots`"));
        assert!(message("user=a port=99999").contains("`port` must be a port"));
        assert!(message("host=/x").contains("user=NAME"));
        assert!(message("user=a password=x passfile=/y").contains("two ways"));
        assert!(parse("user").is_err());
        assert!(parse("user='a").is_err());
    }

    #[test]
    fn a_password_is_never_shown() {
        let settings = parse("user=a password=hunter2").unwrap();
        assert!(!format!("{settings:?} {settings}").contains("hunter2"));
        for text in
            ["user=a password=hunter2 'x", "postgres://a:hunter2@db.example.org/x", "postgres://a:hunter2%zz@/x"]
        {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn passwords_come_from_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        std::fs::write(&path, "other:*:*:*:no\n/run/pg:5432:replication:bob:a\\:b\n").unwrap();
        let settings = parse(&format!("host=/run/pg user=bob passfile={}", path.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(settings.password("replication").await, Err(ConnectionError::PasswordFileOpen { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(settings.password("replication").await.unwrap().as_deref(), Some("a:b"));
        assert_eq!(settings.password("app").await.unwrap(), None);

        std::fs::write(&path, "plain secret\n").unwrap();
        let settings = parse(&format!("user=bob password-file={}", path.display())).unwrap();
        assert_eq!(settings.password("app").await.unwrap().as_deref(), Some("plain secret"));
    }
}
