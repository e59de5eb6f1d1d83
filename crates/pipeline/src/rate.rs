//! A limit of bytes per second that many threads share.
//!
//! Invariant: over any span the bytes let through are at most rate × span plus a tenth of a second's worth.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Unused room that may be caught up on.
const BURST: Duration = Duration::from_millis(100);

/// A rate limit; `None` lets everything through.
#[derive(Debug)]
pub(crate) struct RateLimit {
    bytes_per_second: Option<u64>,
    /// The moment at which everything let through so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl RateLimit {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> RateLimit {
        RateLimit { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), paid: Mutex::new(None) }
    }

    /// Books `bytes` and answers how long the caller has to wait before it takes them.
    pub(crate) fn book(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid.map_or(now, |paid| paid.max(now.checked_sub(BURST).unwrap_or(now)));
        *paid = Some(from + cost(bytes, rate));
        from.saturating_duration_since(now)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time to wait")]
fn cost(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_their_turn() {
        let limit = RateLimit::new(Some(1000));
        let start = Instant::now();
        assert_eq!(limit.book(500, start), Duration::ZERO);
        assert_eq!(limit.book(500, start), Duration::from_millis(500));
        assert_eq!(limit.book(500, start), Duration::from_millis(1000));
        // Long idle: only the burst is caught up on, not the whole pause.
        let later = start + Duration::from_secs(60);
        assert_eq!(limit.book(200, later), Duration::ZERO);
        assert_eq!(limit.book(1, later), Duration::from_millis(100));
    }

    #[test]
    fn no_limit_never_waits() {
        for limit in [RateLimit::new(None), RateLimit::new(Some(0))] {
            assert_eq!(limit.book(u64::MAX, Instant::now()), Duration::ZERO);
        }
    }
}
