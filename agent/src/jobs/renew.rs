//! Renewing locks, alone or behind a collection.
//!
//! Invariant: what this host remembers of earlier renewals only saves questions; without it, or under another policy, all
//! objects are asked once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use breakwater_core::{RegionId, Timestamp};
use breakwater_repository::gc::renewal::{RegionRenewal, RenewalOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::durable;
use crate::error::AgentError;

/// Renews what is due.
pub(super) async fn perform(place: &Workplace) -> Result<Outcome, AgentError> {
    let renewals = renew(place).await?;
    if renewals.is_empty() {
        return Err(AgentError::Refused(format!(
            "no region of `{}` locks its objects (hint: declare `lock` for a region)",
            place.name
        )));
    }
    let summary = json!({ "regions": rows(&renewals) });
    let troubles = troubles(&renewals);
    if place.cancel.is_cancelled() {
        return Ok(Outcome::failed(summary, AgentError::Cancelled));
    }
    Ok(match troubles.is_empty() {
        true => Outcome::done(summary),
        false => Outcome::partial(summary, troubles.join("; ")),
    })
}

/// The same as a part of other work; nothing where no region locks.
pub(super) async fn renew(place: &Workplace) -> Result<Vec<RegionRenewal>, AgentError> {
    let memory = Memory::of(&place.scratch, &place.repository.id().to_string());
    let known = memory.read();
    let policy = |id: &RegionId| {
        let region = place.repository.regions().iter().find(|region| region.id() == Some(*id));
        region.and_then(|region| region.policy().lock).map(|lock| format!("{} {}", lock.mode, lock.days))
    };
    let still =
        |(id, one): (&RegionId, &Renewed)| (policy(id).as_ref() == Some(&one.policy)).then_some((*id, one.begun));
    let options = RenewalOptions {
        since: known.iter().filter_map(still).collect(),
        scratch: Some(place.scratch.clone()),
        cancel: place.cancel.clone(),
    };
    std::fs::create_dir_all(&place.scratch).map_err(AgentError::file("cannot make", &place.scratch))?;
    let renewing = place.repository.renew_locks(&options).await;
    let renewals = renewing.map_err(AgentError::repository(format!("renewing the locks of `{}`", place.name)))?;
    let mut known = known;
    for one in renewals.iter().filter(|one| one.is_complete()) {
        let policy = format!("{} {}", one.lock.mode, one.lock.days);
        known.insert(one.id, Renewed { begun: one.begun, policy });
    }
    memory.write(&known);
    Ok(renewals)
}

/// One line a region that was not renewed to its end.
pub(super) fn troubles(renewals: &[RegionRenewal]) -> Vec<String> {
    let line = |one: &RegionRenewal| {
        let why = one.trouble.as_ref()?;
        Some(format!("region {}: locks are not renewed to the end ({} failed): {why}", one.region, one.failed))
    };
    renewals.iter().filter_map(line).collect()
}

/// The report on each region.
pub(super) fn rows(renewals: &[RegionRenewal]) -> Vec<Value> {
    let row = |one: &RegionRenewal| {
        json!({
            "region": one.region,
            "mode": one.lock.mode.as_str(),
            "days": one.lock.days,
            "objects": one.objects,
            "asked": one.asked,
            "renewed": one.renewed,
            "failed": one.failed,
            "trouble": one.trouble,
        })
    };
    renewals.iter().map(row).collect()
}

/// When a region was renewed last, and under which policy.
#[derive(Debug, Serialize, Deserialize)]
struct Renewed {
    begun: Timestamp,
    policy: String,
}

/// The file in which this host remembers that; none where others can write to its directory.
#[derive(Debug)]
struct Memory(Option<PathBuf>);

impl Memory {
    fn of(scratch: &Path, repository: &str) -> Memory {
        let is_private = scratch != std::env::temp_dir();
        Memory(is_private.then(|| scratch.join(format!("renewed-{repository}.json"))))
    }

    /// Nothing where it is not there or damaged.
    fn read(&self) -> BTreeMap<RegionId, Renewed> {
        let read = self.0.as_ref().and_then(|path| durable::read(path).ok().flatten());
        let bytes = read.unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn write(&self, known: &BTreeMap<RegionId, Renewed>) {
        let Some(path) = &self.0 else { return };
        let text = serde_json::to_vec_pretty(known).unwrap_or_default();
        if let Err(error) = durable::replace(path, &text) {
            tracing::warn!(error = %breakwater_core::Chain(&error), "renewals are not remembered; the next one asks for every lock");
        }
    }
}
