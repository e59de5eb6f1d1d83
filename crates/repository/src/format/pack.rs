//! Packs: frames of sealed chunks, a sealed footer that lists them, a trailer that finds the footer.
//!
//! Reading order: this page (names and key), [`frame`], [`footer`], [`padding`].

pub mod footer;
pub mod frame;
pub mod padding;

use std::fmt;

use breakwater_core::{RepositoryId, SessionId};
use breakwater_crypto::{ChunkId, Secret, Suite, commitment, derive};
use serde::{Deserialize, Serialize};

use super::cursor::Cursor;
use super::{Codec, FormatError};

pub use footer::{Footer, FooterFrame, Origin, SealedFooter, TRAILER_LENGTH, Trailer};
pub use frame::{FRAME_ALIGNMENT, FRAME_HEAD, FrameContent, frame_length};

const WHAT: &str = "pack header";
const MAGIC: &[u8; 4] = b"BWPK";

/// Bytes of a pack before its first frame.
pub const HEADER_LENGTH: usize = 128;

/// Frames of one pack at most.
pub const FRAMES_MAX: u32 = 1 << 16;

/// Names a pack: a session counts its packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(SessionId, u32)", into = "(SessionId, u32)")]
pub struct PackId {
    /// The session that wrote it.
    pub session: SessionId,
    /// Its number in that session.
    pub number: u32,
}

impl From<(SessionId, u32)> for PackId {
    fn from((session, number): (SessionId, u32)) -> Self {
        PackId { session, number }
    }
}

impl From<PackId> for (SessionId, u32) {
    fn from(pack: PackId) -> Self {
        (pack.session, pack.number)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.session, self.number)
    }
}

/// Where a chunk lies and what it must turn out to be. The class is known from where the reference stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameLocation {
    /// The pack.
    pub pack: PackId,
    /// Offset of the frame's header in the pack.
    pub offset: u32,
    /// Bytes of ciphertext and tag.
    pub stored: u32,
    /// Bytes of the chunk.
    pub plain: u32,
    /// How it was compressed.
    pub codec: Codec,
    /// The chunk.
    pub id: ChunkId,
}

impl FrameLocation {
    /// The bytes of the pack that hold the frame, header included, padding not.
    pub fn range(&self) -> std::ops::Range<u64> {
        let start = u64::from(self.offset);
        start..start + FRAME_HEAD as u64 + u64::from(self.stored)
    }
}

/// Which secret a pack's key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// The session secret: only recipients open it.
    Content,
    /// The source's structure key: writers of the domain open it too.
    Structure,
}

impl KeyKind {
    /// The byte on disk.
    pub const fn byte(self) -> u8 {
        match self {
            KeyKind::Content => 1,
            KeyKind::Structure => 2,
        }
    }

    /// The kind of this byte.
    pub fn from_byte(byte: u8) -> Result<Self, FormatError> {
        match byte {
            1 => Ok(KeyKind::Content),
            2 => Ok(KeyKind::Structure),
            _ => Err(FormatError::Newer { what: WHAT, detail: format!("key kind {byte}") }),
        }
    }
}

/// The first 128 bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// How its frames are sealed.
    pub suite: Suite,
    /// What its key comes from.
    pub key_kind: KeyKind,
    /// The repository.
    pub repository: RepositoryId,
    /// The pack.
    pub pack: PackId,
    /// Random; keeps its key apart from every other one.
    pub salt: [u8; 32],
    /// Pins its key.
    pub commitment: [u8; 32],
}

