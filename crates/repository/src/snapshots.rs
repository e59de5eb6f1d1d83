//! Which snapshots there are, which of them count, and what is in them.
//!
//! Invariant: a manifest in any region counts, also against a fence in another one; a tombstone in any region counts
//! against a manifest in every region; of two sessions that committed the same snapshot the one with the lowest (attempt,
//! session) is the snapshot.

pub mod reference_reader;
pub mod tree_reader;

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{Attempt, LogPosition, SessionId, SnapshotId, SourceUid, Timestamp};

use crate::deletion::is_there;
use crate::error::{Cause, RepositoryError};
use crate::fetch::{Names, ReadOrder};
use crate::format::leaf::{self, Extent};
use crate::format::leaning::Lean;
use crate::format::manifest::{Manifest, ManifestSource, SnapshotSession, Totals};
use crate::format::pack::KeyKind;
use crate::format::record::RecordKind;
use crate::format::tombstone::{Tombstone, Was};
use crate::format::tree::LeafRef;
use crate::format::{Class, FormatError, FrameLocation, ObjectName};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::session::commit::{RegisterValue, read_register};

pub use reference_reader::ReferenceReader;
pub use tree_reader::TreeReader;

/// Whether a committed session is the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// It is.
    Committed,
    /// Another session of the same snapshot comes first. It stays readable.
    Superseded {
        /// That session.
        by: SessionId,
    },
    /// It has a tombstone; what it alone needs goes with the next round of the garbage collection.
    Deleted,
}

/// One committed session of one snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotSummary {
    /// The snapshot.
    pub id: SnapshotId,
    /// The session that committed it.
    pub session: SessionId,
    /// Which try at the job.
    pub attempt: Attempt,
    /// The source.
    pub source: ManifestSource,
    /// The moment on the source's clock that the copy shows.
    pub consistent_at: Timestamp,
    /// Replay begins here.
    pub start: Option<LogPosition>,
    /// The copy is consistent once replay has reached this.
    pub end: Option<LogPosition>,
    /// The time that it was scheduled for.
    pub scheduled: Option<Timestamp>,
    /// When the session began.
    pub started: Timestamp,
    /// When the read was over.
    pub finished: Timestamp,
    /// Figures.
    pub totals: Totals,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The names of the regions that show it, and so hold all of it.
    pub regions: Vec<String>,
    /// Whether it counts.
    pub status: SnapshotStatus,
}

/// What was found when looking for snapshots.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// The committed sessions, by source, then by the moment they show.
    pub snapshots: Vec<SnapshotSummary>,
    /// Registers that could not be read in some region, with the reason.
    pub damaged: Vec<(String, RepositoryError)>,
    /// Regions that did not answer: what only they hold is not known.
    pub silent: Vec<Cause>,
}

/// Which snapshot of a source is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The one whose id begins with these hex digits.
    Id(String),
    /// The one that shows the latest moment.
    Latest,
    /// The one that shows the latest moment not after this.
    AtOrBefore(Timestamp),
}

/// A manifest, and which regions show it.
#[derive(Clone, Debug)]
struct Found {
    manifest: Manifest,
    regions: Vec<String>,
}

impl Repository {
    /// The committed snapshots of `source`, or of all sources. An error only when no region answers; what is damaged or
    /// not known is said in the list.
    pub async fn snapshots(
        &self,
        order: &ReadOrder,
        source: Option<SourceUid>,
    ) -> Result<SnapshotList, RepositoryError> {
        let mut list = self.snapshots_with_deleted(order, source).await?;
        list.snapshots.retain(|one| is_there(one.status));
        Ok(list)
    }

    /// The same with those that were deleted and whose manifests are not gone yet.
    pub async fn snapshots_with_deleted(
        &self,
        order: &ReadOrder,
        source: Option<SourceUid>,
    ) -> Result<SnapshotList, RepositoryError> {
        let mut list = SnapshotList::default();
        let sources = match source {
            Some(source) => [source].into(),
            None => {
                let sources = self.sources(order).await?;
                list.silent = sources.silent;
                sources.uids
            }
        };
        for source in sources {
            let names = self.names(order, &ObjectName::meta_prefix(source, "snap")).await?;
            let deleted = tombstones_among(&names);
            let found = self.manifests(names, order, &mut list).await;
            list.snapshots.extend(summaries(found, &deleted));
        }
        Ok(list)
    }

