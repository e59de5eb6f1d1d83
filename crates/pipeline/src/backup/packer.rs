//! Content packs, filled by many threads at once.
//!
//! Invariant: no pack is begun without room for it, and every pack that is full leaves for the regions as soon as its last
//! frame is in place. A thread that waits for room holds no place in any pack, so that the packs in the way can leave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use breakwater_crypto::ChunkId;
use breakwater_repository::format::pack::{FRAMES_MAX, FrameContent, FrameLocation, frame_length};
use breakwater_repository::format::{Class, FormatError, PackId};
use breakwater_repository::session::{FrameTicket, PackWriter, SealedPack};
use tokio::sync::mpsc;

use super::compress::Encoder;
use crate::PipelineError;
use crate::room::{LOOK, Lease, Room};

/// The packs of content of one session.
pub(crate) struct Packer {
    inner: Mutex<Inner>,
    room: Arc<Room>,
    pack_size: u64,
    uploads: mpsc::Sender<SealedPack>,
}

struct Inner {
    writer: PackWriter,
    /// The pack that frames are reserved in now: its id, where it ends, and how many frames it has.
    current: Option<(PackId, u64, u32)>,
    leases: HashMap<PackId, Lease>,
}

impl Packer {
    /// `pack_size` is what the writer cuts packs at.
    pub(crate) fn new(
        writer: PackWriter,
        pack_size: u32,
        room: Arc<Room>,
        uploads: mpsc::Sender<SealedPack>,
    ) -> Packer {
        let inner = Inner { writer, current: None, leases: HashMap::new() };
        Packer { inner: Mutex::new(inner), room, pack_size: u64::from(pack_size), uploads }
    }

    /// Compresses, seals and places a chunk. Blocks the thread while there is no room.
    pub(crate) fn store(
        &self,
        class: Class,
        id: ChunkId,
        plain: &[u8],
        encoder: &mut Encoder,
        stopped: impl Fn() -> bool,
    ) -> Result<FrameLocation, PipelineError> {
        let (codec, payload) = encoder.encode(plain)?;
        let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        let ticket = self.reserve(FrameContent { class, codec, plain: length, id }, payload.len(), stopped)?;
        let location = *ticket.location();
        let frame = ticket.seal(payload).map_err(defect)?;
        let sealed = {
            let mut inner = self.inner();
            inner.writer.place(frame).map_err(defect)?;
            inner.take_sealed()
        };
        self.upload(sealed)?;
        Ok(location)
    }

    /// Lets the last pack leave too. All threads must be done.
    pub(crate) fn finish(&self) -> Result<(), PipelineError> {
        let sealed = {
            let mut inner = self.inner();
            inner.current = None;
            let sealed = inner.writer.finish().map_err(defect)?;
            inner.tie(sealed)
        };
        self.upload(sealed)
    }

    fn reserve(
        &self,
        content: FrameContent,
        payload: usize,
        stopped: impl Fn() -> bool,
    ) -> Result<FrameTicket, PipelineError> {
        let length = frame_length(payload) as u64;
        let mut lease: Option<Lease> = None;
        loop {
            let mut inner = self.inner();
            let fits = |(_, end, frames): &(PackId, u64, u32)| end + length <= self.pack_size && *frames < FRAMES_MAX;
            let begins = !inner.current.as_ref().is_some_and(fits);
            if begins && lease.is_none() {
                // The full pack must be able to leave while this thread waits, so it is cut before.
                inner.current = None;
                inner.writer.cut().map_err(defect)?;
                let sealed = inner.take_sealed();
                drop(inner);
                self.upload(sealed)?;
                if stopped() {
                    return Err(PipelineError::Cancelled);
                }
                // Another thread may begin the pack meanwhile; then no room is needed.
                lease = self.room.take_now_or_soon(LOOK);
                continue;
            }
            let ticket = inner.writer.reserve(content, payload).map_err(defect)?;
            let location = ticket.location();
            let frames = inner.current.map_or(0, |(_, _, frames)| frames) + 1;
            let frames = if begins { 1 } else { frames };
            inner.current = Some((location.pack, u64::from(location.offset) + length, frames));
            if begins && let Some(lease) = lease.take() {
                inner.leases.insert(location.pack, lease);
                self.room.wake();
            }
            let sealed = inner.take_sealed();
            drop(inner);
            self.upload(sealed)?;
            return Ok(ticket);
        }
    }

    fn upload(&self, packs: Vec<SealedPack>) -> Result<(), PipelineError> {
        // Who stopped taking packs knows why, and says so.
        packs.into_iter().try_for_each(|pack| self.uploads.blocking_send(pack).map_err(|_| PipelineError::Cancelled))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_sealed(&mut self) -> Vec<SealedPack> {
        let sealed = self.writer.take_sealed();
        self.tie(sealed)
    }

    fn tie(&mut self, packs: Vec<SealedPack>) -> Vec<SealedPack> {
        let tie = |pack: SealedPack| match self.leases.remove(&pack.id) {
            Some(lease) => SealedPack { payload: lease.tie(&pack.payload), ..pack },
            None => pack,
        };
        packs.into_iter().map(tie).collect()
    }
}

fn defect(error: FormatError) -> PipelineError {
    PipelineError::Defect(format!("packing a chunk: {error}"))
}
