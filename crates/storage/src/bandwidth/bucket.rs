//! A bucket that fills at a rate, and from which bytes are taken in small pieces. Pure: time comes in.
//!
//! Invariant: from any moment on, the bytes taken are at most the rate times the time since, and two pieces.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// What is taken at once, as time at the rate: whoever waits his turn waits this long for each one before him.
const PIECE: Duration = Duration::from_millis(50);

/// What a bucket holds at most, in pieces. More than one, so that nothing is lost to a timer that wakes a little late.
const PIECES: f64 = 2.0;

/// Bytes that may be moved now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    filled: Option<Instant>,
    level: f64,
}

impl Bucket {
    /// Takes a piece of `left` if it is there; else answers how long to wait for it.
    pub(super) fn take(&mut self, now: Instant, rate: NonZeroU64, left: &mut u64) -> Option<Duration> {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        #[expect(clippy::cast_precision_loss, reason = "rates and pieces are far below 2^52")]
        let per_second = rate.get() as f64;
        // At least one byte fits, however low the rate is.
        let room = (per_second * PIECE.as_secs_f64()).max(1.0);
        self.level = (self.level + per_second * since.as_secs_f64()).min(room * PIECES);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and far below 2^63")]
        let piece = (*left).min(room as u64);
        #[expect(clippy::cast_precision_loss, reason = "a piece is far below 2^52")]
        let missing = piece as f64 - self.level;
        if missing > 1e-6 {
            // Rounded up, so that it is there after one wait.
            return Some(Duration::from_secs_f64(missing / per_second) + Duration::from_nanos(1));
        }
        self.level = -missing;
        *left -= piece;
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_two_pieces(
            steps in proptest::collection::vec((0..200_u64, 0..50_000_u64), 1..200),
            rate in 1..1_000_000_u64,
        ) {
            let (mut bucket, begun) = (Bucket::default(), Instant::now());
            let (mut now, mut taken) = (begun, 0);
            for (millis, wanted) in steps {
                now += Duration::from_millis(millis);
                let mut left = wanted;
                while left > 0 && bucket.take(now, NonZeroU64::new(rate).unwrap(), &mut left).is_none() {}
                taken += wanted - left;
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let (taken, most) = (taken as f64, rate as f64 * (now.duration_since(begun) + 2 * PIECE).as_secs_f64());
                prop_assert!(taken <= most + 2.0, "{} > {}", taken, most);
            }
        }

        #[test]
        fn waiting_as_long_as_it_says_is_enough(rate in 1..1_000_000_000_u64, wanted in 1..100_000_000_u64) {
            let (mut bucket, mut now) = (Bucket::default(), Instant::now());
            let mut left = wanted;
            for _ in 0..20 {
                if left > 0 && let Some(wait) = bucket.take(now, NonZeroU64::new(rate).unwrap(), &mut left) {
                    now += wait;
                    let before = left;
                    prop_assert_eq!(bucket.take(now, NonZeroU64::new(rate).unwrap(), &mut left), None);
                    prop_assert!(left < before);
                }
            }
        }
    }
}
