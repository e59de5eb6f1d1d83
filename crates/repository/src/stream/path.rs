//! Which stored pieces count: the effective path through generations and branches. Pure.
//!
//! Invariant: what a writer stored after a newer one took over is on no path, whatever it is called. A piece is used
//! only within the bounds of its generation, and every byte of the path comes from exactly one piece.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{Generation, LogPosition, RegionId, SessionId};

use crate::format::log::StreamClaim;
use crate::format::names::LogRange;

/// A writer of the stream: its generation and session.
pub type Writer = (Generation, SessionId);

/// A segment or tail that some region holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPiece {
    /// The object.
    pub name: String,
    /// Who wrote it.
    pub writer: Writer,
    /// What it holds.
    pub range: LogRange,
    /// Whether it is a segment, which stays, and no tail.
    pub segment: bool,
    /// Bytes of the object.
    pub size: u64,
    /// Who holds it.
    pub regions: Vec<RegionId>,
}

/// A part of the path: the bytes from `start` to `end`, to be read from `piece`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First offset.
    pub start: u64,
    /// After the last offset.
    pub end: u64,
    /// Where they are.
    pub piece: StoredPiece,
}

/// How far back each writer counts: the newest first, with the position at which the next newer one took over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Succession(Vec<(Writer, Option<LogPosition>)>);

impl Succession {
    /// Follows the claims from the highest one back.
    pub(crate) fn of(claims: &BTreeMap<Writer, StreamClaim>) -> Succession {
        let mut writers: Vec<(Writer, Option<LogPosition>)> = Vec::new();
        let mut next = claims.keys().next_back().map(|writer| (*writer, None));
        while let Some((writer, bound)) = next {
            writers.push((writer, bound));
            let continues = claims.get(&writer).and_then(|claim| claim.continues);
            // A claim can only continue an older one; anything else would run in a circle.
            let older = continues.filter(|continues| (continues.generation, continues.session) < writer);
            next = older.map(|continues| {
                let position = bound.map_or(continues.position, |bound| bound.min(continues.position));
                ((continues.generation, continues.session), Some(position))
            });
        }
        Succession(writers)
    }

    /// Whether a watermark at `position` counts when this writer stored it.
    pub(crate) fn counts(&self, writer: Writer, position: LogPosition) -> bool {
        let bound = self.0.iter().find(|(known, _)| *known == writer).map(|(_, bound)| *bound);
        bound.is_some_and(|bound| bound.is_none_or(|bound| position <= bound))
    }

    /// The part of `range` that counts when this writer stored it.
    fn clip(&self, writer: Writer, range: LogRange) -> Option<LogRange> {
        let (_, bound) = self.0.iter().find(|(known, _)| *known == writer)?;
        let Some(bound) = bound else { return Some(range) };
        let end = match range.branch.cmp(&bound.branch) {
            std::cmp::Ordering::Less => range.end,
            std::cmp::Ordering::Equal => range.end.min(bound.offset),
            std::cmp::Ordering::Greater => return None,
        };
        let whole = end == range.end;
        (range.start < end || whole).then_some(LogRange { end, ..range })
    }
}

/// What is stored of one branch, in order, without overlaps. Gaps stay.
pub(crate) fn effective(succession: &Succession, pieces: &[StoredPiece]) -> BTreeMap<u32, Vec<Extent>> {
    let mut branches: BTreeMap<u32, Vec<(LogRange, &StoredPiece)>> = BTreeMap::new();
    for piece in pieces {
        if let Some(range) = succession.clip(piece.writer, piece.range).filter(|range| range.start < range.end) {
            branches.entry(range.branch).or_default().push((range, piece));
        }
    }
    branches.into_iter().map(|(branch, pieces)| (branch, cover(pieces))).collect()
}

