//! From what a person asks for to a snapshot and the log after it, proven to be there before anything is written.
//!
//! Independent of any controller: a repository, a source and a moment are enough.

use breakwater_core::{SourceUid, Timestamp};
use breakwater_engine::RecoveryTarget;
use breakwater_proto::v1;
use breakwater_proto::v1::restore_point::Point as WirePoint;
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::regions::{RegionOptions, RegionSet, Role};
use breakwater_repository::stream::{
    LogPlan, LogTarget, PlanBase, PlanError, SecretSource, Stop, StreamKeys, StreamView,
};
use breakwater_repository::{ReadOrder, Repository, SnapshotStatus, SnapshotSummary};
use futures::future::BoxFuture;

use crate::error::AgentError;

/// What a restore is to bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// Everything that is stored.
    Latest,
    /// The snapshot whose id begins with this, exactly as it is.
    Snapshot(String),
    /// Everything committed up to this moment, nothing later.
    Time(Timestamp),
    /// Everything before this offset of the log.
    Offset(u64),
    /// Up to and with this transaction.
    Transaction(u64),
    /// The named restore point.
    Name(String),
}

impl Point {
    /// Reads what came over the wire.
    pub fn from_wire(point: Option<&v1::RestorePoint>) -> Result<Point, AgentError> {
        Ok(match point.and_then(|point| point.point.as_ref()) {
            Some(WirePoint::Latest(_)) => Point::Latest,
            Some(WirePoint::Snapshot(id)) => Point::Snapshot(id.clone()),
            Some(WirePoint::Time(micros)) => Point::Time(Timestamp::from_micros(*micros)),
            Some(WirePoint::Lsn(offset)) => Point::Offset(*offset),
            Some(WirePoint::Xid(xid)) => Point::Transaction(*xid),
            Some(WirePoint::Name(name)) => Point::Name(name.clone()),
            None => return Err(AgentError::Invalid("the request says no moment to restore".to_owned())),
        })
    }
}

/// Where a restore reads from.
#[derive(Clone, Debug)]
pub struct ReadSide {
    /// The repository.
    pub repository: Repository,
    /// The regions, best first.
    pub order: ReadOrder,
    /// The same regions for the log.
    pub set: RegionSet,
}

impl ReadSide {
    /// Reads from all regions of `repository`, or from the one called `region` and no other. Must be called inside a
    /// tokio runtime.
    pub fn new(repository: &Repository, region: Option<&str>) -> Result<ReadSide, AgentError> {
        let choosing = || AgentError::repository("choosing the region to read from");
        let order = match region {
            Some(name) => repository.read_only_from(name).map_err(choosing())?,
            None => repository.read_order(),
        };
        let mut handles = repository.handles();
        handles.retain(|handle| region.is_none_or(|name| handle.name == name));
        if handles.is_empty() {
            return Err(AgentError::Unavailable(format!("region `{}` does not answer", region.unwrap_or_default())));
        }
        for handle in &mut handles {
            // Nothing is written through this set, so a region's role only says in which order it is asked.
            if handle.role == Role::Async || region.is_some() {
                handle.role = Role::Sync;
            }
        }
        let only_archives = handles.iter().all(|handle| handle.role == Role::Archive);
        if let Some(first) = handles.first_mut().filter(|_| only_archives) {
            first.role = Role::Sync;
        }
        let options = RegionOptions { repository: Some(repository.id()), ..RegionOptions::default() };
        let set = RegionSet::with_options(handles, 1, options)?;
        Ok(ReadSide { repository: repository.clone(), order, set })
    }

    /// The keys for the log of `source`.
    pub fn stream_keys(&self, source: SourceUid) -> StreamKeys {
        StreamKeys::of(&self.repository, source)
    }
}

/// A way to a moment, proven to be there.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The snapshot that it begins with.
    pub snapshot: SnapshotSummary,
    /// Its manifest.
    pub manifest: Manifest,
    /// The log after it; none for copies that are consistent by themselves.
    pub log: Option<LogPlan>,
    /// Where replay stops.
    pub stop: RecoveryTarget,
    /// The moment on the source's clock that the restore will show, as far as it is known before.
    pub reaches: Option<Timestamp>,
}

