//! A consistent read of a source: entries with readers, then an end that says what range the copy needs.

use breakwater_core::{LogPosition, Timestamp};

use crate::{EngineError, Entry, Unreadable};

/// How a backup is to be taken.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// A word for the source's own logs: the job's id.
    pub label: String,
    /// Ask for an immediate checkpoint instead of waiting for the next one.
    pub fast: bool,
    /// Bytes of one extent; a multiple of the page size.
    pub extent_size: u32,
    /// The snapshot that this backup is compared with, so that the engine can say what has changed since; `None` for the
    /// first one, and where everything is to be read.
    pub base: Option<BaseFacts>,
}

/// What the manifest of the base says.
#[derive(Clone, Debug)]
pub struct BaseFacts {
    /// The engine's own facts, as it gave them in [`BackupEnd::facts`].
    pub facts: serde_json::Value,
    /// Where replay of the base begins.
    pub start: Option<LogPosition>,
    /// Where the base is consistent.
    pub end: Option<LogPosition>,
}

/// The range of the log that makes a copy consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRange {
    /// Replay begins here.
    pub start: LogPosition,
    /// The copy is consistent once replay has reached this.
    pub end: LogPosition,
}

/// What a finished backup knows.
#[derive(Debug)]
pub struct BackupEnd {
    /// Entries that exist only now (PostgreSQL: `backup_label`, `global/pg_control`).
    pub entries: Vec<Entry>,
    /// The log it needs; `None` where the copy is consistent by itself.
    pub range: Option<RecoveryRange>,
    /// The first moment on the source's clock that the copy can be restored to: nothing that it shows was committed later.
    /// Where there is a log, what was acknowledged within the last instant before it may only come with the log after
    /// `range.end`.
    pub consistent_at: Timestamp,
    /// What the engine wants to find again at restore, and in [`BackupRequest::base`].
    pub facts: serde_json::Value,
    /// What a person should know (damaged pages are reported by the pipeline, not here).
    pub warnings: Vec<String>,
    /// What could not even be listed, such as a directory that may not be read. The backup is partial when there is any.
    /// What was listed as [`tolerant`](Entry::tolerant) and could not be read is the pipeline's to report.
    pub unreadable: Unreadable,
}

/// A read in progress. Entries come in ascending path order; [`finish`](Self::finish) must follow the last one, within
/// the life of the session. Dropping it instead gives the source up cleanly.
#[async_trait::async_trait]
pub trait BackupSession: Send {
    /// The next entries, at most `limit`; empty at the end.
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError>;

    /// Ends the read. Only now is the copy known to be good.
    async fn finish(self: Box<Self>) -> Result<BackupEnd, EngineError>;
}
