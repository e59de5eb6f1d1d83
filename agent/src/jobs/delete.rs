//! Deleting one snapshot: from then on it is not there any more; a gc frees what nothing else needs.
//!
//! Invariant: a deletion that is repeated ends as the first one did.

use breakwater_core::{Chain, SnapshotId, SourceUid};
use breakwater_proto::v1;
use breakwater_repository::{Selector, SnapshotSummary};
use serde_json::json;

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Deletes the snapshot that `spec` names.
pub(super) async fn perform(place: &Workplace, spec: &v1::DeleteSpec) -> Result<Outcome, AgentError> {
    let (source, snapshot, seen) = find(place, &spec.snapshot).await?;
    let deleting = place.repository.delete_snapshot(source, snapshot).await;
    let deletion = deleting.map_err(AgentError::repository(format!("deleting snapshot {snapshot}")))?;
    let owed: Vec<String> =
        deletion.owed.iter().map(|cause| format!("region {}: {}", cause.region, cause.trouble)).collect();
    tracing::info!(snapshot.id = %snapshot, source.uid = %source, "a snapshot is deleted");
    let summary = json!({
        "snapshot": snapshot,
        "source": seen.as_ref().map(|seen| &seen.source.name),
        "source_uid": source,
        "consistent_at": seen.as_ref().map(|seen| seen.consistent_at),
        "sessions": deletion.sessions,
        "owed": owed,
    });
    if owed.is_empty() {
        return Ok(Outcome::done(summary));
    }
    let missing = format!(
        "snapshot {snapshot} is deleted, but not every region has heard of it: {} (hint: the next `repository gc` tells \
         them; until then who reads from such a region alone still sees the snapshot)",
        owed.join("; ")
    );
    Ok(Outcome::partial(summary, missing))
}

/// The snapshot whose id begins with `id`. One that was deleted before is found by its whole id, so that a repeated order
/// ends well.
async fn find(place: &Workplace, id: &str) -> Result<(SourceUid, SnapshotId, Option<SnapshotSummary>), AgentError> {
    let order = place.repository.read_order();
    let doing = || AgentError::repository(format!("looking for snapshot {id}"));
    let missing = match place.repository.find_snapshot(&order, None, &Selector::Id(id.to_owned())).await {
        Ok(found) => return Ok((found.source.uid, found.id, Some(found))),
        Err(error) => error,
    };
    let Ok(whole) = id.parse::<SnapshotId>() else { return Err(doing()(missing)) };
    let sources = place.repository.sources(&order).await.map_err(doing())?;
    for source in sources.uids {
        match place.repository.tombstones(&order, source).await {
            Ok(tombstones) if tombstones.sessions.values().any(|snapshot| *snapshot == whole) => {
                return Ok((source, whole, None));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(source.uid = %source, error = %Chain(&error), "deleted snapshots are not known")
            }
        }
    }
    Err(doing()(missing))
}
