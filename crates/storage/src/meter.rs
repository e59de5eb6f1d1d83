//! What a place was asked, how it answered and how long it took: the figures behind reachability, error rate and cost.
//!
//! The meter stands next to the place, so it counts requests as the place gets them, retries and second reads included, and times
//! them without any wait on our side.
//!
//! Invariant: memory is the same however much is asked; figures only grow, so that the difference of two snapshots is what
//! happened between them.

mod histogram;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_core::{Chain, Clock, Timestamp};
use futures::StreamExt;
use tokio::time::Instant;

use crate::decorator::{Answer, Call, Decorator};
use crate::{Backend, Listing, ObjectMeta, Operation, StorageError, StorageErrorKind};

pub use histogram::Histogram;

/// Objects that a place lists in one request.
const LISTED_AT_ONCE: u64 = 1000;

/// A backend that counts. A clone counts into the same figures.
#[derive(Clone, Debug)]
pub struct Meter {
    inner: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    figures: Arc<Mutex<Figures>>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// By operation; one that was never asked is not there.
    pub operations: BTreeMap<Operation, Figure>,
    /// When the place last answered without trouble.
    pub last_success: Option<Timestamp>,
    /// When it was last in trouble, and how.
    pub last_trouble: Option<(Timestamp, StorageErrorKind, String)>,
}

/// What was counted of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    /// Answers, errors among them.
    pub calls: u64,
    /// Errors by kind.
    pub errors: BTreeMap<StorageErrorKind, u64>,
    /// Bytes of content that went to the place.
    pub up: u64,
    /// Bytes of content that came from it.
    pub down: u64,
    /// Objects that were listed.
    pub listed: u64,
    /// How long answers took; of a list, how long its first object did.
    pub latency: Histogram,
}

/// Requests in the classes for which places ask different prices. A create that the place takes in several parts counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Creates, and changes of what is kept.
    pub writes: u64,
    /// Pages of lists.
    pub lists: u64,
    /// Reads and questions.
    pub reads: u64,
    /// Deletes.
    pub deletes: u64,
}

impl Meter {
    /// Counts the operations of `inner`; `clock` stamps the last of them.
    pub fn new(inner: Arc<dyn Backend>, clock: Arc<dyn Clock>) -> Meter {
        Meter { inner, clock, figures: Arc::default() }
    }

    /// The figures so far.
    pub fn figures(&self) -> Figures {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one answer.
    fn note(
        &self,
        operation: Operation,
        took: Duration,
        error: Option<&StorageError>,
        count: impl FnOnce(&mut Figure),
    ) {
        let now = self.clock.now();
        let mut figures = self.lock();
        let figure = figures.operations.entry(operation).or_default();
        figure.calls += 1;
        figure.latency.note(took);
        count(figure);
        if let Some(error) = error {
            *figure.errors.entry(error.kind).or_default() += 1;
        }
        match error.filter(|error| error.kind.is_trouble()) {
            Some(error) => figures.last_trouble = Some((now, error.kind, Chain(error).to_string())),
            None => figures.last_success = Some(now),
        }
    }
}

impl Figures {
    /// What was counted since `earlier`, a snapshot of the same meter; the moments are those of now.
    #[must_use]
    pub fn since(&self, earlier: &Figures) -> Figures {
        let mut figures = self.clone();
        for (operation, figure) in &mut figures.operations {
            if let Some(before) = earlier.operations.get(operation) {
                figure.subtract(before);
            }
        }
        figures
    }

    /// Requests of all operations.
    pub fn requests(&self) -> Requests {
        let mut requests = Requests::default();
        for (operation, figure) in &self.operations {
            let class = match operation {
                Operation::Create | Operation::Retain | Operation::Hold | Operation::SetTier | Operation::Thaw => {
                    &mut requests.writes
                }
                Operation::List | Operation::ListDirectories => &mut requests.lists,
                Operation::Get
                | Operation::GetRange
                | Operation::GetTail
                | Operation::Head
                | Operation::Protection
                | Operation::Features
                | Operation::Open => &mut requests.reads,
                Operation::Delete | Operation::DeleteMany => &mut requests.deletes,
            };
            *class += figure.calls + figure.listed / LISTED_AT_ONCE;
        }
        requests
    }

    /// How long answers to these operations took.
    pub fn latency(&self, operations: &[Operation]) -> Histogram {
        let mut all = Histogram::default();
        operations.iter().filter_map(|operation| self.operations.get(operation)).for_each(|one| all.add(&one.latency));
        all
    }

    /// The share of calls that the place answered with trouble, from 0 to 1; `None` when nothing was asked.
    pub fn trouble_rate(&self) -> Option<f64> {
        let calls: u64 = self.operations.values().map(|figure| figure.calls).sum();
        let trouble: u64 = self.operations.values().map(Figure::trouble).sum();
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let share = trouble as f64 / calls as f64;
        (calls > 0).then_some(share)
    }
}

impl Figure {
    /// Answers that said that the place is in trouble.
    pub fn trouble(&self) -> u64 {
        self.errors.iter().filter(|(kind, _)| kind.is_trouble()).map(|(_, count)| count).sum()
    }

