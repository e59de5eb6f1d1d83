//! Reading frames: a few large reads instead of many small ones, every chunk proven by its id before anybody sees it.
//!
//! Invariant: bytes that are answered are the chunk that was asked for; what one region has damaged or lost is taken from
//! the next one, and what none has whole from where it has moved to.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::{SessionId, SourceUid};
use breakwater_crypto::Secret;
use bytes::Bytes;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::fetch::{ReadOrder, push_cause, unread};
use crate::format::leaning::LeanedOn;
use crate::format::pack::{FrameLocation, HEADER_LENGTH, KeyKind, Origin, PackHeader, PackId, PackKey};
use crate::format::{Class, FormatError, ObjectName};
use crate::region::Region;
use crate::relocation::Relocations;
use crate::repository::Repository;

/// Frames with at most this many bytes between them are read in one go.
const GAP: u64 = 128 << 10;
/// One read has at most this many bytes, a single larger frame excepted.
const READ_MAX: u64 = 8 << 20;
/// Less work than this is done where it stands; more goes to a thread for blocking work.
const INLINE_MAX: u64 = 64 << 10;
/// Keys of packs kept in memory.
const PACK_KEYS_MAX: usize = 4096;
/// How often the frames of one pack may have moved on before a reader gives up.
const HOPS_MAX: usize = 8;

/// Reads the frames of one source's packs. A clone shares the keys.
#[derive(Clone, Debug)]
pub struct FrameReader {
    repository: Repository,
    source: SourceUid,
    order: ReadOrder,
    structure: Secret,
    cache: Arc<Mutex<Cache>>,
    relocations: Arc<tokio::sync::Mutex<Relocations>>,
}

#[derive(Debug, Default)]
struct Cache {
    secrets: HashMap<SessionId, Secret>,
    /// The sources of sessions that belong to others than the reader's.
    homes: HashMap<SessionId, SourceUid>,
    packs: HashMap<(bool, PackId), Arc<PackKey>>,
}

impl FrameReader {
    /// A reader of the packs of `source`, from the regions in `order`.
    pub fn new(repository: &Repository, source: SourceUid, order: ReadOrder) -> Self {
        FrameReader {
            repository: repository.clone(),
            source,
            order,
            structure: repository.structure_key(source),
            cache: Arc::default(),
            relocations: Arc::default(),
        }
    }

    /// The repository.
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The source.
    pub const fn source(&self) -> SourceUid {
        self.source
    }

    /// The regions that are read from, best first.
    pub const fn order(&self) -> &ReadOrder {
        &self.order
    }

    pub(crate) const fn structure(&self) -> &Secret {
        &self.structure
    }

    pub(crate) fn relocations(&self) -> &tokio::sync::Mutex<Relocations> {
        &self.relocations
    }

    /// From now on content in packs of these sessions of other sources is found too.
    pub fn lean_on(&self, leans: &[LeanedOn]) {
        let mut cache = self.cache();
        for leaned_on in leans {
            for session in &leaned_on.sessions {
                cache.homes.entry(*session).or_insert(leaned_on.source);
            }
        }
    }

    /// The source whose packs of content `session` has written.
    pub fn home_of(&self, session: SessionId) -> SourceUid {
        self.cache().homes.get(&session).copied().unwrap_or(self.source)
    }

