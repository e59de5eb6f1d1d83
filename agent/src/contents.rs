//! What a repository holds, as documents: the answers of agents and of whoever broke the glass are made here, so that they
//! are the same. Structure only: a writer key is enough. Moments are microseconds.

mod files;
mod seek;
mod versions;

use breakwater_core::{Chain, ErrorClass, SourceUid};
use breakwater_repository::format::open::SourceRecord;
use breakwater_repository::{RegionState, Repository, RepositoryError, Selector, SnapshotStatus, SnapshotSummary};
use serde_json::{Value, json};

use crate::error::AgentError;

pub use files::{FilesWanted, files};
pub use versions::versions;

/// Statuses of a snapshot that can be asked for.
const STATUSES: [&str; 5] = ["", "all", "committed", "superseded", "deleted"];

/// Which snapshots are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Only of this source.
    pub source: Option<SourceUid>,
    /// `committed`, `superseded`, `deleted` (not collected yet); `all`; empty: all but the deleted ones.
    pub status: &'a str,
    /// At most so many; 0: all.
    pub limit: usize,
}

/// The snapshots, newest first, as `snapshots`; how many `more` there are; what could not be read as `silent_regions` and
/// `damaged`.
pub async fn snapshots(repository: &Repository, wanted: Wanted<'_>) -> Result<Value, AgentError> {
    if !STATUSES.contains(&wanted.status) {
        return Err(AgentError::Invalid(format!(
            "`{}` is no status of a snapshot (hint: committed, superseded, deleted or all)",
            wanted.status
        )));
    }
    let order = repository.read_order();
    let listing = match wanted.status {
        "" => repository.snapshots(&order, wanted.source).await,
        _ => repository.snapshots_with_deleted(&order, wanted.source).await,
    };
    let list = listing.map_err(AgentError::repository("listing the snapshots"))?;
    let mut found: Vec<&SnapshotSummary> = list
        .snapshots
        .iter()
        .filter(|one| matches!(wanted.status, "" | "all") || wanted.status == status(one))
        .collect();
    found.sort_by_key(|one| std::cmp::Reverse((one.consistent_at, one.id)));
    let limit = if wanted.limit == 0 { found.len() } else { wanted.limit };
    let more = found.len().saturating_sub(limit);
    found.truncate(limit);
    Ok(json!({
        "snapshots": found.into_iter().map(summary).collect::<Vec<_>>(),
        "more": more,
        "silent_regions": list.silent.iter().map(|cause| json!({
            "region": cause.region, "reason": cause.trouble.to_string(),
        })).collect::<Vec<_>>(),
        "damaged": list.damaged.iter().map(|(name, error)| json!({
            "object": name, "reason": Chain(error).to_string(),
        })).collect::<Vec<_>>(),
    }))
}

/// The snapshot whose id begins with `id`, with everything that its manifest says.
pub async fn snapshot(repository: &Repository, id: &str) -> Result<Value, AgentError> {
    let order = repository.read_order();
    let doing = || AgentError::repository(format!("looking for snapshot {id}"));
    let found = repository.find_snapshot(&order, None, &Selector::Id(id.to_owned())).await.map_err(doing())?;
    let manifest = repository.manifest(&order, found.source.uid, found.id, found.session).await.map_err(doing())?;
    let mut value = summary(&found);
    let details = json!({
        "repository": repository.id(),
        "suite": repository.suite().to_string(),
        "job": manifest.job,
        "domain": manifest.domain,
        "bases": manifest.bases,
        "sessions": manifest.sessions,
        "facts": manifest.facts,
        "tree_frames": manifest.tree.len(),
        "unreadable": manifest.unreadable,
    });
    if let (Some(value), Value::Object(details)) = (value.as_object_mut(), details) {
        value.extend(details);
    }
    Ok(value)
}

/// The repository itself, its regions and its sources.
pub async fn describe(repository: &Repository) -> Result<Value, AgentError> {
    let regions: Vec<Value> = repository
        .regions()
        .iter()
        .map(|region| {
            let (state, detail) = match region.state() {
                RegionState::Ready => ("ok", None),
                RegionState::Away(why) => ("unreachable", Some(why)),
            };
            json!({
                "name": region.name(),
                "id": region.id().map(|id| id.to_string()),
                "url": region.place().location(),
                "state": state,
                "detail": detail,
            })
        })
        .collect();
    let reading = sources(repository).await;
    let sources = reading.map_err(AgentError::repository("reading which sources the repository holds"))?;
    let descriptor = repository.descriptor();
    Ok(json!({
        "repository": repository.id().to_string(),
        "fingerprint": repository.fingerprint().to_string(),
        "suite": repository.suite().to_string(),
        "extent_size": descriptor.extent_size,
        "pack_size": descriptor.pack_size,
        "domain": repository.domain(),
        "regions": regions,
        "sources": sources.iter().map(|one| json!({
            "uid": one.uid, "name": one.name, "engine": one.engine, "identity": one.identity, "created": one.created,
        })).collect::<Vec<_>>(),
    }))
}

/// What every source says of itself.
pub async fn sources(repository: &Repository) -> Result<Vec<SourceRecord>, RepositoryError> {
    let order = repository.read_order();
    let sources = repository.sources(&order).await?;
    let mut records = Vec::new();
    for uid in sources.uids {
        match repository.source_record(&order, uid).await {
            Ok(record) => records.push(record),
            // A directory whose first object never became durable holds nothing that could be restored.
            Err(error) if error.class() == ErrorClass::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(records)
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
