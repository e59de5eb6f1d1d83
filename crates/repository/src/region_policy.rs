//! How a region keeps what is written into it: the tier of its data, and which objects are locked for how long.
//!
//! Invariants: only `data/` ever leaves the hot tier, and only packs go into an archive. Locked is what a restore needs and nobody deletes before its time; never
//! what must be able to go at once: the keys of domains and the lists of recipients, whose destruction erases, and whatever a
//! run writes for its own short use (docs/decisions/0025-locks-and-tiers.md).

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Clock, Timestamp};
use breakwater_storage::{LockMode, Placement, Placing, Retention, Tier};

use crate::error::RepositoryError;
use crate::format::ObjectName;

const MICROS_PER_DAY: i64 = 24 * 3600 * 1_000_000;
/// The longest lock that every provider takes.
const DAYS_MAX: u32 = 36_500;
const DAYS_MIN: u32 = 1;

/// What was declared of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionPolicy {
    /// The tier that data is written to.
    pub tier: Tier,
    /// How what is written is locked; none: not at all.
    pub lock: Option<LockPolicy>,
    /// Where data goes as it ages, earliest first.
    pub moves: Vec<TierMove>,
}

/// How the objects of a region are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockPolicy {
    /// Whom locks bind.
    pub mode: LockMode,
    /// How long an object is locked when it is written, and again when its lock is renewed.
    pub days: u32,
}

/// Data that is old enough goes to a colder tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierMove {
    /// How long it has been in the region, in days.
    pub after_days: u32,
    /// Where it goes.
    pub tier: Tier,
}

impl RegionPolicy {
    /// Refuses what cannot be meant.
    pub fn check(&self, region: &str) -> Result<(), RepositoryError> {
        let invalid = |what: String| Err(RepositoryError::Invalid(format!("region `{region}`: {what}")));
        if let Some(lock) = self.lock.filter(|lock| !(DAYS_MIN..=DAYS_MAX).contains(&lock.days)) {
            return invalid(format!("a lock lasts from {DAYS_MIN} to {DAYS_MAX} days, not {}", lock.days));
        }
        let mut before = (0, self.tier);
        for one in &self.moves {
            if one.after_days <= before.0 || one.tier <= before.1 {
                return invalid(format!(
                    "moves must go to ever colder tiers at ever later times, and `{}` after {} days does not",
                    one.tier, one.after_days
                ));
            }
            before = (one.after_days, one.tier);
        }
        Ok(())
    }

    /// The tier that data of this age belongs to.
    pub fn tier_after(&self, age: Duration) -> Tier {
        let days = age.as_secs() / (24 * 3600);
        let due = self.moves.iter().rev().find(|one| u64::from(one.after_days) <= days);
        due.map_or(self.tier, |one| one.tier)
    }
}

impl LockPolicy {
    /// The lock of an object that is written, or whose lock is renewed, at `now`.
    pub fn from(&self, now: Timestamp) -> Retention {
        // Whole seconds, upwards, since some places keep no more.
        let until = now.plus_micros(i64::from(self.days) * MICROS_PER_DAY + 999_999);
        Retention { mode: self.mode, until: until.plus_micros(-until.as_micros().rem_euclid(1_000_000)) }
    }

    /// Half of the period, in microseconds: a lock that lasts no longer is renewed.
    pub fn half_micros(&self) -> i64 {
        i64::from(self.days) * MICROS_PER_DAY / 2
    }
}

/// The tier of an object where data is to lie in `tier`. A restore is planned from the footers of log segments, so they stay where
/// they can be read at once.
pub fn tier_for(name: &ObjectName, tier: Tier) -> Tier {
    match name {
        ObjectName::ContentPack(..) => tier,
        ObjectName::Segment(..) => tier.min(Tier::Cold),
        _ => Tier::Hot,
    }
}

/// Whether the object is locked from the moment at which it is written, where its region locks.
pub const fn is_locked(name: &ObjectName) -> bool {
    match name {
        ObjectName::ContentPack(..)
        | ObjectName::StructurePack(..)
        | ObjectName::Segment(..)
        | ObjectName::Source(_)
        | ObjectName::Leaning(..)
        | ObjectName::Losses(_)
        | ObjectName::SessionKeys(..)
        | ObjectName::ResealedKeys(..)
        | ObjectName::Register(..)
        | ObjectName::Committed(..)
        | ObjectName::Moved { .. }
        | ObjectName::GcDecision(..)
        | ObjectName::StreamClaim(..)
        | ObjectName::History(..) => true,
        ObjectName::Descriptor
        | ObjectName::Region
        | ObjectName::Domain { .. }
        | ObjectName::Recipients(_)
        | ObjectName::Erased(_)
        | ObjectName::Audit(_)
        | ObjectName::Verified { .. }
        | ObjectName::Open(..)
        | ObjectName::Tombstone(..)
        | ObjectName::Hold { .. }
        | ObjectName::Lost { .. }
        | ObjectName::GcPlan(..)
        | ObjectName::Over(..)
        | ObjectName::Tail(..)
        | ObjectName::IdleTail(..) => false,
    }
}

