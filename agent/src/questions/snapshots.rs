//! What is in a repository, and one snapshot with all details. Structure only: a writer key is enough.

use breakwater_core::SourceUid;
use breakwater_proto::v1;
use breakwater_repository::{Selector, SnapshotStatus, SnapshotSummary};
use serde_json::{Value, json};

use crate::error::AgentError;
use crate::toolbox::Toolbox;

/// Snapshots of an answer unless more are asked for.
const LIMIT: usize = 1000;

pub(super) async fn list(
    tools: &Toolbox,
    repository: &v1::RepositorySpec,
    ask: &v1::AskSnapshots,
) -> Result<Value, AgentError> {
    let source = match ask.source_uid.as_str() {
        "" => None,
        uid => {
            let parsed = uid.parse::<SourceUid>();
            Some(parsed.map_err(|error| AgentError::Invalid(format!("the source: {error}")))?)
        }
    };
    if !matches!(ask.status.as_str(), "" | "all" | "committed" | "superseded") {
        return Err(AgentError::Invalid(format!(
            "`{}` is no status of a snapshot (hint: committed or superseded)",
            ask.status
        )));
    }
    let open = tools.repositories.open(repository).await?;
    let listing = open.repository.snapshots(&open.repository.read_order(), source).await;
    let list = listing.map_err(AgentError::repository(format!("listing the snapshots of `{}`", repository.name)))?;
    let limit = if ask.limit == 0 { LIMIT } else { usize::try_from(ask.limit).unwrap_or(LIMIT) };
    let mut snapshots: Vec<&SnapshotSummary> = list
        .snapshots
        .iter()
        .filter(|one| matches!(ask.status.as_str(), "" | "all") || ask.status == status(one))
        .collect();
    snapshots.sort_by_key(|one| std::cmp::Reverse((one.consistent_at, one.id)));
    let more = snapshots.len().saturating_sub(limit);
    snapshots.truncate(limit);
    Ok(json!({
        "repository": repository.name,
        "snapshots": snapshots.into_iter().map(summary).collect::<Vec<_>>(),
        "more": more,
        "silent_regions": list.silent.iter().map(|cause| json!({
            "region": cause.region, "reason": cause.trouble.to_string(),
        })).collect::<Vec<_>>(),
        "damaged": list.damaged.iter().map(|(name, error)| json!({
            "object": name, "reason": breakwater_core::Chain(error).to_string(),
        })).collect::<Vec<_>>(),
    }))
}

pub(super) async fn show(tools: &Toolbox, repository: &v1::RepositorySpec, id: &str) -> Result<Value, AgentError> {
    let open = tools.repositories.open(repository).await?;
    let order = open.repository.read_order();
    let doing = || AgentError::repository(format!("looking for snapshot {id} in `{}`", repository.name));
    let found = open.repository.find_snapshot(&order, None, &Selector::Id(id.to_owned())).await.map_err(doing())?;
    let manifest = open.repository.manifest(&order, found.source.uid, found.id, found.session).await.map_err(doing())?;
    let mut value = summary(&found);
    let details = json!({
        "repository": repository.name,
        "job": manifest.job,
        "domain": manifest.domain,
        "bases": manifest.bases,
        "sessions": manifest.sessions,
        "facts": manifest.facts,
        "tree_frames": manifest.tree.len(),
    });
    if let (Some(value), Value::Object(details)) = (value.as_object_mut(), details) {
        value.extend(details);
    }
    Ok(value)
}

fn status(one: &SnapshotSummary) -> &'static str {
    match one.status {
        SnapshotStatus::Committed => "committed",
        SnapshotStatus::Superseded { .. } => "superseded",
        SnapshotStatus::Deleted => "deleted",
    }
}

fn summary(one: &SnapshotSummary) -> Value {
    let superseded_by = match one.status {
        SnapshotStatus::Committed | SnapshotStatus::Deleted => None,
        SnapshotStatus::Superseded { by } => Some(by),
    };
    json!({
        "id": one.id,
        "source": one.source.name,
        "source_uid": one.source.uid,
        "engine": one.source.engine,
        "status": status(one),
        "superseded_by": superseded_by,
        "consistent_at": one.consistent_at,
        "scheduled": one.scheduled,
        "started": one.started,
        "finished": one.finished,
        "files": one.totals.files,
        "size_bytes": one.totals.bytes,
        "read_bytes": one.totals.read,
        "new_bytes": one.totals.new,
        "stored_bytes": one.totals.stored,
        "start": one.start.map(|position| position.to_string()),
        "end": one.end.map(|position| position.to_string()),
        "regions": one.regions,
        "session": one.session,
        "attempt": one.attempt,
        "warnings": one.warnings,
    })
}
