//! Moving data to colder tiers.

use std::time::Duration;

use breakwater_core::Timestamp;
use breakwater_proto::v1;
use breakwater_repository::tiers::{RegionTiers, TierOptions};
use breakwater_storage::Tier;
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Moves what `spec` asks for.
pub(super) async fn perform(place: &Workplace, spec: &v1::TierSpec) -> Result<Outcome, AgentError> {
    let to = match spec.to.as_str() {
        "" => None,
        word => {
            let tier: Tier = word.parse().map_err(|error| AgentError::Invalid(format!("{error}")))?;
            if tier == Tier::Hot {
                let text = "data only moves to colder tiers (hint: warm, cold or archive)";
                return Err(AgentError::Invalid(text.to_owned()));
            }
            Some((tier, Duration::from_secs(u64::from(spec.older_than_days) * 24 * 3600)))
        }
    };
    let options = TierOptions {
        regions: spec.regions.clone(),
        to,
        unneeded_since: (spec.unneeded_since != 0).then(|| Timestamp::from_micros(spec.unneeded_since)),
        dry_run: spec.dry_run,
        cancel: place.cancel.clone(),
    };
    let moving = place.repository.move_tiers(&options).await;
    let runs = moving.map_err(AgentError::repository(format!("moving data of `{}`", place.name)))?;
    if runs.is_empty() {
        return Err(AgentError::Refused(format!(
            "no region of `{}` has moves declared (hint: declare `tiers` for a region, or say --to and --older-than)",
            place.name
        )));
    }
    let troubles: Vec<String> =
        runs.iter().filter_map(|run| Some(format!("region {}: {}", run.region, run.trouble.as_ref()?))).collect();
    let rows: Vec<Value> = runs.iter().map(row).collect();
    let summary = json!({ "dry_run": spec.dry_run, "regions": rows });
    if place.cancel.is_cancelled() {
        return Ok(Outcome::failed(summary, AgentError::Cancelled));
    }
    Ok(match (troubles.is_empty(), troubles.len() == runs.len() && runs.iter().all(|run| run.moved.objects == 0)) {
        (true, _) => Outcome::done(summary),
        (false, true) => Outcome::failed(summary, AgentError::Refused(troubles.join("; "))),
        (false, false) => Outcome::partial(summary, troubles.join("; ")),
    })
}

fn row(run: &RegionTiers) -> Value {
    json!({
        "region": run.region,
        "seen_objects": run.seen.objects,
        "seen_bytes": run.seen.bytes,
        "moved_objects": run.moved.objects,
        "moved_bytes": run.moved.bytes,
        "needed_objects": run.needed.objects,
        "needed_bytes": run.needed.bytes,
        "failed": run.failed,
        "trouble": run.trouble,
    })
}
