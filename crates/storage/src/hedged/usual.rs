//! How long reads of a size usually take, by the last ones. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How many reads of a size are remembered.
const REMEMBERED: usize = 100;

/// How many must be known before anything is said.
const ENOUGH: usize = 20;

/// What is quicker than this is never unusual: the wait would be that of the host.
const LEAST: Duration = Duration::from_millis(20);

/// The durations of the last reads; sizes are compared with their like, and reads of unknown size with each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Usual {
    last: HashMap<Option<u32>, VecDeque<Duration>>,
}

impl Usual {
    /// A read of so many bytes took this long.
    pub(super) fn note(&mut self, bytes: Option<u64>, took: Duration) {
        let last = self.last.entry(class(bytes)).or_default();
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(took);
    }

    /// What 95 of 100 reads of this size do not exceed; `None` while too few are known.
    pub(super) fn longest(&self, bytes: Option<u64>) -> Option<Duration> {
        let mut last: Vec<Duration> =
            self.last.get(&class(bytes)).filter(|last| last.len() >= ENOUGH)?.iter().copied().collect();
        let at = (last.len() * 95).div_ceil(100) - 1;
        let (_, longest, _) = last.select_nth_unstable(at);
        Some((*longest).max(LEAST))
    }
}

/// One class for each power of two.
fn class(bytes: Option<u64>) -> Option<u32> {
    bytes.map(|bytes| bytes.max(1).ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_last_but_five_of_a_hundred() {
        let mut usual = Usual::default();
        let millis = Duration::from_millis;
        for number in 1..20 {
            usual.note(Some(5000), millis(number * 100));
        }
        assert_eq!(usual.longest(Some(5000)), None, "too few");
        usual.note(Some(5000), millis(2000));
        assert_eq!(usual.longest(Some(8000)), Some(millis(1900)), "sizes of one class");
        assert_eq!((usual.longest(Some(9000)), usual.longest(None)), (None, None));
        for _ in 0..95 {
            usual.note(Some(5000), millis(1));
        }
        assert_eq!(usual.longest(Some(5000)), Some(LEAST), "five long ones are forgiven, and the rest forgotten");
    }
}