/// Goes from the lowest offset up, at each place with the piece that lasts: segments before tails, then the one that
/// reaches further, then the newer one.
fn cover(mut pieces: Vec<(LogRange, &StoredPiece)>) -> Vec<Extent> {
    pieces.sort_by_key(|(range, _)| range.start);
    let mut starting = pieces.into_iter().peekable();
    let mut open: Vec<(LogRange, &StoredPiece)> = Vec::new();
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    loop {
        open.retain(|(range, _)| range.end > at);
        if open.is_empty() {
            let Some((range, _)) = starting.peek() else { return extents };
            at = at.max(range.start);
        }
        while let Some(next) = starting.next_if(|(range, _)| range.start <= at) {
            open.push(next);
        }
        open.retain(|(range, _)| range.end > at);
        let best = open.iter().max_by_key(|(range, piece)| (piece.segment, range.end, piece.writer)).copied();
        let Some((range, piece)) = best else { continue };
        // A tail ends where a segment begins.
        let next_segment = starting.clone().find(|(other, candidate)| candidate.segment && other.start < range.end);
        let end = match next_segment {
            Some((other, _)) if !piece.segment => other.start,
            _ => range.end,
        };
        extents.push(Extent { start: at, end, piece: piece.clone() });
        at = end;
    }
}

/// The end of the unbroken run of `extents` that holds `from`; none when nothing is stored there. A run that ends at
/// `from` counts.
pub(crate) fn run_end(extents: &[Extent], from: u64) -> Option<u64> {
    let mut end: Option<u64> = None;
    for extent in extents {
        match end {
            None if extent.start <= from && from <= extent.end => end = Some(extent.end),
            Some(reached) if extent.start == reached => end = Some(extent.end),
            Some(_) => break,
            None => {}
        }
    }
    end
}

/// The gaps between the first and the last extent.
pub(crate) fn gaps(branch: u32, extents: &[Extent]) -> Vec<LogRange> {
    let between = |pair: &[Extent]| match pair {
        [a, b] if a.end < b.start => Some(LogRange { branch, start: a.end, end: b.start }),
        _ => None,
    };
    extents.windows(2).filter_map(between).collect()
}