impl PackHeader {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[1, self.suite.byte(), self.key_kind.byte(), 0]);
        bytes.extend_from_slice(self.repository.as_bytes());
        bytes.extend_from_slice(self.pack.session.as_bytes());
        bytes.extend_from_slice(&self.pack.number.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.commitment);
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.try_into().expect("the fields above add up to 128 bytes")
    }

    /// Reads the first 128 bytes of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        let header = cursor.take(HEADER_LENGTH)?;
        let mut cursor = Cursor::new(WHAT, header);
        if cursor.take(4)? != MAGIC {
            return Err(FormatError::NotThis { what: "pack" });
        }
        let (checked, crc) = header.split_at_checked(124).unwrap_or_default();
        if crc != crc32c::crc32c(checked).to_le_bytes() {
            return Err(FormatError::damaged(WHAT, "its checksum is wrong"));
        }
        let version = cursor.u8()?;
        if version != 1 {
            return Err(FormatError::Newer { what: WHAT, detail: format!("version {version}") });
        }
        let suite = Suite::from_byte(cursor.u8()?).map_err(|source| FormatError::Suite { what: WHAT, source })?;
        let key_kind = KeyKind::from_byte(cursor.u8()?)?;
        let flags = cursor.u8()?;
        if flags != 0 {
            return Err(FormatError::Newer { what: WHAT, detail: format!("flags {flags}") });
        }
        let repository = RepositoryId::from_bytes(cursor.array()?);
        let pack = PackId { session: SessionId::from_bytes(cursor.array()?), number: cursor.u32()? };
        cursor.zeros(4)?;
        Ok(PackHeader { suite, key_kind, repository, pack, salt: cursor.array()?, commitment: cursor.array()? })
    }
}

/// The key of one pack, with what its frames are bound to.
#[derive(Clone, Debug)]
pub struct PackKey {
    header: PackHeader,
    key: Secret,
}

impl PackKey {
    /// The key of a new pack. `base` is the session secret or the structure key, as `key_kind` says; `salt` must be
    /// random.
    pub fn new(
        suite: Suite,
        key_kind: KeyKind,
        repository: RepositoryId,
        pack: PackId,
        salt: [u8; 32],
        base: &Secret,
    ) -> Self {
        let key = pack_key(base, pack.number, &salt);
        let commitment = commitment(&key);
        PackKey { header: PackHeader { suite, key_kind, repository, pack, salt, commitment }, key }
    }

    /// The key of the pack with this header. Refuses a `base` that the pack was not sealed with.
    pub fn open(header: PackHeader, base: &Secret) -> Result<Self, FormatError> {
        let key = pack_key(base, header.pack.number, &header.salt);
        if commitment(&key) != header.commitment {
            return Err(FormatError::WrongKey { what: "pack" });
        }
        Ok(PackKey { header, key })
    }

    /// The header of the pack.
    pub const fn header(&self) -> &PackHeader {
        &self.header
    }

    /// What a footer says of the frames that this key sealed.
    pub const fn origin(&self) -> Origin {
        let header = &self.header;
        Origin {
            pack: header.pack,
            suite: header.suite,
            key_kind: header.key_kind,
            salt: header.salt,
            commitment: header.commitment,
        }
    }
}

fn pack_key(base: &Secret, number: u32, salt: &[u8; 32]) -> Secret {
    derive(base, "pack", &[&number.to_be_bytes(), salt])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn crc_32c_of_rfc_3720() {
        // Appendix B.4.
        let counting: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let cases: [(&[u8], u32); 5] = [
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&counting, 0x46dd_794e),
            (&falling, 0x113f_db5c),
            (b"123456789", 0xe306_9283),
        ];
        for (bytes, expected) in cases {
            assert_eq!(crc32c::crc32c(bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn headers_round_trip_and_every_flip_is_found(session: [u8; 16], number: u32, salt: [u8; 32], bit in 0..1024usize) {
            let (pack, base) = (PackId { session: SessionId::from_bytes(session), number }, Secret::from_bytes(salt));
            let repository = RepositoryId::from_bytes([3; 16]);
            let key = PackKey::new(Suite::Standard, KeyKind::Content, repository, pack, salt, &base);
            let bytes = key.header().encode();
            let header = PackHeader::decode(&bytes).unwrap();
            prop_assert_eq!(header, *key.header());
            prop_assert!(PackKey::open(header, &base).is_ok());
            let wrong = PackKey::open(header, &Secret::from_bytes([0; 32]));
            let refused = matches!(wrong, Err(FormatError::WrongKey { .. }));
            prop_assert!(refused);
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(PackHeader::decode(&flipped).is_err());
            prop_assert!(PackHeader::decode(&bytes[..bit / 8]).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_no_header(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(PackHeader::decode(&bytes).is_err());
        }
    }
}
