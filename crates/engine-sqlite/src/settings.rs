//! What a person says about a SQLite source.

use std::path::PathBuf;
use std::time::Duration;

/// Where the database lies and where its copy may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteSettings {
    /// The database file. A symbolic link is followed.
    pub path: PathBuf,
    /// A directory for the private copy, with room for the whole database. Made when it is missing.
    pub scratch: PathBuf,
    /// How long to wait for another program's lock before the backup gives up.
    pub busy_timeout: Duration,
}

impl SqliteSettings {
    /// The settings for the database at `path`, waiting up to 30 seconds for locks.
    pub fn new(path: impl Into<PathBuf>, scratch: impl Into<PathBuf>) -> Self {
        SqliteSettings { path: path.into(), scratch: scratch.into(), busy_timeout: Duration::from_secs(30) }
    }
}
