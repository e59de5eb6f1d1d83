//! What was declared of a region, as the repository understands it.

use breakwater_proto::v1;
use breakwater_repository::{LockPolicy, RegionPolicy, TierMove};
use breakwater_storage::{LockMode, Tier};

use crate::error::AgentError;

/// The policy that `region` declares.
pub fn policy(region: &v1::RegionSpec) -> Result<RegionPolicy, AgentError> {
    let invalid = |error: String| AgentError::Invalid(format!("region `{}`: {error}", region.name));
    let tier = |word: &str| word.parse::<Tier>().map_err(|error| invalid(error.to_string()));
    let lock = match &region.lock {
        None => None,
        Some(lock) => {
            let mode = lock.mode.parse::<LockMode>().map_err(|error| invalid(error.to_string()))?;
            Some(LockPolicy { mode, days: lock.days })
        }
    };
    let moves: Result<Vec<TierMove>, AgentError> = region
        .tier_moves
        .iter()
        .map(|one| Ok(TierMove { after_days: one.after_days, tier: tier(&one.tier)? }))
        .collect();
    let policy = RegionPolicy {
        tier: if region.tier.is_empty() { Tier::Hot } else { tier(&region.tier)? },
        lock,
        moves: moves?,
    };
    policy.check(&region.name).map_err(AgentError::repository(format!("region `{}`", region.name)))?;
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_a_policy_or_are_refused_by_name() {
        let lock = |mode: &str, days| Some(v1::RegionLock { mode: mode.to_owned(), days });
        let region = v1::RegionSpec { name: "east".to_owned(), lock: lock("compliance", 60), ..Default::default() };
        let expected = LockPolicy { mode: LockMode::Compliance, days: 60 };
        assert_eq!(policy(&region).unwrap(), RegionPolicy { lock: Some(expected), ..RegionPolicy::default() });
        for (lock, tier) in [(lock("firm", 60), ""), (lock("compliance", 0), ""), (None, "lukewarm")] {
            let wrong = v1::RegionSpec { lock, tier: tier.to_owned(), ..region.clone() };
            assert!(policy(&wrong).unwrap_err().to_string().contains("region `east`"));
        }
    }
}
