//! An end to every wait for a place: what does not answer in its time is `Unreachable`.
//!
//! The time is that of one request on the wire. Waiting for a turn, for bandwidth or for the next try lies outside, so that a place
//! that is busy because it was told to be slow is never taken for one that hangs.
//!
//! Invariant: every operation and every step of a list ends within a time that follows from the operation and its bytes alone.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use crate::decorator::{Answer, Call, Decorator};
use crate::{Backend, Listing, Operation, StorageError, StorageErrorKind};

/// How long operations may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A call that moves no content, and the next object of a list.
    pub call: Duration,
    /// What a call that moves content may take beside the bytes.
    pub transfer: Duration,
    /// Bytes per second below which moving content counts as hanging.
    pub slowest: u64,
    /// The bytes that a whole object is thought to have when it is read without its size being known.
    pub whole: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            call: Duration::from_secs(20),
            transfer: Duration::from_secs(30),
            slowest: 128 << 10,
            // No object that is written is larger than a full pack.
            whole: 64 << 20,
        }
    }
}

impl Timeouts {
    /// How long `call` may take.
    pub fn limit(&self, call: &Call<'_>) -> Duration {
        let bytes = call.sends.saturating_add(call.fetches.unwrap_or(self.whole));
        let moves = call.operation == Operation::Create || call.is_read();
        if moves { self.transfer + Duration::from_secs(bytes / self.slowest.max(1)) } else { self.call }
    }
}

/// A backend whose operations end in time.
#[derive(Clone, Debug)]
pub struct Timed {
    inner: Arc<dyn Backend>,
    timeouts: Timeouts,
}

impl Timed {
    /// Ends operations of `inner` that take longer than `timeouts` say.
    pub fn new(inner: Arc<dyn Backend>, timeouts: Timeouts) -> Timed {
        Timed { inner, timeouts }
    }
}

impl Decorator for Timed {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, call: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        let limit = self.timeouts.limit(&call);
        let late = |_| Err(no_answer(limit, call.operation, self.inner.location(), call.key));
        tokio::time::timeout(limit, work()).await.unwrap_or_else(late)
    }

    fn list_around(&self, prefix: &str) -> Listing {
        let (inner, prefix, limit) = (Arc::clone(&self.inner), prefix.to_owned(), self.timeouts.call);
        let listing = Some(inner.list(&prefix));
        futures::stream::unfold((listing, inner, prefix), move |(listing, inner, prefix)| async move {
            let mut listing = listing?;
            match tokio::time::timeout(limit, listing.next()).await {
                Ok(next) => Some((next?, (Some(listing), inner, prefix))),
                Err(_) => {
                    let error = no_answer(limit, Operation::List, inner.location(), &prefix);
                    Some((Err(error), (None, inner, prefix)))
                }
            }
        })
        .boxed()
    }
}

fn no_answer(limit: Duration, operation: Operation, location: &str, key: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Unreachable, operation, location, key)
        .because(format!("no answer within {} s", limit.as_secs_f32()))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use tokio::time::Instant;

    use super::*;
    use crate::{Effect, Fault, Payload, Rule, Storage};

    const TIMEOUTS: Timeouts =
        Timeouts { call: Duration::from_secs(2), transfer: Duration::from_secs(10), slowest: 10, whole: 1000 };

    #[tokio::test(start_paused = true)]
    async fn a_hang_ends_after_the_time_of_its_operation() {
        let fault = Fault::new(Storage::memory().backend());
        let storage = Storage::new(Arc::new(Timed::new(Arc::new(fault.clone()), TIMEOUTS)));
        storage.create("a", Payload::from(vec![1; 50])).await.unwrap();
        storage.create("b", Payload::from(vec![1; 50])).await.unwrap();
        fault.add(Rule::on_all(), Effect::Hang);
        let begun = Instant::now();
        let mut before = 0;
        let mut ended = |seconds: u64, error: StorageError| {
            assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error}");
            assert_eq!(begun.elapsed().as_secs() - before, seconds, "{error}");
            before = begun.elapsed().as_secs();
        };
        ended(15, storage.create("c", Payload::from(vec![1; 50])).await.unwrap_err());
        ended(110, storage.get("a").await.unwrap_err());
        ended(12, storage.get_range("a", 0..20).await.unwrap_err());
        ended(13, storage.get_tail("a", 30).await.unwrap_err());
        ended(2, storage.head("a").await.unwrap_err());
        ended(2, storage.delete("a").await.unwrap_err());
        ended(2, storage.delete_many(&["a".to_owned(), "b".to_owned()]).await.remove(1).unwrap_err());
        ended(2, storage.list("").try_next().await.unwrap_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_has_its_time_for_each_object_and_ends_with_its_error() {
        let fault = Fault::new(Storage::memory().backend());
        let storage = Storage::new(Arc::new(Timed::new(Arc::new(fault.clone()), TIMEOUTS)));
        for key in ["a", "b", "c"] {
            storage.create(key, Payload::from(vec![1])).await.unwrap();
        }
        let slow = storage.list("").then(|item| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            item
        });
        assert_eq!(slow.try_collect::<Vec<_>>().await.unwrap().len(), 3, "the time of the reader is not counted");
        fault.add(Rule::on(Operation::List), Effect::Hang);
        let items: Vec<_> = storage.list("").collect().await;
        assert!(items.len() == 1 && items[0].is_err());
    }
}
