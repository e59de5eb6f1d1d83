//! Where a restore gets the bytes of chunks from: ranges of packs, damage mended by another region, packs that no region has
//! whole found where their frames have moved to.
//!
//! Invariant: what [`Content::open`] and [`Content::rescue`] answer is the chunk that was named, proven by its seal and by
//! its id.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use breakwater_crypto::ChunkId;
use breakwater_repository::format::codec::Decoder;
use breakwater_repository::format::pack::{HEADER_LENGTH, KeyKind, Origin, PackHeader, PackKey};
use breakwater_repository::{
    Cause, Class, FormatError, FrameLocation, FrameReader, ObjectName, PackId, Relocated, RepositoryError, Trouble,
};
use bytes::{Bytes, BytesMut};

use super::supply::{Delivered, Supply};
use crate::PipelineError;

/// Keys of packs kept in memory.
const KEYS_MAX: usize = 4096;
/// How often the frames of one pack may have moved on before a reader gives up.
const HOPS_MAX: usize = 8;

/// A range of a pack as a region delivered it.
#[derive(Debug)]
pub(crate) struct Fetched {
    start: u64,
    bytes: BytesMut,
    /// Index of the region.
    pub(crate) region: usize,
}

impl Fetched {
    fn new(start: u64, bytes: Bytes, region: usize) -> Fetched {
        // Shared only where the region is in memory.
        let bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        Fetched { start, bytes, region }
    }

    /// The bytes of the frame at `location`, header included.
    fn frame(&mut self, location: &FrameLocation) -> Option<&mut [u8]> {
        let Range { start, end } = location.range();
        let from = usize::try_from(start.checked_sub(self.start)?).ok()?;
        let to = usize::try_from(end.checked_sub(self.start)?).ok()?;
        self.bytes.get_mut(from..to)
    }
}

/// What a thread needs to open frames: a decompressor, with room for one chunk.
#[derive(Default)]
pub(crate) struct Opener {
    decoder: Decoder,
}

/// Where a pack is read.
pub(crate) enum Place {
    /// Where its name says; the key opens it.
    Here(Arc<PackKey>),
    /// In no region that answers; what each of them said.
    Nowhere(Vec<Cause>),
}

/// Delivers ranges of content packs and opens their frames.
pub(crate) struct Content {
    frames: FrameReader,
    pub(crate) supply: Supply,
    keys: Mutex<HashMap<PackId, Arc<PackKey>>>,
}

impl Content {
    /// Reads through `frames`, whose key must open content.
    pub(crate) fn new(frames: FrameReader, supply: Supply) -> Content {
        Content { frames, supply, keys: Mutex::default() }
    }

    /// The bytes of `range` of `pack`, from the region that suits best.
    pub(crate) async fn fetch(&self, pack: PackId, range: Range<u64>) -> Result<Fetched, Vec<Cause>> {
        let start = range.start;
        let Delivered { value, region } = self.supply.read(pack, &self.name(pack), range, Ok).await?;
        Ok(Fetched::new(start, value, region))
    }

    /// The error of a pack that could not be read.
    pub(crate) fn unreadable(&self, pack: PackId, causes: Vec<Cause>) -> PipelineError {
        let name = self.name(pack).to_string();
        PipelineError::repository("reading content", RepositoryError::Unreadable { name, causes })
    }

    /// The id of a chunk with this content.
    pub(crate) fn id(&self, class: Class, plain: &[u8]) -> ChunkId {
        let repository = self.frames.repository();
        repository.suite().chunk_id(repository.id_key_of(self.frames.source()), class.byte(), plain)
    }