    fn subtract(&mut self, before: &Figure) {
        self.calls = self.calls.saturating_sub(before.calls);
        self.up = self.up.saturating_sub(before.up);
        self.down = self.down.saturating_sub(before.down);
        self.listed = self.listed.saturating_sub(before.listed);
        self.latency.subtract(&before.latency);
        for (kind, count) in &mut self.errors {
            *count = count.saturating_sub(before.errors.get(kind).copied().unwrap_or_default());
        }
        self.errors.retain(|_, count| *count > 0);
    }
}

impl Decorator for Meter {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, call: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        let begun = Instant::now();
        let result = work().await;
        let (error, up, down) = match &result {
            Ok(answer) => (answer.trouble(), call.sends, answer.fetched()),
            Err(error) => (Some(error), 0, 0),
        };
        self.note(call.operation, begun.elapsed(), error, |figure| {
            figure.up += up;
            figure.down += down;
        });
        result
    }

    fn list_around(&self, prefix: &str) -> Listing {
        let counted =
            Counted { meter: self.clone(), listing: self.inner.list(prefix), begun: Instant::now(), first: true };
        futures::stream::unfold(counted, |mut counted| async move {
            let next = counted.listing.next().await;
            counted.note(next.as_ref());
            next.map(|next| (next, counted))
        })
        .boxed()
    }
}

/// A list under way.
struct Counted {
    meter: Meter,
    listing: Listing,
    begun: Instant,
    first: bool,
}

impl Counted {
    fn note(&mut self, next: Option<&Result<ObjectMeta, StorageError>>) {
        let listed = u64::from(matches!(next, Some(Ok(_))));
        let error = next.and_then(|next| next.as_ref().err());
        // The list is one call, counted when it gives its first answer; trouble later on is a request that failed.
        if std::mem::take(&mut self.first) || error.is_some() {
            self.meter.note(Operation::List, self.begun.elapsed(), error, |figure| figure.listed += listed);
        } else {
            self.meter.lock().operations.entry(Operation::List).or_default().listed += listed;
        }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_runtime::SystemClock;
    use futures::TryStreamExt;

    use super::*;
    use crate::{Effect, Fault, Payload, Rule, Storage};

    #[tokio::test]
    async fn every_answer_is_counted_by_operation_and_kind() {
        let fault = Fault::new(Storage::memory().backend());
        let meter = Meter::new(Arc::new(fault.clone()), Arc::new(SystemClock));
        let storage = Storage::new(Arc::new(meter.clone()));
        assert_eq!((meter.figures().trouble_rate(), meter.figures().last_success), (None, None));
        for number in 0..5 {
            storage.create(&format!("a/{number}"), Payload::from(vec![0; 10])).await.unwrap();
        }
        storage.create("a/0", Payload::from(vec![0; 10])).await.unwrap_err();
        storage.get("a/0").await.unwrap();
        storage.get_range("a/0", 2..5).await.unwrap();
        storage.get_tail("a/0", 4).await.unwrap();
        storage.head("b").await.unwrap_err();
        assert_eq!(storage.list("a/").try_collect::<Vec<_>>().await.unwrap().len(), 5);
        assert_eq!(storage.list("b/").try_collect::<Vec<_>>().await.unwrap().len(), 0);
        let before = meter.figures();
        let figure = |figures: &Figures, operation| figures.operations[&operation].clone();
        let create = figure(&before, Operation::Create);
        assert_eq!((create.calls, create.up, create.errors[&StorageErrorKind::AlreadyExists]), (6, 50, 1));
        let down = [Operation::Get, Operation::GetRange, Operation::GetTail].map(|one| figure(&before, one).down);
        assert_eq!(down, [10, 3, 4]);
        let list = figure(&before, Operation::List);
        assert_eq!((list.calls, list.listed, list.latency.count()), (2, 5, 2));
        assert_eq!(before.requests(), Requests { writes: 6, lists: 2, reads: 4, deletes: 0 });
        assert_eq!(before.trouble_rate(), Some(0.0), "that a name is free or taken is no trouble");
        assert!(before.last_success.is_some() && before.last_trouble.is_none());

        fault.add(Rule::on(Operation::Delete), Effect::Fail(StorageErrorKind::Throttled));
        fault.add(Rule::on(Operation::List), Effect::BreakList(2));
        storage.delete("a/0").await.unwrap_err();
        storage.delete_many(&["a/0".to_owned(), "a/1".to_owned()]).await;
        storage.list("a/").try_collect::<Vec<_>>().await.unwrap_err();
        let since = meter.figures().since(&before);
        assert_eq!(since.requests(), Requests { writes: 0, lists: 2, reads: 0, deletes: 2 });
        assert_eq!(figure(&since, Operation::List).errors[&StorageErrorKind::Unreachable], 1);
        assert_eq!(since.trouble_rate(), Some(0.5));
        let (_, kind, text) = since.last_trouble.unwrap();
        assert!(kind == StorageErrorKind::Unreachable && text.contains("a/"), "{text}");
    }
}
