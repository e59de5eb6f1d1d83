//! What is known of a stream at one moment. Measured figures stay when the stream stands still: they age by themselves.

use breakwater_core::{LogPosition, RegionId, Timestamp, Watermark};
use breakwater_engine::RecoveryRange;
use breakwater_proto::v1;
use breakwater_repository::regions::{RegionStatus, SourceDebt};
use breakwater_repository::stream::StreamStatus;
use serde::{Deserialize, Serialize};

/// What a stream does, in the words of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// Not known yet whether it can be received.
    #[default]
    Starting,
    /// Received and stored.
    Streaming,
    /// The source or the regions do not answer.
    Unreachable,
    /// Neither regions nor spool take more.
    SpoolFull,
    /// Ended on purpose.
    Stopped,
    /// Something has to be mended by a person.
    Failed,
}

impl Word {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Word::Starting => "starting",
            Word::Streaming => "streaming",
            Word::Unreachable => "unreachable",
            Word::SpoolFull => "spool-full",
            Word::Stopped => "stopped",
            Word::Failed => "failed",
        }
    }
}

/// One region's share of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionShare {
    /// The region's name.
    pub region: String,
    /// Its id; none while it was never seen.
    pub id: Option<RegionId>,
    /// The newest moment it can be restored to by itself.
    pub recoverable: Option<Watermark>,
    /// It holds everything up to here.
    pub held_to: Option<LogPosition>,
    /// Received bytes that it does not hold.
    pub pending_bytes: u64,
}

/// A region of the stream's repository as it is now, and what it misses of the source.
#[derive(Clone, Debug)]
pub struct RegionView {
    /// The region.
    pub status: RegionStatus,
    /// What it is known to miss of this source.
    pub debt: SourceDebt,
    /// Whether all that it misses of this source is known.
    pub compared: bool,
}

/// A stream at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamState {
    /// What it does.
    pub word: Word,
    /// Why it stands still.
    pub failure: Option<v1::Failure>,
    /// Set while no snapshot begins after the last gap: the first position behind it.
    pub gap_until: Option<LogPosition>,
    /// When this was measured, by the agent's clock.
    pub observed: Timestamp,
    /// The newest observation of the source.
    pub watermark: Option<Watermark>,
    /// Received up to here.
    pub received: Option<LogPosition>,
    /// The source may forget everything before.
    pub released: Option<LogPosition>,
    /// Held by enough regions.
    pub durable: Option<LogPosition>,
    /// What the writer measured last, of the log that enough regions hold without a break.
    pub proof: Option<Box<StreamStatus>>,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// One entry a region.
    pub regions: Vec<RegionShare>,
}

impl StreamState {
    /// The word that people see: a gap without a new base comes before everything that works.
    pub fn shown(&self) -> &'static str {
        match (self.word, self.gap_until) {
            (Word::Streaming, Some(_)) => "gap",
            (word, _) => word.as_str(),
        }
    }

    /// Whether the log is on its way into the regions.
    pub fn flows(&self) -> bool {
        matches!(self.word, Word::Streaming | Word::SpoolFull)
    }

    /// The newest moment that some region can be restored to.
    pub fn recoverable(&self) -> Option<Timestamp> {
        self.regions.iter().filter_map(|share| share.recoverable).map(|watermark| watermark.clock).max()
    }

    /// Whether enough regions hold every byte of `range`, on one way. Where the stream has got to proves nothing by itself:
    /// it may have begun anew after a gap.
    pub fn is_durable(&self, range: RecoveryRange) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.proves(range.start, range.end))
    }

    /// The stream ended for now.
    pub fn stand_still(&mut self, word: Word, failure: v1::Failure) {
        self.word = word;
        self.failure = Some(failure);
    }

    /// Takes over what the writer measured. What a region can be restored to does not get newer than the moment since when
    /// it misses a snapshot, or while it is not known yet whether it misses one: without its base, log is of no use.
    pub fn measure(&mut self, status: &StreamStatus, views: &[RegionView], now: Timestamp) {
        self.observed = now;
        self.received = status.received;
        self.released = status.released;
        self.durable = status.durable;
        self.proof = Some(Box::new(status.clone()));
        self.spool_bytes = status.spool.map_or(0, |spool| spool.bytes.as_u64());
        self.word = if status.spool.is_some_and(|spool| spool.full) { Word::SpoolFull } else { Word::Streaming };
        for point in &status.regions {
            if let Some(share) = self.regions.iter_mut().find(|share| share.id == Some(point.region)) {
                let view = views.iter().find(|view| view.status.id == point.region);
                share.recoverable = advanced(share.recoverable, point.recoverable, view);
                share.held_to = point.held_to;
                share.pending_bytes = point.pending_bytes;
            }
        }
    }
}

