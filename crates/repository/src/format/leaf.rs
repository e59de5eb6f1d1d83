//! Leaves: lists of extents. The same extents in the same order are the same bytes, so that an unchanged leaf has the
//! id that it had before.
//!
//! An extent is one chunk, or zeros, or *patched*: a chunk of an earlier snapshot with newer pages laid over it, which come
//! from page runs. Invariant: patches never reach beyond their extent or their run, and whoever reads an extent gets its
//! patches with it: there is no way to take one for the bare chunk.

use std::collections::HashMap;

use breakwater_core::SessionId;
use breakwater_crypto::ChunkId;

use super::cursor::Cursor;
use super::{Class, Codec, FormatError, FrameLocation, PackId};

const WHAT: &str = "leaf";
const PACK_LENGTH: usize = 20;
const EXTENT_LENGTH: usize = 52;
const PATCH_LENGTH: usize = 20;
const ZEROS: u8 = 1;
const PATCHED: u8 = 2;

/// Extents of one leaf at most.
pub const EXTENTS_MAX: usize = 1024;

/// Patches of one extent at most.
pub const PATCHES_MAX: usize = 256;

/// One extent of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Stored in a pack when it was read whole last; since then some of it has changed.
    Patched {
        /// The chunk as it was.
        base: FrameLocation,
        /// What to lay over it, in this order; at least one.
        patches: Vec<Patch>,
    },
}

/// Bytes of a page run that belong into an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where they go in the extent.
    pub offset: u32,
    /// How many.
    pub length: u32,
    /// The run: a chunk of class page run.
    pub run: FrameLocation,
    /// Where they begin in the run.
    pub run_offset: u32,
}

/// Some bytes of an extent, and the chunk they come from. The pieces of an extent are disjoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they go in the extent.
    pub at: u32,
    /// How many.
    pub length: u32,
    /// The class of the chunk.
    pub class: Class,
    /// The chunk.
    pub frame: FrameLocation,
    /// Where they begin in the chunk.
    pub offset: u32,
}

impl Extent {
    /// The id of the content, where there is one: a patched extent has none of its own.
    pub const fn id(&self) -> Option<ChunkId> {
        match self {
            Extent::Stored(location) => Some(location.id),
            Extent::Zeros { id, .. } => Some(*id),
            Extent::Patched { .. } => None,
        }
    }

    /// Bytes of the content.
    pub const fn plain(&self) -> u32 {
        match self {
            Extent::Stored(location) => location.plain,
            Extent::Zeros { plain, .. } => *plain,
            Extent::Patched { base, .. } => base.plain,
        }
    }

    /// What is laid over the chunk; empty for most extents.
    pub fn patches(&self) -> &[Patch] {
        match self {
            Extent::Patched { patches, .. } => patches,
            Extent::Stored(_) | Extent::Zeros { .. } => &[],
        }
    }

    /// Every chunk that the extent needs, with its class: the whole one, which has the class `whole`, then the runs, some
    /// of them perhaps more than once.
    pub fn frames(&self, whole: Class) -> impl Iterator<Item = (Class, &FrameLocation)> {
        let base = match self {
            Extent::Stored(location) | Extent::Patched { base: location, .. } => Some((whole, location)),
            Extent::Zeros { .. } => None,
        };
        base.into_iter().chain(self.patches().iter().map(|patch| (Class::PageRun, &patch.run)))
    }

    /// Where each byte comes from, by offset; the patches are resolved, bytes in no piece are zeros. Whole chunks have the
    /// class `whole`.
    pub fn pieces(&self, whole: Class) -> Vec<Piece> {
        let (base, patches) = match self {
            Extent::Zeros { .. } => return Vec::new(),
            Extent::Stored(base) => (base, &[][..]),
            Extent::Patched { base, patches } => (base, &patches[..]),
        };
        let mut pieces = vec![Piece { at: 0, length: base.plain, class: whole, frame: *base, offset: 0 }];
        for patch in patches {
            let Patch { offset: at, length, run, run_offset: offset } = *patch;
            pieces = pieces.into_iter().flat_map(|piece| piece.without(at, length)).collect();
            pieces.push(Piece { at, length, class: Class::PageRun, frame: run, offset });
        }
        pieces.retain(|piece| piece.length > 0);
        pieces.sort_by_key(|piece| piece.at);
        pieces
    }

