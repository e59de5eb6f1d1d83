//! Trying again while a place is unreachable or asks to be left alone: the one place where an operation is repeated.
//!
//! A create whose answer was lost may have been done. When a later try finds the name taken, the object is compared with
//! what was to be written: if it is the same, the create has happened, and answers `Ok`.
//!
//! Invariant: retries are at most a share of the calls of late, so that a place in trouble gets little more to do than one
//! in health; and none is begun when the policy's time is over, so that a call that hung is not followed by another one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use breakwater_core::Entropy;
use breakwater_runtime::RetryPolicy;
use futures::StreamExt;
use tokio::time::Instant;

use crate::decorator::{Answer, Call, Decorator, Many};
use crate::share::Share;
use crate::{Backend, Listing, ObjectMeta, Payload, Placement, StorageError, StorageErrorKind};

/// How much of an object is read at once to compare it with what was to be written.
const COMPARE_BYTES: u64 = 1 << 20;

/// Retries a call: what a storm of errors may add to the load of a place.
const SHARE: f64 = 0.2;

/// Retries that may be saved up, and that a place with few calls has in any case.
const RESERVE: u32 = 20;

/// A backend that tries again by a policy what answers `Unreachable` or `Throttled`, and nothing else. A clone has the same
/// budget.
#[derive(Clone)]
pub struct Retry {
    inner: Arc<dyn Backend>,
    policy: RetryPolicy,
    entropy: Arc<dyn Entropy>,
    budget: Arc<Mutex<Share>>,
}

impl Retry {
    /// Tries operations of `inner` by `policy`.
    pub fn new(inner: Arc<dyn Backend>, policy: RetryPolicy, entropy: Arc<dyn Entropy>) -> Retry {
        Retry { inner, policy, entropy, budget: Arc::new(Mutex::new(Share::new(SHARE, RESERVE))) }
    }

    /// Counts a call that began at `begun`, and answers its course so far.
    fn begin(&self, begun: Instant) -> Course<'_> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).pay_in();
        Course { retry: self, begun, retries: 0 }
    }

    async fn run<T, F>(&self, work: impl Fn() -> F) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let mut course = self.begin(Instant::now());
        loop {
            match work().await {
                Ok(value) => return Ok(value),
                Err(error) => course.wait_after(error).await?,
            }
        }
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

/// One call and its tries.
struct Course<'a> {
    retry: &'a Retry,
    begun: Instant,
    retries: u32,
}

impl Course<'_> {
    /// Waits until the call that failed with `error` may be tried again; the error itself where it shall not be.
    async fn wait_after(&mut self, error: StorageError) -> Result<(), StorageError> {
        match self.delay(&error) {
            Some(delay) => {
                tokio::time::sleep(delay).await;
                self.retries += 1;
                Ok(())
            }
            None => Err(error),
        }
    }

    fn delay(&self, error: &StorageError) -> Option<Duration> {
        let Retry { policy, entropy, budget, .. } = self.retry;
        let asked = error.retry_after.unwrap_or_default();
        let delay = policy.next(self.retries, self.begun, asked, &**entropy).filter(|_| error.is_transient())?;
        budget.lock().unwrap_or_else(PoisonError::into_inner).take().then_some(delay)
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Decorator for Retry {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, _: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        self.run(work).await
    }

    async fn create_around(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
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
        self.run(attempt).await
    }

    async fn delete_many_around(&self, keys: &[String]) -> Many {
        let mut course = self.begin(Instant::now());
        let mut results = self.inner.delete_many(keys).await;
        loop {
            let is_open = |result: &Result<(), StorageError>| result.as_ref().is_err_and(StorageError::is_transient);
            let open: Vec<usize> = (0..results.len()).filter(|at| is_open(&results[*at])).collect();
            let trouble = open.first().and_then(|at| results[*at].as_ref().err()).map(|error| error.of(&error.key));
            let Some(trouble) = trouble else { return results };
            if course.wait_after(trouble).await.is_err() {
                return results;
            }
            let again: Vec<String> = open.iter().filter_map(|at| keys.get(*at).cloned()).collect();
            for (at, result) in open.into_iter().zip(self.inner.delete_many(&again).await) {
                results[at] = result;
            }
        }
    }

    fn list_around(&self, prefix: &str) -> Listing {
        let state = Resume { retry: self.clone(), prefix: prefix.to_owned(), last: None, listing: None, ended: false };
        futures::stream::unfold(state, |mut state| async move {
            let next = state.next().await?;
            state.ended = next.is_err();
            Some((next, state))
        })
        .boxed()
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
        let begun = Instant::now();
        let retry = self.retry.clone();
        let mut course: Option<Course<'_>> = None;
        loop {
            let error = match self.attempt().await {
                Ok(next) => return next.map(Ok),
                Err(error) => error,
            };
            // An abandoned list may not be polled again.
            self.listing = None;
            if let Err(error) = course.get_or_insert_with(|| retry.begin(begun)).wait_after(error).await {
                return Some(Err(error));
            }
        }
    }

    async fn attempt(&mut self) -> Result<Option<ObjectMeta>, StorageError> {
        loop {
            let listing = self.listing.get_or_insert_with(|| self.retry.inner.list(&self.prefix));
            let next = listing.next().await.transpose()?;
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
    use crate::{Effect, Fault, Operation, Rule, Storage};

    fn faulty() -> (Fault, Storage) {
        let fault = Fault::new(Storage::memory().backend());
        let policy = RetryPolicy::new(4, Duration::from_micros(10), Duration::from_millis(1));
        (fault.clone(), Storage::new(Arc::new(Retry::new(Arc::new(fault), policy, Arc::new(SystemEntropy)))))
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
    async fn a_list_goes_on_where_it_broke() {
        let (fault, storage) = faulty();
        for n in 0..20 {
            storage.create(&format!("a/{n:02}"), payload("x")).await.unwrap();
        }
        fault.add(Rule::on(Operation::List).first(3), Effect::BreakList(7));
        let keys: Vec<String> = storage.list("a/").map_ok(|meta| meta.key).try_collect().await.unwrap();
        assert_eq!(keys, (0..20).map(|n| format!("a/{n:02}")).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_left_alone_as_long_as_it_asks() {
        let asked = Duration::from_secs(7);
        let fault = Fault::new(Storage::memory().backend());
        let rule = fault.add(Rule::on(Operation::Head), Effect::Throttle(asked));
        let policy = RetryPolicy::new(9, Duration::from_millis(1), Duration::from_millis(2));
        let retry = Retry::new(Arc::new(fault), policy.within(Duration::from_secs(20)), Arc::new(SystemEntropy));
        let begun = Instant::now();
        let error = retry.head("a").await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (StorageErrorKind::Throttled, Some(asked)), "it is handed on");
        assert_eq!(rule.hits(), 3, "after 0, 7 and 14 s; the next one would come when the time is over");
        assert_eq!(begun.elapsed().as_secs(), 14);
    }

    #[tokio::test]
    async fn a_storm_is_not_amplified() {
        let (fault, storage) = faulty();
        let rule = fault.add(Rule::on(Operation::Head), Effect::Fail(StorageErrorKind::Unreachable));
        for _ in 0..1000 {
            storage.head("a").await.unwrap_err();
        }
        // Without a budget it would be 4000.
        let most = 1000.0 * (1.0 + SHARE) + f64::from(RESERVE);
        let least = 1000.0 * (1.0 + SHARE);
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let hits = rule.hits() as f64;
        assert!((least..=most).contains(&hits), "{hits}");
    }
}