/// `before`, or the newer `measured` as far as the region's snapshots allow.
fn advanced(before: Option<Watermark>, measured: Option<Watermark>, view: Option<&RegionView>) -> Option<Watermark> {
    let (Some(mut measured), Some(view)) = (measured, view) else { return before };
    if !view.compared {
        return before;
    }
    match (before, view.debt.commit_debt_since) {
        (_, None) => Some(measured),
        (Some(before), Some(since)) if before.clock >= since => Some(before),
        (_, Some(since)) => {
            measured.clock = measured.clock.min(since);
            Some(measured)
        }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_repository::format::names::LogRange;
    use breakwater_repository::regions::Role;
    use breakwater_repository::stream::RegionPoint;

    use super::*;

    #[test]
    fn a_gap_is_shown_before_everything_that_works_and_behind_what_does_not() {
        let mut state = StreamState { word: Word::Streaming, ..StreamState::default() };
        assert_eq!(state.shown(), "streaming");
        state.gap_until = Some(LogPosition::new(1, 5));
        assert_eq!(state.shown(), "gap");
        state.stand_still(Word::Unreachable, v1::Failure::default());
        assert_eq!(state.shown(), "unreachable");
        assert!(!state.flows());
    }

    fn status(from: u64, to: u64, clock: i64) -> StreamStatus {
        let recoverable = Some(Watermark { clock: Timestamp(clock), position: LogPosition::new(1, to) });
        let (region, held_to) = (RegionId::from_bytes([1; 16]), Some(LogPosition::new(1, to)));
        StreamStatus {
            received: held_to,
            released: None,
            durable: held_to,
            proven: vec![LogRange { branch: 1, start: from, end: to }],
            regions: vec![RegionPoint { region, recoverable, held_to, pending_bytes: 3 }],
            spool: None,
        }
    }

    fn view(compared: bool, commit_debt_since: Option<i64>) -> RegionView {
        let status = RegionStatus {
            name: "one".to_owned(),
            id: RegionId::from_bytes([1; 16]),
            role: Role::Sync,
            reachable: Some(true),
            last_error: None,
            last_success: None,
            compared,
            owed_objects: 0,
            owed_bytes: 0,
            oldest_owed_since: None,
            bytes_written: 0,
            drain_estimate: None,
        };
        let debt = SourceDebt { commit_debt_since: commit_debt_since.map(Timestamp), ..SourceDebt::default() };
        RegionView { status, debt, compared }
    }

    fn one_region() -> StreamState {
        let region = Some(RegionId::from_bytes([1; 16]));
        let share = RegionShare { region: "one".to_owned(), id: region, ..RegionShare::default() };
        StreamState { regions: vec![share], ..StreamState::default() }
    }

    #[test]
    fn what_was_measured_stays_when_the_stream_stands_still() {
        let mut state = one_region();
        state.measure(&status(0, 80, 7), &[view(true, None)], Timestamp(9));
        state.stand_still(Word::Unreachable, v1::Failure::default());
        assert_eq!((state.recoverable(), state.observed), (Some(Timestamp(7)), Timestamp(9)));
    }

    #[test]
    fn the_log_of_a_range_is_durable_only_in_all_of_it() {
        let mut state = one_region();
        let range = |start, end| RecoveryRange { start: LogPosition::new(1, start), end: LogPosition::new(1, end) };
        assert!(!state.is_durable(range(0, 0)));
        state.measure(&status(40, 80, 7), &[view(true, None)], Timestamp(9));
        assert!(state.is_durable(range(40, 80)) && state.is_durable(range(60, 70)));
        assert!(!state.is_durable(range(60, 81)), "the end is not there");
        assert!(!state.is_durable(range(30, 60)), "the stream began anew after the start: a gap");
    }

    #[test]
    fn a_region_that_misses_a_base_does_not_get_newer_than_its_debt() {
        let mut state = one_region();
        state.measure(&status(0, 80, 7), &[view(false, None)], Timestamp(9));
        assert_eq!(state.recoverable(), None, "not compared: nobody knows whether it has a base");
        state.measure(&status(0, 80, 7), &[view(true, None)], Timestamp(9));
        assert_eq!(state.recoverable(), Some(Timestamp(7)));
        state.measure(&status(0, 90, 20), &[view(true, Some(12))], Timestamp(21));
        assert_eq!(state.recoverable(), Some(Timestamp(12)));
        state.measure(&status(0, 95, 30), &[view(true, Some(12))], Timestamp(31));
        assert_eq!(state.recoverable(), Some(Timestamp(12)));
        state.measure(&status(0, 95, 40), &[view(false, None)], Timestamp(41));
        assert_eq!(state.recoverable(), Some(Timestamp(12)));
        state.measure(&status(0, 95, 50), &[view(true, None)], Timestamp(51));
        assert_eq!(state.recoverable(), Some(Timestamp(50)), "repaid");
    }
}
