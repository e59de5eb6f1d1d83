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
use bytes::BytesMut;
use tokio::sync::mpsc;

use super::compress::Encoder;
use super::needs::PACK_EXTRA;
use crate::PipelineError;
use crate::room::{LOOK, Lease, Room};

/// The packs of content of one session.
pub(crate) struct Packer {
    inner: Mutex<Inner>,
    room: Arc<Room>,
    uploads: mpsc::Sender<SealedPack>,
}

struct Inner {
    writer: PackWriter,
    current: Option<Current>,
    leases: HashMap<PackId, Lease>,
}

/// The pack that frames are reserved in now.
struct Current {
    id: PackId,
    end: u64,
    frames: u32,
    /// Where it is cut.
    limit: u64,
    /// What is left of its memory.
    slab: BytesMut,
}

impl Packer {
    /// Packs are cut where their room ends, or before, where the writer cuts them.
    pub(crate) fn new(writer: PackWriter, room: Arc<Room>, uploads: mpsc::Sender<SealedPack>) -> Packer {
        let inner = Inner { writer, current: None, leases: HashMap::new() };
        Packer { inner: Mutex::new(inner), room, uploads }
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
        let (ticket, mut room) =
            self.reserve(FrameContent { class, codec, plain: length, id }, payload.len(), stopped)?;
        let location = *ticket.location();
        let frame = ticket.seal_into(payload, &mut room).map_err(defect)?;
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
            inner.leave();
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
    ) -> Result<(FrameTicket, BytesMut), PipelineError> {
        let room = frame_length(payload);
        let length = room as u64;
        let mut lease: Option<Lease> = None;
        loop {
            let mut inner = self.inner();
            let fits = |pack: &Current| pack.end + length <= pack.limit && pack.frames < FRAMES_MAX;
            let full = !inner.writer.has_room(payload);
            let begins = full || !inner.current.as_ref().is_some_and(fits);
            if begins && lease.is_none() {
                // The full pack must be able to leave while this thread waits, so it is cut before.
                inner.leave();
                let cut = if full { inner.writer.end_full() } else { inner.writer.cut() };
                cut.map_err(defect)?;
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
            if begins && let Some(mut lease) = lease.take() {
                inner.leave();
                let limit = lease.bytes().saturating_sub(PACK_EXTRA);
                let slab = lease.memory(usize::try_from(limit).unwrap_or(room));
                inner.leases.insert(location.pack, lease);
                inner.current = Some(Current { id: location.pack, end: 0, frames: 0, limit, slab });
                self.room.wake();
            }
            let current = inner.current.as_mut().filter(|current| current.id == location.pack);
            let Some(current) = current else {
                return Err(PipelineError::Defect("a frame was reserved in a pack that was not begun".to_owned()));
            };
            current.end = u64::from(location.offset) + length;
            current.frames += 1;
            let memory = carve(&mut current.slab, room);
            let sealed = inner.take_sealed();
            drop(inner);
            self.upload(sealed)?;
            return Ok((ticket, memory));
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
    /// No more frames go into the current pack.
    fn leave(&mut self) {
        let Some(current) = self.current.take() else { return };
        if let Some(lease) = self.leases.get_mut(&current.id) {
            lease.keep(current.slab);
        }
    }

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

/// Cuts the next `length` bytes off the front of `slab`.
fn carve(slab: &mut BytesMut, length: usize) -> BytesMut {
    if slab.capacity() < length {
        return BytesMut::with_capacity(length);
    }
    let rest = slab.split_off(length);
    std::mem::replace(slab, rest)
}

fn defect(error: FormatError) -> PipelineError {
    PipelineError::Defect(format!("packing a chunk: {error}"))
}
