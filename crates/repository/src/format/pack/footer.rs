//! The end of a pack: a footer that lists the frames, sealed under the structure key, and a trailer in the clear that
//! says where the footer is.

use breakwater_core::{RepositoryId, SessionId};
use breakwater_crypto::suite::TAG_LENGTH;
use breakwater_crypto::{ChunkId, Secret, Suite, commitment, derive};

use super::{FRAME_ALIGNMENT, FRAME_HEAD, FrameLocation, HEADER_LENGTH, KeyKind, PackHeader, PackId};
use crate::format::cursor::Cursor;
use crate::format::{Class, Codec, FormatError, ObjectName};

const WHAT: &str = "pack footer";
const MAGIC: &[u8; 4] = b"BWPT";
const ORIGIN_LENGTH: usize = 88;
const FRAME_LENGTH: usize = 56;
const SEAL_HEAD: usize = 64;

/// Bytes of a pack after its footer.
pub const TRAILER_LENGTH: usize = 24;

/// The pack that frames were sealed in first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// That pack.
    pub pack: PackId,
    /// How it was sealed.
    pub suite: Suite,
    /// What its key comes from.
    pub key_kind: KeyKind,
    /// Its salt.
    pub salt: [u8; 32],
    /// Pins its key.
    pub commitment: [u8; 32],
}

impl Origin {
    /// The header that the origin pack has.
    pub const fn header(&self, repository: RepositoryId) -> PackHeader {
        PackHeader {
            suite: self.suite,
            key_kind: self.key_kind,
            repository,
            pack: self.pack,
            salt: self.salt,
            commitment: self.commitment,
        }
    }
}

/// One frame of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterFrame {
    /// The chunk.
    pub id: ChunkId,
    /// Index of its origin in the footer.
    pub origin: u32,
    /// Its number in the origin.
    pub number: u32,
    /// Offset of its header in this pack.
    pub offset: u32,
    /// Bytes of ciphertext and tag.
    pub stored: u32,
    /// Bytes of the chunk.
    pub plain: u32,
    /// How it was compressed.
    pub codec: Codec,
    /// What it holds.
    pub class: Class,
}

impl FooterFrame {
    /// The same as a reference into `pack`.
    pub const fn location(&self, pack: PackId) -> FrameLocation {
        FrameLocation {
            pack,
            offset: self.offset,
            stored: self.stored,
            plain: self.plain,
            codec: self.codec,
            id: self.id,
        }
    }
}

/// What a pack holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// Where its frames come from.
    pub origins: Vec<Origin>,
    /// Its frames.
    pub frames: Vec<FooterFrame>,
    /// More about it, as JSON: `{}` for packs.
    pub json: Vec<u8>,
}

impl Footer {
    /// Bytes that the sealed footer of a pack with so many origins, frames and bytes of JSON takes, trailer included.
    pub const fn sealed_length(origins: usize, frames: usize, json: usize) -> u64 {
        let body = 12 + origins * ORIGIN_LENGTH + frames * FRAME_LENGTH + json;
        (SEAL_HEAD + body + TAG_LENGTH + TRAILER_LENGTH) as u64
    }

    fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let length = 12 + self.origins.len() * ORIGIN_LENGTH + self.frames.len() * FRAME_LENGTH + self.json.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&count(self.origins.len())?);
        for origin in &self.origins {
            bytes.extend_from_slice(origin.pack.session.as_bytes());
            bytes.extend_from_slice(&origin.pack.number.to_le_bytes());
            bytes.extend_from_slice(&[origin.suite.byte(), origin.key_kind.byte(), 0, 0]);
            bytes.extend_from_slice(&origin.salt);
            bytes.extend_from_slice(&origin.commitment);
        }
        bytes.extend_from_slice(&count(self.frames.len())?);
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.id.0);
            for number in [frame.origin, frame.number, frame.offset, frame.stored, frame.plain] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&[frame.codec.byte(), frame.class.byte(), 0, 0]);
        }
        bytes.extend_from_slice(&count(self.json.len())?);
        bytes.extend_from_slice(&self.json);
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        let origins = cursor.count(ORIGIN_LENGTH)?;
        let origins = (0..origins).map(|_| decode_origin(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        let frames = cursor.count(FRAME_LENGTH)?;
        let frames = (0..frames).map(|_| decode_frame(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        if frames.iter().any(|frame| frame.origin as usize >= origins.len()) {
            return Err(FormatError::damaged(WHAT, "a frame names an origin that is not listed"));
        }
        let length = cursor.count(1)?;
        let json = cursor.take(length)?.to_vec();
        cursor.end()?;
        Ok(Footer { origins, frames, json })
    }

    /// Seals the footer of the object `name`, whose frames end at `frames_end`; the result stands there. `salt` must be
    /// random.
    pub fn seal(
        &self,
        suite: Suite,
        structure_key: &Secret,
        salt: [u8; 32],
        repository: RepositoryId,
        name: &ObjectName,
        frames_end: u64,
    ) -> Result<SealedFooter, FormatError> {
        let key = derive(structure_key, "footer", &[&salt]);
        let mut body = self.encode()?;
        suite.seal(&key, [0; 12], &aad(repository, name), &mut body);
        let mut bytes = Vec::with_capacity(SEAL_HEAD + body.len() + TRAILER_LENGTH);
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(&commitment(&key));
        bytes.extend_from_slice(&body);
        let length = u32::try_from(bytes.len()).map_err(|_| FormatError::damaged(WHAT, "it would be too long"))?;
        let trailer = Trailer { offset: frames_end, length, crc: crc32c::crc32c(&bytes) };
        bytes.extend_from_slice(&trailer.encode());
        Ok(SealedFooter { bytes })
    }

    /// Opens the sealed footer of the object `name`, of which the trailer told. The suite is that of the repository.
    pub fn open(
        suite: Suite,
        structure_key: &Secret,
        repository: RepositoryId,
        name: &ObjectName,
        trailer: &Trailer,
        sealed: &[u8],
    ) -> Result<Self, FormatError> {
        if sealed.len() != trailer.length as usize || crc32c::crc32c(sealed) != trailer.crc {
            return Err(FormatError::damaged(WHAT, "its checksum is wrong"));
        }
        let mut cursor = Cursor::new(WHAT, sealed);
        let salt: [u8; 32] = cursor.array()?;
        let committed: [u8; 32] = cursor.array()?;
        let key = derive(structure_key, "footer", &[&salt]);
        if commitment(&key) != committed {
            return Err(FormatError::WrongKey { what: WHAT });
        }
        let mut body = sealed.get(SEAL_HEAD..).unwrap_or_default().to_vec();
        suite
            .open(&key, [0; 12], &aad(repository, name), &mut body)
            .map_err(|_| FormatError::Unsealed { what: WHAT })?;
        let footer = Footer::decode(&body)?;
        let inside = |frame: &FooterFrame| {
            let end = u64::from(frame.offset) + FRAME_HEAD as u64 + u64::from(frame.stored);
            frame.offset as usize >= HEADER_LENGTH
                && (frame.offset as usize).is_multiple_of(FRAME_ALIGNMENT)
                && end <= trailer.offset
        };
        if !footer.frames.iter().all(inside) {
            return Err(FormatError::damaged(WHAT, "a frame lies outside the pack"));
        }
        Ok(footer)
    }
}

/// A footer as it is written, trailer included.
#[derive(Clone, Debug)]
pub struct SealedFooter {
    /// The last bytes of the pack.
    pub bytes: Vec<u8>,
}

/// The last 24 bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the footer begins.
    pub offset: u64,
    /// Bytes of the footer.
    pub length: u32,
    /// CRC-32C of the footer.
    pub crc: u32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER_LENGTH] {
        let mut bytes = Vec::with_capacity(TRAILER_LENGTH);
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.crc.to_le_bytes());
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes.extend_from_slice(MAGIC);
        bytes.try_into().expect("the fields above add up to 24 bytes")
    }

    /// Reads the trailer at the end of `tail`, the last bytes of an object of `size` bytes.
    pub fn decode(tail: &[u8], size: u64) -> Result<Self, FormatError> {
        const WHAT: &str = "pack trailer";
        let start = tail
            .len()
            .checked_sub(TRAILER_LENGTH)
            .ok_or_else(|| FormatError::damaged(WHAT, "the object is too short"))?;
        let mut cursor = Cursor::new(WHAT, tail.get(start..).unwrap_or_default());
        let trailer = Trailer { offset: cursor.u64()?, length: cursor.u32()?, crc: cursor.u32()? };
        let version = cursor.u8()?;
        let zeros = cursor.take(3)?;
        if cursor.take(4)? != MAGIC {
            return Err(FormatError::damaged(WHAT, "the object does not end as a pack ends"));
        }
        if version != 1 {
            return Err(FormatError::Newer { what: WHAT, detail: format!("version {version}") });
        }
        let end = trailer.offset.checked_add(u64::from(trailer.length) + TRAILER_LENGTH as u64);
        if zeros != [0; 3] || end != Some(size) || trailer.offset < HEADER_LENGTH as u64 {
            return Err(FormatError::damaged(WHAT, "it does not fit the object"));
        }
        Ok(trailer)
    }
}

fn decode_origin(cursor: &mut Cursor<'_>) -> Result<Origin, FormatError> {
    let pack = PackId { session: SessionId::from_bytes(cursor.array()?), number: cursor.u32()? };
    let suite = Suite::from_byte(cursor.u8()?).map_err(|source| FormatError::Suite { what: WHAT, source })?;
    let key_kind = KeyKind::from_byte(cursor.u8()?)?;
    cursor.zeros(2)?;
    Ok(Origin { pack, suite, key_kind, salt: cursor.array()?, commitment: cursor.array()? })
}

