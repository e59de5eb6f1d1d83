//! One region of a repository as declared: where it is, what it counts for, and how objects are kept there.

use breakwater_core::{Name, PlaceUrl};
use serde::{Deserialize, Serialize};

use super::limits::RegionLimits;

/// The schemes that agents can open; a check here saves the way to an agent.
const SCHEMES: [&str; 5] = ["file", "s3", "azure", "gs", "sftp"];

/// The longest lock: a century, which every provider accepts.
const LOCK_DAYS: u32 = 36_500;

/// One region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegionSpec {
    /// Its name.
    pub name: Name,
    /// Where it is, as its agents see it: an absolute path, or a URL such as `s3://bucket/prefix?region=eu-west-1`.
    pub url: String,
    /// `sync` unless said.
    #[serde(default)]
    pub role: RegionRole,
    /// The tier of new objects in `data/`; hot unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierWord>,
    /// How long objects are locked against deletion; not at all unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockRule>,
    /// Moves of old objects in `data/` to colder tiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tier_moves: Vec<TierMove>,
    /// How much of the way there may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RegionLimits>,
}

/// What a region is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionRole {
    /// Counts for `commit`.
    #[default]
    Sync,
    /// Follows; a full copy that is never waited for.
    Async,
}

impl RegionRole {
    /// The word in documents and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            RegionRole::Sync => "sync",
            RegionRole::Async => "async",
        }
    }
}

/// A tier, from the dearest to store on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TierWord {
    /// Read at once and for nothing.
    Hot,
    /// Read at once at a small charge.
    Warm,
    /// Read at once at a charge.
    Cold,
    /// Must be thawed first where the provider is slow at it.
    Archive,
}

impl TierWord {
    /// The word in documents and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            TierWord::Hot => "hot",
            TierWord::Warm => "warm",
            TierWord::Cold => "cold",
            TierWord::Archive => "archive",
        }
    }
}

/// How objects are locked from their creation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockRule {
    /// Whom it binds.
    pub mode: LockWord,
    /// For how long from the creation, and from each renewal.
    pub days: u32,
}

/// Whom a lock binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockWord {
    /// All but those with a right of their own.
    Governance,
    /// Everyone.
    Compliance,
}

impl LockWord {
    /// The word in documents and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            LockWord::Governance => "governance",
            LockWord::Compliance => "compliance",
        }
    }
}

/// A move to a colder tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TierMove {
    /// The age from which on it applies.
    pub after_days: u32,
    /// Where to.
    pub tier: TierWord,
}

impl RegionSpec {
    /// What is wrong with it, as `spec.regions: ...` says it.
    pub(super) fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let url = self.place().map_err(|error| format!("`{name}`: {error}"))?;
        if !SCHEMES.contains(&url.scheme()) {
            return Err(format!(
                "`{name}`: `{}` is not a kind of place this version can write to (hint: an absolute path, or a URL of {})",
                self.url,
                SCHEMES.join(", ")
            ));
        }
        if url.scheme() == "file" && (self.lock.is_some() || self.tier.is_some() || !self.tier_moves.is_empty()) {
            return Err(format!("`{name}`: directories have neither locks nor tiers"));
        }
        if let Some(LockRule { days, .. }) = self.lock
            && !(1..=LOCK_DAYS).contains(&days)
        {
            return Err(format!("`{name}`: lock.days is from 1 to {LOCK_DAYS}, not {days}"));
        }
        let mut before = (0, self.tier.unwrap_or(TierWord::Hot));
        for step in &self.tier_moves {
            if (step.after_days, step.tier) <= before || step.after_days <= before.0 || step.tier <= before.1 {
                return Err(format!(
                    "`{name}`: tierMoves: each move comes later and goes to a colder tier than the one before; {} after {} days does not",
                    step.tier.word(),
                    step.after_days
                ));
            }
            before = (step.after_days, step.tier);
        }
        self.limits.as_ref().map_or(Ok(()), RegionLimits::check).map_err(|error| format!("`{name}`: {error}"))
    }

    /// The place that its URL names.
    pub(super) fn place(&self) -> Result<PlaceUrl, String> {
        self.url.parse().map_err(|error: breakwater_core::PlaceUrlError| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str) -> Result<(), String> {
        let region: RegionSpec = serde_yaml_ng::from_str(yaml).map_err(|error| error.to_string())?;
        region.check()
    }

    #[test]
    fn every_kind_of_place_can_be_declared() {
        for url in
            ["/srv/r", "file:///srv/r", "s3://b/p?region=eu-west-1", "azure://account/c", "gs://b", "sftp://u@h/p"]
        {
            check(&format!("{{name: a, url: '{url}'}}")).unwrap();
        }
        for (url, says) in
            [("ftp://h/p", "a URL of file, s3"), ("srv/r", "absolute path"), ("sftp://u:pw@h/p", "password")]
        {
            let error = check(&format!("{{name: a, url: '{url}'}}")).unwrap_err();
            assert!(error.contains(says) && error.contains("`a`"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let all = "{name: a, url: s3://b, tier: warm, lock: {mode: compliance, days: 30}, tierMoves: [{afterDays: 30, tier: cold}, {afterDays: 90, tier: archive}]}";
        check(all).unwrap();
        for (yaml, says) in [
            ("{name: a, url: /srv/r, lock: {mode: compliance, days: 1}}", "neither locks nor tiers"),
            ("{name: a, url: s3://b, lock: {mode: compliance, days: 0}}", "lock.days"),
            ("{name: a, url: s3://b, lock: {mode: weak, days: 3}}", "weak"),
            ("{name: a, url: s3://b, tier: cold, tierMoves: [{afterDays: 3, tier: warm}]}", "colder tier"),
            ("{name: a, url: s3://b, tierMoves: [{afterDays: 9, tier: warm}, {afterDays: 9, tier: cold}]}", "later"),
            ("{name: a, url: s3://b, limits: {uploads: 0}}", "uploads"),
        ] {
            let error = check(yaml).unwrap_err();
            assert!(error.contains(says), "{yaml}: {error}");
        }
    }
}
