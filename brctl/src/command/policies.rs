//! How the regions of a new repository are to keep what is written into them.
//!
//! Invariant: what is declared is what the places were tried with.

use std::collections::BTreeMap;

use breakwater_repository::{LockPolicy, RegionPolicy};
use breakwater_storage::{LockMode, Tier};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Policies by the names of regions; a region that is not here has none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies(BTreeMap<String, RegionPolicy>);

impl Policies {
    /// Reads `NAME=MODE:DAYS` and `NAME=TIER`.
    pub(crate) fn parse(locks: &[String], tiers: &[String]) -> Result<Policies, Failure> {
        let mut policies = Policies::default();
        for text in locks {
            let slip = |why: String| {
                Failure::usage(format!("--lock {text}: {why}")).hint("NAME=MODE:DAYS, like east=compliance:60d")
            };
            let (name, rule) = text.split_once('=').ok_or_else(|| slip("it names no region".to_owned()))?;
            let (mode, days) = rule.split_once(':').ok_or_else(|| slip("it says no number of days".to_owned()))?;
            let mode = mode.parse::<LockMode>().map_err(|error| slip(error.to_string()))?;
            let days = days.strip_suffix('d').unwrap_or(days);
            let days = days.parse::<u32>().map_err(|_| slip(format!("`{days}` is no number of days")))?;
            policies.slot(name).lock = Some(LockPolicy { mode, days });
        }
        for text in tiers {
            let slip =
                |why: String| Failure::usage(format!("--tier {text}: {why}")).hint("NAME=TIER, like west=archive");
            let (name, tier) = text.split_once('=').ok_or_else(|| slip("it names no region".to_owned()))?;
            policies.slot(name).tier = tier.parse::<Tier>().map_err(|error| slip(error.to_string()))?;
        }
        Ok(policies)
    }

    /// Refuses a policy for a region that is not among `names`.
    pub(crate) fn refuse_strangers<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
        let names: Vec<&str> = names.collect();
        match self.0.keys().find(|name| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Failure::usage(format!("there is no region `{name}` to lock or tier"))
                .hint(format!("the regions are: {}", names.join(", ")))),
        }
    }

    /// The policy of the region.
    pub(crate) fn of(&self, name: &str) -> RegionPolicy {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// The Repository object with the policies of its regions.
    pub(crate) fn declared(&self, mut object: Value) -> Value {
        for region in object["spec"]["regions"].as_array_mut().into_iter().flatten() {
            let policy = self.of(region["name"].as_str().unwrap_or_default());
            if let Some(lock) = policy.lock {
                region["lock"] = json!({ "mode": lock.mode.as_str(), "days": lock.days });
            }
            if policy.tier != RegionPolicy::default().tier {
                region["tier"] = json!(policy.tier.as_str());
            }
        }
        object
    }

    fn slot(&mut self, name: &str) -> &mut RegionPolicy {
        self.0.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_declared_and_refused() {
        let text = |text: &str| vec![text.to_owned()];
        let policies = Policies::parse(&text("east=compliance:60d"), &text("west=archive")).unwrap();
        let object = json!({"spec": {"regions": [{"name": "east"}, {"name": "west"}, {"name": "north"}]}});
        assert_eq!(
            policies.declared(object)["spec"]["regions"],
            json!([
                {"name": "east", "lock": {"mode": "compliance", "days": 60}},
                {"name": "west", "tier": "archive"},
                {"name": "north"},
            ])
        );
        assert!(policies.refuse_strangers(["east"].into_iter()).unwrap_err().message().contains("`west`"));
        for (lock, tier) in
            [("east", "w=hot"), ("east=compliance", "w=hot"), ("east=firm:9", "w=hot"), ("e=governance:9", "w=x")]
        {
            assert_eq!(Policies::parse(&text(lock), &text(tier)).unwrap_err().code(), 2, "{lock} {tier}");
        }
    }
}
