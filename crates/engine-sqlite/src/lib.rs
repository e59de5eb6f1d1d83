//! The engine for SQLite: one file, read as one consistent state while its programs go on writing.
//!
//! A backup copies the database with SQLite's own online backup into a private file, checks that copy, and only then hands
//! out bytes. The side files (`-wal`, `-shm`, `-journal`) are never copied: the copy already holds what they meant.
//!
//! Invariant: nobody but SQLite opens the source file in this process. Closing any other descriptor of it would drop the
//! locks that a running copy holds, since POSIX locks belong to the process.
//!
//! Reading order: [`settings`], `open` (connections and what SQLite's errors mean), `look` (what the source is), `copy`
//! (the consistent copy) in its `scratch` directory, [`engine`], [`restore`].

mod copy;
pub mod engine;
mod look;
mod open;
pub mod restore;
mod scratch;
pub mod settings;

pub use engine::SqliteEngine;
pub use restore::SqliteRestorer;
pub use settings::SqliteSettings;

/// The word for this engine in YAML, proto and on disk.
pub const KIND: &str = "sqlite";
