//! Holding a snapshot: a record in every region, and where a place has holds, one on each object that the snapshot needs.
//!
//! Invariants: the record is durable in every region that answers before the first object is held; a hold is lifted from an
//! object only when no other held snapshot needs it, and from none while a region's records are not known. An object that
//! came into a region after its snapshot was held is kept by the record alone.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{LogPosition, SessionId, SnapshotId, SourceUid, Uid};
use breakwater_storage::Payload;
use bytes::Bytes;
use futures::StreamExt;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::fetch::ReadOrder;
use crate::format::hold::Hold;
use crate::format::manifest::Manifest;
use crate::format::record::RecordKind;
use crate::format::references::PackRanges;
use crate::format::{FormatError, ObjectName};
use crate::frames::FrameReader;
use crate::region::{CALL_DEADLINE, READ_DEADLINE, Region, within};
use crate::repository::Repository;
use crate::snapshots::ReferenceReader;

/// Calls on their way at once into one region.
const AT_ONCE: usize = 16;

/// Holds of a source.
#[derive(Debug, Default)]
pub struct Holds {
    /// The snapshots that are held, with the records that could be read; none may.
    pub snapshots: BTreeMap<SnapshotId, Vec<Hold>>,
    /// Regions that did not answer.
    pub silent: Vec<Cause>,
}

impl Holds {
    /// Why the snapshot is held; none when it is not.
    pub fn reason(&self, snapshot: SnapshotId) -> Option<String> {
        let holds = self.snapshots.get(&snapshot)?;
        let reasons: Vec<&str> = holds.iter().map(|hold| hold.reason.as_str()).collect();
        Some(if reasons.is_empty() { "a hold that cannot be read".to_owned() } else { reasons.join("; ") })
    }
}

/// What became of a hold.
#[derive(Debug, Default)]
pub struct Held {
    /// Objects that are held by their places now, or no more; by region.
    pub objects: BTreeMap<String, u64>,
    /// Regions whose place has no holds: there the record alone keeps the snapshot.
    pub records_only: Vec<String>,
    /// Regions where something is left to do; running it again does it.
    pub behind: Vec<Cause>,
}

impl Repository {
    /// The holds of `source` that the regions in `order` show.
    pub async fn holds(&self, order: &ReadOrder, source: SourceUid) -> Result<Holds, RepositoryError> {
        let names = self.names(order, &ObjectName::meta_prefix(source, "hold")).await?;
        let mut holds = Holds { silent: names.silent, ..Holds::default() };
        for key in names.objects.keys() {
            let Some(name @ ObjectName::Hold { snapshot, .. }) = ObjectName::parse(key) else { continue };
            let decode = |bytes: &[u8]| -> Result<Hold, FormatError> {
                let hold: Hold = self.open_record(source, RecordKind::Hold, &name, bytes)?;
                hold.check(&name)?;
                Ok(hold)
            };
            let found = holds.snapshots.entry(snapshot).or_default();
            match self.fetch(order, &name, decode).await {
                Ok((hold, _)) => found.push(hold),
                Err(error) => {
                    tracing::warn!(object = %name, error = %breakwater_core::Chain(&error), "a hold cannot be read; it holds all the same")
                }
            }
        }
        Ok(holds)
    }

