//! The times and sizes of a stream.

use std::time::Duration;

use super::spool::SpoolOptions;

/// The times and sizes of a stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Segments end at multiples of this (PostgreSQL: `wal_segment_size`).
    pub segment_size: u64,
    /// A tail is cut this long after the first byte that no object holds.
    pub interval: Duration,
    /// The watermark of an idle source is stored this often.
    pub idle_interval: Duration,
    /// Segments under way at once; the source waits beyond that.
    pub segments_in_flight: usize,
    /// Tails under way at once; they get longer beyond that.
    pub tails_in_flight: usize,
    /// A session, and so its secret, is used for at most this long.
    pub session_age: Duration,
    /// How long opening and claiming wait for regions.
    pub patience: Duration,
    /// Begin after a gap although regions are silent that may hold what is missing: it is on no path then, for ever.
    pub begin_without_silent: bool,
    /// Where pieces wait while too few regions answer.
    pub spool: Option<SpoolOptions>,
    /// The engine's facts, for the claim.
    pub facts: serde_json::Value,
}

impl StreamOptions {
    /// The usual times for segments of `segment_size` bytes; no spool.
    pub fn new(segment_size: u64) -> StreamOptions {
        StreamOptions {
            segment_size,
            interval: Duration::from_secs(1),
            idle_interval: Duration::from_secs(10),
            segments_in_flight: 4,
            tails_in_flight: 4,
            session_age: Duration::from_secs(24 * 3600),
            patience: Duration::from_secs(30),
            begin_without_silent: false,
            spool: None,
            facts: serde_json::Value::Null,
        }
    }
}