    /// Opens one frame of a fetched range, once: it is decrypted where it lies. Works on the caller's thread.
    pub(crate) fn open<'a>(
        &self,
        fetched: &'a mut Fetched,
        key: &PackKey,
        class: Class,
        location: &FrameLocation,
        opener: &'a mut Opener,
    ) -> Result<&'a [u8], FormatError> {
        let frame = fetched.frame(location).unwrap_or_default();
        let payload = key.open_frame_in_place(class, location, frame)?;
        let plain = opener.decoder.decode(location.codec, payload, location.plain)?;
        if self.id(class, plain) != location.id {
            return Err(FormatError::WrongContent { what: "chunk" });
        }
        Ok(plain)
    }

    /// Where the pack is read: its key comes from its header, or from its footer when no region has the header whole.
    pub(crate) async fn locate(&self, pack: PackId) -> Result<Place, PipelineError> {
        if let Some(key) = self.keys().get(&pack) {
            return Ok(Place::Here(Arc::clone(key)));
        }
        let secret = self.frames.session_secret(pack.session).await;
        let doing = || format!("opening the keys of session {}", pack.session);
        let secret = secret.map_err(|error| PipelineError::repository(doing(), error))?;
        let repository = self.frames.repository();
        let decode = |bytes: Bytes| {
            let header = PackHeader::decode(&bytes)?;
            if (header.repository, header.pack, header.key_kind) != (repository.id(), pack, KeyKind::Content) {
                let detail = "it is that of another pack".to_owned();
                return Err(FormatError::Damaged { what: "pack header", detail });
            }
            PackKey::open(header, &secret)
        };
        let name = self.name(pack);
        let key = match self.supply.read(pack, &name, 0..HEADER_LENGTH as u64, decode).await {
            Ok(Delivered { value, .. }) => Arc::new(value),
            Err(causes) => {
                let footer = repository.fetch_footer(self.frames.order(), &name).await.ok();
                let own = footer.and_then(|(footer, _)| footer.origins.into_iter().find(|origin| origin.pack == pack));
                let Some(own) = own else { return Ok(Place::Nowhere(causes)) };
                match self.frames.origin_key(&own).await {
                    Ok(key) => key,
                    Err(_) => return Ok(Place::Nowhere(causes)),
                }
            }
        };
        let mut keys = self.keys();
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        keys.insert(pack, Arc::clone(&key));
        Ok(Place::Here(key))
    }

    /// Where chunks of a pack lie now that no region has whole.
    pub(crate) async fn relocated(
        &self,
        pack: PackId,
        wanted: &[(Class, ChunkId)],
    ) -> Result<Vec<Option<Relocated>>, PipelineError> {
        let found = self.frames.relocated(KeyKind::Content, pack, wanted).await;
        found.map_err(|error| PipelineError::repository(format!("looking where the pack {pack} has moved to"), error))
    }

    /// The key of frames that have moved.
    pub(crate) async fn origin_key(&self, origin: &Origin) -> Result<Arc<PackKey>, PipelineError> {
        let key = self.frames.origin_key(origin).await;
        key.map_err(|error| {
            PipelineError::repository(format!("opening the keys of session {}", origin.pack.session), error)
        })
    }

    /// The chunk from any region that has it whole, `damaged` not asked again, or from where it has moved to; and which
    /// region that was.
    pub(crate) async fn rescue(
        &self,
        location: &FrameLocation,
        class: Class,
        key: Arc<PackKey>,
        damaged: Option<usize>,
    ) -> Result<(Vec<u8>, usize), PipelineError> {
        let (mut causes, mut opener) = (Vec::new(), Opener::default());
        let (mut location, mut key, mut damaged) = (*location, key, damaged);
        let name = format!("{} (chunk {})", self.name(location.pack), location.id);
        for _ in 0..HOPS_MAX {
            for region in 0..self.supply.count() {
                let region_name = self.supply.region(region).map_or("", |region| region.name()).to_owned();
                if Some(region) == damaged {
                    let trouble = Trouble::Unusable("what it delivered is damaged".to_owned());
                    causes.push(Cause { region: region_name, trouble });
                    continue;
                }
                let read = self.supply.read_from(region, &self.name(location.pack), location.range()).await;
                let opened = read.and_then(|bytes| {
                    let mut fetched = Fetched::new(location.range().start, bytes, region);
                    let plain = self.open(&mut fetched, &key, class, &location, &mut opener);
                    plain.map(<[u8]>::to_vec).map_err(Trouble::Format)
                });
                match opened {
                    Ok(plain) => return Ok((plain, region)),
                    Err(trouble) => causes.push(Cause { region: region_name, trouble }),
                }
            }
            let moved = self.relocated(location.pack, &[(class, location.id)]).await?;
            let Some(moved) = moved.into_iter().next().flatten() else { break };
            key = self.origin_key(&moved.origin).await?;
            (location, damaged) = (moved.location, None);
        }
        Err(PipelineError::Lost { name, causes: listed(&causes) })
    }

    /// The object that the pack is.
    pub(crate) fn name(&self, pack: PackId) -> ObjectName {
        self.frames.pack_name(KeyKind::Content, pack)
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<PackId, Arc<PackKey>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listed(causes: &[Cause]) -> String {
    causes.iter().map(|cause| format!("{}: {}", cause.region, cause.trouble)).collect::<Vec<_>>().join("; ")
}
