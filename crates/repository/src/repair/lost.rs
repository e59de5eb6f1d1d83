//! Losses on record: marked by a repair, seen by the next backup, settled once what the source still has is stored anew.
//!
//! Invariant: a mark goes only when every chunk on it lies whole in another pack and a `moved` record that leads there is in
//! every region.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{SessionId, SourceUid};
use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::fetch::Names;
use crate::format::lost::{Losses, Lost, LostChunk};
use crate::format::moved::{Moved, MovedFrames};
use crate::format::pack::{KeyKind, PackId};
use crate::format::record::RecordKind;
use crate::format::{FormatError, ObjectName};
use crate::region::{READ_DEADLINE, within};
use crate::repository::Repository;

/// What became of the marks of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Chunks that were lost and lie in newer packs now.
    pub found: u64,
    /// Chunks that are still lost.
    pub open: u64,
}

impl Repository {
    /// Packs of `source` of which chunks are on record as lost. While there is any, a backup must compare with no base and
    /// adopt nothing, or the new snapshot would refer to what is not there.
    pub async fn lost_packs(&self, source: SourceUid) -> Result<BTreeSet<PackId>, RepositoryError> {
        let names = self.names(&self.read_order(), &ObjectName::meta_prefix(source, "lost")).await?;
        let pack = |key: &String| match ObjectName::parse(key) {
            Some(ObjectName::Lost { pack, .. }) => Some(pack),
            _ => None,
        };
        Ok(names.objects.keys().filter_map(pack).collect())
    }

    /// Looks for what was lost in the packs that were stored since, and records where it lies now, so that the snapshots
    /// that need it are whole again. Does nothing where nothing is on record.
    pub async fn settle_losses(&self, source: SourceUid) -> Result<Settled, RepositoryError> {
        let order = self.read_order();
        let names = self.names(&order, &ObjectName::meta_prefix(source, "lost")).await?;
        let mut marks: Vec<(ObjectName, Lost)> = Vec::new();
        for name in names.objects.keys().filter_map(|key| ObjectName::parse(key)) {
            let decode = |bytes: &[u8]| {
                let lost: Lost = self.open_record(source, RecordKind::Lost, &name, bytes)?;
                lost.check(&name)?;
                Ok(lost)
            };
            let (lost, _) = self.fetch(&order, &name, decode).await?;
            marks.push((name, lost));
        }
        let Some(oldest) = marks.iter().map(|(_, lost)| lost.run).min() else { return Ok(Settled::default()) };
        let wanted: BTreeSet<LostChunk> = marks.iter().flat_map(|(_, lost)| lost.chunks.iter().copied()).collect();
        let found = self.stored_since(source, oldest, &wanted).await?;
        let mut settled = Settled::default();
        let mut movers: BTreeSet<SessionId> = BTreeSet::new();
        let mut done = Vec::new();
        for (name, lost) in marks {
            let mut by_session: BTreeMap<SessionId, BTreeSet<PackId>> = BTreeMap::new();
            let mut open = 0;
            for chunk in &lost.chunks {
                match found.get(chunk).filter(|pack| pack.session > lost.run) {
                    Some(pack) => drop(by_session.entry(pack.session).or_default().insert(*pack)),
                    None => open += 1,
                }
            }
            settled.found += lost.chunks.len() as u64 - open;
            settled.open += open;
            for (mover, packs) in by_session {
                movers.insert(mover);
                let to = packs.into_iter().collect();
                let moved = Moved { pack: lost.pack, kind: KeyKind::Content, mover, to, at: self.now() };
                let at = ObjectName::Moved { source, kind: KeyKind::Content, pack: lost.pack, mover };
                self.put_everywhere(&at, self.seal_record(source, RecordKind::Moved, &at, &moved)?.into()).await?;
            }
            if open == 0 {
                done.push(name);
            }
        }
        // As a session looks for tombstones of what it names once its open record is durable: either the garbage collection
        // sees that these packs are leaned on, or the tombstone is seen here, and the mark stays.
        let tombstones = self.tombstones(&order, source).await?;
        if !tombstones.silent.is_empty() || movers.iter().any(|mover| tombstones.sessions.contains_key(mover)) {
            return Ok(settled);
        }
        for name in done {
            for region in self.regions() {
                let gone = async { within(READ_DEADLINE, region.ready().await?.delete(&name.to_string())).await };
                gone.await.map_err(|trouble| refused(&name, region.name(), &trouble))?;
            }
        }
        Ok(settled)
    }

