//! How long the objects of one snapshot are locked, in each region: asked of the place, object by object.

use breakwater_proto::v1;
use serde_json::json;

use super::hold::find;
use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Looks up the locks of the snapshot that `spec` names.
pub(super) async fn perform(place: &Workplace, spec: &v1::LocksSpec) -> Result<Outcome, AgentError> {
    let doing = || AgentError::repository(format!("looking up the locks of snapshot {}", spec.snapshot));
    let found = find(place, &spec.snapshot).await?;
    let snapshot = (found.id, found.session);
    let looking = place.repository.snapshot_locks(found.source.uid, snapshot, &spec.regions).await;
    let locks = looking.map_err(doing())?;
    let mut troubles = Vec::new();
    let regions: Vec<_> = locks
        .iter()
        .map(|locks| {
            troubles.extend(locks.trouble.as_ref().map(|why| format!("region {}: {why}", locks.region)));
            json!({
                "region": locks.region,
                "locked_until": locks.until,
                "objects": locks.objects,
                "unlocked": locks.unlocked,
                "held": locks.held,
                "weakest": locks.weakest,
                "trouble": locks.trouble,
            })
        })
        .collect();
    let holds = place.repository.holds(&place.repository.read_order(), found.source.uid).await.map_err(doing())?;
    let summary = json!({
        "snapshot": found.id,
        "source": found.source.name,
        "hold": holds.reason(found.id),
        "regions": regions,
    });
    if troubles.is_empty() {
        return Ok(Outcome::done(summary));
    }
    Ok(Outcome::partial(summary, format!("not every region was asked to the end: {}", troubles.join("; "))))
}
