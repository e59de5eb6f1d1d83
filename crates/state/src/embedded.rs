//! The state of a single controller in one local file, or in memory for tests.
//!
//! The file belongs to one process at a time. Every confirmed transaction is on disk; a crash at any point leaves all
//! confirmed ones and perhaps the one that was under way, never part of one.

mod history;
mod lease;
mod tables;
mod watch;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, DatabaseError};
use tokio::task::JoinHandle;

use crate::error::StateError;
use crate::store::{Entry, LeaseId, Range, Revision, StateStore, WatchStream, check_key, check_limit, ttl_seconds};
use crate::txn::{Txn, TxnOutcome};
use history::{History, Keep};
use lease::Leases;

/// How much history is kept for watches and for reads in the past.
const KEEP: Keep = Keep { revisions: 10_000, bytes: 64 << 20 };

/// What redb may keep in memory; its default of 1 GiB is more than the whole controller should need.
const CACHE_BYTES: usize = 64 << 20;

/// A state store in one file of this machine.
pub struct EmbeddedStore {
    inner: Arc<Inner>,
    reaper: JoinHandle<()>,
}

/// What the store, its blocking calls and its reaper share.
struct Inner {
    name: String,
    history: History,
    leases: Leases,
    /// The newest confirmed revision, for watchers to wait on.
    newest: tokio::sync::watch::Sender<u64>,
}

impl EmbeddedStore {
    /// Opens the file at `path`, or makes it, readable by its owner only. A file that another process has open is a
    /// conflict that names it.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StateError> {
        Self::open_keeping(path, KEEP.revisions).await
    }

    /// Like [`open`](Self::open), keeping the history of the last `revisions` only.
    pub async fn open_keeping(path: impl AsRef<Path>, revisions: u64) -> Result<Self, StateError> {
        let path = path.as_ref().to_owned();
        blocking("opening the state file", move || {
            let name = format!("the state file {}", path.display());
            let database = open_file(&path, &name)?;
            Inner::new(name, database, Keep { revisions, ..KEEP })
        })
        .await
        .map(Self::start)
    }

    /// A store that is gone when it is dropped.
    pub async fn in_memory() -> Result<Self, StateError> {
        Self::in_memory_keeping(KEEP.revisions).await
    }

    /// Like [`in_memory`](Self::in_memory), keeping the history of the last `revisions` only.
    pub async fn in_memory_keeping(revisions: u64) -> Result<Self, StateError> {
        blocking("making a state store in memory", move || {
            let name = "the state in memory".to_owned();
            let database = redb::Builder::new()
                .create_with_backend(redb::backends::InMemoryBackend::new())
                .map_err(|error| tables::error_of(&name, "making it", error))?;
            Inner::new(name, database, Keep { revisions, ..KEEP })
        })
        .await
        .map(Self::start)
    }

    fn start(inner: Inner) -> Self {
        let inner = Arc::new(inner);
        let reaper = tokio::spawn(lease::reap(Arc::downgrade(&inner), inner.leases.changed()));
        EmbeddedStore { inner, reaper }
    }

    /// Runs `work` where it may block. It runs to its end even if the caller goes away, so a transaction is never left
    /// half done by a cancelled request.
    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Inner) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let inner = self.inner.clone();
        blocking(what, move || work(&inner)).await
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EmbeddedStore").field(&self.inner.name).finish()
    }
}

impl Inner {
    fn new(name: String, database: Database, keep: Keep) -> Result<Self, StateError> {
        let history = History::open(name.clone(), database, keep)?;
        let leases = Leases::new(history.leases()?);
        let (newest, _) = tokio::sync::watch::channel(history.revision()?.0);
        Ok(Inner { name, history, leases, newest })
    }

    /// Tells watchers that `revision` is confirmed. Confirmations may overtake each other on their way here.
    fn announce(&self, revision: Revision) {
        self.newest.send_if_modified(|newest| {
            let later = revision.0 > *newest;
            *newest = revision.0.max(*newest);
            later
        });
    }
}

#[async_trait]
impl StateStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        check_key(key)?;
        let key = key.to_owned();
        self.run("reading a key", move |inner| inner.history.get(&key)).await
    }

    async fn range(
        &self,
        prefix: &str,
        at: Option<Revision>,
        limit: usize,
        start_after: Option<&str>,
    ) -> Result<Range, StateError> {
        let limit = check_limit(limit)?;
        let prefix = prefix.to_owned();
        let start_after = start_after.map(str::to_owned);
        self.run("reading keys", move |inner| inner.history.range(&prefix, at, limit, start_after.as_deref())).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StateError> {
        txn.check()?;
        self.run("a transaction", move |inner| {
            let outcome = inner.history.txn(&txn, |lease| inner.leases.is_alive(lease))?;
            inner.announce(outcome.revision);
            Ok(outcome)
        })
        .await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StateError> {
        Ok(watch::open(&self.inner, prefix.to_owned(), from))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StateError> {
        let seconds = ttl_seconds(ttl)?;
        self.run("granting a lease", move |inner| {
            let lease = inner.history.grant(seconds)?;
            inner.leases.add(lease, seconds);
            Ok(lease)
        })
        .await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StateError> {
        self.inner.leases.keep_alive(lease)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StateError> {
        self.run("revoking a lease", move |inner| {
            let ended = lease::end(inner, lease, || inner.leases.remove(lease))?;
            if ended { Ok(()) } else { Err(StateError::LeaseGone { lease }) }
        })
        .await
    }

    async fn revision(&self) -> Result<Revision, StateError> {
        self.run("reading the revision", |inner| inner.history.revision()).await
    }

    async fn compact(&self, oldest: Revision) -> Result<(), StateError> {
        self.run("compacting the history", move |inner| inner.history.compact(oldest)).await
    }

    fn name(&self) -> String {
        self.inner.name.clone()
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StateError::Internal {
            store: "the embedded state store".to_owned(),
            what: format!("{what} broke off"),
            cause: Some(Box::new(error)),
        }),
    }
}

fn open_file(path: &Path, name: &str) -> Result<Database, StateError> {
    let existed = path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(
        |error| match error.kind() {
            ErrorKind::NotFound => {
                StateError::invalid(format!("the directory of {name} does not exist; hint: create it first"))
            }
            ErrorKind::IsADirectory => StateError::invalid(format!("{name} is a directory; hint: name a file in it")),
            _ => tables::error_of(name, "opening it", redb::Error::Io(error)),
        },
    )?;
    let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StateError::Conflict {
            what: format!(
                "{name} is in use by another process; hint: stop the controller that runs on it, or name another file"
            ),
        },
        error => tables::error_of(name, "opening it", error),
    })?;
    if !existed {
        // Without this the file itself may be gone after a power loss, with every transaction confirmed in it.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| tables::error_of(name, "making its directory entry durable", redb::Error::Io(error)))?;
    }
    Ok(database)
}
