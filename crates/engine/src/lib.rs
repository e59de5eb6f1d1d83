//! What every engine promises: how a source is read, streamed and put back.
//!
//! An engine knows its database and nothing of storage, chunks or keys. Reading order: [`probe`] (what is there and
//! what is missing), [`backup`] (a read in progress), [`mod@entry`] (what there is to
//! store), [`reader`] (its bytes), [`log`] (the continuous stream), [`restore`] (what a restored
//! directory needs to become a database again). [`conformance`] is the suite that every engine passes.

pub mod backup;
pub mod conformance;
pub mod entry;
pub mod error;
pub mod log;
pub mod probe;
pub mod reader;
pub mod restore;

use std::fmt::Debug;
use std::sync::Arc;

pub use backup::{BackupEnd, BackupRequest, BackupSession, BaseFacts, RecoveryRange};
pub use entry::{ChangedPages, Chunking, Entry, EntryKind, Unreadable, UnreadablePath};
pub use error::{EngineError, EngineErrorKind};
pub use log::{LogEvent, LogFacts, LogSource, LogStart, LogStream, Transaction, TransactionKind};
pub use probe::{Capabilities, Finding, Probe, Severity};
pub use reader::{ExtentReader, ReadExtent, Settled};
pub use restore::{LogFetch, LogFetcher, RecoveryOutcome, RecoveryRequest, RecoveryTarget, Restorer};

/// One source as its engine sees it.
#[async_trait::async_trait]
pub trait Engine: Send + Sync + Debug {
    /// The word for this engine in YAML, proto and on disk: `postgres`, `sqlite`, …
    fn kind(&self) -> &'static str;

    /// Looks at the source without changing it: identity, version, what can be done with it, what stands in the way.
    async fn probe(&self) -> Result<Probe, EngineError>;

    /// Starts a consistent read of the whole source. Dropping the session aborts it at the source.
    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupSession>, EngineError>;

    /// The continuous log, for engines that have one.
    fn log_source(&self) -> Option<Arc<dyn LogSource>>;
}
