//! References: what a snapshot needs of each pack, so that nobody has to walk a tree to know it.
//!
//! A sorted list of packs, each with the ranges of it that hold frames of the snapshot; the frames of the list itself are
//! named by the manifest alone. Invariant: a pack stands in a list once, its ranges ascend and do not touch.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use breakwater_core::SessionId;

use super::cursor::Cursor;
use super::pack::{FRAME_ALIGNMENT, FRAMES_MAX, FrameLocation, KeyKind, PackId};
use super::{FormatError, ObjectName};

const WHAT: &str = "references";
const PACK_LENGTH: usize = 25;
const RANGE_LENGTH: usize = 8;

/// A frame of the list has at most so many bytes.
pub const FRAME_MAX: usize = 1 << 20;

/// A piece of a pack that holds whole frames, headers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameRange {
    /// Offset of the first frame's header.
    pub offset: u32,
    /// Bytes up to the end of the last frame's ciphertext.
    pub length: u32,
}

/// What is needed of one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRanges {
    /// What the pack holds: content or structure.
    pub kind: KeyKind,
    /// The pack.
    pub pack: PackId,
    /// Ascending, never touching: what lies between two of them is not needed.
    pub ranges: Vec<FrameRange>,
}

impl FrameRange {
    /// The range of the frame at `location`.
    pub fn of(location: &FrameLocation) -> FrameRange {
        let range = location.range();
        FrameRange { offset: location.offset, length: u32::try_from(range.end - range.start).unwrap_or(u32::MAX) }
    }

    /// The offset after the last byte.
    pub const fn end(&self) -> u64 {
        self.offset as u64 + self.length as u64
    }

    /// Whether a frame that begins at `offset` follows with nothing but padding between, or lies in this range already.
    pub fn reaches(&self, offset: u32) -> bool {
        offset >= self.offset && u64::from(offset) <= self.end().next_multiple_of(FRAME_ALIGNMENT as u64)
    }

    /// Grows over `other`, which must be [reached](Self::reaches).
    pub fn extend_over(&mut self, other: FrameRange) {
        let end = self.end().max(other.end());
        self.length = u32::try_from(end - u64::from(self.offset)).unwrap_or(u32::MAX);
    }
}

impl PackRanges {
    /// Lists sort by this.
    pub const fn key(&self) -> (KeyKind, PackId) {
        (self.kind, self.pack)
    }

    /// The pack's object, which belongs to `source`.
    pub const fn name(&self, source: breakwater_core::SourceUid) -> ObjectName {
        match self.kind {
            KeyKind::Content => ObjectName::ContentPack(source, self.pack),
            KeyKind::Structure => ObjectName::StructurePack(source, self.pack),
        }
    }

    /// Bytes needed.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| u64::from(range.length)).sum()
    }

    /// Whether the frame at `location` of this pack is needed.
    pub fn covers(&self, location: &FrameLocation) -> bool {
        let wanted = location.range();
        let after = self.ranges.partition_point(|range| u64::from(range.offset) <= wanted.start);
        let before = after.checked_sub(1).and_then(|at| self.ranges.get(at));
        location.pack == self.pack && before.is_some_and(|range| range.end() >= wanted.end)
    }

    /// Adds what another list needs of the same pack.
    pub fn add(&mut self, ranges: &[FrameRange]) {
        let old = std::mem::take(&mut self.ranges);
        let (mut one, mut other) = (old.iter().peekable(), ranges.iter().peekable());
        while let Some(next) = match (one.peek(), other.peek()) {
            (Some(left), Some(right)) if left <= right => one.next(),
            (Some(_), None) => one.next(),
            _ => other.next(),
        } {
            push(&mut self.ranges, *next);
        }
    }
}

/// Adds a range that begins at or after the last one.
pub fn push(ranges: &mut Vec<FrameRange>, next: FrameRange) {
    match ranges.last_mut() {
        Some(last) if last.reaches(next.offset) => last.extend_over(next),
        _ => ranges.push(next),
    }
}

