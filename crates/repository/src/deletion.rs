//! Deleting a snapshot: a tombstone beside the register of each of its sessions.
//!
//! Invariant: a snapshot with a tombstone in any region is not there any more. Its packs go with the next round of the
//! garbage collection ([`gc`](crate::gc)), once the tombstone is in every region.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{SessionId, SnapshotId, SourceUid};
use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::fetch::ReadOrder;
use crate::format::ObjectName;
use crate::format::record::RecordKey;
use crate::format::tombstone::{Tombstone, Was};
use crate::region::{READ_DEADLINE, Region, within};
use crate::repository::Repository;
use crate::snapshots::SnapshotStatus;

/// What a deletion did.
#[derive(Debug)]
pub struct Deletion {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The sessions that had committed it; each has a tombstone now.
    pub sessions: Vec<SessionId>,
    /// Regions that did not take the tombstones. They get them with the next round of the garbage collection, which
    /// deletes nothing before; until then, who reads from such a region alone still sees the snapshot.
    pub owed: Vec<Cause>,
}

/// The tombstones of a source, as far as some regions know.
#[derive(Debug, Default)]
pub struct Tombstones {
    /// The sessions, with their snapshots.
    pub sessions: BTreeMap<SessionId, SnapshotId>,
    /// Regions that did not answer.
    pub silent: Vec<Cause>,
}

impl Repository {
    /// Deletes `snapshot` of `source`: every session that committed it gets a tombstone in every region that answers, and
    /// at least one must. Deleting it again, or half of it after a crash, is the same as deleting it once.
    ///
    /// Errors: [`NotFound`](RepositoryError::NotFound) when no region knows such a snapshot, committed or deleted;
    /// [`Refused`](RepositoryError::Refused) when a region that answers says that it is held. Where only one that is away
    /// knows of a hold, its packs stay: the collection waits for all regions.
    pub async fn delete_snapshot(&self, source: SourceUid, snapshot: SnapshotId) -> Result<Deletion, RepositoryError> {
        self.check_deletable()?;
        let holds = self.holds(&self.read_order(), source).await?;
        if let Some(reason) = holds.reason(snapshot) {
            return Err(RepositoryError::Refused(format!(
                "snapshot {snapshot} is held and was not deleted: {reason}; hint: snapshot unhold lifts that"
            )));
        }
        let list = self.snapshots_with_deleted(&self.read_order(), Some(source)).await?;
        let mut sessions: BTreeSet<SessionId> = BTreeSet::new();
        sessions.extend(list.snapshots.iter().filter(|one| one.id == snapshot).map(|one| one.session));
        let known = self.tombstones(&self.read_order(), source).await?;
        let of = |(session, of): (&SessionId, &SnapshotId)| (*of == snapshot).then_some(*session);
        let buried: BTreeSet<SessionId> = known.sessions.iter().filter_map(of).collect();
        if sessions.is_empty() && buried.is_empty() {
            return Err(crate::snapshots::not_found(format!("snapshot {snapshot}"), &list));
        }
        let mut owed: BTreeMap<String, Cause> = BTreeMap::new();
        for session in &sessions {
            let tombstone = Tombstone { snapshot, session: *session, was: Was::Committed };
            let causes = self.bury(source, &tombstone).await?;
            owed.extend(causes.into_iter().map(|cause| (cause.region.clone(), cause)));
        }
        if owed.len() == self.regions().len() {
            let name = format!("the tombstone of snapshot {snapshot}");
            return Err(RepositoryError::Unreadable { name, causes: owed.into_values().collect() });
        }
        sessions.extend(buried);
        Ok(Deletion { snapshot, sessions: sessions.into_iter().collect(), owed: owed.into_values().collect() })
    }

    /// Writes `tombstone` into every region; answers those that did not take it.
    pub(crate) async fn bury(&self, source: SourceUid, tombstone: &Tombstone) -> Result<Vec<Cause>, RepositoryError> {
        let name = tombstone.name(source);
        let structure = self.structure_key(source);
        let bytes = tombstone
            .seal(self.suite(), self.id(), &structure, source)
            .map_err(|error| RepositoryError::format(&name, error))?;
        let bytes = Bytes::from(bytes);
        let puts = self.regions().iter().map(|region| async {
            let put = self.place_tombstone(region, &name, &bytes).await;
            put.err().map(|trouble| region.cause(trouble))
        });
        Ok(futures::future::join_all(puts).await.into_iter().flatten().collect())
    }

    async fn place_tombstone(&self, region: &Region, name: &ObjectName, bytes: &Bytes) -> Result<(), Trouble> {
        let key = name.to_string();
        // A tombstone in an empty mount would delete nothing.
        let storage = region.ask().await?;
        match within(READ_DEADLINE, storage.create(&key, Payload::from(bytes.clone()))).await {
            Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
                // Any that opens will do, if only another release had worded it in another way.
                let found = within(READ_DEADLINE, storage.get(&key)).await?;
                let source = name.source().ok_or(Trouble::Silent)?;
                let structure = self.structure_key(source);
                Tombstone::open(&RecordKey { repository: self.id(), structure: &structure }, name, &found)?;
                Ok(())
            }
            answer => answer,
        }
    }

    /// The tombstones of `source` that the regions in `order` show, by their names alone: the garbage collection opens them
    /// before it heeds them. An error only when no region answers.
    pub async fn tombstones(&self, order: &ReadOrder, source: SourceUid) -> Result<Tombstones, RepositoryError> {
        let names = self.names(order, &ObjectName::meta_prefix(source, "snap")).await?;
        let mut tombstones = Tombstones { sessions: BTreeMap::new(), silent: names.silent };
        for key in names.objects.keys() {
            if let Some(ObjectName::Tombstone(_, snapshot, session)) = ObjectName::parse(key) {
                tombstones.sessions.insert(session, snapshot);
            }
        }
        Ok(tombstones)
    }
}

/// Whether a snapshot of this status can be restored.
pub(crate) const fn is_there(status: SnapshotStatus) -> bool {
    !matches!(status, SnapshotStatus::Deleted)
}
