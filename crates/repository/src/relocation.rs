//! Where the frames of a pack lie that no region has whole any more: repacked, or made anew after a loss.
//!
//! Invariant: what is found here is a hint. Whoever reads it proves the chunk by its id, as everywhere; a record that leads
//! to nothing costs time and never gives wrong bytes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use breakwater_core::SourceUid;
use breakwater_crypto::ChunkId;

use crate::error::RepositoryError;
use crate::format::leaning::LeanedOn;
use crate::format::moved::Moved;
use crate::format::pack::{FrameLocation, KeyKind, Origin, PackId, PackKey};
use crate::format::record::RecordKind;
use crate::format::{Class, ObjectName};
use crate::frames::FrameReader;

/// Packs whose records are remembered.
const RECORDS_MAX: usize = 4096;
/// Frames of footers that are remembered: about 32 MiB.
const FRAMES_MAX: usize = 1 << 18;
/// Packs that one search looks at: repacking a repacked pack again and again makes a chain, damage could make a circle.
const PACKS_MAX: usize = 64;

/// A frame found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocated {
    /// Where it lies now.
    pub location: FrameLocation,
    /// The pack whose key opens it.
    pub origin: Origin,
}

/// What is remembered of packs that have moved. The lock is held while something is fetched, so that nothing is fetched
/// twice; reading a moved pack is rare enough.
#[derive(Debug, Default)]
pub(crate) struct Relocations {
    records: HashMap<(bool, PackId), Arc<[PackId]>>,
    tables: HashMap<(bool, PackId), Arc<Table>>,
    ages: VecDeque<((bool, PackId), usize)>,
    frames: usize,
}

#[derive(Debug, Default)]
struct Table {
    frames: HashMap<(u8, ChunkId), (FrameLocation, u32)>,
    origins: Vec<Origin>,
}

impl Relocations {
    fn remember(&mut self, slot: (bool, PackId), table: Arc<Table>) {
        let count = table.frames.len();
        while self.frames + count > FRAMES_MAX
            && let Some((oldest, frames)) = self.ages.pop_front()
        {
            self.tables.remove(&oldest);
            self.frames -= frames;
        }
        self.frames += count;
        self.ages.push_back((slot, count));
        self.tables.insert(slot, table);
    }
}

impl FrameReader {
    /// Where chunks of `pack` lie now, in the order of `wanted`; `None` where no record leads to one. An error only when
    /// records or footers that may say so cannot be read.
    pub async fn relocated(
        &self,
        kind: KeyKind,
        pack: PackId,
        wanted: &[(Class, ChunkId)],
    ) -> Result<Vec<Option<Relocated>>, RepositoryError> {
        let mut found: Vec<Option<Relocated>> = vec![None; wanted.len()];
        let (mut queue, mut seen) = (VecDeque::from([pack]), HashSet::from([pack]));
        let mut failure = None;
        let mut known = self.relocations().lock().await;
        while let Some(from) = queue.pop_front() {
            for next in self.moved_to(&mut known, kind, from).await?.iter().copied() {
                if seen.len() >= PACKS_MAX || !seen.insert(next) {
                    continue;
                }
                // A pack that is not whole either may have moved again; so may frames that are not in it.
                queue.push_back(next);
                match self.table(&mut known, kind, next).await {
                    Ok(table) => {
                        let missing = found.iter_mut().zip(wanted).filter(|(slot, _)| slot.is_none());
                        for (slot, (class, id)) in missing {
                            *slot = table.frames.get(&(class.byte(), *id)).and_then(|(location, origin)| {
                                let origin = *table.origins.get(*origin as usize)?;
                                Some(Relocated { location: *location, origin })
                            });
                        }
                    }
                    Err(error) => failure = Some(error),
                }
                if found.iter().all(Option::is_some) {
                    return Ok(found);
                }
            }
        }
        match failure {
            Some(error) if found.iter().all(Option::is_none) => Err(error),
            _ => Ok(found),
        }
    }

