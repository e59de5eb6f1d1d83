//! Holding one snapshot, and lifting its holds.

use std::collections::BTreeMap;

use breakwater_proto::v1;
use breakwater_repository::{Held, Selector, SnapshotSummary};
use serde_json::json;

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Does what `spec` asks for.
pub(super) async fn perform(place: &Workplace, spec: &v1::HoldSpec) -> Result<Outcome, AgentError> {
    let doing = || AgentError::repository(format!("holding snapshot {}", spec.snapshot));
    let found = find(place, &spec.snapshot).await?;
    let snapshot = (found.id, found.session);
    let held = match spec.lift {
        false => place.repository.hold_snapshot(found.source.uid, snapshot, &spec.reason).await.map_err(doing())?,
        true => place.repository.unhold_snapshot(found.source.uid, snapshot).await.map_err(doing())?,
    };
    tracing::info!(snapshot.id = %found.id, lift = spec.lift, reason = spec.reason, "the holds of a snapshot changed");
    Ok(outcome(&found, spec, held))
}

/// The snapshot whose id begins with `id`.
pub(super) async fn find(place: &Workplace, id: &str) -> Result<SnapshotSummary, AgentError> {
    let order = place.repository.read_order();
    let finding = place.repository.find_snapshot(&order, None, &Selector::Id(id.to_owned())).await;
    finding.map_err(AgentError::repository(format!("looking for snapshot {id}")))
}

fn outcome(found: &SnapshotSummary, spec: &v1::HoldSpec, held: Held) -> Outcome {
    let behind: BTreeMap<String, String> =
        held.behind.iter().map(|cause| (cause.region.clone(), cause.trouble.to_string())).collect();
    let summary = json!({
        "snapshot": found.id,
        "source": found.source.name,
        "held": !spec.lift,
        "reason": spec.reason,
        "objects": held.objects,
        "records_only": held.records_only,
        "behind": behind,
    });
    if behind.is_empty() {
        return Outcome::done(summary);
    }
    let regions: Vec<String> = behind.iter().map(|(region, why)| format!("region {region}: {why}")).collect();
    let what = if spec.lift { "its holds are not lifted everywhere" } else { "it is held, but not everywhere" };
    let message = format!("snapshot {}: {what}: {} (hint: ask again once it answers)", found.id, regions.join("; "));
    Outcome::partial(summary, message)
}
