//! Frames: one sealed chunk each. A frame is bound to its origin (session, pack and frame number) and to what it holds,
//! not to the place where it lies, so that it can be moved without any key.

use breakwater_crypto::{ChunkId, suite::TAG_LENGTH};
use bytes::BytesMut;

use super::{FrameLocation, PackKey};
use crate::format::cursor::Cursor;
use crate::format::{Class, Codec, FormatError};

const WHAT: &str = "frame";
const MAGIC: &[u8; 4] = b"BWFR";

/// Bytes of a frame before its ciphertext.
pub const FRAME_HEAD: usize = 24;

/// Frames begin at multiples of this.
pub const FRAME_ALIGNMENT: usize = 16;

/// What a chunk is, as its frame is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameContent {
    /// What it holds.
    pub class: Class,
    /// How it was compressed.
    pub codec: Codec,
    /// Bytes before compression.
    pub plain: u32,
    /// Its name.
    pub id: ChunkId,
}

/// Bytes that a frame takes in a pack when its chunk has `payload` bytes after compression.
pub const fn frame_length(payload: usize) -> usize {
    (FRAME_HEAD + payload + TAG_LENGTH).next_multiple_of(FRAME_ALIGNMENT)
}

impl PackKey {
    /// Seals `payload` (the chunk after compression) as frame `number`: header, ciphertext, tag, padding.
    ///
    /// A number must be sealed once only: the nonce is made of it.
    pub fn seal_frame(&self, number: u32, content: &FrameContent, payload: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut frame = BytesMut::with_capacity(frame_length(payload.len()));
        self.seal_frame_onto(number, content, payload, &mut frame)?;
        Ok(frame.into())
    }

    /// The same behind what is in `out` already.
    pub fn seal_frame_onto(
        &self,
        number: u32,
        content: &FrameContent,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), FormatError> {
        let stored = u32::try_from(payload.len() + TAG_LENGTH)
            .map_err(|_| FormatError::damaged(WHAT, "the chunk is longer than a frame can hold"))?;
        let start = out.len();
        out.reserve(frame_length(payload.len()));
        out.extend_from_slice(&[0; FRAME_HEAD]);
        out.extend_from_slice(payload);
        let body = out.get_mut(start + FRAME_HEAD..).unwrap_or_default();
        let tag = self.header.suite.seal_detached(&self.key, nonce(number), &self.aad(number, content), body);
        out.extend_from_slice(&tag);
        let mut head = [0; FRAME_HEAD];
        let sealed = out.get(start + FRAME_HEAD..).unwrap_or_default();
        for (at, field) in [(4, number), (8, stored), (16, crc32c::crc32c(sealed))] {
            head[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        head[..4].copy_from_slice(MAGIC);
        let crc = crc32c::crc32c(&head[..20]);
        head[20..].copy_from_slice(&crc.to_le_bytes());
        out.get_mut(start..start + FRAME_HEAD).expect("the head's room was made above").copy_from_slice(&head);
        out.resize(start + frame_length(payload.len()), 0);
        Ok(())
    }

    /// Opens the frame whose header and ciphertext are `bytes`, and answers the chunk, decompressed. The caller compares
    /// its id where it has the id key.
    pub fn open_frame(&self, class: Class, location: &FrameLocation, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
        let whole = FRAME_HEAD.saturating_add(location.stored as usize);
        let mut frame = bytes.get(..whole).unwrap_or(bytes).to_vec();
        let length = match self.open_frame_in_place(class, location, &mut frame) {
            // Whoever reads that wants to know whether bits rotted or somebody changed them.
            Err(FormatError::Unsealed { .. }) if !looks_whole(bytes, location.stored) => {
                return Err(FormatError::damaged(WHAT, "its checksum is wrong"));
            }
            opened => opened?.len(),
        };
        frame.drain(..FRAME_HEAD);
        frame.truncate(length);
        location.codec.decode(frame, location.plain)
    }

    /// Decrypts the frame whose header and ciphertext are `bytes` where it lies, and answers the payload: the chunk as the
    /// codec left it. What `bytes` hold after an error is undefined. The seal proves every byte, so the checksum, which is for those
    /// without a key, is not looked at.
    pub fn open_frame_in_place<'a>(
        &self,
        class: Class,
        location: &FrameLocation,
        bytes: &'a mut [u8],
    ) -> Result<&'a [u8], FormatError> {
        let missing = || FormatError::damaged(WHAT, "bytes are missing");
        let (head, rest) = bytes.split_at_mut_checked(FRAME_HEAD).ok_or_else(missing)?;
        let mut cursor = Cursor::new(WHAT, head);
        let (checked, head_crc) = head.split_at_checked(20).unwrap_or_default();
        if cursor.take(4)? != MAGIC || head_crc != crc32c::crc32c(checked).to_le_bytes() {
            return Err(FormatError::damaged(WHAT, "there is no frame header where one must be"));
        }
        let number = cursor.u32()?;
        let stored = cursor.u32()?;
        cursor.zeros(4)?;
        if stored != location.stored {
            return Err(FormatError::damaged(WHAT, format!("it has {stored} bytes, not {}", location.stored)));
        }
        let sealed = rest.get_mut(..stored as usize).ok_or_else(missing)?;
        let (body, tag) = sealed.split_last_chunk_mut::<TAG_LENGTH>().ok_or_else(missing)?;
        let content = FrameContent { class, codec: location.codec, plain: location.plain, id: location.id };
        let suite = self.header.suite;
        suite
            .open_detached(&self.key, nonce(number), &self.aad(number, &content), body, *tag)
            .map_err(|_| FormatError::Unsealed { what: WHAT })?;
        Ok(body)
    }

