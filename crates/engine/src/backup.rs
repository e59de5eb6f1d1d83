//! A consistent read of a source: entries with readers, then an end that says what range the copy needs.

use std::fmt::Debug;
use std::sync::Arc;

use breakwater_core::{LogPosition, Timestamp};

use crate::EngineError;

/// How a backup is to be taken.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// A word for the source's own logs: the job's id.
    pub label: String,
    /// Ask for an immediate checkpoint instead of waiting for the next one.
    pub fast: bool,
    /// Bytes of one extent; a multiple of the page size.
    pub extent_size: u32,
}

/// What one entry is.
#[derive(Clone, Debug)]
pub enum EntryKind {
    /// A file of about `size` bytes (the size when it was listed: reading may find less, more is not asked for).
    File {
        /// Bytes when listed.
        size: u64,
        /// Reads its bytes.
        reader: Arc<dyn ExtentReader>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and its target bytes.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

/// One thing to store, with the metadata that a restore puts back.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Path relative to the source's root: bytes, `/` between parts, no empty, `.` or `..` part.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Put in place last by a restore, so that half a restore can never start (PostgreSQL: `global/pg_control`).
    pub last: bool,
}

/// The answer of one read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadExtent {
    /// Bytes read; fewer than asked only where the file ends now (it was truncated or removed meanwhile, which the log
    /// replays).
    pub length: usize,
    /// Page numbers (within the file) whose checksum is wrong although they did not change between two reads.
    pub damaged_pages: Vec<u64>,
}

/// Reads one file, from any thread, in any order. Blocking.
pub trait ExtentReader: Send + Sync + Debug {
    /// Fills `buffer` with the bytes from `offset`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError>;
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
    /// What the engine wants to find again at restore.
    pub facts: serde_json::Value,
    /// What a person should know (damaged pages are reported by the pipeline, not here).
    pub warnings: Vec<String>,
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