fn decode_frame(cursor: &mut Cursor<'_>) -> Result<FooterFrame, FormatError> {
    let frame = FooterFrame {
        id: ChunkId(cursor.array()?),
        origin: cursor.u32()?,
        number: cursor.u32()?,
        offset: cursor.u32()?,
        stored: cursor.u32()?,
        plain: cursor.u32()?,
        codec: Codec::from_byte(cursor.u8()?)?,
        class: Class::from_byte(cursor.u8()?)?,
    };
    cursor.zeros(2)?;
    Ok(frame)
}

fn aad(repository: RepositoryId, name: &ObjectName) -> Vec<u8> {
    let mut aad = repository.as_bytes().to_vec();
    aad.extend_from_slice(name.to_string().as_bytes());
    aad
}

fn count(number: usize) -> Result<[u8; 4], FormatError> {
    let number = u32::try_from(number).map_err(|_| FormatError::damaged(WHAT, "it would list too much"))?;
    Ok(number.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use breakwater_core::SourceUid;
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn name(number: u32) -> ObjectName {
        let pack = PackId { session: SessionId::from_bytes([2; 16]), number };
        ObjectName::ContentPack(SourceUid::from_bytes([1; 16]), pack)
    }

    fn footers() -> impl Strategy<Value = Footer> {
        let origin = any::<([u8; 16], u32, [u8; 32], [u8; 32], bool)>().prop_map(
            |(session, number, salt, commitment, content)| {
                let key_kind = if content { KeyKind::Content } else { KeyKind::Structure };
                let pack = PackId { session: SessionId::from_bytes(session), number };
                Origin { pack, suite: Suite::Standard, key_kind, salt, commitment }
            },
        );
        let frame = any::<([u8; 32], u32, u32, u8, u16)>().prop_map(|(id, number, plain, class, at)| FooterFrame {
            id: ChunkId(id),
            origin: 0,
            number,
            offset: 128 + u32::from(at) * 16,
            stored: u32::from(class),
            plain,
            codec: if plain % 2 == 0 { Codec::None } else { Codec::Zstd },
            class: Class::from_byte(class % 5 + 1).unwrap(),
        });
        (prop::collection::vec(origin, 1..4), prop::collection::vec(frame, 0..20), "[ -~]{0,40}")
            .prop_map(|(origins, frames, json)| Footer { origins, frames, json: json.into_bytes() })
    }

    const FRAMES_END: u64 = 128 + 16 * 65_536 + 512;

    fn open(key: u8, number: u32, bytes: &[u8]) -> Result<Footer, FormatError> {
        let size = FRAMES_END + bytes.len() as u64;
        let trailer = Trailer::decode(bytes, size)?;
        let sealed = &bytes[..bytes.len() - TRAILER_LENGTH];
        let repository = RepositoryId::from_bytes([4; 16]);
        Footer::open(Suite::Standard, &Secret::from_bytes([key; 32]), repository, &name(number), &trailer, sealed)
    }

    proptest! {
        #[test]
        fn footers_round_trip_and_any_change_is_found(footer in footers(), at: prop::sample::Index, bit in 0..8u8) {
            let (repository, key) = (RepositoryId::from_bytes([4; 16]), Secret::from_bytes([3; 32]));
            let sealed = footer.seal(Suite::Standard, &key, [5; 32], repository, &name(0), FRAMES_END).unwrap().bytes;
            prop_assert_eq!(open(3, 0, &sealed).unwrap(), footer);
            let wrong_key = matches!(open(2, 0, &sealed), Err(FormatError::WrongKey { .. }));
            prop_assert!(wrong_key);
            let wrong_name = matches!(open(3, 1, &sealed), Err(FormatError::Unsealed { .. }));
            prop_assert!(wrong_name);
            let mut flipped = sealed.clone();
            flipped[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(3, 0, &flipped).is_err());
            prop_assert!(open(3, 0, &sealed[..at.index(sealed.len())]).is_err());
        }

        #[test]
        fn arbitrary_bytes_decode_to_nothing_or_to_themselves(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(open(3, 0, &bytes).is_err());
            if let Ok(footer) = Footer::decode(&bytes) {
                prop_assert_eq!(footer.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn counts_that_cannot_be_allocate_nothing() {
        assert!(Footer::decode(&u32::MAX.to_le_bytes()).is_err());
        let footer = Footer { origins: Vec::new(), frames: Vec::new(), json: b"{}".to_vec() };
        assert_eq!(Footer::decode(&footer.encode().unwrap()).unwrap(), footer);
    }
}
