//! Trying again while a place is unreachable or asks to be left alone.
//!
//! A create whose answer was lost may have been done. When a later try finds the name taken, the object is compared with
//! what was to be written: if it is the same, the create has happened, and answers `Ok`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use breakwater_core::Entropy;
use breakwater_runtime::RetryPolicy;
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Backend, Features, Listing, ObjectMeta, Operation, Payload, Placement, Protection, Retention, StorageError,
    StorageErrorKind, Thaw, Tier,
};

/// How much of an object is read at once to compare it with what was to be written.
const COMPARE_BYTES: u64 = 1 << 20;

/// A backend that tries again by a policy what answers `Unreachable` or `Throttled`, and nothing else.
#[derive(Clone)]
pub struct Retry {
    inner: Arc<dyn Backend>,
    policy: RetryPolicy,
    entropy: Arc<dyn Entropy>,
    attempt_timeout: Option<Duration>,
}

impl Retry {
    /// Tries operations of `inner` by `policy`.
    pub fn new(inner: Arc<dyn Backend>, policy: RetryPolicy, entropy: Arc<dyn Entropy>) -> Retry {
        Retry { inner, policy, entropy, attempt_timeout: None }
    }

    /// The same, with each try ended after `timeout` as `Unreachable`. For a list it bounds the wait for the next object.
    #[must_use]
    pub fn with_attempt_timeout(self, timeout: Duration) -> Retry {
        Retry { attempt_timeout: Some(timeout), ..self }
    }

