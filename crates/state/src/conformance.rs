//! What every state store must do, as a suite that each implementation runs against itself.
//!
//! It panics at the first broken promise, with words that name it. It works under a prefix of its own, and may run again
//! and beside others on the same store; only the last part, compaction, touches the history that all share.

mod leases;
mod reads;
mod txns;
mod watches;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::Chain;
use futures::StreamExt as _;

use crate::error::StateError;
use crate::store::{Event, Revision, StateStore, WatchBatch, WatchStream};
use crate::txn::{Txn, TxnOutcome};

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the whole suite on `store`, under keys that begin with `scratch`.
///
/// # Panics
/// When a promise is broken.
pub async fn run(store: Arc<dyn StateStore>, scratch: &str) {
    let case = |name: &str| Case { store: store.clone(), root: format!("{scratch}{name}/") };
    reads::entries_tell_their_history(&case("history")).await;
    reads::ranges_are_ordered_and_paged(&case("pages")).await;
    reads::ranges_show_the_past(&case("past")).await;
    reads::prefixes_are_exact(&case("prefix")).await;
    reads::big_values_come_back_and_too_big_ones_are_refused(&case("big")).await;
    txns::every_condition_decides(&case("conditions")).await;
    txns::transactions_are_all_or_nothing(&case("atomic")).await;
    txns::steps_see_those_before_them(&case("steps")).await;
    txns::changes_of_nothing_are_no_revision(&case("nothing")).await;
    txns::concurrent_increments_lose_nothing(&case("increments")).await;
    txns::malformed_requests_are_refused(&case("malformed")).await;
    watches::every_change_is_seen_once_and_in_order(&case("watch")).await;
    watches::a_watch_goes_on_where_another_ended(&case("resume")).await;
    watches::a_watch_under_load_misses_nothing(&case("load")).await;
    watches::a_watch_may_begin_in_the_future(&case("future")).await;
    leases::an_expired_lease_takes_its_keys(&case("expiry")).await;
    leases::keeping_alive_prolongs(&case("alive")).await;
    leases::revoking_takes_all_keys_in_one_revision(&case("revoke")).await;
    leases::a_put_without_lease_frees_the_key(&case("freed")).await;
    watches::compacted_history_is_said_to_be_gone(&case("compaction")).await;
}

/// One part of the suite: the store and a prefix that nobody else writes under.
#[derive(Debug)]
struct Case {
    store: Arc<dyn StateStore>,
    root: String,
}

impl Case {
    /// The key `name` of this case.
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    /// Runs a transaction whose conditions hold.
    async fn commit(&self, txn: Txn) -> TxnOutcome {
        let outcome = must("a transaction", self.store.txn(txn).await);
        assert!(outcome.succeeded, "the conditions of a transaction hold");
        outcome
    }

    /// Writes one key; the revision that did it.
    async fn put(&self, name: &str, value: &str) -> Revision {
        self.commit(Txn::new().put(self.key(name), value.to_owned())).await.revision
    }

    /// The value of one key.
    async fn value(&self, name: &str) -> Option<String> {
        let entry = must("a get", self.store.get(&self.key(name)).await);
        entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
    }

    /// Watches this case from `from` on.
    async fn watch(&self, from: Revision) -> WatchStream {
        must("a watch", self.store.watch(&self.root, from).await)
    }

    /// Deletes what the case wrote, so that a second run finds nothing.
    async fn clean(&self) {
        loop {
            let page = must("a range", self.store.range(&self.root, None, 100, None).await);
            if page.entries.is_empty() {
                return;
            }
            self.commit(page.entries.iter().fold(Txn::new(), |txn, entry| txn.delete(&entry.key))).await;
        }
    }
}

/// The result, which must be good.
fn must<T>(what: &str, result: Result<T, StateError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {}", Chain(&error)),
    }
}

/// The error, which there must be.
fn refused<T: Debug>(what: &str, result: Result<T, StateError>) -> StateError {
    match result {
        Ok(value) => panic!("{what} must be refused, but gave {value:?}"),
        Err(error) => error,
    }
}

/// The next item of a watch, which must come.
async fn next(watch: &mut WatchStream) -> Result<WatchBatch, StateError> {
    match tokio::time::timeout(PATIENCE, watch.next()).await {
        Ok(Some(item)) => item,
        Ok(None) => panic!("a watch must not end without an error"),
        Err(_) => panic!("a watch did not tell of a change within {PATIENCE:?}"),
    }
}

/// The next batch of a watch, which must come.
async fn next_batch(watch: &mut WatchStream) -> WatchBatch {
    must("a watch", next(watch).await)
}

/// The changes of a batch by key, as `+key=value` or `-key`, the case's prefix left out.
fn shown(case: &Case, batch: &WatchBatch) -> Vec<String> {
    let mut all: Vec<String> = batch
        .events
        .iter()
        .map(|event| {
            assert_eq!(event.revision(), batch.revision, "an event belongs to the revision of its batch");
            let key = event.key().strip_prefix(case.root.as_str()).unwrap_or_else(|| {
                panic!("a watch of {} told of {}", case.root, event.key());
            });
            match event {
                Event::Put(entry) => format!("+{key}={}", String::from_utf8_lossy(&entry.value)),
                Event::Delete { .. } => format!("-{key}"),
            }
        })
        .collect();
    all.sort();
    all
}