    /// Those of `sessions` that belong to other sources, by these.
    pub fn leaned_on<'a>(&self, sessions: impl IntoIterator<Item = &'a SessionId>) -> Vec<LeanedOn> {
        let mut leans: BTreeMap<SourceUid, Vec<SessionId>> = BTreeMap::new();
        for session in sessions {
            let home = self.home_of(*session);
            if home != self.source {
                leans.entry(home).or_default().push(*session);
            }
        }
        leans.into_iter().map(|(source, sessions)| LeanedOn { source, sessions }).collect()
    }

    /// The name of a pack that this source has or leans on.
    pub fn pack_name(&self, kind: KeyKind, pack: PackId) -> ObjectName {
        match kind {
            KeyKind::Content => ObjectName::ContentPack(self.home_of(pack.session), pack),
            KeyKind::Structure => ObjectName::StructurePack(self.source, pack),
        }
    }

    /// The secret that keys of packs of `session` come from.
    pub(crate) async fn base_secret(&self, kind: KeyKind, session: SessionId) -> Result<Secret, RepositoryError> {
        match kind {
            KeyKind::Structure => Ok(self.structure.clone()),
            KeyKind::Content => self.session_secret(session).await,
        }
    }

    /// The secret of `session`; needs a recipient's key.
    pub async fn session_secret(&self, session: SessionId) -> Result<Secret, RepositoryError> {
        if let Some(secret) = self.cache().secrets.get(&session) {
            return Ok(secret.clone());
        }
        let secret = self.repository.session_secret(&self.order, self.home_of(session), session).await?;
        self.cache().secrets.insert(session, secret.clone());
        Ok(secret)
    }

    /// Reads frames of the pack `pack`, which lies under `pack/`; the answers are in the order of `locations`.
    pub async fn read(
        &self,
        kind: KeyKind,
        class: Class,
        pack: PackId,
        locations: &[FrameLocation],
    ) -> Result<Vec<Bytes>, RepositoryError> {
        self.read_named(&self.pack_name(kind, pack), kind, class, pack, locations).await
    }

    /// Reads frames of the object `name`, which is a pack, a segment or a tail with the header of `pack`.
    pub async fn read_named(
        &self,
        name: &ObjectName,
        kind: KeyKind,
        class: Class,
        pack: PackId,
        locations: &[FrameLocation],
    ) -> Result<Vec<Bytes>, RepositoryError> {
        if locations.iter().any(|location| location.pack != pack) {
            return Err(RepositoryError::Invalid(format!("frames of several packs were asked of `{name}`")));
        }
        let base = self.base_secret(kind, pack.session).await?;
        let mut chunks: Vec<Option<Bytes>> = vec![None; locations.len()];
        let mut causes = Vec::new();
        for region in self.order.regions() {
            let key = match self.pack_key(region, name, kind, pack, &base).await {
                Ok(key) => key,
                Err(trouble) => {
                    push_cause(&mut causes, region, &name.to_string(), trouble);
                    continue;
                }
            };
            self.read_from(region, name, &key, class, locations, &mut chunks, &mut causes).await;
            if chunks.iter().all(Option::is_some) {
                break;
            }
        }
        if chunks.iter().any(Option::is_none) && *name == self.pack_name(kind, pack) {
            self.read_moved(kind, class, locations, &mut chunks, &mut causes).await;
        }
        let chunks: Option<Vec<Bytes>> = chunks.into_iter().collect();
        chunks.ok_or_else(|| unread(name.to_string(), causes))
    }

    /// Fills the chunks that are still missing from the packs that their frames have moved to.
    async fn read_moved(
        &self,
        kind: KeyKind,
        class: Class,
        locations: &[FrameLocation],
        chunks: &mut [Option<Bytes>],
        causes: &mut Vec<Cause>,
    ) {
        let mut places: Vec<PackId> = locations.iter().map(|location| location.pack).collect();
        for _ in 0..HOPS_MAX {
            let mut found: BTreeMap<(PackId, PackId), MovedRun> = BTreeMap::new();
            for (at, place) in places.iter_mut().enumerate() {
                let (Some(None), Some(location)) = (chunks.get(at), locations.get(at)) else { continue };
                let relocated = self.relocated(kind, *place, &[(class, location.id)]).await;
                let relocated = match relocated {
                    Ok(answers) => answers.into_iter().next().flatten(),
                    Err(error) => {
                        let trouble = Trouble::Unusable(format!("where it has moved to: {error}"));
                        causes.push(Cause { region: "every region".to_owned(), trouble });
                        None
                    }
                };
                let Some(relocated) = relocated else { continue };
                *place = relocated.location.pack;
                let group = found.entry((relocated.location.pack, relocated.origin.pack));
                let run = group.or_insert_with(|| MovedRun { from: relocated.origin, frames: Vec::new() });
                run.frames.push((at, relocated.location));
            }
            if found.is_empty() {
                return;
            }
            for ((pack, _), MovedRun { from, frames }) in found {
                let name = self.pack_name(kind, pack);
                let key = match self.origin_key(&from).await {
                    Ok(key) => key,
                    Err(error) => {
                        let trouble = Trouble::Unusable(format!("the key of `{name}`: {error}"));
                        causes.push(Cause { region: "every region".to_owned(), trouble });
                        continue;
                    }
                };
                let (slots, locations): (Vec<usize>, Vec<FrameLocation>) = frames.into_iter().unzip();
                let mut read = vec![None; locations.len()];
                for region in self.order.regions() {
                    self.read_from(region, &name, &key, class, &locations, &mut read, causes).await;
                    if read.iter().all(Option::is_some) {
                        break;
                    }
                }
                for (slot, chunk) in slots.into_iter().zip(read) {
                    if let (Some(slot), Some(chunk)) = (chunks.get_mut(slot), chunk) {
                        *slot = Some(chunk);
                    }
                }
            }
        }
    }

    /// Fills the chunks that are still missing with what `region` has.
    #[expect(clippy::too_many_arguments, reason = "one step of the loop above")]
    async fn read_from(
        &self,
        region: &Region,
        name: &ObjectName,
        key: &Arc<PackKey>,
        class: Class,
        locations: &[FrameLocation],
        chunks: &mut [Option<Bytes>],
        causes: &mut Vec<Cause>,
    ) {
        let object = name.to_string();
        let missing: Vec<(usize, FrameLocation)> = locations
            .iter()
            .copied()
            .enumerate()
            .filter(|(at, _)| chunks.get(*at).is_some_and(Option::is_none))
            .collect();
        for run in coalesce(missing) {
            let pieces = match self.repository.range_of(region, &object, run.range.clone()).await {
                Ok(bytes) => vec![(bytes, run)],
                // The object is cut off: what lies before the cut is still good.
                Err(trouble) if trouble.is_damage() && run.frames.len() > 1 => {
                    let mut pieces = Vec::new();
                    for (at, location) in run.frames {
                        let run = Run { range: location.range(), frames: vec![(at, location)] };
                        match self.repository.range_of(region, &object, run.range.clone()).await {
                            Ok(bytes) => pieces.push((bytes, run)),
                            Err(trouble) => push_cause(causes, region, &object, trouble),
                        }
                    }
                    pieces
                }
                Err(trouble) => {
                    push_cause(causes, region, &object, trouble);
                    continue;
                }
            };
            for (bytes, run) in pieces {
                for (at, opened) in self.open_run(key, class, bytes, run).await {
                    match (opened, chunks.get_mut(at)) {
                        (Ok(chunk), Some(slot)) => *slot = Some(chunk),
                        (Err(error), _) => push_cause(causes, region, &object, Trouble::Format(error)),
                        (Ok(_), None) => {}
                    }
                }
            }
        }
    }

    async fn open_run(
        &self,
        key: &Arc<PackKey>,
        class: Class,
        bytes: Bytes,
        run: Run,
    ) -> Vec<(usize, Result<Bytes, FormatError>)> {
        let (key, id_key, suite) =
            (Arc::clone(key), self.repository.id_key_of(self.source).clone(), self.repository.suite());
        // Who cannot name chunks relies on the seal, which binds the name.
        let named = self.repository.ring().names_chunks;
        let plain: u64 = run.frames.iter().map(|(_, location)| u64::from(location.plain)).sum();
        let open = move || {
            let one = |(at, location): (usize, FrameLocation)| {
                let start = usize::try_from(u64::from(location.offset) - run.range.start).unwrap_or(usize::MAX);
                let sealed = bytes.get(start..).unwrap_or_default();
                let opened = key.open_frame(class, &location, sealed).and_then(|chunk| {
                    if named && suite.chunk_id(&id_key, class.byte(), &chunk) != location.id {
                        return Err(FormatError::WrongContent { what: "chunk" });
                    }
                    Ok(Bytes::from(chunk))
                });
                (at, opened)
            };
            run.frames.into_iter().map(one).collect()
        };
        if plain <= INLINE_MAX {
            return open();
        }
        tokio::task::spawn_blocking(open).await.unwrap_or_default()
    }

    /// The key of a pack, from the pack's header in `region`.
    async fn pack_key(
        &self,
        region: &Region,
        name: &ObjectName,
        kind: KeyKind,
        pack: PackId,
        base: &Secret,
    ) -> Result<Arc<PackKey>, Trouble> {
        let slot = (kind == KeyKind::Content, pack);
        if let Some(key) = self.known_key(slot) {
            return Ok(key);
        }
        let bytes = self.repository.range_of(region, &name.to_string(), 0..HEADER_LENGTH as u64).await?;
        let key = Arc::new(open_header(&self.repository, kind, pack, base, &bytes)?);
        self.remember_key(slot, &key);
        Ok(key)
    }

    pub(crate) fn known_key(&self, slot: (bool, PackId)) -> Option<Arc<PackKey>> {
        self.cache().packs.get(&slot).cloned()
    }

    pub(crate) fn remember_key(&self, slot: (bool, PackId), key: &Arc<PackKey>) {
        let mut cache = self.cache();
        if cache.packs.len() >= PACK_KEYS_MAX {
            cache.packs.clear();
        }
        cache.packs.insert(slot, Arc::clone(key));
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of the pack that begins with `bytes`, which must be `pack`.
pub(crate) fn open_header(
    repository: &Repository,
    kind: KeyKind,
    pack: PackId,
    base: &Secret,
    bytes: &[u8],
) -> Result<PackKey, FormatError> {
    let header = PackHeader::decode(bytes)?;
    if (header.repository, header.pack, header.key_kind) != (repository.id(), pack, kind) {
        return Err(FormatError::damaged("pack header", "it is that of another pack"));
    }
    PackKey::open(header, base)
}

/// Frames that have moved into one pack from one origin, with their places in the caller's list.
struct MovedRun {
    from: Origin,
    frames: Vec<(usize, FrameLocation)>,
}

/// Frames that are read in one go, with their places in the caller's list.
struct Run {
    range: Range<u64>,
    frames: Vec<(usize, FrameLocation)>,
}

fn coalesce(mut frames: Vec<(usize, FrameLocation)>) -> Vec<Run> {
    frames.sort_by_key(|(_, location)| location.offset);
    let mut runs: Vec<Run> = Vec::new();
    for (at, location) in frames {
        let range = location.range();
        match runs.last_mut() {
            Some(run)
                if range.start <= run.range.end + GAP && range.end.max(run.range.end) - run.range.start <= READ_MAX =>
            {
                run.range.end = run.range.end.max(range.end);
                run.frames.push((at, location));
            }
            _ => runs.push(Run { range, frames: vec![(at, location)] }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use breakwater_crypto::ChunkId;

    use super::*;
    use crate::format::Codec;

    #[test]
    fn near_frames_are_read_together_and_far_ones_are_not() {
        let location = |offset: u32, stored: u32| {
            let pack = PackId { session: SessionId::from_bytes([1; 16]), number: 0 };
            FrameLocation { pack, offset, stored, plain: 1, codec: Codec::None, id: ChunkId([0; 32]) }
        };
        let frames = [location(9_000_000, 50), location(128, 100), location(272, 100), location(9_000_080, 60)];
        let runs = coalesce(frames.into_iter().enumerate().collect());
        let shape: Vec<_> = runs.iter().map(|run| (run.range.clone(), run.frames.len())).collect();
        assert_eq!(shape, [(128..396, 2), (9_000_000..9_000_164, 2)]);
        let places: Vec<usize> = runs.iter().flat_map(|run| &run.frames).map(|(at, _)| *at).collect();
        assert_eq!(places, [1, 2, 0, 3]);
        let many = (0..200).map(|at| location(128 + at * 131_072, 131_000)).enumerate().collect();
        assert!(coalesce(many).iter().all(|run| run.range.end - run.range.start <= READ_MAX));
    }
}
