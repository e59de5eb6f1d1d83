//! Every decorator that a place gets in production, in the one right order.
//!
//! From the caller to the place:
//!
//! 1. [`Apart`]: a transfer is a task, so that one which its caller does not look at holds no turn that others wait for.
//! 2. [`Retry`]: each try goes through all that follows, so it pays for its bytes again and waits for its turn again. It is above the
//!    gates, so that a call that waits for its next try holds no turn. Left out where no answer can get lost.
//! 3. [`Bandwidth`]: waits before the gates, so that what is slow by order holds no turn either, and is not taken for a slow place.
//! 4. [`Adaptive`]: a turn in the place. It sees the time on the wire alone, which is what its decisions are made of.
//! 5. [`Hedged`]: within the turn of its read, so that a second read is not one that waits for the first.
//! 6. [`Traced`]: one span for each request that is sent, retries and second reads included, and its time is that of the wire.
//! 7. [`Meter`]: counts what the place gets, and what did not come back in time.
//! 8. [`Timed`]: the time of one request. Everything above may wait as long as it has to; only the place may not.
//!
//! How long one operation takes at most follows from it: the waits for bandwidth and turns, which are asked for, then tries that begin
//! within [`Limits::try_for`], the last of which ends within its timeout. What hangs takes longer than `try_for`, so it is not tried
//! again: it is the regions that turn to another one.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Clock, Entropy};
use breakwater_runtime::RetryPolicy;

use crate::bandwidth::{Bandwidth, Calendar};
use crate::timed::{Timed, Timeouts};
use crate::{Adaptive, Apart, Backend, Hedged, Meter, Retry, Storage, Traced, adaptive};

/// Tries of one operation, the first included.
const ATTEMPTS: u32 = 4;

/// The upper bounds of the first wait between tries, and of every one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What may be asked of a place, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Uploads at once at most.
    pub uploads: usize,
    /// Bytes per second each way.
    pub bandwidth: Calendar,
    /// Whether reads that take unusually long are asked a second time.
    pub hedging: bool,
    /// How long one request may take.
    pub timeouts: Timeouts,
    /// No further try of an operation is begun after this time. Less than any timeout, so that what hung is not tried again.
    pub try_for: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            uploads: adaptive::UPLOADS,
            bandwidth: Calendar::default(),
            hedging: true,
            timeouts: Timeouts::default(),
            try_for: Duration::from_secs(15),
        }
    }
}

/// A place with everything around it.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The place.
    pub storage: Storage,
    /// What it was asked and how it answered.
    pub meter: Meter,
}

/// `place` with every decorator around it; `region` is how traces name it.
pub fn assemble(
    place: &Storage,
    region: &str,
    limits: &Limits,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Stack {
    let timed = Timed::new(place.backend(), limits.timeouts);
    let meter = Meter::new(Arc::new(timed), Arc::clone(clock));
    let policy = RetryPolicy::new(ATTEMPTS, FIRST_WAIT, LONGEST_WAIT).within(limits.try_for);
    let storage = place.decorated(|_| {
        let traced: Arc<dyn Backend> = Arc::new(Traced::new(Arc::new(meter.clone()), region));
        let hedged = if limits.hedging { Arc::new(Hedged::new(traced)) } else { traced };
        let adaptive = Arc::new(Adaptive::new(hedged, limits.uploads));
        let bandwidth = Arc::new(Bandwidth::new(adaptive, limits.bandwidth.clone(), Arc::clone(clock)));
        let retry: Arc<dyn Backend> = match place.backend().may_lose_answers() {
            true => Arc::new(Retry::new(bandwidth, policy, Arc::clone(entropy))),
            false => bandwidth,
        };
        Arc::new(Apart::new(retry))
    });
    Stack { storage, meter }
}

#[cfg(test)]
mod tests {
    use breakwater_runtime::{SystemClock, SystemEntropy};

    use super::*;
    use crate::{Effect, Fault, Operation, Payload, Rule, StorageErrorKind};

    fn stacked(place: &Storage) -> (Fault, Storage) {
        let fault = Fault::new(place.backend());
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let place = Storage::new(Arc::new(fault.clone()));
        (fault, assemble(&place, "r1", &Limits::default(), &clock, &entropy).storage)
    }

    #[tokio::test]
    async fn what_a_directory_failed_to_do_is_not_tried_again_and_what_a_network_lost_is() {
        let directory = tempfile::tempdir().unwrap();
        for (place, is_tried_again) in
            [(Storage::memory(), true), (Storage::file_system(directory.path()).unwrap(), false)]
        {
            let (fault, storage) = stacked(&place);
            // Done, and called failed: as when the flush of a directory fails after the name is there.
            let failing = Effect::ApplyThenFail(StorageErrorKind::Unreachable);
            let rule = fault.add(Rule::on(Operation::Create).first(1), failing);
            let created = storage.create("a", Payload::from(vec![7; 100])).await;
            assert_eq!(created.is_ok(), is_tried_again, "{}: {created:?}", place.location());
            assert_eq!(rule.hits(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_nobody_looks_at_holds_nobody_up() {
        let (fault, storage) = stacked(&Storage::memory());
        for key in ["a", "b"] {
            storage.create(key, Payload::from(vec![7; 100])).await.unwrap();
        }
        fault.add(Rule::on(Operation::Get), Effect::Delay(Duration::from_secs(1)));
        let mut waiting = Box::pin(storage.get("a"));
        assert!(futures::poll!(&mut waiting).is_pending());
        let other = tokio::time::timeout(Duration::from_secs(60), storage.get("b")).await;
        assert!(other.unwrap().is_ok() && waiting.await.is_ok());
    }
}
