//! The contract: what every state store promises.
//!
//! Keys are UTF-8 texts in byte order, values are bytes. Every transaction that changes something gets the next
//! [`Revision`], so the whole store has one history, and a read or a watch can name a point in it. A confirmed change
//! survives the loss of power.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::error::StateError;
use crate::txn::{Txn, TxnOutcome};

/// The most entries of one page of [`StateStore::range`]. A page may hold fewer, because of the size of its values.
pub const MAX_PAGE: usize = 1000;

/// The most bytes of one key.
pub const MAX_KEY: usize = 1024;

/// A point in the history of a store. An empty store is at 1; each transaction that changes something adds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of an empty store, before the first change.
    pub const FIRST: Revision = Revision(1);

    /// The revision after this one: where a watch goes on after a range was read at `self`.
    pub const fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A promise of the holder to show up again within a time; keys put under it vanish when the promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// One key and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The bytes.
    pub value: Bytes,
    /// The revision that wrote this value.
    pub revision: Revision,
    /// The revision that created the key. A key that is deleted and put again is created anew.
    pub created: Revision,
    /// How often the key was written since it was created; the first time counts 1.
    pub version: u64,
}

/// One page of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The entries, in order of their keys.
    pub entries: Vec<Entry>,
    /// The revision at which all of them were read; pass it as `at` for the next page.
    pub revision: Revision,
    /// Whether there are keys after the last entry; pass its key as `start_after`.
    pub more: bool,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key holds this now.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
        /// The revision that deleted it.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Event::Put(entry) => &entry.key,
            Event::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put(entry) => entry.revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// All that one revision changed under the watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// Its changes; never empty, no key twice. Their order within the revision says nothing.
    pub events: Vec<Event>,
}

/// Batches in order of their revisions. An error is the last item.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchBatch, StateError>> + Send>>;

/// Where the control plane keeps its state.
#[async_trait]
pub trait StateStore: Send + Sync + fmt::Debug {
    /// The entry of `key` now, or none.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError>;

    /// The entries whose keys begin with `prefix` (all of them when it is empty), in order, at the newest revision or at
    /// the older one `at`; at most `limit` (at least 1, cut to [`MAX_PAGE`]), from the key after `start_after` on.
    ///
    /// Errors: `Compacted` when `at` is too old, `Invalid` when it lies in the future.
    async fn range(
        &self,
        prefix: &str,
        at: Option<Revision>,
        limit: usize,
        start_after: Option<&str>,
    ) -> Result<Range, StateError>;

    /// Runs `then` if all conditions hold, else `otherwise`; all of it or nothing, in the order of revisions.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StateError>;

    /// Every change under `prefix` from revision `from` on, past ones included, each exactly once and in order. The
    /// stream lives through the loss of the connection; it never ends by itself, only by an error: `Compacted` when the
    /// history it needs is gone (list again and watch from there), `Denied`, `Corrupt`.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StateError>;

    /// A new lease. `ttl` is rounded up to whole seconds, and a store may make it longer, never shorter.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StateError>;

    /// Starts the lease's time anew. Error `LeaseGone` when it was too late.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StateError>;

    /// Ends the lease now and deletes its keys in one revision. Error `LeaseGone` when it had ended already.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StateError>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, StateError>;

    /// Forgets the history before `oldest`, which stays readable; what the keys hold now is untouched. Without this a
    /// store may grow for ever. A revision compacted already is no error, one in the future is `Invalid`.
    async fn compact(&self, oldest: Revision) -> Result<(), StateError>;

    /// What to call this store when speaking to people.
    fn name(&self) -> String;
}

/// Everything under `prefix` at one revision, page by page. Watch from `revision.next()` to go on from there.
pub async fn list(store: &dyn StateStore, prefix: &str) -> Result<Range, StateError> {
    let mut all = store.range(prefix, None, MAX_PAGE, None).await?;
    while all.more {
        let last = all.entries.last().map(|entry| entry.key.clone());
        match store.range(prefix, Some(all.revision), MAX_PAGE, last.as_deref()).await {
            Ok(page) => {
                all.entries.extend(page.entries);
                all.more = page.more;
            }
            // The history was compacted under a slow reader. Beginning again is all that helps, and each round is a
            // fresh revision, so this ends as soon as one pass is faster than the compaction interval.
            Err(StateError::Compacted { .. }) => all = store.range(prefix, None, MAX_PAGE, None).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Refuses keys that one of the stores could not hold.
pub(crate) fn check_key(key: &str) -> Result<(), StateError> {
    if key.is_empty() {
        return Err(StateError::invalid("a key of the state store must not be empty"));
    }
    if key.len() > MAX_KEY {
        return Err(StateError::TooLarge {
            what: format!("the key `{}…`", key.chars().take(64).collect::<String>()),
            size: key.len(),
            limit: MAX_KEY,
        });
    }
    Ok(())
}

/// Refuses an empty page.
pub(crate) fn check_limit(limit: usize) -> Result<usize, StateError> {
    if limit == 0 {
        Err(StateError::invalid("a page of the state store needs a limit of at least 1"))
    } else {
        Ok(limit.min(MAX_PAGE))
    }
}

/// The time to live in whole seconds, rounded up.
pub(crate) fn ttl_seconds(ttl: Duration) -> Result<i64, StateError> {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    match i64::try_from(seconds) {
        Ok(seconds) if (1..=MAX_TTL_SECONDS).contains(&seconds) => Ok(seconds),
        _ => Err(StateError::invalid(format!(
            "a lease of {seconds} s is not possible: it must last from 1 to {MAX_TTL_SECONDS} s"
        ))),
    }
}

/// About 285 years, which is what etcd takes.
const MAX_TTL_SECONDS: i64 = 9_000_000_000;