    fn aad(&self, number: u32, content: &FrameContent) -> [u8; 78] {
        let mut aad = [0; 78];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            aad.get_mut(at..at + part.len()).expect("the parts below add up to 78 bytes").copy_from_slice(part);
            at += part.len();
        };
        put(self.header.repository.as_bytes());
        put(self.header.pack.session.as_bytes());
        put(&self.header.pack.number.to_be_bytes());
        put(&number.to_be_bytes());
        put(&[content.class.byte(), content.codec.byte()]);
        put(&content.plain.to_be_bytes());
        put(&content.id.0);
        aad
    }
}

fn nonce(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    let (_, end) = nonce.split_at_mut(8);
    end.copy_from_slice(&number.to_be_bytes());
    nonce
}

/// Whether `bytes`, read at the place of a frame, begin with a frame header of `stored` bytes whose checksums are right.
/// Needs no key: it finds damage, not forgery.
pub fn looks_whole(bytes: &[u8], stored: u32) -> bool {
    let Some((head, rest)) = bytes.split_at_checked(FRAME_HEAD) else { return false };
    let mut cursor = Cursor::new(WHAT, head);
    let mut fields = || -> Result<(u32, u32, u32), FormatError> {
        cursor.take(8)?;
        let stored = cursor.u32()?;
        cursor.take(4)?;
        Ok((stored, cursor.u32()?, cursor.u32()?))
    };
    let Ok((length, body_crc, head_crc)) = fields() else { return false };
    let Some(body) = rest.get(..stored as usize) else { return false };
    head.starts_with(MAGIC)
        && length == stored
        && crc32c::crc32c(head.get(..20).unwrap_or_default()) == head_crc
        && crc32c::crc32c(body) == body_crc
}

#[cfg(test)]
mod tests {
    use breakwater_core::{RepositoryId, SessionId};
    use breakwater_crypto::{Secret, Suite};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::format::PackId;
    use crate::format::pack::KeyKind;

    fn key(number: u32) -> PackKey {
        let pack = PackId { session: SessionId::from_bytes([5; 16]), number };
        let repository = RepositoryId::from_bytes([6; 16]);
        PackKey::new(Suite::Standard, KeyKind::Content, repository, pack, [7; 32], &Secret::from_bytes([8; 32]))
    }

    fn sealed(plain: &[u8]) -> (FrameLocation, Vec<u8>) {
        let id = Suite::Standard.chunk_id(&Secret::from_bytes([1; 32]), Class::Extent.byte(), plain);
        let length = u32::try_from(plain.len()).unwrap();
        let content = FrameContent { class: Class::Extent, codec: Codec::None, plain: length, id };
        let frame = key(0).seal_frame(9, &content, plain).unwrap();
        let pack = key(0).header().pack;
        (FrameLocation { pack, offset: 128, stored: length + 16, plain: length, codec: Codec::None, id }, frame)
    }

    #[test]
    fn a_frame_opens_only_as_what_it_is() {
        let (location, frame) = sealed(b"some bytes");
        assert_eq!(frame.len() % FRAME_ALIGNMENT, 0);
        assert_eq!(frame.len(), frame_length(10));
        assert_eq!(key(0).open_frame(Class::Extent, &location, &frame).unwrap(), b"some bytes");
        assert!(looks_whole(&frame, location.stored));
        let refused = |key: &PackKey, class, location: &FrameLocation| {
            assert!(matches!(key.open_frame(class, location, &frame), Err(FormatError::Unsealed { .. })));
        };
        refused(&key(1), Class::Extent, &location);
        refused(&key(0), Class::Leaf, &location);
        refused(&key(0), Class::Extent, &FrameLocation { plain: 9, ..location });
        refused(&key(0), Class::Extent, &FrameLocation { id: ChunkId([0; 32]), ..location });
        refused(&key(0), Class::Extent, &FrameLocation { codec: Codec::Zstd, ..location });
        assert!(key(0).open_frame(Class::Extent, &FrameLocation { stored: 25, ..location }, &frame).is_err());
    }

    proptest! {
        #[test]
        fn every_flip_before_the_padding_is_found(
            plain in prop::collection::vec(any::<u8>(), 0..200),
            at: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let (location, frame) = sealed(&plain);
            prop_assert_eq!(key(0).open_frame(Class::Extent, &location, &frame).unwrap(), plain);
            let end = FRAME_HEAD + location.stored as usize;
            let mut flipped = frame.clone();
            flipped[at.index(end)] ^= 1 << bit;
            prop_assert!(key(0).open_frame(Class::Extent, &location, &flipped).is_err());
            prop_assert!(!looks_whole(&flipped, location.stored));
            prop_assert!(key(0).open_frame(Class::Extent, &location, &frame[..at.index(end)]).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (location, _) = sealed(b"some bytes");
            prop_assert!(key(0).open_frame(Class::Extent, &location, &bytes).is_err());
        }
    }
}
