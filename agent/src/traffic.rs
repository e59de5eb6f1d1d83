//! What this agent asked of the regions of a repository and how it was answered, for the controller.

use std::collections::{BTreeMap, VecDeque};

use breakwater_core::Timestamp;
use breakwater_proto::v1;
use breakwater_storage::Operation;
use breakwater_storage::meter::{Figures, Meter};

/// The meters of the regions of a repository, by name.
pub(crate) type Meters = BTreeMap<String, Meter>;

/// What counts as recent.
const RECENT_MICROS: i64 = 300 * 1_000_000;

/// Whose times stand for those of small calls.
const SMALL: [Operation; 2] = [Operation::GetTail, Operation::Head];

/// Figures of the regions over time.
#[derive(Debug)]
pub(crate) struct Traffic {
    meters: Meters,
    since: Timestamp,
    /// The figures of the last minutes, the oldest first.
    looks: VecDeque<(Timestamp, BTreeMap<String, Figures>)>,
}

impl Traffic {
    /// What `meters` count from `since` on.
    pub(crate) fn new(meters: Meters, since: Timestamp) -> Traffic {
        Traffic { meters, since, looks: VecDeque::new() }
    }

    /// The figures of all regions now, by name. To be asked at short intervals: what is recent is told by the answers before.
    pub(crate) fn look(&mut self, now: Timestamp) -> BTreeMap<String, v1::RegionTraffic> {
        let figures: BTreeMap<String, Figures> =
            self.meters.iter().map(|(name, meter)| (name.clone(), meter.figures())).collect();
        while self.looks.front().is_some_and(|(at, _)| now.micros_since(*at) > RECENT_MICROS) {
            self.looks.pop_front();
        }
        let nothing = Figures::default();
        let before = |name: &String| self.looks.front().and_then(|(_, looks)| looks.get(name)).unwrap_or(&nothing);
        let all =
            figures.iter().map(|(name, now)| (name.clone(), self.traffic(now, &now.since(before(name))))).collect();
        self.looks.push_back((now, figures));
        all
    }

    fn traffic(&self, all: &Figures, recent: &Figures) -> v1::RegionTraffic {
        let requests = |figures: &Figures| figures.operations.values().map(|figure| figure.calls).sum();
        let errors = |figures: &Figures| figures.operations.values().map(|figure| figure.trouble()).sum();
        let latency = recent.latency(&SMALL);
        let micros =
            |share| latency.quantile(share).map_or(0, |took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        v1::RegionTraffic {
            since: self.since.as_micros(),
            requests: requests(all),
            errors: errors(all),
            bytes_up: all.operations.values().map(|figure| figure.up).sum(),
            bytes_down: all.operations.values().map(|figure| figure.down).sum(),
            recent_requests: requests(recent),
            recent_errors: errors(recent),
            latency_p50_micros: micros(0.5),
            latency_p95_micros: micros(0.95),
            last_success: all.last_success.map_or(0, Timestamp::as_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use breakwater_runtime::SystemClock;
    use breakwater_storage::{Backend as _, Memory};

    use super::*;

    #[tokio::test]
    async fn figures_are_told_for_all_time_and_for_the_last_minutes() {
        let meter = Meter::new(Arc::new(Memory::new()), Arc::new(SystemClock));
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let mut traffic = Traffic::new(Meters::from([("east".to_owned(), meter.clone())]), at(7));
        meter.head("a").await.unwrap_err();
        let first = traffic.look(at(10))["east"];
        assert_eq!((first.since, first.requests, first.recent_requests, first.errors), (7_000_000, 1, 1, 0));
        assert!(first.latency_p95_micros > 0 && first.last_success > 0);
        meter.head("a").await.unwrap_err();
        traffic.look(at(200));
        let later = traffic.look(at(400))["east"];
        assert_eq!((later.requests, later.recent_requests, later.latency_p50_micros), (2, 0, 0));
    }
}
