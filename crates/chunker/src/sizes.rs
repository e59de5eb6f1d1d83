//! How long chunks are.

use crate::WINDOW;

/// The least, the average and the greatest size of a chunk, in bytes. The last chunk of a file may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    least: usize,
    average: usize,
    greatest: usize,
}

impl Sizes {
    /// For files: 256 KiB, 1 MiB, 4 MiB.
    pub const FILES: Sizes = Sizes { least: 256 << 10, average: 1 << 20, greatest: 4 << 20 };

    /// These sizes; `None` unless 64 ≤ least < average < greatest.
    pub const fn new(least: usize, average: usize, greatest: usize) -> Option<Sizes> {
        if WINDOW <= least && least < average && average < greatest {
            Some(Sizes { least, average, greatest })
        } else {
            None
        }
    }

    /// No chunk but a file's last is shorter.
    pub const fn least(&self) -> usize {
        self.least
    }

    /// What chunks of random content have on average, but for the greatest size.
    pub const fn average(&self) -> usize {
        self.average
    }

    /// No chunk is longer.
    pub const fn greatest(&self) -> usize {
        self.greatest
    }

    /// A position is a cut when 64 random bits are below this: once in `average - least` positions.
    pub(crate) const fn threshold(&self) -> u64 {
        u64::MAX / (self.average - self.least) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_order() {
        assert!(Sizes::new(64, 65, 66).is_some());
        assert!(Sizes::new(63, 100, 200).is_none());
        assert!(Sizes::new(100, 100, 200).is_none());
        assert!(Sizes::new(100, 200, 200).is_none());
        assert_eq!(Sizes::FILES.threshold(), u64::MAX / 786_432);
    }
}
