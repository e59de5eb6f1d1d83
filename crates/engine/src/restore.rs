//! Making a database of restored files.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_core::{LogPosition, Timestamp};

use crate::EngineError;

/// The point to stop at. `Time` and the others are only asked for when the plan has proven that the log passes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// Replay everything the plan holds.
    End,
    /// Stop before the first transaction later than this.
    Time(Timestamp),
    /// Stop once this position is passed.
    Position(LogPosition),
    /// Stop after this transaction.
    Transaction(u64),
    /// Stop at this restore point.
    Name(String),
    /// Stop as soon as the copy is consistent. PostgreSQL notices that with the next record only, so the log has to go on.
    Consistent,
}

/// The answer of a log fetch; the three answers that `restore_command` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFetch {
    /// The file was delivered.
    Delivered,
    /// The plan proves that nothing of this name belongs to the restore.
    BeyondPlan,
}

/// Delivers pieces of the log by the name that the database asks for.
#[async_trait::async_trait]
pub trait LogFetcher: Send + Sync + Debug {
    /// Writes the file `name` to `destination` (through a temporary name). Any doubt is an error, never `BeyondPlan`.
    async fn fetch(&self, name: &str, destination: &Path) -> Result<LogFetch, EngineError>;
}

/// A recovery to run on files that a restore has laid.
#[derive(Debug)]
pub struct RecoveryRequest {
    /// The laid directory (SQLite: the directory of the file).
    pub target: PathBuf,
    /// The engine's facts from the manifest.
    pub facts: serde_json::Value,
    /// Where the copy becomes consistent.
    pub consistent_at: Option<LogPosition>,
    /// The branch to follow to the end.
    pub branch: u32,
    /// Where to stop.
    pub stop: RecoveryTarget,
    /// Where the plan's log ends, in the middle of a record perhaps. A replay to [`RecoveryTarget::End`] that ends before
    /// the last record that is whole there is an error; `None` leaves that unchecked.
    pub end: Option<LogPosition>,
    /// Delivers the log.
    pub fetcher: Option<Arc<dyn LogFetcher>>,
    /// Path of `breakwater-agent`, whose `wal-fetch` the database will call.
    pub fetch_program: Option<PathBuf>,
    /// Where the database's programs lie, when the usual places are not right.
    pub program_directory: Option<PathBuf>,
}

/// What a recovery reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryOutcome {
    /// The last position replayed, where the engine can tell.
    pub reached: Option<LogPosition>,
    /// The time of the last transaction replayed, where there was one.
    pub last_transaction: Option<Timestamp>,
    /// How the engine checked the result, one line each.
    pub checks: Vec<String>,
}

/// The part of an engine that needs no source: it works on a directory.
#[async_trait::async_trait]
pub trait Restorer: Send + Sync + Debug {
    /// Refuses a target that must not be written: not empty, in use, wrong file system, missing program. Changes
    /// nothing.
    async fn check_target(&self, target: &Path, facts: &serde_json::Value) -> Result<(), EngineError>;

    /// Turns laid files into a database that a person can start: replays to the stop, shuts down cleanly. Success means
    /// that the stop was reached.
    async fn recover(&self, request: RecoveryRequest) -> Result<RecoveryOutcome, EngineError>;

    /// Leaves laid files ready for the person's own recovery (`--no-recover`), with the settings written.
    async fn prepare(&self, request: RecoveryRequest) -> Result<(), EngineError>;
}
