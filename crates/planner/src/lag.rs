//! From what an agent last said of a region to figures that cannot lie.
//!
//! The rules: timestamps age by themselves, so silence is never "0"; never-replicated and unknown are states of their
//! own; nothing is averaged.

use breakwater_core::Timestamp;

/// An observation older than this is not current any more: the state becomes `unknown` while the figures keep ageing.
pub const SILENCE_MICROS: i64 = 15_000_000;

/// What an agent said of one region of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionObservation {
    /// The agent's word: `never`, `ok`, `behind`, `unreachable`.
    pub state: String,
    /// Newest source clock whose position the region holds; `None` while it never held any.
    pub recoverable: Option<Timestamp>,
    /// When the oldest item that the region misses arose.
    pub oldest_pending: Option<Timestamp>,
    /// When this was measured.
    pub observed: Timestamp,
}

/// The figures for one region of one source at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LagFigures {
    /// `never`, `ok`, `behind`, `unreachable` or `unknown`.
    pub state: String,
    /// Microseconds between now and the recoverable point; `None` while there is none.
    pub exposure_micros: Option<i64>,
    /// Age of the oldest missing item; 0 when nothing is missing.
    pub lag_micros: i64,
}

/// The figures at `now`.
pub fn figures(observation: Option<&RegionObservation>, now: Timestamp) -> LagFigures {
    let Some(seen) = observation else {
        return LagFigures { state: "never".to_owned(), exposure_micros: None, lag_micros: 0 };
    };
    let silent = now.micros_since(seen.observed) > SILENCE_MICROS;
    let state = if seen.recoverable.is_none() {
        "never"
    } else if silent {
        "unknown"
    } else {
        &seen.state
    };
    LagFigures {
        state: state.to_owned(),
        exposure_micros: seen.recoverable.map(|point| now.micros_since(point).max(0)),
        lag_micros: seen.oldest_pending.map_or(0, |since| now.micros_since(since).max(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn seen(state: &str, recoverable: Option<i64>, observed: i64) -> RegionObservation {
        RegionObservation {
            state: state.to_owned(),
            recoverable: recoverable.map(|at| Timestamp(at * SECOND)),
            oldest_pending: None,
            observed: Timestamp(observed * SECOND),
        }
    }

    #[test]
    fn silence_ages_and_is_not_ok() {
        let observation = seen("ok", Some(99), 100);
        let fresh = figures(Some(&observation), Timestamp(101 * SECOND));
        assert_eq!((fresh.state.as_str(), fresh.exposure_micros), ("ok", Some(2 * SECOND)));
        let later = figures(Some(&observation), Timestamp(160 * SECOND));
        assert_eq!((later.state.as_str(), later.exposure_micros), ("unknown", Some(61 * SECOND)));
    }

    #[test]
    fn never_is_a_state_and_not_zero() {
        let absent = figures(None, Timestamp(5));
        assert_eq!((absent.state.as_str(), absent.exposure_micros), ("never", None));
        let empty = figures(Some(&seen("ok", None, 100)), Timestamp(101 * SECOND));
        assert_eq!((empty.state.as_str(), empty.exposure_micros), ("never", None));
    }
}
