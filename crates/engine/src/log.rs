//! The continuous log of a source.

use std::fmt::Debug;

use breakwater_core::{LogPosition, Timestamp, Watermark};
use bytes::Bytes;

use crate::EngineError;

/// What a transaction mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionKind {
    /// A commit.
    Commit,
    /// A rollback.
    Abort,
    /// A named restore point.
    RestorePoint,
}

/// One entry of the transaction index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// What happened.
    pub kind: TransactionKind,
    /// When, on the source's clock.
    pub time: Timestamp,
    /// The transaction's id; 0 for restore points.
    pub xid: u64,
    /// Where its record begins.
    pub start: u64,
    /// Where its record ends: a replay up to here includes it.
    pub end: u64,
    /// The name of a restore point.
    pub name: Option<String>,
}

/// What a stream says of itself when it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFacts {
    /// The source's identity, as in `Probe`.
    pub identity: String,
    /// Segments are cut at multiples of this.
    pub segment_size: u64,
    /// The engine's own facts for the stream claim (PostgreSQL: version).
    pub facts: serde_json::Value,
}

/// One thing that a stream delivers.
#[derive(Clone, Debug)]
pub enum LogEvent {
    /// Bytes of the log from `start` on; contiguous with what came before.
    Data {
        /// Position of the first byte.
        start: LogPosition,
        /// The bytes.
        bytes: Bytes,
        /// Transactions whose records end within these bytes.
        transactions: Vec<Transaction>,
    },
    /// An observation of the source, about once a second while it answers.
    Watermark(Watermark),
    /// The branch ends at `at` and goes on as `next` from the same offset. Data on `next` restarts at the segment
    /// boundary at or below `at`.
    EndOfBranch {
        /// Where the old branch ends.
        at: LogPosition,
        /// The branch that continues it.
        next: u32,
        /// The branch's history (PostgreSQL: the timeline history file).
        history: Bytes,
    },
}

/// Where to start receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStart {
    /// The oldest position that the source still promises (it creates the promise if there is none yet).
    Oldest,
    /// This position, which is segment-aligned; an error of kind `NotFound` when the source no longer has it.
    At(LogPosition),
}

/// A source's log.
#[async_trait::async_trait]
pub trait LogSource: Send + Sync + Debug {
    /// Who the source is, as in `Probe`; changes nothing.
    async fn identity(&self) -> Result<String, EngineError>;

    /// What the stream will say of itself; also makes sure that the source holds its log for us from now on.
    async fn facts(&self) -> Result<LogFacts, EngineError>;

    /// Starts receiving. One stream of a source at a time: the source itself refuses a second one.
    async fn open(&self, start: LogStart) -> Result<Box<dyn LogStream>, EngineError>;

    /// Makes the source write and flush a record now, and answers the position after it; used to prove that the log
    /// arrives before a backup starts.
    async fn nudge(&self) -> Result<LogPosition, EngineError>;

    /// Gives up the source's promise to hold its log for us (PostgreSQL: drops the slot).
    async fn forget(&self) -> Result<(), EngineError>;
}

/// A stream being received. Dropping it ends it; the source keeps its promise.
#[async_trait::async_trait]
pub trait LogStream: Send {
    /// Where the first byte will come from.
    fn start(&self) -> LogPosition;

    /// The next event. Cancellation-safe.
    async fn next(&mut self) -> Result<LogEvent, EngineError>;

    /// Tells the source that it may forget everything before `position`: it is released.
    fn released(&self, position: LogPosition);
}