/// The list of the frames given, in memory.
pub fn collect(frames: impl IntoIterator<Item = (KeyKind, FrameLocation)>) -> Vec<PackRanges> {
    let mut frames: Vec<_> =
        frames.into_iter().map(|(kind, frame)| ((kind, frame.pack), FrameRange::of(&frame))).collect();
    frames.sort_unstable();
    let mut list: Vec<PackRanges> = Vec::new();
    for ((kind, pack), range) in frames {
        match list.last_mut() {
            Some(last) if last.key() == (kind, pack) => push(&mut last.ranges, range),
            _ => list.push(PackRanges { kind, pack, ranges: vec![range] }),
        }
    }
    list
}

/// Makes the frames of a list out of packs that come in order.
#[derive(Debug)]
pub struct ReferenceEncoder {
    bytes: Vec<u8>,
    last: Option<(KeyKind, PackId)>,
    aim: usize,
}

impl Default for ReferenceEncoder {
    fn default() -> Self {
        ReferenceEncoder::with_frames_of(FRAME_MAX)
    }
}

impl ReferenceEncoder {
    /// One whose frames have at most `aim` bytes, or one pack.
    pub fn with_frames_of(aim: usize) -> Self {
        ReferenceEncoder { bytes: Vec::new(), last: None, aim: aim.min(FRAME_MAX) }
    }

    /// Adds a pack; answers the content of a frame that this one does not fit into any more.
    pub fn push(&mut self, pack: &PackRanges) -> Result<Option<Vec<u8>>, FormatError> {
        if self.last.is_some_and(|last| last >= pack.key()) {
            return Err(FormatError::damaged(WHAT, format!("pack {} comes out of order", pack.pack)));
        }
        check(pack)?;
        self.last = Some(pack.key());
        let length = PACK_LENGTH + pack.ranges.len() * RANGE_LENGTH;
        let full = (self.bytes.len() + length > self.aim).then(|| std::mem::take(&mut self.bytes));
        self.bytes.push(pack.kind.byte());
        self.bytes.extend_from_slice(pack.pack.session.as_bytes());
        self.bytes.extend_from_slice(&pack.pack.number.to_le_bytes());
        let count = u32::try_from(pack.ranges.len()).expect("checked to be at most 65,536");
        self.bytes.extend_from_slice(&count.to_le_bytes());
        for range in &pack.ranges {
            self.bytes.extend_from_slice(&range.offset.to_le_bytes());
            self.bytes.extend_from_slice(&range.length.to_le_bytes());
        }
        Ok(full.filter(|frame| !frame.is_empty()))
    }

    /// The content of the last frame, where there is one.
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.bytes.is_empty()).then_some(self.bytes)
    }
}

/// Reads the frames of a list one after the other, and checks what a whole list promises.
#[derive(Debug, Default)]
pub struct ReferenceDecoder {
    last: Option<(KeyKind, PackId)>,
}

impl ReferenceDecoder {
    /// The packs of the next frame.
    pub fn frame(&mut self, content: &[u8]) -> Result<Vec<PackRanges>, FormatError> {
        let mut cursor = Cursor::new(WHAT, content);
        let mut packs = Vec::new();
        while !cursor.is_empty() {
            let kind = KeyKind::from_byte(cursor.u8()?)?;
            let pack = PackId { session: SessionId::from_bytes(cursor.array()?), number: cursor.u32()? };
            let count = cursor.count(RANGE_LENGTH)?;
            let mut ranges = Vec::with_capacity(count);
            for _ in 0..count {
                ranges.push(FrameRange { offset: cursor.u32()?, length: cursor.u32()? });
            }
            let pack = PackRanges { kind, pack, ranges };
            check(&pack)?;
            if self.last.is_some_and(|last| last >= pack.key()) {
                return Err(FormatError::damaged(WHAT, format!("pack {} comes out of order", pack.pack)));
            }
            self.last = Some(pack.key());
            packs.push(pack);
        }
        Ok(packs)
    }
}

