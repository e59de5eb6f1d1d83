//! PostgreSQL as a source: its connections, its log, its replication stream.

mod backup;
mod conf;
mod config_files;
pub mod connection;
pub mod control;
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
mod walk;
pub mod wal;
pub mod walsender;
mod watermark;

pub use engine::PostgresEngine;
pub use facts::Facts;
pub use fetch::{FetchServer, fetch_client};
pub use restore::PostgresRestorer;
pub use settings::{PostgresSettings, Protect};

/// The word for this engine in YAML, proto and on disk.
pub const KIND: &str = "postgres";