    /// The key that opens frames of `origin`, wherever they lie. For content it needs a recipient's key.
    pub async fn origin_key(&self, origin: &Origin) -> Result<Arc<PackKey>, RepositoryError> {
        let slot = (origin.key_kind == KeyKind::Content, origin.pack);
        if let Some(key) = self.known_key(slot).filter(|key| key.origin() == *origin) {
            return Ok(key);
        }
        let base = self.base_secret(origin.key_kind, origin.pack.session).await?;
        let opened = PackKey::open(origin.header(self.repository().id()), &base);
        let key = opened.map_err(|error| RepositoryError::format(format!("the origin {}", origin.pack), error))?;
        let key = Arc::new(key);
        self.remember_key(slot, &key);
        Ok(key)
    }

    /// The sources that may have a record of where `pack` went: the one that it belongs to, and the reader's own, where what
    /// was lost of another source's pack was stored anew.
    pub(crate) fn movers_of(&self, kind: KeyKind, pack: PackId) -> impl Iterator<Item = SourceUid> {
        let home = if kind == KeyKind::Content { self.home_of(pack.session) } else { self.source() };
        std::iter::once(home).chain((home != self.source()).then(|| self.source()))
    }

    /// Packs that frames of `source` have moved to lie with it.
    pub(crate) fn lean_on_movers(&self, source: SourceUid, to: &[PackId]) {
        if source != self.source() {
            let sessions = to.iter().map(|pack| pack.session).collect();
            self.lean_on(&[LeanedOn { source, sessions }]);
        }
    }

    async fn moved_to(
        &self,
        known: &mut Relocations,
        kind: KeyKind,
        pack: PackId,
    ) -> Result<Arc<[PackId]>, RepositoryError> {
        let slot = (kind == KeyKind::Content, pack);
        if let Some(packs) = known.records.get(&slot) {
            return Ok(Arc::clone(packs));
        }
        let repository = self.repository();
        let mut packs: Vec<PackId> = Vec::new();
        let (mut failure, mut silent) = (None, false);
        for source in self.movers_of(kind, pack) {
            let names = repository.names(self.order(), &ObjectName::moved_prefix(source, kind, pack)).await?;
            silent |= !names.silent.is_empty();
            for name in names.objects.keys().filter_map(|key| ObjectName::parse(key)) {
                let decode = |bytes: &[u8]| {
                    let record: Moved = repository.open_record(source, RecordKind::Moved, &name, bytes)?;
                    record.check(&name)?;
                    Ok(record)
                };
                match repository.fetch(self.order(), &name, decode).await {
                    Ok((record, _)) => {
                        self.lean_on_movers(source, &record.to);
                        packs.extend(record.to);
                    }
                    Err(error) => failure = Some(error),
                }
            }
        }
        if let Some(error) = failure.filter(|_| packs.is_empty()) {
            return Err(error);
        }
        if known.records.len() >= RECORDS_MAX {
            known.records.clear();
        }
        let packs: Arc<[PackId]> = packs.into();
        // What a silent region may know is asked again next time.
        if !silent {
            known.records.insert(slot, Arc::clone(&packs));
        }
        Ok(packs)
    }

    async fn table(&self, known: &mut Relocations, kind: KeyKind, pack: PackId) -> Result<Arc<Table>, RepositoryError> {
        let slot = (kind == KeyKind::Content, pack);
        if let Some(table) = known.tables.get(&slot) {
            return Ok(Arc::clone(table));
        }
        let name = self.pack_name(kind, pack);
        let (footer, _) = self.repository().fetch_footer(self.order(), &name).await?;
        let frames = footer.frames.iter();
        let frames = frames.map(|frame| ((frame.class.byte(), frame.id), (frame.location(pack), frame.origin)));
        let table = Arc::new(Table { frames: frames.collect(), origins: footer.origins });
        known.remember(slot, Arc::clone(&table));
        Ok(table)
    }
}
