//! What is known of a stream at one moment. Measured figures stay when the stream stands still: they age by themselves.

use breakwater_core::{LogPosition, RegionId, Timestamp, Watermark};
use breakwater_proto::v1;
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

    /// Whether everything before `position` is durable.
    pub fn is_durable(&self, position: LogPosition) -> bool {
        self.durable.is_some_and(|durable| (durable.branch, durable.offset) >= (position.branch, position.offset))
    }

    /// The stream ended for now.
    pub fn stand_still(&mut self, word: Word, failure: v1::Failure) {
        self.word = word;
        self.failure = Some(failure);
    }

    /// Takes over what the writer measured.
    pub fn measure(&mut self, status: &StreamStatus, now: Timestamp) {
        self.observed = now;
        self.received = status.received;
        self.released = status.released;
        self.durable = status.durable;
        self.spool_bytes = status.spool.map_or(0, |spool| spool.bytes.as_u64());
        self.word = if status.spool.is_some_and(|spool| spool.full) { Word::SpoolFull } else { Word::Streaming };
        for point in &status.regions {
            if let Some(share) = self.regions.iter_mut().find(|share| share.id == Some(point.region)) {
                share.recoverable = point.recoverable.or(share.recoverable);
                share.held_to = point.held_to;
                share.pending_bytes = point.pending_bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_was_measured_stays_when_the_stream_stands_still() {
        let region = RegionId::from_bytes([1; 16]);
        let share = RegionShare { region: "one".to_owned(), id: Some(region), ..RegionShare::default() };
        let mut state = StreamState { regions: vec![share], ..StreamState::default() };
        let watermark = Watermark { clock: Timestamp(7), position: LogPosition::new(1, 70) };
        let point = breakwater_repository::stream::RegionPoint {
            region,
            recoverable: Some(watermark),
            held_to: Some(LogPosition::new(1, 80)),
            pending_bytes: 3,
        };
        let status = StreamStatus {
            received: Some(LogPosition::new(1, 83)),
            released: None,
            durable: Some(LogPosition::new(1, 80)),
            proven: Vec::new(),
            regions: vec![point],
            spool: None,
        };
        state.measure(&status, Timestamp(9));
        state.stand_still(Word::Unreachable, v1::Failure::default());
        assert_eq!((state.recoverable(), state.observed), (Some(Timestamp(7)), Timestamp(9)));
        assert!(state.is_durable(LogPosition::new(1, 80)) && !state.is_durable(LogPosition::new(1, 81)));
        assert!(!state.is_durable(LogPosition::new(2, 1)), "a newer branch is further");
    }
}