    /// Whether something of `source` was put on record as lost since marks are made of that. Nothing is listed: only who has listed what is
    /// lost before, and found nothing, knows from no mark that there is still nothing.
    pub async fn has_losses(&self, source: SourceUid) -> Result<bool, RepositoryError> {
        self.shows(&self.read_order(), &ObjectName::Losses(source)).await
    }

    /// Puts `lost` on record in every region, as far as it is not there yet.
    pub(super) async fn mark_lost(
        &self,
        source: SourceUid,
        lost: BTreeMap<PackId, BTreeSet<LostChunk>>,
    ) -> Result<(), RepositoryError> {
        if lost.is_empty() {
            return Ok(());
        }
        let known = self.lost_packs(source).await?;
        let mark = ObjectName::Losses(source);
        let sealed = self.seal_record(source, RecordKind::Lost, &mark, &Losses { source })?;
        self.put_everywhere(&mark, sealed.into()).await?;
        let run = self.new_session();
        for (pack, chunks) in lost.into_iter().filter(|(pack, _)| !known.contains(pack)) {
            let name = ObjectName::Lost { source, pack, run };
            let record = Lost { pack, run, chunks: chunks.into_iter().collect(), at: self.now() };
            self.put_everywhere(&name, self.seal_record(source, RecordKind::Lost, &name, &record)?.into()).await?;
        }
        Ok(())
    }

    /// Of `wanted`, what packs of sessions after `since` hold, and which.
    async fn stored_since(
        &self,
        source: SourceUid,
        since: SessionId,
        wanted: &BTreeSet<LostChunk>,
    ) -> Result<BTreeMap<LostChunk, PackId>, RepositoryError> {
        let order = self.read_order();
        let Names { objects, .. } = self.names(&order, &ObjectName::data_prefix(source, "pack")).await?;
        let mut found = BTreeMap::new();
        let deleted = self.tombstones(&order, source).await?.sessions;
        for name in objects.keys().filter_map(|key| ObjectName::parse(key)) {
            // Sessions are in the order of time: what was stored before was lost with the rest, or is not the same chunk.
            let ObjectName::ContentPack(_, pack) = name else { continue };
            if pack.session <= since {
                continue;
            }
            let Ok((footer, _)) = self.fetch_footer(&order, &name).await else { continue };
            // Packs that a run of the garbage collection filled stay only for the places that their frames came from.
            let places = MovedFrames::of_footer(&footer.json, footer.frames.len());
            if deleted.contains_key(&pack.session) || places.map_or(true, |places| !places.from.is_empty()) {
                continue;
            }
            let chunks = footer.frames.iter().map(|frame| LostChunk { class: frame.class.byte(), id: frame.id });
            for chunk in chunks.filter(|chunk| wanted.contains(chunk)) {
                found.entry(chunk).or_insert(pack);
            }
        }
        Ok(found)
    }

    /// Creates a record in every region; one that is there already says the same.
    pub(crate) async fn put_everywhere(&self, name: &ObjectName, bytes: Bytes) -> Result<(), RepositoryError> {
        // Somebody may have written it before, sealed with another salt; equal names hold equal bytes.
        let order = self.read_order();
        let bytes = match self.fetch(&order, name, |bytes| Ok::<_, FormatError>(Bytes::copy_from_slice(bytes))).await {
            Ok((known, _)) => known,
            Err(error) if error.is_absent() => bytes,
            Err(error) => return Err(error),
        };
        for region in self.regions() {
            let put = async {
                let storage = region.ready().await?;
                within(READ_DEADLINE, storage.create(&name.to_string(), Payload::from(bytes.clone()))).await
            };
            match put.await {
                Ok(()) => {}
                Err(Trouble::Storage(error)) if error.kind() == StorageErrorKind::AlreadyExists => {}
                Err(trouble) => return Err(refused(name, region.name(), &trouble)),
            }
        }
        Ok(())
    }
}

fn refused(name: &ObjectName, region: &str, trouble: &Trouble) -> RepositoryError {
    let trouble = Trouble::Unusable(trouble.to_string());
    RepositoryError::Unreadable { name: name.to_string(), causes: vec![Cause { region: region.to_owned(), trouble }] }
}