    /// Refuses patches that reach too far.
    fn check(&self) -> Result<(), FormatError> {
        let Extent::Patched { base, patches } = self else { return Ok(()) };
        let damaged = |detail: &str| Err(FormatError::damaged(WHAT, detail));
        if patches.is_empty() || patches.len() > PATCHES_MAX {
            return damaged("a patched extent has no patches, or too many");
        }
        let ends = |offset: u32, length: u32| u64::from(offset) + u64::from(length);
        for Patch { offset, length, run, run_offset } in patches {
            if *length == 0 || ends(*offset, *length) > base.plain.into() {
                return damaged("a patch is empty or reaches beyond its extent");
            }
            if ends(*run_offset, *length) > run.plain.into() {
                return damaged("a patch reaches beyond its page run");
            }
        }
        Ok(())
    }
}

impl Piece {
    /// What is left of the piece before and after the `length` bytes from `at` on.
    fn without(self, at: u32, length: u32) -> impl Iterator<Item = Piece> {
        let (from, to) = (self.at, self.at + self.length);
        let (hole, after) = (at.clamp(from, to), at.saturating_add(length).clamp(from, to));
        let before = Piece { length: hole - from, ..self };
        let behind = Piece { at: after, length: to - after, offset: self.offset + (after - from), ..self };
        let both = if hole < after { [Some(before), Some(behind)] } else { [Some(self), None] };
        both.into_iter().flatten().filter(|piece| piece.length > 0)
    }
}

/// Frames of one leaf and the packs that they lie in.
#[derive(Default)]
struct Tables {
    packs: Vec<PackId>,
    pack_index: HashMap<PackId, u32>,
    runs: Vec<u8>,
    run_index: HashMap<FrameLocation, u32>,
    patches: Vec<u8>,
}

impl Tables {
    fn frame(&mut self, location: &FrameLocation, flags: u8) -> [u8; EXTENT_LENGTH] {
        let next = number(self.packs.len());
        let packs = &mut self.packs;
        let pack = *self.pack_index.entry(location.pack).or_insert_with(|| {
            packs.push(location.pack);
            next
        });
        let FrameLocation { offset, stored, plain, codec, id, .. } = *location;
        line(id, [pack, offset, stored, plain], [codec.byte(), flags, 0, 0])
    }

    fn run(&mut self, location: &FrameLocation) -> u32 {
        if let Some(known) = self.run_index.get(location) {
            return *known;
        }
        let run = number(self.run_index.len());
        let line = self.frame(location, 0);
        self.runs.extend_from_slice(&line);
        self.run_index.insert(*location, run);
        run
    }
}

/// The bytes of the leaf with these extents.
pub fn encode(extents: &[Extent]) -> Result<Vec<u8>, FormatError> {
    if extents.len() > EXTENTS_MAX {
        return Err(FormatError::damaged(WHAT, format!("{} extents are too many", extents.len())));
    }
    let mut tables = Tables::default();
    let mut lines = Vec::with_capacity(extents.len() * EXTENT_LENGTH);
    for (at, extent) in extents.iter().enumerate() {
        extent.check()?;
        let line = match extent {
            Extent::Stored(location) => tables.frame(location, 0),
            Extent::Zeros { id, plain } => line(*id, [0, 0, 0, *plain], [Codec::None.byte(), ZEROS, 0, 0]),
            Extent::Patched { base, .. } => tables.frame(base, PATCHED),
        };
        lines.extend_from_slice(&line);
        for patch in extent.patches() {
            let run = tables.run(&patch.run);
            for field in [number(at), patch.offset, patch.length, run, patch.run_offset] {
                tables.patches.extend_from_slice(&field.to_le_bytes());
            }
        }
    }
    let Tables { packs, runs, run_index, patches, .. } = tables;
    let mut bytes = Vec::with_capacity(16 + packs.len() * PACK_LENGTH + lines.len() + runs.len() + patches.len());
    bytes.extend_from_slice(&number(packs.len()).to_le_bytes());
    for pack in packs {
        bytes.extend_from_slice(pack.session.as_bytes());
        bytes.extend_from_slice(&pack.number.to_le_bytes());
    }
    bytes.extend_from_slice(&number(extents.len()).to_le_bytes());
    bytes.extend_from_slice(&lines);
    if !patches.is_empty() {
        bytes.extend_from_slice(&number(run_index.len()).to_le_bytes());
        bytes.extend_from_slice(&runs);
        bytes.extend_from_slice(&number(patches.len() / PATCH_LENGTH).to_le_bytes());
        bytes.extend_from_slice(&patches);
    }
    Ok(bytes)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a leaf has at most 1,024 extents with 256 patches each")
}