    /// Holds `snapshot`, which `session` committed, for `reason`.
    ///
    /// Errors: [`NotFound`](RepositoryError::NotFound) when the snapshot is deleted.
    pub async fn hold_snapshot(
        &self,
        source: SourceUid,
        (snapshot, session): (SnapshotId, SessionId),
        reason: &str,
    ) -> Result<Held, RepositoryError> {
        self.check_writable()?;
        if reason.trim().is_empty() {
            return Err(RepositoryError::Invalid("a hold needs a reason".to_owned()));
        }
        self.refuse_buried(source, snapshot).await?;
        let hold = Uid::v7(self.now(), self.entropy().as_ref());
        let name = ObjectName::Hold { source, snapshot, hold };
        let record = Hold { snapshot, hold, reason: reason.to_owned(), at: self.now() };
        let bytes = Bytes::from(self.seal_record(source, RecordKind::Hold, &name, &record)?);
        let puts = self.regions().iter().map(|region| {
            let (key, payload) = (name.to_string(), Payload::from(bytes.clone()));
            async move {
                // A hold in an empty mount would hold nothing.
                let put = async { within(READ_DEADLINE, region.ask().await?.create(&key, payload)).await };
                put.await.err().map(|trouble| region.cause(trouble))
            }
        });
        let behind: Vec<Cause> = futures::future::join_all(puts).await.into_iter().flatten().collect();
        if behind.len() == self.regions().len() {
            return Err(RepositoryError::Unreadable {
                name: format!("the hold of snapshot {snapshot}"),
                causes: behind,
            });
        }
        // Whoever deletes looks for holds before: one of the two sees the other, or the collection keeps the packs.
        self.refuse_buried(source, snapshot).await?;
        let needed = self.needed_by(source, (snapshot, session)).await?;
        let mut held = Held { behind, ..Held::default() };
        self.mark_held(&needed, true, &mut held).await;
        Ok(held)
    }

    /// Lifts all holds of `snapshot`.
    ///
    /// Errors: [`NotFound`](RepositoryError::NotFound) when it is not held, and whatever keeps the holds of other snapshots from
    /// being known: then none is lifted.
    pub async fn unhold_snapshot(
        &self,
        source: SourceUid,
        (snapshot, session): (SnapshotId, SessionId),
    ) -> Result<Held, RepositoryError> {
        self.check_deletable()?;
        let order = self.read_order();
        let holds = self.holds(&order, source).await?;
        if let Some(cause) = holds.silent.into_iter().next() {
            let name = format!("the holds in region {}", cause.region);
            return Err(RepositoryError::Unreadable { name, causes: vec![cause] });
        }
        if !holds.snapshots.contains_key(&snapshot) {
            return Err(RepositoryError::NotFound { name: format!("a hold of snapshot {snapshot}") });
        }
        let list = self.snapshots_with_deleted(&order, Some(source)).await?;
        let mut needed = self.needed_by(source, (snapshot, session)).await?;
        for other in list.snapshots.iter().filter(|other| other.id != snapshot) {
            if holds.snapshots.contains_key(&other.id) {
                for name in self.needed_by(source, (other.id, other.session)).await? {
                    needed.remove(&name);
                }
            }
        }
        let mut held = Held::default();
        self.mark_held(&needed, false, &mut held).await;
        if held.behind.is_empty() {
            let names = self.names(&order, &format!("meta/{source}/hold/{snapshot}.")).await?;
            for region in self.regions() {
                for key in names.objects.keys() {
                    let lift = async { within(CALL_DEADLINE, region.ready().await?.delete(key)).await };
                    if let Err(trouble) = lift.await {
                        held.behind.push(region.cause(trouble));
                    }
                }
            }
        }
        Ok(held)
    }

    /// Refuses a snapshot with a tombstone.
    async fn refuse_buried(&self, source: SourceUid, snapshot: SnapshotId) -> Result<(), RepositoryError> {
        let tombstones = self.tombstones(&self.read_order(), source).await?;
        if tombstones.sessions.values().any(|buried| *buried == snapshot) {
            return Err(RepositoryError::NotFound { name: format!("snapshot {snapshot}, which is deleted") });
        }
        Ok(())
    }

