//! Leaves: lists of extents. The same extents in the same order are the same bytes, so that an unchanged leaf has the
//! id that it had before.

use std::collections::HashMap;

use breakwater_core::SessionId;
use breakwater_crypto::ChunkId;

use super::cursor::Cursor;
use super::{Codec, FormatError, FrameLocation, PackId};

const WHAT: &str = "leaf";
const PACK_LENGTH: usize = 20;
const EXTENT_LENGTH: usize = 52;
const ZEROS: u8 = 1;

/// Extents of one leaf at most.
pub const EXTENTS_MAX: usize = 1024;

/// One extent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Stored in a pack.
    Stored(FrameLocation),
    /// Nothing but zeros; not stored.
    Zeros {
        /// The id that a chunk of these zeros would have.
        id: ChunkId,
        /// Bytes.
        plain: u32,
    },
}

impl Extent {
    /// The id of the content.
    pub const fn id(&self) -> ChunkId {
        match self {
            Extent::Stored(location) => location.id,
            Extent::Zeros { id, .. } => *id,
        }
    }

    /// Bytes of the content.
    pub const fn plain(&self) -> u32 {
        match self {
            Extent::Stored(location) => location.plain,
            Extent::Zeros { plain, .. } => *plain,
        }
    }
}

/// The bytes of the leaf with these extents.
pub fn encode(extents: &[Extent]) -> Result<Vec<u8>, FormatError> {
    if extents.len() > EXTENTS_MAX {
        return Err(FormatError::damaged(WHAT, format!("{} extents are too many", extents.len())));
    }
    let mut packs: Vec<PackId> = Vec::new();
    let mut index: HashMap<PackId, u32> = HashMap::new();
    let mut table = Vec::with_capacity(extents.len() * EXTENT_LENGTH);
    for extent in extents {
        let (location, flags) = match extent {
            Extent::Stored(location) => {
                let next = u32::try_from(packs.len()).expect("a leaf has at most 1,024 extents");
                let pack = *index.entry(location.pack).or_insert_with(|| {
                    packs.push(location.pack);
                    next
                });
                ([pack, location.offset, location.stored, location.plain], [location.codec.byte(), 0, 0, 0])
            }
            Extent::Zeros { plain, .. } => ([0, 0, 0, *plain], [Codec::None.byte(), ZEROS, 0, 0]),
        };
        table.extend_from_slice(&extent.id().0);
        for number in location {
            table.extend_from_slice(&number.to_le_bytes());
        }
        table.extend_from_slice(&flags);
    }
    let mut bytes = Vec::with_capacity(8 + packs.len() * PACK_LENGTH + table.len());
    bytes.extend_from_slice(&u32::try_from(packs.len()).expect("no more packs than extents").to_le_bytes());
    for pack in packs {
        bytes.extend_from_slice(pack.session.as_bytes());
        bytes.extend_from_slice(&pack.number.to_le_bytes());
    }
    bytes.extend_from_slice(&u32::try_from(extents.len()).expect("checked above").to_le_bytes());
    bytes.extend_from_slice(&table);
    Ok(bytes)
}

/// The extents of the leaf with these bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<Extent>, FormatError> {
    let mut cursor = Cursor::new(WHAT, bytes);
    let count = cursor.count(PACK_LENGTH)?;
    let mut packs = Vec::with_capacity(count);
    for _ in 0..count {
        packs.push(PackId { session: SessionId::from_bytes(cursor.array()?), number: cursor.u32()? });
    }
    let count = cursor.count(EXTENT_LENGTH)?;
    if count > EXTENTS_MAX {
        return Err(FormatError::damaged(WHAT, format!("{count} extents are too many")));
    }
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        let id = ChunkId(cursor.array()?);
        let (pack, offset) = (cursor.u32()?, cursor.u32()?);
        let (stored, plain) = (cursor.u32()?, cursor.u32()?);
        let codec = Codec::from_byte(cursor.u8()?)?;
        let flags = cursor.u8()?;
        cursor.zeros(2)?;
        extents.push(match flags {
            0 => {
                let pack = packs
                    .get(pack as usize)
                    .ok_or_else(|| FormatError::damaged(WHAT, "an extent names a pack that is not listed"))?;
                Extent::Stored(FrameLocation { pack: *pack, offset, stored, plain, codec, id })
            }
            ZEROS if (pack, offset, stored, codec) == (0, 0, 0, Codec::None) => Extent::Zeros { id, plain },
            ZEROS => return Err(FormatError::damaged(WHAT, "an extent of zeros has a place")),
            _ => return Err(FormatError::Newer { what: WHAT, detail: format!("flags {flags}") }),
        });
    }
    cursor.end()?;
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

    use super::*;

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        let extent =
            any::<([u8; 32], u8, u32, u32, u32, bool)>().prop_map(|(id, pack, offset, stored, plain, zeros)| {
                let id = ChunkId(id);
                if zeros {
                    return Extent::Zeros { id, plain };
                }
                let pack = PackId { session: SessionId::from_bytes([pack % 3; 16]), number: u32::from(pack % 5) };
                Extent::Stored(FrameLocation { pack, offset, stored, plain, codec: Codec::Zstd, id })
            });
        prop::collection::vec(extent, 0..60)
    }

    proptest! {
        #[test]
        fn leaves_round_trip(extents in extents(), cut: prop::sample::Index) {
            let bytes = encode(&extents).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), extents);
            assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), packs in 0..3u8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.get_mut(..4) {
                first.copy_from_slice(&u32::from(packs).to_le_bytes());
            }
            drop(decode(&bytes));
        }
    }

    #[test]
    fn too_many_extents_are_refused() {
        let extent = Extent::Zeros { id: ChunkId([0; 32]), plain: 1 };
        assert!(encode(&vec![extent; EXTENTS_MAX]).is_ok());
        assert!(encode(&vec![extent; EXTENTS_MAX + 1]).is_err());
    }
}