/// Refuses ranges that are empty, touch, or do not ascend.
fn check(pack: &PackRanges) -> Result<(), FormatError> {
    let damaged = |detail: &str| Err(FormatError::damaged(WHAT, format!("pack {} {detail}", pack.pack)));
    if pack.ranges.is_empty() || pack.ranges.len() > FRAMES_MAX as usize {
        return damaged("has no ranges, or more than it can have frames");
    }
    if pack.ranges.iter().any(|range| range.length == 0) {
        return damaged("has an empty range");
    }
    let apart = |pair: &[FrameRange]| match pair {
        [one, other] => other.offset > one.offset && !one.reaches(other.offset),
        _ => true,
    };
    if pack.ranges.windows(2).all(apart) { Ok(()) } else { damaged("has ranges that touch or do not ascend") }
}

/// The union of many sorted lists, read along: of each list only the next pack is in memory.
#[derive(Debug)]
pub struct Union<I: Iterator> {
    lists: Vec<I>,
    heads: BinaryHeap<Reverse<Head>>,
    begun: bool,
}

#[derive(Debug)]
struct Head {
    pack: PackRanges,
    list: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> std::cmp::Ordering {
        (self.pack.key(), self.list).cmp(&(other.pack.key(), other.list))
    }
}

impl<E, I: Iterator<Item = Result<PackRanges, E>>> Union<I> {
    /// Of `lists`, each in order.
    pub fn new(lists: impl IntoIterator<Item = I>) -> Self {
        let lists: Vec<I> = lists.into_iter().collect();
        Union { heads: BinaryHeap::with_capacity(lists.len()), lists, begun: false }
    }

