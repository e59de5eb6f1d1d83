//! Structure packs: leaves, trees and references, written by one thread at a time.
//!
//! Invariant: every frame that goes into a leaf or a tree, and every leaf and frame of the tree, is in the references.

use std::borrow::Cow;
use std::sync::Arc;

use breakwater_crypto::{ChunkId, Secret, Suite};
use breakwater_repository::format::codec::Compression;
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::format::references::ReferenceEncoder;
use breakwater_repository::format::{Class, Codec, FrameLocation};
use breakwater_repository::session::{PackWriter, SealedPack};
use tokio::sync::mpsc;

use super::assemble::LeafStore;
use super::compress::Encoder;
use super::references::References;
use super::worker::Stop;
use crate::PipelineError;
use crate::room::{Lease, Room};

/// A structure pack leaves when it has this many bytes: it fills slowly, and its room is held meanwhile.
pub(crate) const STRUCTURE_PACK: u64 = 3 << 20;

/// Room for one structure pack: it is cut after the frame that makes it too large.
pub(crate) const STRUCTURE_ROOM: u64 = STRUCTURE_PACK + (2 << 20);

/// The structure packs of one session.
pub(crate) struct StructurePacks {
    naming: Naming,
    encoder: Encoder,
    packs: Packs,
    references: References,
}

/// How frames of structure get their ids.
#[derive(Clone)]
pub(crate) struct Naming {
    suite: Suite,
    id_key: Secret,
}

/// A frame of structure, named and compressed: everything but its place.
pub(crate) enum Prepared<'a> {
    /// There is one like it.
    Known(FrameLocation),
    New {
        id: ChunkId,
        class: Class,
        plain: u32,
        codec: Codec,
        payload: Cow<'a, [u8]>,
    },
}

/// Packs being filled, and on their way.
struct Packs {
    writer: PackWriter,
    room: Arc<Room>,
    lease: Option<Lease>,
    uploads: mpsc::Sender<SealedPack>,
    stop: Stop,
    stored: u64,
}

impl StructurePacks {
    pub(crate) fn new(
        writer: PackWriter,
        references: References,
        (suite, id_key): (Suite, Secret),
        room: Arc<Room>,
        uploads: mpsc::Sender<SealedPack>,
        stop: Stop,
    ) -> Result<StructurePacks, PipelineError> {
        let packs = Packs { writer, room, lease: None, uploads, stop, stored: 0 };
        let (naming, encoder) = (Naming { suite, id_key }, structure_encoder()?);
        Ok(StructurePacks { naming, encoder, packs, references })
    }

    /// For threads that prepare frames.
    pub(crate) fn naming(&self) -> Naming {
        self.naming.clone()
    }

    /// Stores a leaf or a part of the tree, unless one of `known` is the same. Blocks the thread while there is no room.
    pub(crate) fn put(
        &mut self,
        class: Class,
        plain: &[u8],
        known: &[FrameLocation],
    ) -> Result<FrameLocation, PipelineError> {
        let location = self.packs.place(self.naming.prepare(class, plain, known, &mut self.encoder)?)?;
        self.references.add(KeyKind::Structure, &location)?;
        Ok(location)
    }

    /// The same with a frame that was prepared.
    pub(crate) fn put_prepared(&mut self, prepared: Prepared<'_>) -> Result<FrameLocation, PipelineError> {
        let location = self.packs.place(prepared)?;
        self.references.add(KeyKind::Structure, &location)?;
        Ok(location)
    }

    /// Writes the references, after everything else, and lets the last pack leave.
    pub(crate) fn finish(self) -> Result<(Vec<FrameLocation>, u64), PipelineError> {
        let StructurePacks { naming, mut encoder, mut packs, references } = self;
        let mut place = |frame: &[u8]| packs.place(naming.prepare(Class::References, frame, &[], &mut encoder)?);
        let (mut frames, mut list) = (ReferenceEncoder::default(), Vec::new());
        for pack in references.finish()? {
            if let Some(frame) = frames.push(&pack?).map_err(defect)? {
                list.push(place(&frame)?);
            }
        }
        if let Some(frame) = frames.finish() {
            list.push(place(&frame)?);
        }
        packs.flush()?;
        Ok((list, packs.stored))
    }
}

impl Naming {
    /// Names and compresses a frame, unless one of `known` is the same.
    pub(crate) fn prepare<'a>(
        &self,
        class: Class,
        plain: &'a [u8],
        known: &[FrameLocation],
        encoder: &'a mut Encoder,
    ) -> Result<Prepared<'a>, PipelineError> {
        let id = self.suite.chunk_id(&self.id_key, class.byte(), plain);
        if let Some(location) = known.iter().find(|location| location.id == id) {
            return Ok(Prepared::Known(*location));
        }
        let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        let (codec, payload) = encoder.encode(plain)?;
        Ok(Prepared::New { id, class, plain: length, codec, payload: Cow::Borrowed(payload) })
    }
}

impl Prepared<'_> {
    /// The same, independent of what it was prepared with.
    pub(crate) fn into_owned(self) -> Prepared<'static> {
        match self {
            Prepared::Known(location) => Prepared::Known(location),
            Prepared::New { id, class, plain, codec, payload } => {
                Prepared::New { id, class, plain, codec, payload: Cow::Owned(payload.into_owned()) }
            }
        }
    }
}

impl Packs {
    fn place(&mut self, prepared: Prepared<'_>) -> Result<FrameLocation, PipelineError> {
        let (id, class, plain, codec, payload) = match prepared {
            Prepared::Known(location) => return Ok(location),
            Prepared::New { id, class, plain, codec, payload } => (id, class, plain, codec, payload),
        };
        if self.lease.is_none() {
            let stop = self.stop.clone();
            self.lease = Some(self.room.take(|| stop.is_set()).ok_or(PipelineError::Cancelled)?);
        }
        let location = self.writer.push(id, class, codec, plain, &payload).map_err(defect)?;
        self.stored += u64::from(location.stored);
        if self.writer.pending_bytes() >= STRUCTURE_PACK {
            self.flush()?;
        }
        Ok(location)
    }

    /// Lets what was put so far leave.
    fn flush(&mut self) -> Result<(), PipelineError> {
        let packs = self.writer.finish().map_err(defect)?;
        for pack in packs {
            let payload = match self.lease.take() {
                Some(lease) => lease.tie(&pack.payload),
                None => pack.payload,
            };
            let pack = SealedPack { payload, ..pack };
            self.uploads.blocking_send(pack).map_err(|_| PipelineError::Cancelled)?;
        }
        Ok(())
    }
}

/// Structure is compressed alike in every repository.
pub(crate) fn structure_encoder() -> Result<Encoder, PipelineError> {
    Encoder::new(Compression::MEDIUM)
}

impl LeafStore for StructurePacks {
    fn store(&mut self, leaf: &[u8], known: &[FrameLocation]) -> Result<FrameLocation, PipelineError> {
        self.put(Class::Leaf, leaf, known)
    }

    fn needs(&mut self, content: &FrameLocation) -> Result<(), PipelineError> {
        self.references.add(KeyKind::Content, content)
    }
}

fn defect(error: breakwater_repository::format::FormatError) -> PipelineError {
    PipelineError::Defect(format!("packing structure: {error}"))
}
