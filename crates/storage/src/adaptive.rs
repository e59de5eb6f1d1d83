//! How many transfers a place gets at once: as many as it takes without getting slower, fewer when it asks for mercy.
//!
//! Uploads and reads have a gate each, since a place that is busy with one may have room for the other. Calls that move little or no
//! content are not held up: a record must not wait for packs, nor a probe for a restore. While a place that throttled has asked to be
//! left alone, all calls are refused here, with the time that is left, instead of being sent: whoever asked decides whether to wait.
//!
//! Invariant: there are never more transfers in the place than the controller of their gate allows, and never more uploads than
//! the settings say.

mod controller;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::decorator::{Answer, Call, Decorator};
use crate::{Backend, Operation, StorageError, StorageErrorKind};
use controller::{Controller, Sample};

/// Uploads at once unless something else is said.
pub const UPLOADS: usize = 16;

/// Reads at once at most.
const READS: usize = 128;

/// What moves no more than this passes by the gates.
const SMALL: u64 = 64 << 10;

/// The longest time for which a place is left alone, whatever it asks.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A backend that lets only so many transfers through at once. A clone shares the gates.
#[derive(Clone, Debug)]
pub struct Adaptive {
    inner: Arc<dyn Backend>,
    uploads: Arc<Gate>,
    reads: Arc<Gate>,
    paused_until: Arc<Mutex<Option<Instant>>>,
}

impl Adaptive {
    /// Lets at most `uploads` creates through at once, and as many reads as the place takes.
    pub fn new(inner: Arc<dyn Backend>, uploads: usize) -> Adaptive {
        let (uploads, reads) = (Arc::new(Gate::new(uploads)), Arc::new(Gate::new(READS)));
        Adaptive { inner, uploads, reads, paused_until: Arc::default() }
    }

    fn gate(&self, call: &Call<'_>) -> Option<&Gate> {
        match call.operation {
            Operation::Create if call.sends > SMALL => Some(&self.uploads),
            _ if call.is_read() && call.fetches.is_none_or(|bytes| bytes > SMALL) => Some(&self.reads),
            _ => None,
        }
    }

    /// How long the place is still to be left alone.
    fn pause(&self) -> Option<Duration> {
        let until = (*self.paused_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Leaves the place alone for as long as it `asked`.
    fn pause_for(&self, asked: Duration) {
        let until = Instant::now() + asked.min(LONGEST_PAUSE);
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |before| before.max(until)));
    }
}

impl Decorator for Adaptive {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, call: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        let gate = self.gate(&call);
        let permit = match gate {
            Some(gate) => Some(gate.enter().await),
            None => None,
        };
        if let Some(left) = self.pause() {
            let error = StorageError::new(StorageErrorKind::Throttled, call.operation, self.inner.location(), call.key);
            return Err(error.after(Some(left)).because("the place asked to be left alone"));
        }
        let begun = Instant::now();
        let result = work().await;
        if let Some(asked) = result.as_ref().err().and_then(|error| error.retry_after) {
            self.pause_for(asked);
        }
        if let Some((gate, permit)) = gate.zip(permit) {
            let bytes = result.as_ref().map_or(0, T::fetched).max(call.sends);
            gate.leave(permit, begun, bytes, result.as_ref().err());
        }
        result
    }
}

/// What stands before one kind of transfers.
#[derive(Debug)]
struct Gate {
    /// Waiters are served in order.
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    controller: Controller,
    /// Permits that exist, held or free.
    issued: usize,
}

