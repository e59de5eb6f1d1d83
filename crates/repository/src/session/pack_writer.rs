//! Filling packs in memory.
//!
//! The place of a frame is known as soon as it is reserved, because a seal adds a fixed number of bytes; so many threads
//! can seal at once while one hands out places. A pack leaves as a rope of its frames, nothing is copied together.
//!
//! Invariant: a frame number is handed out once, a pack is sealed only when every frame reserved in it was placed, and the
//! size of a pack says no more than that it is full, or which of the few Padmé sizes it has (see `docs/format.md`, section 5).

use std::ops::Range;
use std::sync::Arc;

use breakwater_crypto::ChunkId;
use breakwater_storage::Payload;
use bytes::{Bytes, BytesMut};

use super::keys::SessionKey;
use crate::format::pack::padding::{padme, zeros};
use crate::format::pack::{
    FRAMES_MAX, Footer, FooterFrame, FrameContent, FrameLocation, HEADER_LENGTH, KeyKind, PackId, PackKey, frame_length,
};
use crate::format::{Class, Codec, FormatError, ObjectName};

/// What the footers of packs hold besides their lists.
const JSON: &[u8] = b"{}";

/// A finished pack, ready to be stored.
#[derive(Clone, Debug)]
pub struct SealedPack {
    /// The pack.
    pub id: PackId,
    /// Its name.
    pub name: ObjectName,
    /// Its bytes.
    pub payload: Payload,
    /// How many frames it has.
    pub frames: usize,
}

/// A reserved place for one frame. Sealing needs nothing else, so it can be done on any thread.
#[derive(Debug)]
pub struct FrameTicket {
    key: Arc<PackKey>,
    number: u32,
    class: Class,
    location: FrameLocation,
}

/// A sealed frame on its way to its pack.
#[derive(Debug)]
pub struct SealedFrame {
    pack: PackId,
    number: u32,
    bytes: Bytes,
}

impl FrameTicket {
    /// Where the frame will be: what leaves and trees refer to.
    pub const fn location(&self) -> &FrameLocation {
        &self.location
    }

    /// Seals the chunk, which must have exactly the length that was reserved.
    pub fn seal(self, payload: &[u8]) -> Result<SealedFrame, FormatError> {
        let FrameLocation { stored, plain, codec, id, pack, .. } = self.location;
        if payload.len() + 16 != stored as usize {
            return Err(FormatError::damaged("frame", "its chunk does not have the length that was reserved"));
        }
        let content = FrameContent { class: self.class, codec, plain, id };
        let bytes = self.key.seal_frame(self.number, &content, payload)?;
        Ok(SealedFrame { pack, number: self.number, bytes: bytes.into() })
    }

    /// The same into the front of `slab`, which stays the owner of the memory: a caller that seals many frames keeps
    /// slabs instead of asking for memory each time.
    pub fn seal_into(self, payload: &[u8], slab: &mut BytesMut) -> Result<SealedFrame, FormatError> {
        let FrameLocation { stored, plain, codec, id, pack, .. } = self.location;
        if payload.len() + 16 != stored as usize {
            return Err(FormatError::damaged("frame", "its chunk does not have the length that was reserved"));
        }
        let content = FrameContent { class: self.class, codec, plain, id };
        self.key.seal_frame_onto(self.number, &content, payload, slab)?;
        Ok(SealedFrame { pack, number: self.number, bytes: slab.split().freeze() })
    }
}

/// A pack that is being filled.
#[derive(Debug)]
struct OpenPack {
    key: Arc<PackKey>,
    end: u32,
    frames: Vec<FooterFrame>,
    bytes: Vec<Option<Bytes>>,
    outstanding: usize,
    /// Whether it ended because nothing more fitted.
    full: bool,
}

/// Fills packs of one kind, one after the other.
#[derive(Debug)]
pub struct PackWriter {
    session: SessionKey,
    kind: KeyKind,
    current: Option<OpenPack>,
    /// Full packs with frames that are still being sealed.
    closing: Vec<OpenPack>,
    ready: Vec<SealedPack>,
}

impl PackWriter {
    pub(super) const fn new(session: SessionKey, kind: KeyKind) -> Self {
        PackWriter { session, kind, current: None, closing: Vec::new(), ready: Vec::new() }
    }

    /// Reserves the place of a chunk that has `payload_length` bytes after compression.
    pub fn reserve(&mut self, content: FrameContent, payload_length: usize) -> Result<FrameTicket, FormatError> {
        let too_long = || FormatError::damaged("frame", "the chunk is longer than a pack can hold");
        let length = u32::try_from(frame_length(payload_length)).map_err(|_| too_long())?;
        let stored = u32::try_from(payload_length + 16).map_err(|_| too_long())?;
        if !self.has_room(payload_length) {
            self.end_full()?;
        }
        let pack = match &mut self.current {
            Some(pack) => pack,
            none => none.insert(OpenPack {
                key: Arc::new(self.session.new_pack(self.kind)?),
                end: u32::try_from(HEADER_LENGTH).expect("the header is short"),
                frames: Vec::new(),
                bytes: Vec::new(),
                outstanding: 0,
                full: false,
            }),
        };
        let number = u32::try_from(pack.frames.len()).map_err(|_| too_long())?;
        let FrameContent { class, codec, plain, id } = content;
        let offset = pack.end;
        pack.end = pack.end.checked_add(length).ok_or_else(too_long)?;
        pack.frames.push(FooterFrame { id, origin: 0, number, offset, stored, plain, codec, class });
        pack.bytes.push(None);
        pack.outstanding += 1;
        let location = FrameLocation { pack: pack.key.header().pack, offset, stored, plain, codec, id };
        Ok(FrameTicket { key: Arc::clone(&pack.key), number, class, location })
    }

