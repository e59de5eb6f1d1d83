//! PostgreSQL as a source: its connections, its log, its replication stream.

pub mod connection;
pub mod wal;
pub mod walsender;