    fn refill(&mut self, list: usize) -> Result<(), E> {
        if let Some(pack) = self.lists.get_mut(list).and_then(Iterator::next) {
            self.heads.push(Reverse(Head { pack: pack?, list }));
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<PackRanges>, E> {
        if !std::mem::replace(&mut self.begun, true) {
            for list in 0..self.lists.len() {
                self.refill(list)?;
            }
        }
        let Some(Reverse(Head { pack: mut least, list })) = self.heads.pop() else { return Ok(None) };
        self.refill(list)?;
        loop {
            let same = self.heads.peek_mut().filter(|head| head.0.pack.key() == least.key()).map(PeekMut::pop);
            let Some(Reverse(Head { pack, list })) = same else { break };
            least.add(&pack.ranges);
            self.refill(list)?;
        }
        Ok(Some(least))
    }
}

impl<E, I: Iterator<Item = Result<PackRanges, E>>> Iterator for Union<I> {
    type Item = Result<PackRanges, E>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    type Model = BTreeMap<(KeyKind, PackId), BTreeSet<u32>>;

    /// Frames by number: number n lies at 128 + 48 n, has 40 bytes and 8 of padding.
    fn model() -> impl Strategy<Value = Model> {
        let pack = (any::<bool>(), 0..3u8, 0..4u32).prop_map(|(content, session, number)| {
            let kind = if content { KeyKind::Content } else { KeyKind::Structure };
            (kind, PackId { session: SessionId::from_bytes([session; 16]), number })
        });
        prop::collection::btree_map(pack, prop::collection::btree_set(0..40u32, 1..20), 0..10)
    }

    fn list(model: &Model) -> Vec<PackRanges> {
        let one = |((kind, pack), frames): (&(KeyKind, PackId), &BTreeSet<u32>)| {
            let mut ranges = Vec::new();
            frames.iter().for_each(|frame| push(&mut ranges, FrameRange { offset: 128 + frame * 48, length: 40 }));
            PackRanges { kind: *kind, pack: *pack, ranges }
        };
        model.iter().map(one).collect()
    }

    fn frames(list: &[PackRanges]) -> Vec<Vec<u8>> {
        let mut encoder = ReferenceEncoder::default();
        let mut frames: Vec<_> = list.iter().filter_map(|pack| encoder.push(pack).unwrap()).collect();
        frames.extend(encoder.finish());
        frames
    }

    fn decoded(frames: &[Vec<u8>]) -> Vec<PackRanges> {
        let mut decoder = ReferenceDecoder::default();
        frames.iter().flat_map(|frame| decoder.frame(frame).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn lists_round_trip_and_a_cut_is_found(model in model(), cut: prop::sample::Index) {
            let list = list(&model);
            let frames = frames(&list);
            prop_assert_eq!(&decoded(&frames), &list);
            if let Some(frame) = frames.first() {
                let whole = ReferenceDecoder::default().frame(frame).unwrap();
                let part = ReferenceDecoder::default().frame(&frame[..cut.index(frame.len())]);
                prop_assert!(part.is_err() || part.unwrap().len() < whole.len());
            }
        }

        #[test]
        fn a_union_needs_what_any_list_needs(models in prop::collection::vec(model(), 0..5)) {
            let lists = models.iter().map(|model| list(model).into_iter().map(Ok::<_, Infallible>));
            let union: Vec<_> = Union::new(lists).map(|pack| pack.unwrap()).collect();
            let mut all = Model::new();
            for (pack, frames) in models.into_iter().flatten() {
                all.entry(pack).or_default().extend(frames);
            }
            prop_assert_eq!(union, list(&all));
        }

        #[test]
        fn what_is_needed_is_covered_and_nothing_else(model in model()) {
            for pack in list(&model) {
                let frames = &model[&pack.key()];
                for number in 0..41 {
                    let id = breakwater_crypto::ChunkId([0; 32]);
                    let codec = crate::format::Codec::None;
                    let location = FrameLocation { pack: pack.pack, offset: 128 + number * 48, stored: 16, plain: 0, codec, id };
                    prop_assert_eq!(pack.covers(&location), frames.contains(&number), "{}", number);
                }
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(ReferenceDecoder::default().frame(&bytes));
        }
    }

    #[test]
    fn the_first_failing_list_ends_a_union() {
        let pack = PackRanges {
            kind: KeyKind::Content,
            pack: PackId { session: SessionId::from_bytes([1; 16]), number: 1 },
            ranges: vec![FrameRange { offset: 128, length: 40 }],
        };
        let lists = [vec![Ok(pack.clone())], vec![Ok(pack.clone()), Err("gone")]];
        let union: Vec<_> = Union::new(lists.map(Vec::into_iter)).collect();
        assert_eq!(union, [Err("gone")]);
    }

    #[test]
    fn frames_stay_small_and_order_holds_across_them() {
        let session = SessionId::from_bytes([9; 16]);
        let ranges: Vec<_> = (0..1000).map(|at| FrameRange { offset: 128 + at * 100, length: 32 }).collect();
        let pack =
            |number| PackRanges { kind: KeyKind::Content, pack: PackId { session, number }, ranges: ranges.clone() };
        let list: Vec<_> = (0..300).map(pack).collect();
        let mut frames = frames(&list);
        assert!(frames.len() == 3 && frames.iter().all(|frame| frame.len() <= FRAME_MAX));
        assert_eq!(decoded(&frames), list);
        frames.swap(0, 1);
        let mut decoder = ReferenceDecoder::default();
        assert!(frames.iter().any(|frame| decoder.frame(frame).is_err()));
    }

    #[test]
    fn ranges_that_touch_or_are_empty_are_refused() {
        let pack = PackId { session: SessionId::from_bytes([1; 16]), number: 1 };
        let of = |ranges: &[(u32, u32)]| {
            let ranges =
                ranges.iter().map(|(offset, length)| FrameRange { offset: *offset, length: *length }).collect();
            ReferenceEncoder::default().push(&PackRanges { kind: KeyKind::Content, pack, ranges })
        };
        assert!(of(&[(128, 40), (192, 40)]).is_ok());
        for bad in [&[][..], &[(128, 0)], &[(128, 40), (168, 40)], &[(128, 40), (176, 40)], &[(500, 40), (128, 40)]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