fn line(id: ChunkId, fields: [u32; 4], flags: [u8; 4]) -> [u8; EXTENT_LENGTH] {
    let mut line = [0; EXTENT_LENGTH];
    let (name, rest) = line.split_at_mut(32);
    name.copy_from_slice(&id.0);
    for (place, field) in rest.chunks_exact_mut(4).zip(fields.map(u32::to_le_bytes).into_iter().chain([flags])) {
        place.copy_from_slice(&field);
    }
    line
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
    let mut patched = false;
    for _ in 0..count {
        let line = Line::read(&mut cursor)?;
        extents.push(match line.flags {
            0 => Extent::Stored(line.location(&packs)?),
            ZEROS if (line.pack, line.offset, line.stored, line.codec) == (0, 0, 0, Codec::None) => {
                Extent::Zeros { id: line.id, plain: line.plain }
            }
            ZEROS => return Err(FormatError::damaged(WHAT, "an extent of zeros has a place")),
            PATCHED => {
                patched = true;
                Extent::Patched { base: line.location(&packs)?, patches: Vec::new() }
            }
            flags => return Err(FormatError::Newer { what: WHAT, detail: format!("flags {flags}") }),
        });
    }
    if patched {
        decode_patches(&mut cursor, &packs, &mut extents)?;
    }
    cursor.end()?;
    Ok(extents)
}

fn decode_patches(cursor: &mut Cursor<'_>, packs: &[PackId], extents: &mut [Extent]) -> Result<(), FormatError> {
    let damaged = |detail: &str| FormatError::damaged(WHAT, detail);
    let count = cursor.count(EXTENT_LENGTH)?;
    let mut runs = Vec::with_capacity(count);
    for _ in 0..count {
        let line = Line::read(cursor)?;
        if line.flags != 0 {
            return Err(FormatError::Newer { what: WHAT, detail: format!("flags {} of a page run", line.flags) });
        }
        runs.push(line.location(packs)?);
    }
    let mut before = 0;
    for _ in 0..cursor.count(PATCH_LENGTH)? {
        let (at, offset, length) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let (run, run_offset) = (cursor.u32()?, cursor.u32()?);
        if at < before {
            return Err(damaged("patches do not come in the order of their extents"));
        }
        before = at;
        let Some(Extent::Patched { patches, .. }) = extents.get_mut(at as usize) else {
            return Err(damaged("a patch names an extent that is not patched"));
        };
        let run = *runs.get(run as usize).ok_or_else(|| damaged("a patch names a page run that is not listed"))?;
        patches.push(Patch { offset, length, run, run_offset });
    }
    extents.iter().try_for_each(Extent::check)
}

/// One line of the table of extents or of that of page runs.
struct Line {
    id: ChunkId,
    pack: u32,
    offset: u32,
    stored: u32,
    plain: u32,
    codec: Codec,
    flags: u8,
}

impl Line {
    fn read(cursor: &mut Cursor<'_>) -> Result<Line, FormatError> {
        let id = ChunkId(cursor.array()?);
        let (pack, offset) = (cursor.u32()?, cursor.u32()?);
        let (stored, plain) = (cursor.u32()?, cursor.u32()?);
        let codec = Codec::from_byte(cursor.u8()?)?;
        let flags = cursor.u8()?;
        cursor.zeros(2)?;
        Ok(Line { id, pack, offset, stored, plain, codec, flags })
    }