    /// The manifest of the snapshot that `selector` means. Superseded sessions are found by their session's id only.
    pub async fn find_snapshot(
        &self,
        order: &ReadOrder,
        source: Option<SourceUid>,
        selector: &Selector,
    ) -> Result<SnapshotSummary, RepositoryError> {
        let list = self.snapshots(order, source).await?;
        let mut counting: Vec<&SnapshotSummary> =
            list.snapshots.iter().filter(|one| one.status == SnapshotStatus::Committed).collect();
        counting.sort_by_key(|one| (one.consistent_at, one.id));
        let (found, wanted) = match selector {
            Selector::Latest => (counting.last().copied(), "any snapshot".to_owned()),
            Selector::AtOrBefore(moment) => {
                let found = counting.iter().rev().find(|one| one.consistent_at <= *moment).copied();
                (found, format!("a snapshot at or before {moment}"))
            }
            Selector::Id(prefix) => {
                let prefix = prefix.to_ascii_lowercase();
                let mut matching = counting.iter().filter(|one| one.id.to_string().starts_with(&prefix));
                let (found, more) = (matching.next().copied(), matching.next());
                if let (Some(one), Some(other)) = (found, more) {
                    return Err(RepositoryError::Invalid(format!(
                        "several snapshots begin with `{prefix}`, {} and {} among them; hint: give more digits",
                        one.id, other.id
                    )));
                }
                (found, format!("snapshot {prefix}"))
            }
        };
        found.cloned().ok_or_else(|| not_found(wanted, &list))
    }

    /// The manifest of a committed session.
    pub async fn manifest(
        &self,
        order: &ReadOrder,
        source: SourceUid,
        snapshot: SnapshotId,
        session: SessionId,
    ) -> Result<Manifest, RepositoryError> {
        let mut fence = None;
        let register = ObjectName::Register(source, snapshot, session);
        let decode = |bytes: &[u8]| match read_register(self, &register, bytes)? {
            RegisterValue::Manifest(manifest) => Ok(*manifest),
            RegisterValue::Fence(fence) => {
                Err(FormatError::damaged("commit register", format!("the session was fenced: {}", fence.reason)))
            }
        };
        for name in [&register, &ObjectName::Committed(source, snapshot, session)] {
            let decode = |bytes: &[u8]| match name {
                ObjectName::Committed(..) => match read_register(self, name, bytes)? {
                    RegisterValue::Manifest(manifest) => Ok(*manifest),
                    RegisterValue::Fence(_) => Err(FormatError::damaged("commit register", "it holds a fence")),
                },
                _ => decode(bytes),
            };
            match self.fetch(order, name, decode).await {
                Ok((manifest, _)) => return Ok(manifest),
                Err(error) => fence = fence.or(Some(error)),
            }
        }
        Err(fence.unwrap_or(RepositoryError::NotFound { name: register.to_string() }))
    }

    /// The manifest of a session that is known to have committed; `None` where it was deleted since, as far as the regions that answer
    /// know. It is asked for by name, so nothing is listed.
    pub async fn remembered(
        &self,
        source: SourceUid,
        committed: SnapshotSession,
    ) -> Result<Option<Manifest>, RepositoryError> {
        let (order, SnapshotSession { snapshot, session }) = (self.read_order(), committed);
        if self.has_tombstone(&order, &Lean { source, snapshot, session }).await? {
            return Ok(None);
        }
        self.manifest(&order, source, snapshot, session).await.map(Some)
    }

    /// The session that has committed `snapshot`, as far as the regions that answer know, also where it was deleted since:
    /// a late attempt must not bring back what somebody deleted.
    pub(crate) async fn committed_session(
        &self,
        source: SourceUid,
        snapshot: SnapshotId,
    ) -> Result<Option<SessionId>, RepositoryError> {
        let order = self.read_order();
        let prefix = format!("{}{snapshot}.", ObjectName::meta_prefix(source, "snap"));
        let names = self.names(&order, &prefix).await?;
        let deleted = tombstones_among(&names);
        let mut list = SnapshotList::default();
        let found = self.manifests(names, &order, &mut list).await;
        let first = found.values().min_by_key(|found| (found.manifest.attempt, found.manifest.session));
        if let Some(first) = first {
            return Ok(Some(first.manifest.session));
        }
        for session in deleted {
            let name = ObjectName::Tombstone(source, snapshot, session);
            let decode = |bytes: &[u8]| self.open_record::<Tombstone>(source, RecordKind::Tombstone, &name, bytes);
            if self.fetch(&order, &name, decode).await?.0.was == Was::Committed {
                return Ok(Some(session));
            }
        }
        Ok(None)
    }