    /// The objects that a restore of the snapshot needs below `meta/` and `data/`.
    pub(crate) async fn needed_by(
        &self,
        source: SourceUid,
        (snapshot, session): (SnapshotId, SessionId),
    ) -> Result<BTreeSet<ObjectName>, RepositoryError> {
        let order = self.read_order();
        let manifest = self.manifest(&order, source, snapshot, session).await?;
        let register = ObjectName::Register(source, snapshot, session);
        let mut needed = BTreeSet::from([ObjectName::Source(source), register]);
        // Only there where a region holds a fence.
        let second = ObjectName::Committed(source, snapshot, session);
        if self.shows(&order, &second).await? {
            needed.insert(second);
        }
        needed.extend(self.packs_of(&order, &manifest).await?);
        needed.extend(manifest.leans.iter().map(|leaned_on| ObjectName::Leaning(source, leaned_on.source)));
        for home in std::iter::once(source).chain(manifest.leans.iter().map(|leaned_on| leaned_on.source)) {
            let keys = self.names(&order, &ObjectName::meta_prefix(home, "keys")).await?;
            needed.extend(keys.objects.keys().filter_map(|key| match ObjectName::parse(key)? {
                name @ (ObjectName::SessionKeys(_, session) | ObjectName::ResealedKeys(_, session, _)) => {
                    manifest.sessions.contains(&session).then_some(name)
                }
                _ => None,
            }));
        }
        let log = self.names(&order, &ObjectName::data_prefix(source, "log")).await?;
        let segments = log.objects.keys().filter_map(|key| ObjectName::parse(key));
        needed.extend(segments.filter(|name| is_of_snapshot(name, &manifest)));
        Ok(needed)
    }

    /// The packs that the snapshot needs.
    pub async fn packs_of(
        &self,
        order: &ReadOrder,
        manifest: &Manifest,
    ) -> Result<BTreeSet<ObjectName>, RepositoryError> {
        let frames = FrameReader::new(self, manifest.source.uid, order.clone());
        let mut references = ReferenceReader::new(frames.clone(), manifest);
        let of_pack = |pack: &PackRanges| frames.pack_name(pack.kind, pack.pack);
        let mut needed: BTreeSet<ObjectName> = references.of_the_list().iter().map(of_pack).collect();
        while let Some(packs) = references.next().await? {
            needed.extend(packs.iter().map(of_pack));
        }
        Ok(needed)
    }

    /// Sets or lifts the hold of each of `names` in each region that has holds and the object.
    async fn mark_held(&self, names: &BTreeSet<ObjectName>, wanted: bool, held: &mut Held) {
        for region in self.regions() {
            match mark_in(region, names, wanted).await {
                Ok(Some(count)) => drop(held.objects.insert(region.name().to_owned(), count)),
                Ok(None) => held.records_only.push(region.name().to_owned()),
                Err(trouble) => held.behind.push(region.cause(trouble)),
            }
        }
    }
}

async fn mark_in(region: &Region, names: &BTreeSet<ObjectName>, wanted: bool) -> Result<Option<u64>, Trouble> {
    if !region.features().await?.holds {
        return Ok(None);
    }
    let storage = region.ready().await?;
    let marks = names.iter().map(|name| async move {
        match within(CALL_DEADLINE, storage.hold(&name.to_string(), wanted)).await {
            Ok(()) => Ok(1),
            Err(trouble) if trouble.is_not_found() => Ok(0),
            Err(trouble) => Err(trouble),
        }
    });
    // Collected: a stream over the closure would keep the compiler from seeing that callers can be spawned.
    let marks: Vec<_> = marks.collect();
    let marked: Vec<Result<u64, Trouble>> = futures::stream::iter(marks).buffer_unordered(AT_ONCE).collect().await;
    marked.into_iter().sum::<Result<u64, Trouble>>().map(Some)
}

/// Whether the segment holds log that makes the snapshot consistent.
fn is_of_snapshot(name: &ObjectName, manifest: &Manifest) -> bool {
    let (ObjectName::Segment(_, _, _, range), Some(start), Some(end)) = (name, manifest.start, manifest.end) else {
        return false;
    };
    let from = LogPosition::new(range.branch, range.start);
    let to = LogPosition::new(range.branch, range.end);
    from < end && start < to
}
