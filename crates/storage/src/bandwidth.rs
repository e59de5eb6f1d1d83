//! How many bytes per second go to and come from a place, by a calendar.
//!
//! Creates wait before they are sent. Reads wait before they are asked where their size is known, and with their answer where it is
//! not. So the rate holds over any time that is long beside one object; within it an object goes as fast as the line takes it.
//!
//! Operations that wait take turns by small pieces, so that a record of a kilobyte passes a pack of 64 MiB that came before it.
//!
//! Invariant: over any time, no more bytes are let go than the rates of that time give, and two pieces more.

mod bucket;
mod calendar;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::Clock;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::decorator::{Answer, Call, Decorator};
use crate::{Backend, Operation, StorageError};
use bucket::Bucket;

pub use calendar::{BadDay, Calendar, Day, Days, Rate, Row};

/// The longest sleep: the calendar is looked at again after it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// A backend with a limit of bytes per second each way. A clone shares the limit.
#[derive(Clone, Debug)]
pub struct Bandwidth {
    inner: Arc<dyn Backend>,
    calendar: Arc<Calendar>,
    clock: Arc<dyn Clock>,
    up: Arc<Mutex<Bucket>>,
    down: Arc<Mutex<Bucket>>,
}

impl Bandwidth {
    /// Moves content to and from `inner` no faster than `calendar` says.
    pub fn new(inner: Arc<dyn Backend>, calendar: Calendar, clock: Arc<dyn Clock>) -> Bandwidth {
        Bandwidth { inner, calendar: Arc::new(calendar), clock, up: Arc::default(), down: Arc::default() }
    }

    /// Waits until `bytes` may go up.
    async fn send(&self, bytes: u64) {
        self.pass(&self.up, bytes, |rate| rate.up).await;
    }

    /// Waits until `bytes` may come down.
    async fn fetch(&self, bytes: u64) {
        self.pass(&self.down, bytes, |rate| rate.down).await;
    }

    async fn pass(&self, bucket: &Mutex<Bucket>, bytes: u64, way: impl Fn(Rate) -> Option<NonZeroU64>) {
        let mut left = bytes;
        while left > 0 {
            // Turns are given in the order of asking, so whoever has more to send stands behind the others again.
            let mut bucket = bucket.lock().await;
            let wait = match way(self.calendar.rate_at(self.clock.now())) {
                None => return,
                Some(rate) => bucket.take(Instant::now(), rate, &mut left),
            };
            if let Some(wait) = wait {
                tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
            }
        }
    }
}

impl Decorator for Bandwidth {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, call: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        if call.operation == Operation::Create {
            self.send(call.sends).await;
        }
        if call.is_read()
            && let Some(bytes) = call.fetches
        {
            self.fetch(bytes).await;
            return work().await;
        }
        let answer = work().await?;
        self.fetch(answer.fetched()).await;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Plain;

    use breakwater_core::Timestamp;

    use super::*;
    use crate::{Memory, Payload, Storage};

    const KIB: u64 = 1 << 10;

    /// Shows the paused time of tokio as time of day, from Thursday, 2026-01-01, 00:00 UTC on.
    #[derive(Debug)]
    struct Paused(Instant);

    impl Clock for Paused {
        fn now(&self) -> Timestamp {
            let since = i64::try_from(self.0.elapsed().as_micros()).unwrap();
            Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus_micros(since)
        }
    }

    fn limited(calendar: Calendar) -> Storage {
        let inner = Arc::new(Memory::new());
        Storage::new(Arc::new(Bandwidth::new(inner, calendar, Arc::new(Paused(Instant::now())))))
    }

    fn always(up: Option<u64>, down: Option<u64>) -> Calendar {
        Calendar::always(Rate { up: up.and_then(NonZeroU64::new), down: down.and_then(NonZeroU64::new) })
    }

    async fn put(storage: &Storage, key: &str, bytes: u64) {
        storage.create(key, Payload::from(vec![0; usize::try_from(bytes).unwrap()])).await.unwrap();
    }

    fn is_about(took: Duration, seconds: f64) {
        let ratio = took.as_secs_f64() / seconds;
        assert!((0.98..=1.02).contains(&ratio), "{took:?} instead of {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn both_ways_keep_their_rates() {
        let storage = limited(always(Some(100 * KIB), Some(500 * KIB)));
        let begun = Instant::now();
        for number in 0..10 {
            put(&storage, &number.to_string(), 100 * KIB).await;
        }
        is_about(begun.elapsed(), 10.0);
        let begun = Instant::now();
        for number in 0..10 {
            let key = number.to_string();
            storage.get(&key).await.unwrap();
            storage.get_range(&key, 0..50 * KIB).await.unwrap();
            storage.get_tail(&key, 100 * KIB).await.unwrap();
        }
        is_about(begun.elapsed(), 5.0);
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_share_the_rate_fairly() {
        let storage = limited(always(Some(100 * KIB), None));
        let begun = Instant::now();
        let ends = Plain::new(Vec::new());
        let one = async |key: &str, bytes| {
            put(&storage, key, bytes).await;
            ends.lock().unwrap().push((key.to_owned(), begun.elapsed()));
        };
        tokio::join!(one("pack-1", 500 * KIB), one("pack-2", 500 * KIB), one("pack-3", 500 * KIB), one("record", KIB));
        let ends = ends.into_inner().unwrap();
        assert_eq!(ends[0].0, "record");
        assert!(ends[0].1 < Duration::from_secs(1), "it passes the packs that came first: {:?}", ends[0]);
        for (_, end) in &ends[1..] {
            is_about(*end, 15.0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_operation_gives_its_turn_to_the_others() {
        let storage = limited(always(Some(KIB), None));
        let begun = Instant::now();
        assert!(tokio::time::timeout(Duration::from_secs(5), put(&storage, "a", 1000 * KIB)).await.is_err());
        put(&storage, "b", 10 * KIB).await;
        is_about(begun.elapsed(), 15.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_calendar_changes_the_rate_of_what_is_under_way() {
        let slow = Rate { up: NonZeroU64::new(1), down: None };
        let mut calendar = always(Some(KIB), None);
        calendar.rows.insert(0, Row { days: Days::ALL, from: 1, to: 2, rate: slow });
        let storage = limited(calendar);
        let begun = Instant::now();
        put(&storage, "a", 50 * KIB).await;
        is_about(begun.elapsed(), 50.0);
        put(&storage, "b", 20 * KIB).await;
        // Ten seconds, a minute in which next to nothing passes, and ten more.
        is_about(begun.elapsed(), 130.0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let storage = limited(Calendar::default());
        let begun = Instant::now();
        put(&storage, "a", 10_000 * KIB).await;
        storage.get("a").await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
