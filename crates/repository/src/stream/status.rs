//! What is known about a stream being written, for people and metrics.

use breakwater_core::{ByteCount, Generation, LogPosition, RegionId, Watermark};

use crate::format::names::LogRange;

/// What beginning a stream found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The generation that was claimed.
    pub generation: Generation,
    /// The part that the source could not send any more, as the last stored position and the first that comes now.
    /// A new base is needed.
    pub gap: Option<(LogPosition, LogPosition)>,
}

/// The spool, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolState {
    /// Objects in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// Something did not fit: the source has to wait, or its promise must be dropped. The caller's policy decides.
    pub full: bool,
}

/// What one region can be restored to by itself, as far as this stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionPoint {
    /// The region.
    pub region: RegionId,
    /// The newest moment; none when nothing was ever replicated there.
    pub recoverable: Option<Watermark>,
    /// It holds everything up to here.
    pub held_to: Option<LogPosition>,
    /// Received bytes of the log that it does not hold.
    pub pending_bytes: u64,
}

/// A stream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Received up to here.
    pub received: Option<LogPosition>,
    /// The source may forget everything before.
    pub released: Option<LogPosition>,
    /// Held by enough regions. This is where the stream begins while nothing is held yet; what it proves is in
    /// [`proven`](Self::proven).
    pub durable: Option<LogPosition>,
    /// The log that enough regions hold without a break, oldest branch first: each entry goes on where the one before was
    /// left. What an older writer stored before a break is not in it.
    pub proven: Vec<LogRange>,
    /// One entry a region.
    pub regions: Vec<RegionPoint>,
    /// The spool, if there is one.
    pub spool: Option<SpoolState>,
}

impl StreamStatus {
    /// From where on the log is held without a break up to [`durable`](Self::durable).
    pub fn durable_from(&self) -> Option<LogPosition> {
        self.proven.first().map(|range| LogPosition::new(range.branch, range.start))
    }

    /// Whether enough regions hold every byte from `start` to `end`, on one way.
    pub fn proves(&self, start: LogPosition, end: LogPosition) -> bool {
        let holds = |at: LogPosition| {
            self.proven
                .iter()
                .any(|range| range.branch == at.branch && range.start <= at.offset && at.offset <= range.end)
        };
        start <= end && holds(start) && holds(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_alone_proves_nothing() {
        let range = |branch, start, end| LogRange { branch, start, end };
        let at = LogPosition::new;
        let status = StreamStatus {
            received: None,
            released: None,
            durable: Some(at(2, 90)),
            proven: vec![range(1, 32, 70), range(2, 64, 90)],
            regions: Vec::new(),
            spool: None,
        };
        assert_eq!(status.durable_from(), Some(at(1, 32)));
        assert!(status.proves(at(1, 32), at(1, 70)) && status.proves(at(1, 40), at(2, 80)));
        assert!(!status.proves(at(1, 16), at(2, 80)), "the beginning is missing");
        assert!(!status.proves(at(1, 40), at(1, 71)), "the way left that branch before");
        assert!(!status.proves(at(2, 70), at(2, 91)) && !status.proves(at(2, 80), at(2, 70)));
    }
}
