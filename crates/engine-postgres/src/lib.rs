//! PostgreSQL as a source: backups of a running cluster, its log as a stream, and the way back to any moment.
//!
//! Reading order: [`settings`] and [`connection`] (which cluster); [`control`] and `server` (what it says on disk and by SQL);
//! `probe`, `admission` and [`discover`] (what stands in the way, what is there). A backup: `backup` (the session), `walk` and `layout`
//! (what belongs into it), `reader` and `page_checksum` (its bytes), `config_files` and [`facts`] (what goes along). The log:
//! [`wal`] (its bytes), [`walsender`] (the protocol), `slot`, `log` and `log_stream` (the source), `watermark`. A restore:
//! [`restore`], `target` and `conf` (the directory), [`fetch`] (how the server gets its log), [`programs`], `postmaster` and
//! `recovery`.

mod admission;
mod backup;
mod changes;
mod conf;
mod config_files;
pub mod connection;
pub mod control;
pub mod discover;
pub mod engine;
pub mod facts;
mod failure;
pub mod fetch;
mod layout;
mod log;
mod log_stream;
mod page_checksum;
mod postmaster;
mod probe;
pub mod programs;
mod reader;
mod recovery;
pub mod restore;
mod server;
pub mod settings;
mod slot;
mod target;
pub mod wal;
mod walk;
pub mod walsender;
mod watermark;

pub use engine::PostgresEngine;
pub use facts::Facts;
pub use fetch::{FetchServer, fetch_client};
pub use restore::PostgresRestorer;
pub use settings::{PostgresSettings, Protect};

/// The word for this engine in YAML, proto and on disk.
pub const KIND: &str = "postgres";
