//! What is needed of packs, as rows that sort: pack, then offset.

use std::io;
use std::iter::Peekable;

use breakwater_core::SessionId;

use super::spill::{Rows, Sorted, Spill};
use crate::format::pack::{FrameLocation, KeyKind, PackId};
use crate::format::references::{FrameRange, PackRanges, push};

/// Kind, session, number, offset, length.
const LIVE: usize = 29;
/// The place that references name (kind, session, number, offset), then where the frame is now (session, number, offset,
/// stored).
const FROM: usize = 53;

/// Ranges of packs that are needed.
pub type LiveRows = Spill<LIVE>;
/// The same, sorted.
pub type SortedLive = Sorted<LIVE>;
/// Where frames that moved are.
pub type FromRows = Spill<FROM>;

/// The row of a range that is needed.
pub fn live_row(kind: KeyKind, pack: PackId, range: FrameRange) -> [u8; LIVE] {
    let mut row = [0; LIVE];
    put(&mut row, 0, &[kind.byte()]);
    put_pack(&mut row, 1, pack);
    put(&mut row, 21, &range.offset.to_be_bytes());
    put(&mut row, 25, &range.length.to_be_bytes());
    row
}

/// The row of a frame that lies in `pack` now, and that references know by `from`.
pub fn from_row(kind: KeyKind, from: (PackId, u32), frame: &FrameLocation) -> [u8; FROM] {
    let mut row = [0; FROM];
    put(&mut row, 0, &[kind.byte()]);
    put_pack(&mut row, 1, from.0);
    put(&mut row, 21, &from.1.to_be_bytes());
    put_pack(&mut row, 25, frame.pack);
    put(&mut row, 45, &frame.offset.to_be_bytes());
    put(&mut row, 49, &frame.stored.to_be_bytes());
    row
}

fn put(row: &mut [u8], at: usize, bytes: &[u8]) {
    row.get_mut(at..at + bytes.len()).expect("rows have room for their fields").copy_from_slice(bytes);
}

fn put_pack(row: &mut [u8], at: usize, pack: PackId) {
    put(row, at, pack.session.as_bytes());
    put(row, at + 16, &pack.number.to_be_bytes());
}

fn number(row: &[u8], at: usize) -> u32 {
    row.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn pack(row: &[u8], at: usize) -> PackId {
    let session = row.get(at..at + 16).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    PackId { session: SessionId::from_bytes(session), number: number(row, at + 16) }
}

fn kind(row: &[u8]) -> KeyKind {
    if row.first() == Some(&KeyKind::Content.byte()) { KeyKind::Content } else { KeyKind::Structure }
}

/// Sorted rows, pack by pack.
#[derive(Debug)]
pub struct LivePacks {
    rows: Peekable<Rows<LIVE>>,
}

impl LivePacks {
    /// The packs of `sorted`.
    pub fn of(sorted: &SortedLive) -> LivePacks {
        LivePacks { rows: sorted.rows().peekable() }
    }
}

impl Iterator for LivePacks {
    type Item = io::Result<PackRanges>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.rows.next()? {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        let range = |row: &[u8]| FrameRange { offset: number(row, 21), length: number(row, 25) };
        let mut packs = PackRanges { kind: kind(&first), pack: pack(&first, 1), ranges: vec![range(&first)] };
        let same = |row: &io::Result<[u8; LIVE]>| row.as_ref().is_ok_and(|row| row.get(..21) == first.get(..21));
        while let Some(Ok(row)) = self.rows.next_if(same) {
            push(&mut packs.ranges, range(&row));
        }
        Some(Ok(packs))
    }
}

/// Which frames of movers' packs are needed, because the place that references name is.
pub fn follow(live: &SortedLive, from: &Sorted<FROM>, into: &mut LiveRows) -> io::Result<()> {
    let mut packs = LivePacks::of(live);
    let mut current = packs.next().transpose()?;
    for row in from.rows() {
        let row = row?;
        let wanted = (kind(&row), pack(&row, 1));
        while current.as_ref().is_some_and(|pack| pack.key() < wanted) {
            current = packs.next().transpose()?;
        }
        let Some(needed) = current.as_ref().filter(|pack| pack.key() == wanted) else { continue };
        let at = number(&row, 21);
        let after = needed.ranges.partition_point(|range| range.offset <= at);
        let before = after.checked_sub(1).and_then(|index| needed.ranges.get(index));
        if before.is_some_and(|range| u64::from(at) < range.end()) {
            let (offset, stored) = (number(&row, 45), number(&row, 49));
            let head = u32::try_from(crate::format::pack::FRAME_HEAD).unwrap_or(u32::MAX);
            into.push(live_row(wanted.0, pack(&row, 25), FrameRange { offset, length: stored.saturating_add(head) }))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use breakwater_crypto::ChunkId;

    use super::*;
    use crate::format::Codec;

    fn id(session: u8, number: u32) -> PackId {
        PackId { session: SessionId::from_bytes([session; 16]), number }
    }

    #[test]
    fn frames_that_moved_are_needed_where_their_old_place_is() {
        let directory = tempfile::tempdir().unwrap();
        let range = |offset, length| FrameRange { offset, length };
        let mut live = LiveRows::new(directory.path(), 0);
        for (pack, range) in [(id(2, 1), range(128, 40)), (id(1, 7), range(128, 40)), (id(1, 7), range(176, 40))] {
            live.push(live_row(KeyKind::Content, pack, range)).unwrap();
        }
        let live = live.finish().unwrap();
        let packs: Vec<_> = LivePacks::of(&live).map(Result::unwrap).collect();
        assert_eq!(packs.len(), 2);
        assert_eq!((packs[0].pack, &packs[0].ranges), (id(1, 7), &vec![range(128, 88)]), "padding is swallowed");
        let mut from = FromRows::new(directory.path(), 0);
        let frame = |offset| FrameLocation {
            pack: id(9, 0),
            offset,
            stored: 16,
            plain: 0,
            codec: Codec::None,
            id: ChunkId([0; 32]),
        };
        for (place, offset) in
            [((id(1, 7), 176), 128), ((id(1, 7), 224), 176), ((id(1, 8), 128), 224), ((id(2, 1), 128), 272)]
        {
            from.push(from_row(KeyKind::Content, place, &frame(offset))).unwrap();
        }
        from.push(from_row(KeyKind::Structure, (id(2, 1), 128), &frame(320))).unwrap();
        let mut moved = LiveRows::new(directory.path(), 0);
        follow(&live, &from.finish().unwrap(), &mut moved).unwrap();
        let found: Vec<_> = LivePacks::of(&moved.finish().unwrap()).map(Result::unwrap).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pack, &found[0].ranges), (id(9, 0), &vec![range(128, 40), range(272, 40)]));
    }
}
