//! The one place where time and randomness of the machine come in; everything else takes them as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use breakwater_core::{Clock, Entropy, Timestamp};

/// The clock of this machine, UTC.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 is a broken clock; it is shown as such, not hidden.
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        };
        Timestamp::from_micros(micros)
    }
}

/// The random number generator of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // There is no safe way on without randomness: keys and names would be guessable.
        getrandom::fill(buffer).expect("the kernel gives random bytes once it has booted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_in_this_century() {
        let first = SystemClock.now();
        assert!(first > Timestamp::parse("2025-01-01T00:00:00Z").unwrap());
        assert!(first < Timestamp::parse("2100-01-01T00:00:00Z").unwrap());
    }

    #[test]
    fn entropy_fills_the_whole_buffer_and_differs() {
        let (mut one, mut two) = ([0; 64], [0; 64]);
        SystemEntropy.fill(&mut one);
        SystemEntropy.fill(&mut two);
        assert_ne!(one, two);
        assert_ne!(&one[48..], &[0; 16], "the end of the buffer is filled too");
    }
}
