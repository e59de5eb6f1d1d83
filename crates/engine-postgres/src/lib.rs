//! PostgreSQL as a source: its connections, its log, its replication stream.

mod backup;
mod config_files;
pub mod connection;
pub mod control;
pub mod engine;
pub mod facts;
mod failure;
mod layout;
mod log;
mod log_stream;
mod page_checksum;
mod probe;
mod reader;
mod server;
pub mod settings;
mod slot;
mod walk;
pub mod wal;
pub mod walsender;
mod watermark;

pub use engine::PostgresEngine;
pub use facts::Facts;
pub use settings::{PostgresSettings, Protect};

/// The word for this engine in YAML, proto and on disk.
pub const KIND: &str = "postgres";
