//! Reads that take unusually long are asked a second time, and the first answer counts.
//!
//! One slow disk or connection behind a place must not decide how long a restore takes. What is unusual is told by the place itself:
//! longer than 95 of 100 reads of that size of late. Writes are never asked twice.
//!
//! Invariant: second reads are at most one in twenty, a few saved up aside, however slow the place is.

mod usual;

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::time::Instant;

use crate::decorator::{Answer, Call, Decorator};
use crate::share::Share;
use crate::{Backend, StorageError};
use usual::Usual;

/// Second reads a read.
const SHARE: f64 = 0.05;

/// Second reads that may be saved up.
const RESERVE: u32 = 4;

/// A backend that asks again what it reads. A clone shares what is known of the place.
#[derive(Clone, Debug)]
pub struct Hedged {
    inner: Arc<dyn Backend>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    usual: Usual,
    budget: Share,
}

impl Hedged {
    /// Reads of `inner` are asked a second time when they take long.
    pub fn new(inner: Arc<dyn Backend>) -> Hedged {
        let known = Known { usual: Usual::default(), budget: Share::new(SHARE, RESERVE) };
        Hedged { inner, known: Arc::new(Mutex::new(known)) }
    }

    fn known<T>(&self, with: impl FnOnce(&mut Known) -> T) -> T {
        with(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits as long as a read of this kind usually takes; for ever where that is not known, or none may be asked again.
    async fn unusual(&self, call: &Call<'_>) {
        let longest = self.known(|known| {
            known.budget.pay_in();
            known.usual.longest(call.fetches)
        });
        match longest {
            Some(longest) => tokio::time::sleep(longest).await,
            None => std::future::pending().await,
        }
        if !self.known(|known| known.budget.take()) {
            std::future::pending().await
        }
    }

    fn note<T>(&self, call: &Call<'_>, took: Duration, result: &Result<T, StorageError>) {
        // An error at once says nothing about how long a read takes.
        if result.is_ok() {
            self.known(|known| known.usual.note(call.fetches, took));
        }
    }
}

impl Decorator for Hedged {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, call: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        if !call.is_read() {
            return work().await;
        }
        let begun = Instant::now();
        let first = pin!(work());
        let unusual = pin!(self.unusual(&call));
        let first = match select(first, unusual).await {
            Either::Left((result, _)) => {
                self.note(&call, begun.elapsed(), &result);
                return result;
            }
            Either::Right(((), first)) => first,
        };
        // That the second one was quick says nothing about how long the first would have taken, so it counts from the beginning.
        let second = pin!(work());
        let (result, other) = select(first, second).await.factor_first();
        let result = match result {
            // Trouble on one way is no answer while the other one is open.
            Err(error) if error.is_transient() => other.await,
            result => result,
        };
        self.note(&call, begun.elapsed(), &result);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, Fault, Operation, Payload, Rule, Storage, StorageErrorKind};

    const USUAL: Duration = Duration::from_millis(100);

    /// A place whose reads take 100 ms, which is known after 40 of them.
    async fn learned() -> (Fault, Storage) {
        let fault = Fault::new(Storage::memory().backend());
        let storage = Storage::new(Arc::new(Hedged::new(Arc::new(fault.clone()))));
        storage.create("a", Payload::from(vec![1; 5000])).await.unwrap();
        fault.add(Rule::on(Operation::GetRange), Effect::Delay(USUAL));
        for _ in 0..40 {
            read(&storage).await.unwrap();
        }
        (fault, storage)
    }

    async fn read(storage: &Storage) -> Result<(), StorageError> {
        storage.get_range("a", 0..4096).await.map(|content| assert_eq!(content.len(), 4096))
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_hangs_is_answered_by_the_second_one() {
        let (fault, storage) = learned().await;
        let rule = fault.add(Rule::on(Operation::GetRange).first(1), Effect::Hang);
        let begun = Instant::now();
        read(&storage).await.unwrap();
        assert_eq!(begun.elapsed(), 2 * USUAL);
        assert_eq!(rule.hits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_with_one_is_no_answer_and_a_plain_answer_is() {
        let (fault, storage) = learned().await;
        fault.add(Rule::on(Operation::GetRange).first(1), Effect::Delay(3 * USUAL));
        fault.add(Rule::on(Operation::GetRange).nth(2), Effect::Fail(StorageErrorKind::Unreachable));
        read(&storage).await.unwrap();
        fault.add(Rule::on(Operation::GetRange).first(1), Effect::Hang);
        fault.add(Rule::on(Operation::GetRange).nth(2), Effect::Fail(StorageErrorKind::NotFound));
        assert!(read(&storage).await.unwrap_err().is_not_found());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_became_slow_gets_one_in_twenty_more() {
        let (fault, storage) = learned().await;
        let slow = fault.add(Rule::on(Operation::GetRange), Effect::Delay(10 * USUAL));
        for _ in 0..200 {
            read(&storage).await.unwrap();
        }
        let extra = slow.hits() - 200;
        assert!((1..=200 / 20 + u64::from(RESERVE)).contains(&extra), "{extra}");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_and_what_is_not_known_are_asked_once() {
        let (fault, storage) = learned().await;
        let rule = fault.add(Rule::on_all().prefix("b"), Effect::Delay(100 * USUAL));
        storage.create("b", Payload::from(vec![1; 5000])).await.unwrap();
        storage.delete("b").await.unwrap();
        storage.get_range("b", 0..1_000_000).await.unwrap_err();
        assert_eq!(rule.hits(), 3);
    }
}
