//! How long things took, in few numbers. Pure.

use std::time::Duration;

/// Durations from a millisecond to a minute and beyond, in steps of the square root of two.
const BUCKETS: usize = 34;

/// Counts of durations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: [0; BUCKETS] }
    }
}

impl Histogram {
    /// The longest duration that falls into this bucket; of the last one, the shortest that does.
    fn bound(bucket: usize) -> Duration {
        let half_steps = i32::try_from(bucket).unwrap_or(i32::MAX);
        Duration::from_secs_f64(0.001 * 2_f64.sqrt().powi(half_steps))
    }

    pub(super) fn note(&mut self, took: Duration) {
        let bucket = (0..BUCKETS).find(|bucket| took <= Self::bound(*bucket)).unwrap_or(BUCKETS - 1);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
    }

    pub(super) fn add(&mut self, other: &Histogram) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }

    pub(super) fn subtract(&mut self, before: &Histogram) {
        for (count, before) in self.counts.iter_mut().zip(&before.counts) {
            *count = count.saturating_sub(*before);
        }
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What `share` of the durations, from 0 to 1, do not exceed, up to 41 % too long; `None` when nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let wanted = self.count() as f64 * share.clamp(0.0, 1.0);
        let mut below = 0;
        let reaches = |count: &u64| {
            below += count;
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let reached = below > 0 && below as f64 >= wanted;
            reached
        };
        self.counts.iter().position(reaches).map(Self::bound)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_right_up_to_one_step(
            mut micros in proptest::collection::vec(1000..60_000_000_u64, 1..200),
            share in 0.01..1.0_f64,
        ) {
            let mut histogram = Histogram::default();
            micros.iter().for_each(|took| histogram.note(Duration::from_micros(*took)));
            micros.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small")]
            let at = ((micros.len() as f64 * share).ceil() as usize).clamp(1, micros.len()) - 1;
            let (truth, said) = (Duration::from_micros(micros[at]), histogram.quantile(share).unwrap());
            prop_assert!(truth <= said && said < truth.mul_f64(1.415), "{:?} {:?}", truth, said);
        }
    }

    #[test]
    fn nothing_counted_is_nothing_said() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let mut histogram = Histogram::default();
        histogram.note(Duration::from_secs(3600));
        assert!(histogram.quantile(1.0).unwrap() > Duration::from_secs(60));
    }
}
