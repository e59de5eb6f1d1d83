//! Transfers in tasks of their own, so that they go on whether or not their caller looks at them.
//!
//! A caller may begin several reads and then wait for something else first. A read that was given its turn in the place and is not
//! polled would keep the turn until the caller comes back, and where the caller waits for a turn itself, that is never. Its time on the
//! wire would be the caller's time, too.
//!
//! Invariant: a transfer that was begun ends, with its answer, its timeout or its caller's loss of interest; dropping it cancels it.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::decorator::Many;
use crate::{
    Backend, Features, Listing, ObjectMeta, Operation, Payload, Placement, Protection, Retention, StorageError,
    StorageErrorKind, Thaw, Tier,
};

/// A backend whose transfers are tasks.
#[derive(Clone, Debug)]
pub struct Apart {
    inner: Arc<dyn Backend>,
}

impl Apart {
    /// Transfers of `inner` go on by themselves.
    pub fn new(inner: Arc<dyn Backend>) -> Apart {
        Apart { inner }
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        transfer: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<T, StorageError> {
        let task = AbortOnDropHandle::new(tokio::spawn(transfer.in_current_span()));
        task.await.unwrap_or_else(|error| {
            let kind = if error.is_cancelled() { StorageErrorKind::Cancelled } else { StorageErrorKind::Other };
            Err(StorageError::new(kind, operation, self.location(), key).because(error))
        })
    }
}

#[async_trait]
impl Backend for Apart {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn may_lose_answers(&self) -> bool {
        self.inner.may_lose_answers()
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let (inner, name, placement) = (Arc::clone(&self.inner), key.to_owned(), *placement);
        self.run(Operation::Create, key, async move { inner.create(&name, payload, &placement).await }).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        let (inner, name) = (Arc::clone(&self.inner), key.to_owned());
        self.run(Operation::Get, key, async move { inner.get(&name).await }).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let (inner, name) = (Arc::clone(&self.inner), key.to_owned());
        self.run(Operation::GetRange, key, async move { inner.get_range(&name, range).await }).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let (inner, name) = (Arc::clone(&self.inner), key.to_owned());
        self.run(Operation::GetTail, key, async move { inner.get_tail(&name, length).await }).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str) -> Listing {
        self.inner.list(prefix)
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.list_directories(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[String]) -> Many {
        self.inner.delete_many(keys).await
    }

    async fn features(&self) -> Result<Features, StorageError> {
        self.inner.features().await
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        self.inner.protection(key).await
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        self.inner.retain(key, retention).await
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        self.inner.hold(key, held).await
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        self.inner.set_tier(key, tier).await
    }

    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        self.inner.thaw(key, thaw).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Adaptive, Effect, Fault, Rule, Storage};

    /// A place that takes one transfer at a time, and a call a second.
    async fn narrow() -> Storage {
        let fault = Fault::new(Storage::memory().backend());
        let storage = Storage::new(Arc::new(Apart::new(Arc::new(Adaptive::new(Arc::new(fault.clone()), 1)))));
        for key in ["a", "b"] {
            storage.create(key, Payload::from(vec![7; 100])).await.unwrap();
        }
        fault.add(Rule::on(Operation::Get), Effect::Delay(Duration::from_secs(1)));
        storage
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_nobody_looks_at_holds_nobody_up() {
        let storage = narrow().await;
        let mut waiting = Box::pin(storage.get("a"));
        assert!(futures::poll!(&mut waiting).is_pending());
        // Without tasks of their own, this one would wait for the turn of the other, for ever.
        let other = tokio::time::timeout(Duration::from_secs(60), storage.get("b")).await;
        assert_eq!(other.unwrap().unwrap().len(), 100);
        assert_eq!(waiting.await.unwrap().len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_dropped_gives_its_turn_back() {
        let storage = narrow().await;
        let mut dropped = Box::pin(storage.get("a"));
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        assert_eq!(storage.get("b").await.unwrap().len(), 100);
    }
}
