//! So much a second and no more.

use std::time::Duration;

use tokio::time::Instant;

/// Unused room that may be caught up on.
const BURST: Duration = Duration::from_millis(100);

/// A limit of units per second; none lets everything through.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: Option<u64>,
    paid: Option<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: Option<u64>) -> Pace {
        Pace { per_second: per_second.filter(|rate| *rate > 0), paid: None }
    }

    /// Waits until `units` more are allowed.
    pub(super) async fn take(&mut self, units: u64) {
        let Some(rate) = self.per_second else { return };
        let now = Instant::now();
        let from = self.paid.map_or(now, |paid| paid.max(now.checked_sub(BURST).unwrap_or(now)));
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(rate);
        self.paid = Some(from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        if from > now {
            tokio::time::sleep_until(from).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_waits() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(10));
        for _ in 0..11 {
            pace.take(1).await;
        }
        assert!((Duration::from_millis(1000)..Duration::from_millis(1010)).contains(&begun.elapsed()));
        let mut free = Pace::new(None);
        free.take(u64::MAX).await;
        assert!(begun.elapsed() < Duration::from_millis(1010));
    }
}