/// The names of pieces that readers no longer need because a segment of the same or a newer writer covers them.
pub(crate) fn superseded(pieces: &[StoredPiece]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for tail in pieces.iter().filter(|piece| !piece.segment && piece.range.start < piece.range.end) {
        let covers = |piece: &&StoredPiece| {
            piece.segment
                && piece.writer >= tail.writer
                && piece.range.branch == tail.range.branch
                && piece.range.start <= tail.range.start
                && tail.range.end <= piece.range.end
        };
        if let Some(segment) = pieces.iter().find(covers) {
            found.entry(segment.name.clone()).or_default().insert(tail.name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use breakwater_core::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::format::log::Continues;

    fn writer(generation: u32) -> Writer {
        (Generation(generation), SessionId::from_bytes([u8::try_from(generation).unwrap(); 16]))
    }

    fn claims(of: &[(u32, Option<(u32, u64)>)]) -> BTreeMap<Writer, StreamClaim> {
        let claim = |(generation, continues): &(u32, Option<(u32, u64)>)| {
            let (generation, session) = writer(*generation);
            let continues = continues.map(|(older, offset)| Continues {
                generation: writer(older).0,
                session: writer(older).1,
                position: LogPosition::new(1, offset),
                chain: [0; 32],
            });
            let claim =
                StreamClaim { generation, session, continues, facts: serde_json::Value::Null, at: Timestamp(0) };
            ((generation, session), claim)
        };
        of.iter().map(claim).collect()
    }

    fn piece(generation: u32, segment: bool, start: u64, end: u64) -> StoredPiece {
        let name = format!("{generation}-{segment}-{start}-{end}");
        let range = LogRange { branch: 1, start, end };
        StoredPiece { name, writer: writer(generation), range, segment, size: end - start, regions: Vec::new() }
    }

    fn path(claims: &BTreeMap<Writer, StreamClaim>, pieces: &[StoredPiece]) -> Vec<(u64, u64, u32)> {
        let effective = effective(&Succession::of(claims), pieces);
        let extents = effective.get(&1).cloned().unwrap_or_default();
        extents.iter().map(|extent| (extent.start, extent.end, extent.piece.writer.0.0)).collect()
    }

    #[test]
    fn a_newer_generation_cuts_the_older_one_off() {
        let claims = claims(&[(1, None), (2, Some((1, 25)))]);
        let pieces = [
            piece(1, true, 0, 20),
            piece(1, false, 20, 25),
            // Stored after generation 2 took over: on no path.
            piece(1, false, 25, 28),
            piece(1, true, 20, 40),
            piece(2, false, 25, 30),
        ];
        assert_eq!(path(&claims, &pieces), [(0, 20, 1), (20, 25, 1), (25, 30, 2)]);
        let with_segment = [pieces.as_slice(), &[piece(2, true, 20, 40)]].concat();
        assert_eq!(path(&claims, &with_segment), [(0, 20, 1), (20, 40, 2)]);
    }

    #[test]
    fn of_two_claims_of_one_generation_the_higher_session_counts_and_strangers_do_not() {
        let mut claims = claims(&[(1, None)]);
        let mut rival = claims.values().next().unwrap().clone();
        rival.session = SessionId::from_bytes([9; 16]);
        claims.insert((rival.generation, rival.session), rival.clone());
        let mut winner = piece(1, true, 0, 10);
        winner.writer = (rival.generation, rival.session);
        let loser = piece(1, true, 10, 20);
        let pieces = [winner.clone(), loser, piece(7, true, 20, 30)];
        let effective = effective(&Succession::of(&claims), &pieces);
        assert_eq!(effective[&1], [Extent { start: 0, end: 10, piece: winner }]);
    }

    #[test]
    fn gaps_and_runs_are_seen() {
        let claims = claims(&[(1, None)]);
        let pieces = [piece(1, true, 0, 10), piece(1, true, 20, 30), piece(1, false, 30, 33)];
        let extents = effective(&Succession::of(&claims), &pieces).remove(&1).unwrap();
        assert_eq!(gaps(1, &extents), [LogRange { branch: 1, start: 10, end: 20 }]);
        assert_eq!((run_end(&extents, 0), run_end(&extents, 20), run_end(&extents, 15)), (Some(10), Some(33), None));
        assert_eq!(run_end(&extents, 10), Some(10));
    }

    #[test]
    fn only_segments_of_the_same_or_a_newer_writer_supersede_tails() {
        let pieces = [piece(1, false, 0, 5), piece(2, false, 5, 8), piece(1, true, 0, 10), piece(3, false, 12, 12)];
        let found = superseded(&pieces);
        assert_eq!(found[&pieces[2].name], BTreeSet::from([pieces[0].name.clone()]));
        assert_eq!(found.len(), 1);
    }

    proptest! {
        #[test]
        fn every_stored_byte_is_on_the_path_exactly_once(
            ranges in proptest::collection::vec((0..40u64, 1..12u64, any::<bool>()), 0..14),
        ) {
            let pieces: Vec<_> = ranges.iter().map(|(start, length, segment)| piece(1, *segment, *start, start + length)).collect();
            let extents = effective(&Succession::of(&claims(&[(1, None)])), &pieces).remove(&1).unwrap_or_default();
            let mut counts = [0; 64];
            for extent in &extents {
                prop_assert!(extent.piece.range.start <= extent.start && extent.end <= extent.piece.range.end);
                prop_assert!(extent.start < extent.end);
                for offset in extent.start..extent.end {
                    counts[usize::try_from(offset).unwrap()] += 1;
                }
            }
            for (offset, count) in counts.iter().enumerate() {
                let offset = offset as u64;
                let stored = pieces.iter().any(|piece| piece.range.start <= offset && offset < piece.range.end);
                prop_assert_eq!(*count, u32::from(stored), "offset {}", offset);
            }
        }
    }
}