impl Gate {
    fn new(most: usize) -> Gate {
        let controller = Controller::new(most);
        let issued = controller.limit();
        let state = Mutex::new(State { controller, issued });
        Gate { permits: Arc::new(Semaphore::new(issued)), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore of a gate is never closed")
    }

    /// A transfer of `bytes` that began at `begun` was answered. Gives its permit back, or takes it out of the world.
    fn leave(&self, permit: OwnedSemaphorePermit, begun: Instant, bytes: u64, error: Option<&StorageError>) {
        let now = Instant::now();
        let mut state = self.state();
        // Only a gate at which the others have to wait says that more would be used.
        let full = self.permits.available_permits() == 0;
        state.controller.note(begun, now, bytes, Sample::of(error, full));
        let limit = state.controller.limit();
        if limit < state.issued {
            permit.forget();
            state.issued -= 1;
            let free = self.permits.forget_permits(state.issued - limit);
            state.issued -= free;
        } else {
            self.permits.add_permits(limit - state.issued);
            state.issued = limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, Fault, Payload, Rule, Storage};

    fn gated(uploads: usize) -> (Fault, Adaptive, Storage) {
        let fault = Fault::new(Storage::memory().backend());
        let adaptive = Adaptive::new(Arc::new(fault.clone()), uploads);
        (fault, adaptive.clone(), Storage::new(Arc::new(adaptive)))
    }

    async fn put(storage: &Storage, number: usize) -> Result<(), StorageError> {
        storage.create(&format!("o/{number}"), Payload::from(vec![7; 100_000])).await
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_at_once_are_bounded_and_reads_and_questions_pass_by() {
        let (fault, adaptive, storage) = gated(2);
        // A gate begins with one at once and sees with each good answer whether there is room for more.
        for number in 10..14 {
            put(&storage, number).await.unwrap();
        }
        assert_eq!(adaptive.uploads.state().controller.limit(), 2);
        let rule = fault.add(Rule::on(Operation::Create), Effect::Hold);
        let tasks: Vec<_> = (0..5)
            .map(|number| {
                let storage = storage.clone();
                tokio::spawn(async move { put(&storage, number).await })
            })
            .collect();
        rule.reached(2).await;
        assert!(storage.get("o/0").await.unwrap_err().is_not_found());
        assert!(!storage.exists("o/0").await.unwrap());
        // Everything that can run has run by the time that a sleep is over.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rule.hits(), 2);
        rule.release();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(rule.hits(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_does_not_wait_for_packs() {
        let (fault, _, storage) = gated(1);
        let rule = fault.add(Rule::on(Operation::Create).prefix("o/"), Effect::Hold);
        let pack = tokio::spawn({
            let storage = storage.clone();
            async move { put(&storage, 0).await }
        });
        rule.reached(1).await;
        storage.create("record", Payload::from(vec![7; 1000])).await.unwrap();
        storage.get_tail("record", 4096).await.unwrap();
        rule.release();
        pack.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_transfer_leaves_its_turn() {
        let (fault, _, storage) = gated(1);
        let rule = fault.add(Rule::on(Operation::Create).first(1), Effect::Hang);
        let hanging = tokio::spawn({
            let storage = storage.clone();
            async move { put(&storage, 0).await }
        });
        rule.reached(1).await;
        hanging.abort();
        put(&storage, 1).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_throttles_gets_less_and_is_left_alone() {
        let (fault, adaptive, storage) = gated(16);
        for number in 0..16 {
            put(&storage, number).await.unwrap();
        }
        let before = adaptive.uploads.state().controller.limit();
        let rule = fault.add(Rule::on(Operation::Create), Effect::Throttle(Duration::from_secs(5)));
        assert_eq!(put(&storage, 16).await.unwrap_err().retry_after, Some(Duration::from_secs(5)));
        assert!(adaptive.uploads.state().controller.limit() < before);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let error = put(&storage, 17).await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (StorageErrorKind::Throttled, Some(Duration::from_secs(3))));
        assert_eq!(rule.hits(), 1, "it was not asked");
        assert_eq!(storage.head("o/0").await.unwrap_err().kind, StorageErrorKind::Throttled);
        rule.remove();
        tokio::time::sleep(Duration::from_secs(3)).await;
        put(&storage, 18).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_with_room_gets_more_at_once() {
        let (fault, adaptive, storage) = gated(32);
        fault.add(Rule::on(Operation::Create), Effect::Delay(Duration::from_millis(20)));
        let before = adaptive.uploads.state().controller.limit();
        let puts = (0..640).map(|number| put(&storage, number));
        assert!(futures::future::join_all(puts).await.iter().all(Result::is_ok));
        let after = adaptive.uploads.state().controller.limit();
        assert!(before < after && after <= 32, "{before} {after}");
        assert_eq!(adaptive.uploads.permits.available_permits(), after, "every turn came back");
    }
}