/// Log that a plan needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Objects.
    pub pieces: u64,
    /// Bytes of log to replay.
    pub bytes: u64,
    /// Bytes of the objects.
    pub stored: u64,
}

impl RestorePlan {
    /// How much log is to be replayed.
    pub fn log_size(&self) -> LogSize {
        let mut size = LogSize::default();
        for extent in self.log.iter().flat_map(|log| &log.ranges).flat_map(|leg| &leg.extents) {
            size.pieces += 1;
            size.bytes += extent.end - extent.start;
            size.stored += extent.piece.size;
        }
        size
    }
}

/// Finds the way to `point` of `source`. `secrets` opens the index of the log, for transactions and names only.
pub async fn plan(
    side: &ReadSide,
    source: SourceUid,
    point: &Point,
    secrets: Option<&dyn SecretSource>,
) -> Result<RestorePlan, AgentError> {
    let candidates = candidates(side, source, point).await?;
    let keys = side.stream_keys(source);
    let mut view: Option<StreamView> = None;
    let mut first_failure = None;
    for snapshot in candidates {
        let (Some(start), Some(end)) = (snapshot.start, snapshot.end) else {
            return whole(side, source, snapshot, point).await;
        };
        let view = match &view {
            Some(view) => view,
            None => {
                let loaded = StreamView::load(&side.set, &keys).await;
                &*view.insert(loaded.map_err(AgentError::stream("reading which log is stored"))?)
            }
        };
        let base = PlanBase { start, end, consistent_at: snapshot.consistent_at };
        let target = target(point, &snapshot);
        let planning: BoxFuture<'_, Result<LogPlan, PlanError>> = Box::pin(view.plan(&base, &target, secrets));
        match planning.await {
            Ok(log) => {
                let (stop, reaches) = stop(point, &snapshot, &log);
                let manifest = manifest(side, source, &snapshot).await?;
                return Ok(RestorePlan { snapshot, manifest, log: Some(log), stop, reaches });
            }
            Err(error) if an_older_base_may_do(&error) => {
                tracing::debug!(snapshot.id = %snapshot.id, %error, "not from this snapshot");
                first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(first_failure.map_or_else(|| AgentError::NotFound("no snapshot fits".to_owned()), AgentError::from))
}

/// The snapshots that a way to `point` may begin with, best first.
async fn candidates(side: &ReadSide, source: SourceUid, point: &Point) -> Result<Vec<SnapshotSummary>, AgentError> {
    let listing = side.repository.snapshots(&side.order, Some(source)).await;
    let list = listing.map_err(AgentError::repository(format!("listing the snapshots of source {source}")))?;
    let doubts = || {
        let silent = list.silent.iter().map(|cause| format!("{}: {}", cause.region, cause.trouble));
        let damaged = list.damaged.iter().map(|(name, error)| format!("{name}: {}", breakwater_core::Chain(error)));
        let all: Vec<String> = silent.chain(damaged).collect();
        if all.is_empty() { String::new() } else { format!("; not everything could be read: {}", all.join(", ")) }
    };
    let mut found: Vec<SnapshotSummary> =
        list.snapshots.iter().filter(|one| one.status == SnapshotStatus::Committed).cloned().collect();
    found.sort_by_key(|one| std::cmp::Reverse((one.consistent_at, one.id)));
    if found.is_empty() {
        return Err(AgentError::NotFound(format!(
            "source {source} has no snapshot in this repository{} (hint: brctl snapshot list)",
            doubts()
        )));
    }
    match point {
        Point::Snapshot(prefix) => {
            let prefix = prefix.to_ascii_lowercase();
            found.retain(|one| one.id.to_string().starts_with(&prefix));
            match found.as_slice() {
                [_] => {}
                [] => {
                    return Err(AgentError::NotFound(format!(
                        "source {source} has no snapshot {prefix}{} (hint: brctl snapshot list)",
                        doubts()
                    )));
                }
                [one, other, ..] => {
                    return Err(AgentError::Invalid(format!(
                        "several snapshots begin with `{prefix}`, {} and {} among them (hint: give more digits)",
                        one.id, other.id
                    )));
                }
            }
        }
        Point::Time(moment) => {
            let oldest = found.last().map(|one| one.consistent_at).unwrap_or_default();
            found.retain(|one| one.consistent_at <= *moment);
            if found.is_empty() {
                return Err(AgentError::Refused(format!(
                    "no snapshot is as old as {moment}: the oldest shows {oldest}{} (hint: brctl recovery points)",
                    doubts()
                )));
            }
        }
        Point::Offset(offset) => {
            let needs = |one: &SnapshotSummary| one.end.map_or(0, |end| end.offset);
            let oldest = found.iter().map(needs).min().unwrap_or(0);
            found.retain(|one| needs(one) <= *offset);
            if found.is_empty() {
                return Err(AgentError::Refused(format!(
                    "no snapshot is consistent before {}: the oldest is at {}{} (hint: brctl recovery points)",
                    breakwater_core::Lsn(*offset),
                    breakwater_core::Lsn(oldest),
                    doubts()
                )));
            }
        }
        Point::Latest | Point::Transaction(_) | Point::Name(_) => {}
    }
    Ok(found)
}

/// A plan for a copy that is consistent by itself and has no log after it.
async fn whole(
    side: &ReadSide,
    source: SourceUid,
    snapshot: SnapshotSummary,
    point: &Point,
) -> Result<RestorePlan, AgentError> {
    match point {
        Point::Latest | Point::Snapshot(_) => {}
        _ => {
            return Err(AgentError::Refused(format!(
                "a {} source keeps no log, so only its snapshots can be restored; the newest that fits shows {} (hint: \
                 --snapshot {})",
                snapshot.source.engine, snapshot.consistent_at, snapshot.id
            )));
        }
    }
    let manifest = manifest(side, source, &snapshot).await?;
    let reaches = Some(snapshot.consistent_at);
    Ok(RestorePlan { snapshot, manifest, log: None, stop: RecoveryTarget::End, reaches })
}

async fn manifest(side: &ReadSide, source: SourceUid, snapshot: &SnapshotSummary) -> Result<Manifest, AgentError> {
    let reading = side.repository.manifest(&side.order, source, snapshot.id, snapshot.session);
    reading.await.map_err(AgentError::repository(format!("reading the manifest of snapshot {}", snapshot.id)))
}

fn target(point: &Point, snapshot: &SnapshotSummary) -> LogTarget {
    match point {
        Point::Latest => LogTarget::Latest,
        Point::Snapshot(_) => snapshot.end.map_or(LogTarget::Latest, LogTarget::End),
        Point::Time(moment) => LogTarget::Time(*moment),
        Point::Offset(offset) => LogTarget::Offset(*offset),
        Point::Transaction(xid) => LogTarget::Transaction(*xid),
        Point::Name(name) => LogTarget::Name(name.clone()),
    }
}

fn stop(point: &Point, snapshot: &SnapshotSummary, log: &LogPlan) -> (RecoveryTarget, Option<Timestamp>) {
    match (point, &log.stop) {
        // The plan ends where the snapshot is consistent. A server that is told to stop there looks for one more record.
        (Point::Snapshot(_), _) => (RecoveryTarget::End, Some(snapshot.consistent_at)),
        (_, Stop::AtTime(moment)) => (RecoveryTarget::Time(*moment), Some(*moment)),
        (_, Stop::AtTransaction(xid)) => (RecoveryTarget::Transaction(*xid), None),
        (_, Stop::AtName(name)) => (RecoveryTarget::Name(name.clone()), None),
        // Nothing was committed between the end of the log and the moment, so replaying everything shows it.
        (Point::Time(moment), Stop::AtEnd) => (RecoveryTarget::End, Some(*moment)),
        (Point::Latest, Stop::AtEnd) => (RecoveryTarget::End, log.recoverable),
        (_, Stop::AtEnd) => (RecoveryTarget::End, None),
    }
}

fn an_older_base_may_do(error: &PlanError) -> bool {
    matches!(
        error,
        PlanError::BeforeBase { .. }
            | PlanError::NotDescended { .. }
            | PlanError::UnknownTransaction(_)
            | PlanError::UnknownName(_)
    )
}
