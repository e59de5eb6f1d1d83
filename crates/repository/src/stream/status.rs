//! What is known about a stream being written, for people and metrics.

use breakwater_core::{ByteCount, Generation, LogPosition, RegionId, Watermark};

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
    /// Held by enough regions.
    pub durable: Option<LogPosition>,
    /// One entry a region.
    pub regions: Vec<RegionPoint>,
    /// The spool, if there is one.
    pub spool: Option<SpoolState>,
}
