//! Structure packs: leaves, trees and references, written by one thread at a time.
//!
//! Invariant: every frame that goes into a leaf or a tree, and every leaf and frame of the tree, is in the references.

use std::sync::Arc;

use breakwater_crypto::{ChunkId, Secret, Suite};
use breakwater_repository::format::codec::Compression;
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::format::references::ReferenceEncoder;
use breakwater_repository::format::{Class, FrameLocation};
use breakwater_repository::session::{PackWriter, SealedPack};
use tokio::sync::mpsc;

use super::assemble::LeafStore;
use super::compress::Encoder;
use super::references::References;
use super::worker::Stop;
use crate::PipelineError;
use crate::room::{Lease, Room};

/// A structure pack leaves when it has this many bytes: it fills slowly, and its room is held meanwhile.
pub(crate) const STRUCTURE_PACK: u64 = 2 << 20;

/// Room for one structure pack: it is cut after the frame that makes it too large.
pub(crate) const STRUCTURE_ROOM: u64 = STRUCTURE_PACK + (2 << 20);

/// The structure packs of one session.
pub(crate) struct StructurePacks {
    writer: PackWriter,
    references: References,
    encoder: Encoder,
    suite: Suite,
    id_key: Secret,
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
        let encoder = Encoder::new(Compression::MEDIUM)?;
        Ok(StructurePacks { writer, references, encoder, suite, id_key, room, lease: None, uploads, stop, stored: 0 })
    }

    /// Stores a leaf or a part of the tree, unless one of `known` is the same. Blocks the thread while there is no room.
    pub(crate) fn put(
        &mut self,
        class: Class,
        plain: &[u8],
        known: &[FrameLocation],
    ) -> Result<FrameLocation, PipelineError> {
        let location = self.place(class, plain, known)?;
        self.references.add(KeyKind::Structure, &location)?;
        Ok(location)
    }

    /// Writes the references, after everything else, and lets the last pack leave.
    pub(crate) fn finish(mut self) -> Result<(Vec<FrameLocation>, u64), PipelineError> {
        let references = std::mem::replace(&mut self.references, References::none());
        let (mut encoder, mut list) = (ReferenceEncoder::default(), Vec::new());
        for pack in references.finish()? {
            if let Some(frame) = encoder.push(&pack?).map_err(defect)? {
                list.push(self.place(Class::References, &frame, &[])?);
            }
        }
        if let Some(frame) = encoder.finish() {
            list.push(self.place(Class::References, &frame, &[])?);
        }
        self.flush()?;
        Ok((list, self.stored))
    }

    fn place(&mut self, class: Class, plain: &[u8], known: &[FrameLocation]) -> Result<FrameLocation, PipelineError> {
        let id: ChunkId = self.suite.chunk_id(&self.id_key, class.byte(), plain);
        if let Some(location) = known.iter().find(|location| location.id == id) {
            return Ok(*location);
        }
        if self.lease.is_none() {
            let stop = self.stop.clone();
            self.lease = Some(self.room.take(|| stop.is_set()).ok_or(PipelineError::Cancelled)?);
        }
        let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        let (codec, payload) = self.encoder.encode(plain)?;
        let location = self.writer.push(id, class, codec, length, payload).map_err(defect)?;
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