    /// Puts a sealed frame into its place, in any order.
    pub fn place(&mut self, frame: SealedFrame) -> Result<(), FormatError> {
        let unknown = || FormatError::damaged("frame", "it was reserved in no pack of this writer");
        let is_its = |pack: &OpenPack| pack.key.header().pack == frame.pack;
        let closing = self.closing.iter().position(is_its);
        let pack = match closing {
            Some(at) => self.closing.get_mut(at),
            None => self.current.as_mut().filter(|pack| is_its(pack)),
        };
        let pack = pack.ok_or_else(unknown)?;
        let slot = pack.bytes.get_mut(frame.number as usize).filter(|slot| slot.is_none()).ok_or_else(unknown)?;
        *slot = Some(frame.bytes);
        pack.outstanding -= 1;
        if let Some(at) = closing.filter(|_| pack.outstanding == 0) {
            let pack = self.closing.swap_remove(at);
            self.seal(pack)?;
        }
        Ok(())
    }

    /// Reserves, seals and places in one go.
    pub fn push(
        &mut self,
        id: ChunkId,
        class: Class,
        codec: Codec,
        plain: u32,
        payload: &[u8],
    ) -> Result<FrameLocation, FormatError> {
        let ticket = self.reserve(FrameContent { class, codec, plain, id }, payload.len())?;
        let location = *ticket.location();
        let frame = ticket.seal(payload)?;
        self.place(frame)?;
        Ok(location)
    }

    /// Ends the pack that is being filled; it is finished once everything reserved in it is placed.
    pub fn cut(&mut self) -> Result<(), FormatError> {
        self.close_current()
    }

    /// The same where it ends because a chunk has no room in it any more.
    pub fn end_full(&mut self) -> Result<(), FormatError> {
        if let Some(pack) = &mut self.current {
            // One that ends for the number of its frames is far from the pack size.
            pack.full = pack.frames.len() < FRAMES_MAX as usize;
        }
        self.close_current()
    }

    /// Whether a chunk that has `payload_length` bytes after compression fits into the pack that is being filled, with the
    /// footer that is due then. Where none is being filled, it does.
    pub fn has_room(&self, payload_length: usize) -> bool {
        let Some(pack) = &self.current else { return true };
        let frames = pack.frames.len() + 1;
        let end = u64::from(pack.end) + frame_length(payload_length) as u64;
        frames <= FRAMES_MAX as usize && end + footer_length(frames) <= u64::from(self.session.pack_size())
    }

    /// The packs that are finished by now.
    pub fn take_sealed(&mut self) -> Vec<SealedPack> {
        std::mem::take(&mut self.ready)
    }

    /// Finishes the last pack too. An error while frames are reserved but not placed.
    pub fn finish(&mut self) -> Result<Vec<SealedPack>, FormatError> {
        self.close_current()?;
        if let Some(pack) = self.closing.first() {
            let detail = format!("{} of its frames were reserved but not placed", pack.outstanding);
            return Err(FormatError::damaged("pack", detail));
        }
        Ok(self.take_sealed())
    }

    /// Bytes held in memory for packs that are not finished, footers not counted.
    pub fn pending_bytes(&self) -> u64 {
        self.closing.iter().chain(&self.current).map(|pack| u64::from(pack.end)).sum()
    }

    fn close_current(&mut self) -> Result<(), FormatError> {
        match self.current.take() {
            Some(pack) if pack.outstanding > 0 => {
                self.closing.push(pack);
                Ok(())
            }
            Some(pack) => self.seal(pack),
            None => Ok(()),
        }
    }

    fn seal(&mut self, pack: OpenPack) -> Result<(), FormatError> {
        let id = pack.key.header().pack;
        let name = self.session.pack_name(self.kind, id);
        let footer = Footer { origins: vec![pack.key.origin()], frames: pack.frames, json: JSON.to_vec() };
        let frames = pack.bytes.into_iter().flatten().collect();
        let end = u64::from(pack.end);
        let length = end + footer_length(footer.frames.len());
        let padded = match (self.kind, u64::from(self.session.pack_size())) {
            (KeyKind::Content, size) if pack.full && length <= size => size,
            _ => padme(length),
        };
        let payload = finish_pack(&self.session, &pack.key, &name, &footer, frames, end..end + padded - length)?;
        self.ready.push(SealedPack { id, name, payload, frames: footer.frames.len() });
        Ok(())
    }
}

/// Bytes of the footer of a pack with so many frames.
const fn footer_length(frames: usize) -> u64 {
    Footer::sealed_length(1, frames, JSON.len())
}

/// `padding` begins where the frames end.
fn finish_pack(
    session: &SessionKey,
    key: &PackKey,
    name: &ObjectName,
    footer: &Footer,
    frames: Vec<Bytes>,
    padding: Range<u64>,
) -> Result<Payload, FormatError> {
    let (structure, salt, repository) = (session.structure_key(), session.salt(), session.repository_id());
    let sealed = footer.seal(session.suite(), structure, salt, repository, name, padding.end)?;
    let mut parts = Vec::with_capacity(frames.len() + 2);
    parts.push(Bytes::copy_from_slice(&key.header().encode()));
    parts.extend(frames);
    parts.extend(zeros(padding.end - padding.start));
    parts.push(sealed.bytes.into());
    Ok(Payload::from(parts))
}
