//! Listing and showing snapshots without a controller.

use breakwater_core::Chain;
use breakwater_repository::{Selector, SnapshotStatus, SnapshotSummary};
use serde_json::{Value, json};

use super::Glass;
use crate::args::repository::SnapshotListArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::view;

/// The snapshots, newest first; what could not be read is said on standard error.
pub(crate) async fn list(glass: &Glass, output: &Output, args: &SnapshotListArgs) -> Result<Vec<Value>, Failure> {
    let source = match &args.source {
        Some(source) => Some(glass.source(Some(source)).await?),
        None => None,
    };
    let wanted = args.status.as_deref().unwrap_or("all");
    if !matches!(wanted, "all" | "committed" | "superseded") {
        return Err(Failure::usage(format!("`{wanted}` is no status of a snapshot")).hint("committed or superseded"));
    }
    let order = glass.repository.read_order();
    let list = glass.repository.snapshots(&order, source).await?;
    for cause in &list.silent {
        output.note(format!("note: what only region {} holds is not known: {}", cause.region, cause.trouble));
    }
    for (name, error) in &list.damaged {
        output.note(format!("note: {name} is damaged: {}", Chain(error)));
    }
    let mut found: Vec<&SnapshotSummary> =
        list.snapshots.iter().filter(|one| wanted == "all" || status(one) == wanted).collect();
    found.sort_by_key(|one| std::cmp::Reverse((one.consistent_at, one.id)));
    if args.limit > 0 {
        found.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    }
    Ok(found.into_iter().map(summary).collect())
}

/// One snapshot with everything that its manifest says.
pub(crate) async fn show(glass: &Glass, id: &str) -> Result<Value, Failure> {
    let order = glass.repository.read_order();
    let found = glass.repository.find_snapshot(&order, None, &Selector::Id(id.to_owned())).await?;
    let manifest = glass.repository.manifest(&order, found.source.uid, found.id, found.session).await?;
    let mut value = summary(&found);
    value["repository"] = Value::from(glass.repository.id().to_string());
    value["job"] = json!(manifest.job);
    value["domain"] = json!(manifest.domain);
    value["bases"] = json!(manifest.bases);
    value["sessions"] = json!(manifest.sessions);
    value["facts"] = json!(manifest.facts);
    value["tree_frames"] = json!(manifest.tree.len());
    Ok(value)
}

fn status(one: &SnapshotSummary) -> &'static str {
    match one.status {
        SnapshotStatus::Committed => "committed",
        SnapshotStatus::Superseded { .. } => "superseded",
        SnapshotStatus::Deleted => "deleted",
    }
}

/// The field names that agents answer with.
fn summary(one: &SnapshotSummary) -> Value {
    let superseded_by = match one.status {
        SnapshotStatus::Committed | SnapshotStatus::Deleted => None,
        SnapshotStatus::Superseded { by } => Some(by),
    };
    let mut value = json!({
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
    });
    view::readable(&mut value);
    value
}
