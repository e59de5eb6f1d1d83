//! Where a restore gets bytes of packs from: ranges from the region that is asked first, damage mended by the next one.
//!
//! Invariant: what [`Content::open`] and [`Content::rescue`] answer is the chunk that was named, proven by its seal and by
//! its id.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_repository::format::codec::Decoder;
use breakwater_repository::format::pack::{HEADER_LENGTH, KeyKind, PackHeader, PackKey};
use breakwater_repository::{
    Cause, Class, FormatError, FrameLocation, FrameReader, ObjectName, PackId, Region, RepositoryError, Trouble,
};
use bytes::{Bytes, BytesMut};

use crate::PipelineError;

/// How long one read of a range may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Keys of packs kept in memory.
const KEYS_MAX: usize = 4096;

/// A range of a pack as a region delivered it.
#[derive(Debug)]
pub(crate) struct Fetched {
    start: u64,
    bytes: BytesMut,
    key: Arc<PackKey>,
    /// The region's name.
    pub(crate) region: String,
}

impl Fetched {
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

impl Opener {
    pub(crate) fn new() -> Opener {
        Opener::default()
    }
}

/// Delivers ranges of content packs and opens their frames.
pub(crate) struct Content {
    frames: FrameReader,
    keys: Mutex<HashMap<PackId, Arc<PackKey>>>,
}

impl Content {
    /// Reads through `frames`, whose key must open content.
    pub(crate) fn new(frames: FrameReader) -> Content {
        Content { frames, keys: Mutex::default() }
    }

    /// The bytes of `range` of `pack`, from the first region that delivers them.
    pub(crate) async fn fetch(&self, pack: PackId, range: Range<u64>) -> Result<Fetched, PipelineError> {
        let mut causes = Vec::new();
        for region in self.frames.order().regions() {
            match self.fetch_from(region, pack, range.clone()).await {
                Ok(fetched) => return Ok(fetched),
                Err(Failure::Here(trouble)) => causes.push(self.cause(region, pack, trouble)),
                Err(Failure::Everywhere(error)) => return Err(error),
            }
        }
        let name = self.name(pack).to_string();
        Err(PipelineError::repository("reading content", RepositoryError::Unreadable { name, causes }))
    }

    /// Opens one frame of a fetched range, once: it is decrypted where it lies. Works on the caller's thread.
    pub(crate) fn open<'a>(
        &self,
        fetched: &'a mut Fetched,
        location: &FrameLocation,
        opener: &'a mut Opener,
    ) -> Result<&'a [u8], FormatError> {
        let key = Arc::clone(&fetched.key);
        let frame = fetched.frame(location).unwrap_or_default();
        let payload = key.open_frame_in_place(Class::Extent, location, frame)?;
        let plain = opener.decoder.decode(location.codec, payload, location.plain)?;
        let repository = self.frames.repository();
        let id = repository.suite().chunk_id(repository.id_key_of(self.frames.source()), Class::Extent.byte(), plain);
        if id != location.id {
            return Err(FormatError::WrongContent { what: "chunk" });
        }
        Ok(plain)
    }

    /// The chunk from any region that has it whole, `damaged` not asked again; and which region that was.
    pub(crate) async fn rescue(
        &self,
        location: &FrameLocation,
        damaged: &str,
    ) -> Result<(Vec<u8>, String), PipelineError> {
        let mut causes = Vec::new();
        for region in self.frames.order().regions() {
            if region.name() == damaged {
                let trouble = Trouble::Unusable("what it delivered is damaged".to_owned());
                causes.push(Cause { region: damaged.to_owned(), trouble });
                continue;
            }
            let opened = match self.fetch_from(region, location.pack, location.range()).await {
                Ok(mut fetched) => {
                    let mut opener = Opener::new();
                    self.open(&mut fetched, location, &mut opener).map(<[u8]>::to_vec).map_err(Trouble::Format)
                }
                Err(Failure::Here(trouble)) => Err(trouble),
                Err(Failure::Everywhere(error)) => return Err(error),
            };
            match opened {
                Ok(plain) => return Ok((plain, region.name().to_owned())),
                Err(trouble) => causes.push(self.cause(region, location.pack, trouble)),
            }
        }
        let name = format!("{} (chunk {})", self.name(location.pack), location.id);
        Err(PipelineError::Lost { name, causes: listed(&causes) })
    }

    async fn fetch_from(&self, region: &Region, pack: PackId, range: Range<u64>) -> Result<Fetched, Failure> {
        let key = self.key(region, pack).await?;
        let bytes = self.range(region, pack, range.clone()).await?;
        // Shared only where the region is in memory.
        let bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        Ok(Fetched { start: range.start, bytes, key, region: region.name().to_owned() })
    }

    async fn range(&self, region: &Region, pack: PackId, range: Range<u64>) -> Result<Bytes, Failure> {
        let storage = region.ready().await.map_err(Failure::Here)?;
        let name = self.name(pack).to_string();
        match tokio::time::timeout(PATIENCE, storage.get_range(&name, range)).await {
            Ok(answer) => answer.map_err(|error| Failure::Here(Trouble::Storage(error))),
            Err(_) => Err(Failure::Here(Trouble::Silent)),
        }
    }

    /// The pack's key, from its header in `region`.
    async fn key(&self, region: &Region, pack: PackId) -> Result<Arc<PackKey>, Failure> {
        if let Some(key) = self.keys().get(&pack) {
            return Ok(Arc::clone(key));
        }
        let secret = self.frames.session_secret(pack.session).await;
        let doing = || format!("opening the keys of session {}", pack.session);
        let secret = secret.map_err(|error| Failure::Everywhere(PipelineError::repository(doing(), error)))?;
        let bytes = self.range(region, pack, 0..HEADER_LENGTH as u64).await?;
        let damaged = |error| Failure::Here(Trouble::Format(error));
        let header = PackHeader::decode(&bytes).map_err(damaged)?;
        let repository = self.frames.repository().id();
        if (header.repository, header.pack, header.key_kind) != (repository, pack, KeyKind::Content) {
            let detail = "it is that of another pack".to_owned();
            return Err(damaged(FormatError::Damaged { what: "pack header", detail }));
        }
        let key = Arc::new(PackKey::open(header, &secret).map_err(damaged)?);
        let mut keys = self.keys();
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        keys.insert(pack, Arc::clone(&key));
        Ok(key)
    }

    fn name(&self, pack: PackId) -> ObjectName {
        ObjectName::ContentPack(self.frames.source(), pack)
    }

    fn cause(&self, region: &Region, pack: PackId, trouble: Trouble) -> Cause {
        tracing::warn!(region = region.name(), object = %self.name(pack), error = %trouble, "a region does not deliver");
        Cause { region: region.name().to_owned(), trouble }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<PackId, Arc<PackKey>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a region did not deliver.
enum Failure {
    /// Another region may.
    Here(Trouble),
    /// No region can.
    Everywhere(PipelineError),
}

fn listed(causes: &[Cause]) -> String {
    causes.iter().map(|cause| format!("{}: {}", cause.region, cause.trouble)).collect::<Vec<_>>().join("; ")
}