    async fn run<T, F>(&self, operation: Operation, key: &str, mut call: impl FnMut() -> F) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let attempt = || self.timed(operation, key, call());
        self.policy.run(&*self.entropy, attempt, StorageError::is_transient).await
    }

    async fn timed<T>(
        &self,
        operation: Operation,
        key: &str,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let Some(timeout) = self.attempt_timeout else { return call.await };
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| {
            Err(StorageError::new(StorageErrorKind::Unreachable, operation, self.location(), key)
                .because(format!("no answer within {timeout:?}")))
        })
    }

    /// Whether the object is exactly what `payload` holds.
    async fn holds(&self, key: &str, payload: &Payload) -> Result<bool, StorageError> {
        if self.inner.head(key).await?.size != payload.len() {
            return Ok(false);
        }
        let mut at = 0;
        for part in payload.parts() {
            for expected in part.chunks(usize::try_from(COMPARE_BYTES).unwrap_or(usize::MAX)) {
                let end = at + expected.len() as u64;
                if self.inner.get_range(key, at..end).await? != expected {
                    return Ok(false);
                }
                at = end;
            }
        }
        Ok(true)
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for Retry {
    fn location(&self) -> &str {
        self.inner.location()
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let tried = &AtomicBool::new(false);
        let payload = &payload;
        let attempt = || async move {
            let is_retry = tried.swap(true, Ordering::Relaxed);
            match self.inner.create(key, payload.clone(), placement).await {
                Err(taken) if taken.kind == StorageErrorKind::AlreadyExists && is_retry => {
                    match self.holds(key, payload).await {
                        Ok(true) => Ok(()),
                        Err(error) if error.is_transient() => Err(error),
                        _ => Err(taken),
                    }
                }
                result => result,
            }
        };
        self.run(Operation::Create, key, attempt).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.run(Operation::Get, key, || self.inner.get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.run(Operation::GetRange, key, || self.inner.get_range(key, range.clone())).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        self.run(Operation::GetTail, key, || self.inner.get_tail(key, length)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.run(Operation::Head, key, || self.inner.head(key)).await
    }

    fn list(&self, prefix: &str) -> Listing {
        let state = Resume { retry: self.clone(), prefix: prefix.to_owned(), last: None, listing: None, ended: false };
        futures::stream::unfold(state, |mut state| async move {
            let next = state.next().await?;
            state.ended = next.is_err();
            Some((next, state))
        })
        .boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.run(Operation::ListDirectories, prefix, || self.inner.list_directories(prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.run(Operation::Delete, key, || self.inner.delete(key)).await
    }

    async fn delete_many(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        let begun = tokio::time::Instant::now();
        let mut results = self.inner.delete_many(keys).await;
        let mut retries = 0;
        loop {
            let is_open = |result: &Result<(), StorageError>| result.as_ref().is_err_and(StorageError::is_transient);
            let open: Vec<usize> = (0..results.len()).filter(|at| is_open(&results[*at])).collect();
            let delay = self.policy.next(retries, begun, &*self.entropy).filter(|_| !open.is_empty());
            let Some(delay) = delay else { return results };
            tokio::time::sleep(delay).await;
            retries += 1;
            let again: Vec<String> = open.iter().filter_map(|at| keys.get(*at).cloned()).collect();
            for (at, result) in open.into_iter().zip(self.inner.delete_many(&again).await) {
                results[at] = result;
            }
        }
    }

    async fn features(&self) -> Result<Features, StorageError> {
        self.run(Operation::Features, "", || self.inner.features()).await
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        self.run(Operation::Protection, key, || self.inner.protection(key)).await
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        self.run(Operation::Retain, key, || self.inner.retain(key, retention)).await
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        self.run(Operation::Hold, key, || self.inner.hold(key, held)).await
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        self.run(Operation::SetTier, key, || self.inner.set_tier(key, tier)).await
    }

    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        self.run(Operation::Thaw, key, || self.inner.thaw(key, thaw)).await
    }
}

/// A list that begins again after an error, behind the last object that was handed out.
struct Resume {
    retry: Retry,
    prefix: String,
    last: Option<String>,
    listing: Option<Listing>,
    ended: bool,
}

impl Resume {
    async fn next(&mut self) -> Option<Result<ObjectMeta, StorageError>> {
        if self.ended {
            return None;
        }
        let begun = tokio::time::Instant::now();
        let mut retries = 0;
        loop {
            let error = match self.attempt().await {
                Ok(next) => return next.map(Ok),
                Err(error) => error,
            };
            // An abandoned list may not be polled again.
            self.listing = None;
            let delay = self.retry.policy.next(retries, begun, &*self.retry.entropy);
            let Some(delay) = delay.filter(|_| error.is_transient()) else { return Some(Err(error)) };
            tokio::time::sleep(delay).await;
            retries += 1;
        }
    }

    async fn attempt(&mut self) -> Result<Option<ObjectMeta>, StorageError> {
        loop {
            let listing = self.listing.get_or_insert_with(|| self.retry.inner.list(&self.prefix));
            let next = async { listing.next().await.transpose() };
            let next = self.retry.timed(Operation::List, &self.prefix, next).await?;
            if let Some(meta) = &next {
                if self.last.as_ref().is_some_and(|last| meta.key <= *last) {
                    continue;
                }
                self.last = Some(meta.key.clone());
            }
            return Ok(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_runtime::SystemEntropy;
    use futures::TryStreamExt;

    use super::*;
    use crate::{Effect, Fault, Rule, Storage};

    fn faulty() -> (Fault, Storage) {
        let fault = Fault::new(Storage::memory().backend());
        let policy = RetryPolicy::new(4, Duration::from_micros(10), Duration::from_millis(1));
        let retry = Retry::new(Arc::new(fault.clone()), policy, Arc::new(SystemEntropy));
        (fault, Storage::new(Arc::new(retry.with_attempt_timeout(Duration::from_millis(100)))))
    }

    fn payload(text: &'static str) -> Payload {
        Payload::from(text.as_bytes())
    }

    #[tokio::test]
    async fn only_the_unreachable_is_tried_again() {
        let (fault, storage) = faulty();
        let rule = fault.add(Rule::on(Operation::Create).first(3), Effect::Fail(StorageErrorKind::Unreachable));
        storage.create("a", payload("1")).await.unwrap();
        assert_eq!(rule.hits(), 3);
        for kind in [StorageErrorKind::Full, StorageErrorKind::Denied, StorageErrorKind::NotFound] {
            let rule = fault.add(Rule::on(Operation::Get), Effect::Fail(kind));
            assert_eq!(storage.get("a").await.unwrap_err().kind, kind);
            assert_eq!(rule.hits(), 1, "{kind:?}");
            rule.remove();
        }
        fault.set_reachable(false);
        assert_eq!(storage.get("a").await.unwrap_err().kind, StorageErrorKind::Unreachable);
        assert_eq!(storage.list("").try_next().await.unwrap_err().kind, StorageErrorKind::Unreachable);
        fault.set_reachable(true);
        assert_eq!(storage.get("a").await.unwrap(), "1");
    }

    #[tokio::test]
    async fn a_create_whose_answer_was_lost_is_recognised() {
        let (fault, storage) = faulty();
        let applied = Effect::ApplyThenFail(StorageErrorKind::Unreachable);
        fault.add(Rule::on(Operation::Create).first(1), applied.clone());
        storage.create("a", payload("mine")).await.unwrap();
        // A first try that finds the name taken is a conflict, even with the same content.
        assert_eq!(storage.create("a", payload("mine")).await.unwrap_err().kind, StorageErrorKind::AlreadyExists);
        // And so is a later try that finds another's content, of the same length or not.
        for other in ["notmine", "tiny"] {
            fault.add(Rule::on(Operation::Create).first(1), Effect::Fail(StorageErrorKind::Unreachable));
            assert_eq!(storage.create("a", payload(other)).await.unwrap_err().kind, StorageErrorKind::AlreadyExists);
        }
        assert_eq!(storage.get("a").await.unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_hang_is_ended_and_tried_again() {
        let (fault, storage) = faulty();
        let rule = fault.add(Rule::on(Operation::Create).first(2), Effect::Hang);
        storage.create("a", payload("1")).await.unwrap();
        assert_eq!(rule.hits(), 2);
        fault.add(Rule::on(Operation::Get), Effect::Hang);
        assert_eq!(storage.get("a").await.unwrap_err().kind, StorageErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn a_list_goes_on_where_it_broke() {
        let (fault, storage) = faulty();
        for n in 0..20 {
            storage.create(&format!("a/{n:02}"), payload("x")).await.unwrap();
        }
        fault.add(Rule::on(Operation::List).first(3), Effect::BreakList(7));
        let keys: Vec<String> = storage.list("a/").map_ok(|meta| meta.key).try_collect().await.unwrap();
        assert_eq!(keys, (0..20).map(|n| format!("a/{n:02}")).collect::<Vec<_>>());
    }
}
