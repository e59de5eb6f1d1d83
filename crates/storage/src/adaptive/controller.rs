//! The decision how many transfers at once are right. Pure: times come in with what happened.
//!
//! Additive increase, multiplicative decrease. The limit grows by one for each limitful of good answers while all of it is used, and
//! quicker until the first trouble; it shrinks by a third on trouble, once for all transfers that were under way together. It stops
//! to grow when a transfer takes twice as long as the quickest of its size did lately, and shrinks by one for each limitful when it
//! takes four times as long: the place, or the way to it, is full, and more at once only wait for each other there. What was quickest is
//! measured anew every few minutes, beginning with one alone as at the start, since places change and the quickest under load is no
//! measure.
//!
//! Invariant: the limit is never below 1 and never above the most.

use std::time::Duration;

use tokio::time::Instant;

use crate::{StorageError, StorageErrorKind};

/// What is left after trouble.
const DECREASE: f64 = 0.67;

/// How much longer than the quickest a transfer may take for the limit to grow, and for it not to shrink.
const GROWS_UNTIL: f64 = 2.0;
const SHRINKS_FROM: f64 = 4.0;

/// How long a measurement of the quickest counts.
const MEASURED_FOR: Duration = Duration::from_secs(600);

/// Sizes are compared with their like: one class for each power of two.
const CLASSES: usize = 40;

/// What an answer says about room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    /// It was answered while others waited for a turn.
    GoodAndFull,
    /// It was answered, and not all turns were taken.
    Good,
    /// The place asked for mercy, or did not answer.
    Trouble,
    /// An error that says nothing about room, such as a name that is taken.
    Nothing,
}

impl Sample {
    /// What a transfer that ended with `error`, if with any, says; `full` when all turns were taken.
    pub(super) fn of(error: Option<&StorageError>, full: bool) -> Sample {
        match error.map(|error| error.kind) {
            None if full => Sample::GoodAndFull,
            None => Sample::Good,
            Some(StorageErrorKind::Throttled | StorageErrorKind::Unreachable) => Sample::Trouble,
            Some(_) => Sample::Nothing,
        }
    }
}

/// The limit of one kind of transfers to one place.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    limit: f64,
    most: f64,
    /// Whether there was no trouble yet.
    searching: bool,
    /// When the limit last shrank after trouble.
    shrunk: Option<Instant>,
    /// The shortest times of late, in seconds, by size; zero where there was none.
    quickest: [f64; CLASSES],
    /// Since when they are measured.
    measured_since: Option<Instant>,
}

impl Controller {
    /// A limit of at most `most`.
    pub(super) fn new(most: usize) -> Controller {
        let most = most.clamp(1, 10_000);
        Controller {
            limit: 1.0,
            most: f64::from(u32::try_from(most).unwrap_or(u32::MAX)),
            searching: true,
            shrunk: None,
            quickest: [0.0; CLASSES],
            measured_since: None,
        }
    }

    /// How many may be under way.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the most")]
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A transfer of `bytes` ran from `begun` to `now`.
    pub(super) fn note(&mut self, begun: Instant, now: Instant, bytes: u64, sample: Sample) {
        let measured_since = *self.measured_since.get_or_insert(begun);
        if now.duration_since(measured_since) > MEASURED_FOR {
            self.quickest = [0.0; CLASSES];
            self.measured_since = Some(now);
            self.limit = 1.0;
            self.searching = true;
        }
        match sample {
            Sample::Nothing => {}
            // Those that were under way when the limit shrank say nothing about the new one.
            Sample::Trouble if self.shrunk.is_some_and(|shrunk| begun < shrunk) => {}
            Sample::Trouble => {
                self.limit = (self.limit * DECREASE).max(1.0);
                self.searching = false;
                self.shrunk = Some(now);
            }
            // Neither do those that began under the load before a new measurement.
            Sample::Good | Sample::GoodAndFull if self.measured_since.is_some_and(|since| begun < since) => {}
            Sample::Good | Sample::GoodAndFull => {
                let slower = self.times_slower(bytes, now.duration_since(begun));
                if slower >= SHRINKS_FROM {
                    self.limit -= 1.0 / self.limit;
                } else if slower < GROWS_UNTIL && sample == Sample::GoodAndFull {
                    self.limit += if self.searching { 1.0 } else { 1.0 / self.limit };
                } else if slower >= GROWS_UNTIL {
                    self.searching = false;
                }
                self.limit = self.limit.clamp(1.0, self.most);
            }
        }
    }