    fn location(&self, packs: &[PackId]) -> Result<FrameLocation, FormatError> {
        let Line { id, pack, offset, stored, plain, codec, .. } = *self;
        let pack = packs.get(pack as usize);
        let pack = *pack.ok_or_else(|| FormatError::damaged(WHAT, "an extent names a pack that is not listed"))?;
        Ok(FrameLocation { pack, offset, stored, plain, codec, id })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn location(id: [u8; 32], pack: u8, offset: u32, stored: u32, plain: u32) -> FrameLocation {
        let pack = PackId { session: SessionId::from_bytes([pack % 3; 16]), number: u32::from(pack % 5) };
        FrameLocation { pack, offset, stored, plain, codec: Codec::Zstd, id: ChunkId(id) }
    }

    fn patch(of: u32) -> impl Strategy<Value = Patch> {
        (0..of, 0..6u8, 0..50u32).prop_flat_map(move |(offset, run, run_offset)| {
            (1..=(of - offset), Just((offset, run, run_offset))).prop_map(|(length, (offset, run, run_offset))| Patch {
                offset,
                length,
                run: location([run; 32], run, 128, 400, 300),
                run_offset,
            })
        })
    }

    fn extent() -> impl Strategy<Value = Extent> {
        let frame = any::<([u8; 32], u8, u32, u32)>();
        (frame, 0..4u8, prop::collection::vec(patch(200), 1..8)).prop_map(
            |((id, pack, offset, stored), kind, patches)| match kind {
                0 => Extent::Zeros { id: ChunkId(id), plain: offset },
                1 => Extent::Patched { base: location(id, pack, offset, stored, 200), patches },
                _ => Extent::Stored(location(id, pack, offset, stored, 200)),
            },
        )
    }

    proptest! {
        #[test]
        fn leaves_round_trip(extents in prop::collection::vec(extent(), 0..60), cut: prop::sample::Index) {
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

        #[test]
        fn a_flipped_bit_never_makes_a_patch_reach_too_far(
            extents in prop::collection::vec(extent(), 1..6),
            bit: prop::sample::Index,
        ) {
            let mut bytes = encode(&extents).unwrap();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            for extent in decode(&bytes).unwrap_or_default() {
                for piece in extent.pieces(Class::Extent) {
                    let ends = |offset: u32| u64::from(offset) + u64::from(piece.length);
                    prop_assert!(ends(piece.at) <= extent.plain().into());
                    prop_assert!(ends(piece.offset) <= piece.frame.plain.into());
                }
            }
        }

        /// The model lays patch over patch, byte by byte.
        #[test]
        fn pieces_say_where_each_byte_comes_from(patches in prop::collection::vec(patch(200), 0..12)) {
            let base = location([99; 32], 0, 128, 200, 200);
            let mut model: Vec<(u8, u32)> = (0..200).map(|at| (99, at)).collect();
            for patch in &patches {
                for at in 0..patch.length {
                    model[(patch.offset + at) as usize] = (patch.run.id.0[0], patch.run_offset + at);
                }
            }
            let extent = if patches.is_empty() { Extent::Stored(base) } else { Extent::Patched { base, patches } };
            let mut found = Vec::new();
            for piece in extent.pieces(Class::Extent) {
                prop_assert_eq!(found.len(), piece.at as usize, "no gap, no overlap");
                prop_assert_eq!(piece.class == Class::PageRun, piece.frame != base);
                found.extend((0..piece.length).map(|at| (piece.frame.id.0[0], piece.offset + at)));
            }
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn too_many_extents_and_patches_that_reach_too_far_are_refused() {
        let extent = Extent::Zeros { id: ChunkId([0; 32]), plain: 1 };
        assert!(encode(&vec![extent.clone(); EXTENTS_MAX]).is_ok());
        assert!(encode(&vec![extent; EXTENTS_MAX + 1]).is_err());
        let patched = |offset, length, run_offset| {
            let (base, run) = (location([1; 32], 0, 128, 9, 100), location([2; 32], 0, 256, 9, 50));
            encode(&[Extent::Patched { base, patches: vec![Patch { offset, length, run, run_offset }] }])
        };
        assert!(patched(50, 50, 0).is_ok());
        assert!(patched(51, 50, 0).is_err() && patched(50, 50, 1).is_err() && patched(0, 0, 0).is_err());
        let base = location([1; 32], 0, 128, 9, 100);
        assert!(encode(&[Extent::Patched { base, patches: Vec::new() }]).is_err());
    }

    #[test]
    fn a_leaf_without_patches_has_no_tables_for_them() {
        let extents =
            [Extent::Stored(location([1; 32], 0, 128, 9, 100)), Extent::Zeros { id: ChunkId([0; 32]), plain: 7 }];
        assert_eq!(encode(&extents).unwrap().len(), 4 + 20 + 4 + 2 * 52);
    }
}
