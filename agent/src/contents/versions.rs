//! The versions of one path: each snapshot in which it is not as it was in the one before.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use breakwater_core::SourceUid;
use breakwater_repository::format::tree::{TreeEntry, TreeKind};
use breakwater_repository::{Repository, SnapshotStatus, SnapshotSummary};
use serde_json::{Value, json};

use super::files::{bytes_of, describe, shown};
use super::seek::Tree;
use crate::error::AgentError;

/// Snapshots that are looked into unless more are asked for.
const LIMIT: usize = 500;

/// The answer comes after this with what was looked into until then.
const PATIENCE: Duration = Duration::from_secs(40);

/// What one snapshot holds at the path.
#[derive(Clone)]
struct Seen {
    entry: TreeEntry,
    content: Vec<u8>,
}

/// The versions of `path` in the snapshots of `source`, newest first: `versions`, each with what `change`d in it, `new`,
/// `content`, `metadata` or `removed`; `looked_into` and `more` say how many snapshots were compared and how many were not.
pub async fn versions(
    repository: &Repository,
    source: SourceUid,
    path: &str,
    limit: usize,
) -> Result<Value, AgentError> {
    let wanted = bytes_of(path)?;
    let order = repository.read_order();
    let list = repository.snapshots(&order, Some(source)).await;
    let list = list.map_err(AgentError::repository("listing the snapshots"))?;
    let mut snapshots: Vec<&SnapshotSummary> =
        list.snapshots.iter().filter(|one| one.status == SnapshotStatus::Committed).collect();
    snapshots.sort_by_key(|one| (one.consistent_at, one.id));
    let limit = if limit == 0 { LIMIT } else { limit };
    let mut more = snapshots.len().saturating_sub(limit);
    snapshots.drain(..more);
    let mut finder = Finder { known: HashMap::new() };
    let (mut versions, mut before, begun) = (Vec::<Value>::new(), None::<Seen>, Instant::now());
    let mut looked_into = 0;
    for (at, one) in snapshots.iter().enumerate() {
        if begun.elapsed() > PATIENCE {
            more += snapshots.len() - at;
            break;
        }
        looked_into += 1;
        let doing = AgentError::repository(format!("reading snapshot {}", one.id));
        let manifest = repository.manifest(&order, source, one.id, one.session).await.map_err(doing)?;
        let tree = Tree::of(repository, source, &manifest);
        let now = finder.find(&tree, &wanted).await?;
        let change = match (&before, &now) {
            (None, None) => None,
            (None, Some(_)) => Some("new"),
            (Some(_), None) => Some("removed"),
            (Some(before), Some(now)) => difference(before, now),
        };
        if let Some(change) = change {
            let mut version =
                now.as_ref().map_or_else(|| json!({ "path": shown(&wanted) }), |seen| describe(&seen.entry));
            version["change"] = json!(change);
            version["snapshot"] = json!(one.id);
            version["consistent_at"] = json!(one.consistent_at);
            versions.push(version);
        }
        before = now;
    }
    if versions.is_empty() && more == 0 {
        let message = format!("no snapshot of the source holds `{path}` (hint: brctl snapshot files ID lists paths)");
        return Err(AgentError::NotFound(message));
    }
    versions.reverse();
    Ok(json!({ "path": shown(&wanted), "versions": versions, "looked_into": looked_into, "more": more }))
}

/// How two states of a path differ, if they do.
fn difference(before: &Seen, now: &Seen) -> Option<&'static str> {
    let (one, other) = (&before.entry, &now.entry);
    let same_kind = match (&one.kind, &other.kind) {
        (TreeKind::File { size, .. }, TreeKind::File { size: now, .. }) => size == now,
        (one, other) => one == other,
    };
    if !same_kind || before.content != now.content {
        return Some("content");
    }
    let metadata = |entry: &TreeEntry| (entry.mode, entry.uid, entry.gid, entry.mtime, entry.attributes.clone());
    (metadata(one) != metadata(other)).then_some("metadata")
}

/// Finds the path in one tree after the other; a frame that several trees share is read once.
struct Finder {
    known: HashMap<[u8; 32], Option<Seen>>,
}

impl Finder {
    async fn find(&mut self, tree: &Tree, path: &[u8]) -> Result<Option<Seen>, AgentError> {
        let index = tree.frame_of(path).await?;
        let Some(identity) = tree.identity(index) else { return Ok(None) };
        if let Some(known) = self.known.get(&identity) {
            return Ok(known.clone());
        }
        let entries = tree.frame(index).await?;
        let found = match entries.into_iter().find(|entry| entry.path == path) {
            Some(entry) => {
                let content = tree.content(&entry).await?;
                Some(Seen { entry, content })
            }
            None => None,
        };
        self.known.insert(identity, found.clone());
        Ok(found)
    }
}