    /// How many times as long as the quickest of its size of late a transfer took.
    fn times_slower(&mut self, bytes: u64, took: Duration) -> f64 {
        let class = usize::try_from(bytes.max(1).ilog2()).unwrap_or(CLASSES).min(CLASSES - 1);
        // Below a millisecond it is the host that is measured, not the place.
        let took = took.as_secs_f64().max(0.001);
        let Some(quickest) = self.quickest.get_mut(class) else { return 1.0 };
        *quickest = if *quickest == 0.0 { took } else { quickest.min(took) };
        took / *quickest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(controller: &mut Controller, at: &mut Instant, millis: u64, sample: Sample) {
        let begun = *at;
        *at += Duration::from_millis(millis);
        controller.note(begun, *at, 1 << 20, sample);
    }

    /// Answers `count` transfers, always as many at once as allowed, by a place that takes `room` at once in 10 ms.
    fn drive(controller: &mut Controller, at: &mut Instant, room: usize, rounds: usize) {
        for _ in 0..rounds {
            let together = controller.limit();
            let millis = 10 * u64::try_from(together.max(room)).unwrap() / u64::try_from(room).unwrap();
            let begun = *at;
            *at += Duration::from_millis(millis);
            for _ in 0..together {
                controller.note(begun, *at, 1 << 20, Sample::GoodAndFull);
            }
        }
    }

    #[test]
    fn it_settles_at_a_few_times_what_the_place_takes_at_once() {
        for room in [1, 4, 10, 25] {
            let (mut controller, mut at) = (Controller::new(200), Instant::now());
            let mut limits = Vec::new();
            for _ in 0..100 {
                drive(&mut controller, &mut at, room, 1000);
                limits.push(controller.limit());
            }
            limits.sort_unstable();
            // The last step of the search may double what is twice the room but for one.
            assert!(limits[50] >= room && limits[99] <= 4 * room, "{room}: {limits:?}");
        }
    }

    #[test]
    fn it_takes_all_the_room_that_may_be_used() {
        let (mut controller, mut at) = (Controller::new(16), Instant::now());
        drive(&mut controller, &mut at, 1000, 20);
        assert_eq!(controller.limit(), 16);
    }

    #[test]
    fn it_does_not_grow_while_nobody_waits() {
        let (mut controller, mut at) = (Controller::new(100), Instant::now());
        (0..500).for_each(|_| answered(&mut controller, &mut at, 10, Sample::Good));
        assert_eq!(controller.limit(), 1);
    }

    #[test]
    fn one_storm_counts_once_and_a_lasting_one_leaves_one() {
        let (mut controller, mut at) = (Controller::new(64), Instant::now());
        drive(&mut controller, &mut at, 1000, 20);
        assert_eq!(controller.limit(), 64);
        // All 64 were under way together.
        let begun = at;
        for _ in 0..64 {
            at += Duration::from_millis(1);
            controller.note(begun, at, 1, Sample::Trouble);
        }
        assert_eq!(controller.limit(), 42);
        for _ in 0..50 {
            answered(&mut controller, &mut at, 1, Sample::Trouble);
        }
        assert_eq!(controller.limit(), 1);
        drive(&mut controller, &mut at, 1000, 200);
        assert!(controller.limit() > 10, "it comes back: {}", controller.limit());
    }

    proptest! {
        #[test]
        fn the_limit_stays_within_its_bounds(
            most in 0..50_usize,
            answers in proptest::collection::vec((0..100_000_u64, 0..1_u64 << 45, 0..4_u8), 0..300),
        ) {
            let (mut controller, mut at) = (Controller::new(most), Instant::now());
            for (millis, bytes, kind) in answers {
                let sample =
                    [Sample::GoodAndFull, Sample::Good, Sample::Trouble, Sample::Nothing][usize::from(kind)];
                let (begun, before) = (at, controller.limit());
                at += Duration::from_millis(millis);
                controller.note(begun, at, bytes, sample);
                let after = controller.limit();
                prop_assert!((1..=most.max(1)).contains(&after));
                let grew = after > before;
                prop_assert!(!grew || sample == Sample::GoodAndFull, "only what was full and good makes it grow");
                prop_assert!(after <= before + 1);
            }
        }
    }
}