/// Keeps new objects as a region's policy says.
#[derive(Clone, Debug)]
pub struct Keeping {
    policy: RegionPolicy,
    clock: Arc<dyn Clock>,
}

impl Keeping {
    /// Keeps as `policy` says, from the present of `clock`.
    pub fn new(policy: RegionPolicy, clock: Arc<dyn Clock>) -> Keeping {
        Keeping { policy, clock }
    }
}

impl Placing for Keeping {
    fn placement(&self, key: &str) -> Placement {
        let Some(name) = ObjectName::parse(key) else { return Placement::default() };
        let tier = tier_for(&name, self.policy.tier);
        let lock = self.policy.lock.filter(|_| is_locked(&name));
        Placement { tier, retention: lock.map(|lock| lock.from(self.clock.now())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp(self.0)
        }
    }

    #[test]
    fn only_data_is_tiered_and_only_what_restores_need_is_locked() {
        let lock = LockPolicy { mode: LockMode::Compliance, days: 30 };
        let policy = RegionPolicy { tier: Tier::Cold, lock: Some(lock), moves: Vec::new() };
        let keeping = Keeping::new(policy, Arc::new(At(1)));
        let (a, b) = ("ab".repeat(16), "cd".repeat(16));
        let locked = Some(Retention { mode: LockMode::Compliance, until: Timestamp(30 * MICROS_PER_DAY + 1_000_000) });
        let range = "00000001-0000000000000000-0000000000000001";
        let cases = [
            (format!("data/{a}/pack/{b}-00000000"), Tier::Cold, true),
            (format!("data/{a}/log/00000001.{b}/{range}"), Tier::Cold, true),
            (format!("meta/{a}/pack/{b}-00000000"), Tier::Hot, true),
            (format!("meta/{a}/source"), Tier::Hot, true),
            (format!("meta/{a}/snap/{b}.{b}"), Tier::Hot, true),
            (format!("meta/{a}/snap/{b}.{b}.committed"), Tier::Hot, true),
            (format!("meta/{a}/keys/{b}"), Tier::Hot, true),
            (format!("meta/{a}/moved/data-{b}-00000000.{b}"), Tier::Hot, true),
            (format!("meta/{a}/gc/{b}.decided"), Tier::Hot, true),
            (format!("meta/{a}/snap/{b}.{b}.deleted"), Tier::Hot, false),
            (format!("meta/{a}/hold/{b}.{b}"), Tier::Hot, false),
            (format!("meta/{a}/tail/00000001.{b}/{range}"), Tier::Hot, false),
            (format!("meta/{a}/open/{b}"), Tier::Hot, false),
            (format!("meta/{a}/gc/{b}"), Tier::Hot, false),
            ("repo/domain/default/1".to_owned(), Tier::Hot, false),
            ("repo/recipients/1".to_owned(), Tier::Hot, false),
            ("repo/probe-1".to_owned(), Tier::Hot, false),
        ];
        for (key, tier, is_locked) in cases {
            let retention = if is_locked { locked } else { None };
            assert_eq!(keeping.placement(&key), Placement { tier, retention }, "{key}");
        }
    }

    #[test]
    fn the_log_is_never_archived() {
        let (a, b) = ("ab".repeat(16), "cd".repeat(16));
        let keeping = Keeping::new(RegionPolicy { tier: Tier::Archive, ..Default::default() }, Arc::new(At(1)));
        let segment = format!("data/{a}/log/00000001.{b}/00000001-0000000000000000-0000000000000001");
        assert_eq!(keeping.placement(&segment).tier, Tier::Cold);
        assert_eq!(keeping.placement(&format!("data/{a}/pack/{b}-00000000")).tier, Tier::Archive);
    }

    #[test]
    fn data_grows_colder_with_age() {
        let moves =
            vec![TierMove { after_days: 30, tier: Tier::Cold }, TierMove { after_days: 90, tier: Tier::Archive }];
        let policy = RegionPolicy { tier: Tier::Warm, lock: None, moves };
        policy.check("east").unwrap();
        let tier = |days: u64| policy.tier_after(Duration::from_secs(days * 24 * 3600));
        assert_eq!([tier(29), tier(30), tier(89), tier(90)], [Tier::Warm, Tier::Cold, Tier::Cold, Tier::Archive]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let lock =
            |days| RegionPolicy { lock: Some(LockPolicy { mode: LockMode::Governance, days }), ..Default::default() };
        for policy in [lock(0), lock(DAYS_MAX + 1)] {
            assert!(policy.check("east").unwrap_err().to_string().contains("region `east`: a lock lasts"));
        }
        let moves = |moves: &[(u32, Tier)]| RegionPolicy {
            moves: moves.iter().map(|(after_days, tier)| TierMove { after_days: *after_days, tier: *tier }).collect(),
            ..Default::default()
        };
        for policy in
            [moves(&[(30, Tier::Hot)]), moves(&[(0, Tier::Cold)]), moves(&[(9, Tier::Cold), (8, Tier::Archive)])]
        {
            assert!(policy.check("east").unwrap_err().to_string().contains("ever colder"), "{policy:?}");
        }
    }
}
