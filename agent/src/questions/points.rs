//! What a source can be restored to, region by region: each alone, as if the others were gone.

use breakwater_core::{LogPosition, Lsn, SourceUid};
use breakwater_proto::v1;
use breakwater_repository::regions::RegionSet;
use breakwater_repository::stream::{StreamKeys, StreamView};
use breakwater_repository::{RegionState, Repository, SnapshotStatus};
use serde_json::{Value, json};

use crate::error::AgentError;
use crate::toolbox::Toolbox;

pub(super) async fn list(tools: &Toolbox, repository: &v1::RepositorySpec, uid: &str) -> Result<Value, AgentError> {
    let uid: SourceUid = uid.parse().map_err(|error| AgentError::Invalid(format!("the source: {error}")))?;
    let open = tools.repositories.open(repository).await?;
    let name = tools.sources.get(&uid.to_string()).map(|source| source.assigned.name.clone());
    Ok(of_source(&open.repository, &open.set, uid, &name.unwrap_or_else(|| uid.to_string())).await)
}

/// What `source`, called `name`, can be restored to, region by region. A region that does not answer is said to be
/// unreachable. Times are microseconds.
pub async fn of_source(repository: &Repository, set: &RegionSet, source: SourceUid, name: &str) -> Value {
    let mut regions = Vec::new();
    for region in repository.regions() {
        let value = match of_region(repository, set, source, region.name()).await {
            Ok(value) => value,
            Err(error) => json!({
                "region": region.name(), "state": "unreachable", "reason": breakwater_core::Chain(&error).to_string(),
                "intervals": [], "gaps": [], "snapshots": [],
            }),
        };
        regions.push(value);
    }
    json!({ "source": name, "source_uid": source, "regions": regions })
}

/// What one region alone gives back: runs of log that a snapshot in the same region leads into.
async fn of_region(
    repository: &Repository,
    set: &RegionSet,
    source: SourceUid,
    name: &str,
) -> Result<Value, AgentError> {
    let doing = || format!("reading what region `{name}` holds");
    let region = repository.region(name).map_err(AgentError::repository(doing()))?;
    if let (None, RegionState::Away(why)) = (region.id(), region.state()) {
        return Err(AgentError::Unavailable(why));
    }
    let order = repository.read_only_from(name).map_err(AgentError::repository(doing()))?;
    let list = repository.snapshots(&order, Some(source)).await.map_err(AgentError::repository(doing()))?;
    let snapshots: Vec<_> = list.snapshots.iter().filter(|one| one.status == SnapshotStatus::Committed).collect();
    let id = region.id().ok_or_else(|| AgentError::Unavailable(format!("region `{name}` was never seen")))?;
    let keys = StreamKeys::of(repository, source);
    let view = StreamView::load_region(set, &keys, id).await.map_err(AgentError::stream(doing()))?;
    let coverage = view.coverage().await.map_err(AgentError::stream(doing()))?;
    let gaps = view.gaps();
    let mut intervals = Vec::new();
    for run in &coverage {
        // The oldest snapshot whose log lies in this run opens it.
        let inside = |at: LogPosition| at.branch == run.branch && run.start <= at.offset && at.offset <= run.end;
        let base = snapshots
            .iter()
            .filter(|one| one.start.is_some_and(inside) && one.end.is_some_and(inside))
            .min_by_key(|one| one.consistent_at);
        intervals.push(json!({
            "from": base.map(|one| one.consistent_at),
            "to": base.and(run.clocks).map(|(_, last)| last),
            "branch": run.branch,
            "start": Lsn(run.start).to_string(),
            "end": Lsn(run.end).to_string(),
            "restorable": base.is_some(),
        }));
    }
    let recoverable = coverage.last().and_then(|run| run.clocks).map(|(_, last)| last);
    Ok(json!({
        "region": name,
        "state": if snapshots.is_empty() { "never" } else { "ok" },
        "recoverable": recoverable.filter(|_| !snapshots.is_empty()).or(snapshots.iter().map(|one| one.consistent_at).max()),
        "intervals": intervals,
        "gaps": gaps.iter().map(|gap| json!({
            "branch": gap.branch, "start": Lsn(gap.start).to_string(), "end": Lsn(gap.end).to_string(),
        })).collect::<Vec<_>>(),
        "snapshots": snapshots.iter().map(|one| json!({"id": one.id, "consistent_at": one.consistent_at})).collect::<Vec<_>>(),
    }))
}
