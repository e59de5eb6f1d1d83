//! An entry: half of a chunk's id, and where the chunk lies. Packed into 32 bytes: sessions are few, so an entry names its
//! session by a number.

use std::collections::HashMap;

use breakwater_core::SessionId;
use breakwater_crypto::ChunkId;
use breakwater_repository::format::{Codec, PackId};

/// The first 16 bytes of a chunk's id. Ids are keyed: two chunks of a domain meet by chance once in 2^64 chunks.
pub type Half = [u8; 16];

/// The half of this id.
pub fn half(id: &ChunkId) -> Half {
    let mut half = [0; 16];
    half.copy_from_slice(&id.0[..16]);
    half
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// Offset of the frame's header in the pack.
    pub offset: u32,
    /// Bytes of ciphertext and tag; a chunk with 2^28 or more is not remembered.
    pub stored: u32,
    /// How it was compressed.
    pub codec: Codec,
}

/// Bytes of an entry on disk.
pub(super) const ENTRY_LENGTH: usize = 32;

const STORED_BITS: u32 = 28;

/// A place in 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    session: u32,
    number: u32,
    offset: u32,
    stored_and_codec: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) half: Half,
    pub(super) packed: Packed,
}

impl Packed {
    /// The place, in the session with this number; `None` when it does not fit.
    pub(super) fn new(session: u32, place: &Place) -> Option<Packed> {
        let Place { pack, offset, stored, codec } = *place;
        let fits = stored >> STORED_BITS == 0;
        let stored_and_codec = stored | u32::from(codec.byte()) << STORED_BITS;
        fits.then_some(Packed { session, number: pack.number, offset, stored_and_codec })
    }

    /// The place, if its session is one of `sessions` and its codec is one.
    pub(super) fn place(self, sessions: &Sessions) -> Option<Place> {
        let Packed { session, number, offset, stored_and_codec } = self;
        let codec = u8::try_from(stored_and_codec >> STORED_BITS).ok()?;
        Some(Place {
            pack: PackId { session: sessions.session(session)?, number },
            offset,
            stored: stored_and_codec & ((1 << STORED_BITS) - 1),
            codec: Codec::from_byte(codec).ok()?,
        })
    }
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY_LENGTH] {
        let Packed { session, number, offset, stored_and_codec } = self.packed;
        let mut bytes = [0; ENTRY_LENGTH];
        bytes[..16].copy_from_slice(&self.half);
        for (at, field) in [session, number, offset, stored_and_codec].into_iter().enumerate() {
            bytes[16 + 4 * at..20 + 4 * at].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; ENTRY_LENGTH]) -> Entry {
        let mut half = [0; 16];
        half.copy_from_slice(&bytes[..16]);
        let field = |at: usize| {
            let at = 16 + 4 * at;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let packed = Packed { session: field(0), number: field(1), offset: field(2), stored_and_codec: field(3) };
        Entry { half, packed }
    }
}

/// The sessions that entries name.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    list: Vec<SessionId>,
    numbers: HashMap<SessionId, u32>,
}

impl Sessions {
    pub(super) fn number(&self, session: SessionId) -> Option<u32> {
        self.numbers.get(&session).copied()
    }

    /// The session's number, a new one if need be; `None` when there are 2^32 already.
    pub(super) fn add(&mut self, session: SessionId) -> Option<u32> {
        if let Some(number) = self.number(session) {
            return Some(number);
        }
        let number = u32::try_from(self.list.len()).ok()?;
        self.list.push(session);
        self.numbers.insert(session, number);
        Some(number)
    }

    fn session(&self, number: u32) -> Option<SessionId> {
        self.list.get(usize::try_from(number).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_what_does_not_fit_is_not_bent() {
        let mut sessions = Sessions::default();
        for (session, stored) in [(1, 0), (2, (1 << 28) - 1), (1, 77)] {
            let pack = PackId { session: SessionId::from_bytes([session; 16]), number: u32::MAX - u32::from(session) };
            for codec in Codec::ALL {
                let place = Place { pack, offset: u32::MAX - 15, stored, codec };
                let number = sessions.add(pack.session).unwrap();
                let entry = Entry { half: [session; 16], packed: Packed::new(number, &place).unwrap() };
                assert_eq!(Entry::decode(&entry.encode()), entry);
                assert_eq!(entry.packed.place(&sessions), Some(place));
                assert_eq!(Packed::new(number, &Place { stored: 1 << 28, ..place }), None);
            }
        }
        assert_eq!(sessions.list.len(), 2);
    }
}