    /// The manifests among `names`; the damaged ones go into `list`.
    async fn manifests(
        &self,
        names: Names,
        order: &ReadOrder,
        list: &mut SnapshotList,
    ) -> BTreeMap<(SnapshotId, SessionId), Found> {
        for cause in names.silent {
            if !list.silent.iter().any(|known| known.region == cause.region) {
                list.silent.push(cause);
            }
        }
        let mut all: BTreeMap<(SnapshotId, SessionId), Found> = BTreeMap::new();
        for (key, holders) in names.objects {
            let Some(name) = ObjectName::parse(&key) else { continue };
            let (ObjectName::Register(_, snapshot, session) | ObjectName::Committed(_, snapshot, session)) = name
            else {
                continue;
            };
            // Regions may disagree about a register, so each one that holds the name is asked; equal sizes mean equal
            // objects, since a fence and a manifest of one session never have the same length.
            let mut by_size: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            for (region, size) in holders.regions {
                by_size.entry(size).or_default().push(region);
            }
            for regions in by_size.into_values() {
                let holding = |region: &str| regions.iter().any(|one| one == region);
                let narrowed = order.narrowed(holding);
                match self.fetch(&narrowed, &name, |bytes| read_register(self, &name, bytes)).await {
                    Ok((RegisterValue::Fence(_), _)) => {}
                    Ok((RegisterValue::Manifest(manifest), _)) => {
                        let found = all.entry((snapshot, session));
                        let found = found.or_insert_with(|| Found { manifest: *manifest, regions: Vec::new() });
                        for region in regions {
                            if !found.regions.contains(&region) {
                                found.regions.push(region);
                            }
                        }
                    }
                    Err(error) => list.damaged.push((key.clone(), error)),
                }
            }
        }
        all
    }
}

/// The sessions with a tombstone among `names`.
fn tombstones_among(names: &Names) -> BTreeSet<SessionId> {
    let tombstone = |key: &String| match ObjectName::parse(key) {
        Some(ObjectName::Tombstone(_, _, session)) => Some(session),
        _ => None,
    };
    names.objects.keys().filter_map(tombstone).collect()
}

pub(crate) fn not_found(wanted: String, list: &SnapshotList) -> RepositoryError {
    if let Some((_, error)) = list.damaged.first() {
        return RepositoryError::Refused(format!(
            "{wanted} was not found, but {} registers cannot be read (first: {})",
            list.damaged.len(),
            breakwater_core::Chain(error)
        ));
    }
    if let Some(silent) = list.silent.first() {
        return RepositoryError::Unreadable {
            name: wanted,
            causes: vec![Cause {
                region: silent.region.clone(),
                trouble: crate::error::Trouble::Unusable(format!("it may be there: {}", silent.trouble)),
            }],
        };
    }
    RepositoryError::NotFound { name: wanted }
}

fn summaries(found: BTreeMap<(SnapshotId, SessionId), Found>, deleted: &BTreeSet<SessionId>) -> Vec<SnapshotSummary> {
    let mut winners: BTreeMap<SnapshotId, (Attempt, SessionId)> = BTreeMap::new();
    for ((snapshot, session), found) in found.iter().filter(|((_, session), _)| !deleted.contains(session)) {
        let rank = (found.manifest.attempt, *session);
        winners.entry(*snapshot).and_modify(|best| *best = rank.min(*best)).or_insert(rank);
    }
    let mut summaries: Vec<SnapshotSummary> = found
        .into_values()
        .map(|Found { manifest, regions }| {
            let by = winners.get(&manifest.snapshot).map_or(manifest.session, |(_, session)| *session);
            let status = match by == manifest.session {
                _ if deleted.contains(&manifest.session) => SnapshotStatus::Deleted,
                true => SnapshotStatus::Committed,
                false => SnapshotStatus::Superseded { by },
            };
            SnapshotSummary {
                id: manifest.snapshot,
                session: manifest.session,
                attempt: manifest.attempt,
                source: manifest.source,
                consistent_at: manifest.consistent_at,
                start: manifest.start,
                end: manifest.end,
                scheduled: manifest.scheduled,
                started: manifest.started,
                finished: manifest.finished,
                totals: manifest.totals,
                warnings: manifest.warnings,
                regions,
                status,
            }
        })
        .collect();
    summaries.sort_by_key(|one| (one.consistent_at, one.id, one.session));
    summaries
}

/// The extents of a file that one leaf lists.
pub async fn leaf_extents(frames: &FrameReader, reference: &LeafRef) -> Result<Vec<Extent>, RepositoryError> {
    Leaves::default().extents(frames, reference).await
}

/// Leaves read one after the other; neighbouring files often share one, which is read once.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    recent: Option<(FrameLocation, Vec<Extent>)>,
}

impl Leaves {
    /// The extents of a file that one leaf lists.
    pub(crate) async fn extents(
        &mut self,
        frames: &FrameReader,
        reference: &LeafRef,
    ) -> Result<Vec<Extent>, RepositoryError> {
        let location = reference.leaf;
        let damaged = |source| RepositoryError::format(format!("leaf {}", location.id), source);
        let recent = match self.recent.take().filter(|(known, _)| *known == location) {
            Some(recent) => recent,
            None => {
                let content = frames.read(KeyKind::Structure, Class::Leaf, location.pack, &[location]).await?;
                let content = content.into_iter().next().unwrap_or_default();
                (location, leaf::decode(&content).map_err(damaged)?)
            }
        };
        let (_, extents) = self.recent.insert(recent);
        let start = reference.first as usize;
        let end = start.saturating_add(reference.count as usize);
        let part = extents.get(start..end);
        part.map(<[Extent]>::to_vec)
            .ok_or_else(|| damaged(FormatError::damaged("leaf", "it does not have the extents that the tree names")))
    }
}
