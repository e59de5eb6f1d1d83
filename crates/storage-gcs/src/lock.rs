//! What a wish for a lock means for an object that may have one: decided here, so that nothing is made weaker by a flag that
//! the service asks for when a lock is to be made stronger.

use breakwater_core::Timestamp;
use breakwater_storage::{LockMode, Retention};

/// What is to be asked of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: the lock is there already.
    Nothing,
    /// To write the lock.
    Write,
    /// To write it over one that is not final, which the service takes for a weakening and wants to be told of
    /// (`overrideUnlockedRetention`).
    Override,
}

/// The change that makes `wanted` of `current`; `None` when it would make a lock shorter or weaker that binds at `now`.
pub(crate) fn change(current: Option<Retention>, wanted: Retention, now: Timestamp) -> Option<Change> {
    let Some(current) = current else { return Some(Change::Write) };
    if current == wanted {
        return Some(Change::Nothing);
    }
    let binds = now < current.until;
    if binds && (wanted.until < current.until || wanted.mode < current.mode) {
        return None;
    }
    let is_final = current.mode == LockMode::Compliance;
    let seals = wanted.mode == LockMode::Compliance || wanted.until < current.until;
    Some(if !is_final && seals { Change::Override } else { Change::Write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_only_grows() {
        use LockMode::{Compliance, Governance};
        let at = |mode, seconds: i64| Retention { mode, until: Timestamp::from_micros(seconds * 1_000_000) };
        let now = Timestamp::from_micros(100_000_000);
        let cases = [
            (None, at(Compliance, 200), Some(Change::Write)),
            (Some(at(Governance, 200)), at(Governance, 200), Some(Change::Nothing)),
            (Some(at(Governance, 200)), at(Governance, 300), Some(Change::Write)),
            (Some(at(Governance, 200)), at(Compliance, 200), Some(Change::Override)),
            (Some(at(Governance, 200)), at(Compliance, 300), Some(Change::Override)),
            (Some(at(Governance, 200)), at(Governance, 150), None),
            (Some(at(Governance, 200)), at(Compliance, 150), None),
            (Some(at(Compliance, 200)), at(Compliance, 300), Some(Change::Write)),
            (Some(at(Compliance, 200)), at(Compliance, 150), None),
            (Some(at(Compliance, 200)), at(Governance, 300), None),
            // Locks that have run out bind nobody here; the service has the last word.
            (Some(at(Governance, 50)), at(Governance, 150), Some(Change::Write)),
            (Some(at(Governance, 50)), at(Compliance, 150), Some(Change::Override)),
            (Some(at(Compliance, 50)), at(Compliance, 150), Some(Change::Write)),
        ];
        for (current, wanted, expected) in cases {
            assert_eq!(change(current, wanted, now), expected, "{current:?} -> {wanted:?}");
        }
    }
}
