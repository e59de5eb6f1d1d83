//! What to read of a stretch of a file whose changed pages are known.
//!
//! Pure. Invariant: every byte that the engine says may differ is read; an extent that the base lacks, or holds with another
//! length, is read whole; and over eight backups every extent is read whole once, so that a list of changes that lies is
//! found out.

use std::ops::Range;

use breakwater_crypto::ChunkId;
use breakwater_repository::format::leaf::Extent;

use super::work::span;

/// One in so many extents is read whole, whatever the engine says.
pub(crate) const ROTATION: u64 = 8;

/// An extent that takes pages from so many runs is read whole at its next change.
const RUNS_MAX: usize = 4;

/// What to do about one extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing has changed.
    Keep,
    /// Read these bytes of the extent and lay them over what the base has.
    Patch(Vec<Range<u32>>),
    /// Read all of it. With `expected` it must turn out to have this name: the engine says that it did not change.
    Whole {
        /// The name that it had.
        expected: Option<ChunkId>,
    },
}

/// One stretch of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch<'a> {
    /// Number of the first extent within the file.
    pub(crate) first: u64,
    /// How many.
    pub(crate) count: u64,
    /// Bytes of the file.
    pub(crate) size: u64,
    pub(crate) extent_size: u32,
    /// What the base holds from the first extent on.
    pub(crate) base: &'a [Extent],
    /// The bytes of the file that may differ, ascending and apart.
    pub(crate) changed: &'a [Range<u64>],
    /// Counts backups: chooses the extents that are read whole this time.
    pub(crate) rotation: u64,
}

/// What to do about each extent of a stretch, in order.
pub(crate) fn decide(stretch: Stretch<'_>) -> Vec<Decision> {
    let Stretch { first, count, size, extent_size, base, changed, rotation } = stretch;
    let mut changed = changed.iter().peekable();
    let mut decisions = Vec::new();
    for index in 0..count {
        let (offset, length) = span(first + index, size, extent_size);
        let end = offset + length as u64;
        let mut parts: Vec<Range<u32>> = Vec::new();
        while let Some(range) = changed.peek().filter(|range| range.start < end) {
            let within = |at: u64| u32::try_from(at.clamp(offset, end) - offset).unwrap_or(u32::MAX);
            let part = within(range.start)..within(range.end);
            if !part.is_empty() {
                parts.push(part);
            }
            if range.end > end {
                break;
            }
            changed.next();
        }
        let before = usize::try_from(index).ok().and_then(|index| base.get(index));
        let chosen = (first + index) % ROTATION == rotation % ROTATION;
        decisions.push(one(before, length, parts, chosen));
    }
    decisions
}

fn one(before: Option<&Extent>, length: usize, parts: Vec<Range<u32>>, chosen: bool) -> Decision {
    let Some(before) = before.filter(|before| before.plain() as usize == length) else {
        return Decision::Whole { expected: None };
    };
    if parts.is_empty() {
        return if chosen { Decision::Whole { expected: before.id() } } else { Decision::Keep };
    }
    let bytes: u64 = parts.iter().map(|part| u64::from(part.end - part.start)).sum();
    let mut runs: Vec<ChunkId> = before.patches().iter().map(|patch| patch.run.id).collect();
    runs.sort_unstable();
    runs.dedup();
    let patchable = match before {
        Extent::Zeros { .. } => false,
        Extent::Stored(_) | Extent::Patched { .. } => !chosen && bytes * 2 <= length as u64 && runs.len() < RUNS_MAX,
    };
    if patchable { Decision::Patch(parts) } else { Decision::Whole { expected: None } }
}

#[cfg(test)]
mod tests {
    use breakwater_core::SessionId;
    use breakwater_repository::format::leaf::Patch;
    use breakwater_repository::format::{Codec, FrameLocation, PackId};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const EXTENT: u32 = 64;

    fn frame(id: u8, plain: u32) -> FrameLocation {
        let pack = PackId { session: SessionId::from_bytes([1; 16]), number: 0 };
        FrameLocation { pack, offset: 128, stored: 50, plain, codec: Codec::None, id: ChunkId([id; 32]) }
    }

    fn extent(kind: u8, plain: u32) -> Extent {
        match kind % 8 {
            0 => Extent::Zeros { id: ChunkId([0; 32]), plain },
            runs @ 1..=5 => {
                let patch = |run| Patch { offset: 0, length: 1, run: frame(100 + run, 9), run_offset: 0 };
                Extent::Patched { base: frame(kind, plain), patches: (0..runs).map(patch).collect() }
            }
            _ => Extent::Stored(frame(kind, plain)),
        }
    }

    proptest! {
        /// The model looks at every byte by itself.
        #[test]
        fn decisions_follow_from_single_bytes(
            kinds in prop::collection::vec(any::<u8>(), 0..12),
            cut in 0..EXTENT,
            first in 0..20u64,
            count in 1..12u64,
            pages in prop::collection::btree_set(0..400u64, 0..60),
            rotation: u64,
        ) {
            let size = (first + count) * u64::from(EXTENT) - u64::from(cut);
            let base: Vec<Extent> = kinds.iter().zip(first..).map(|(kind, number)| {
                let (_, length) = span(number, size, EXTENT);
                // Some have another length than the file needs now.
                extent(*kind, u32::try_from(length).unwrap() + u32::from(*kind == 77))
            }).collect();
            let page = 8;
            let bytes: Vec<Range<u64>> = pages.iter().map(|at| at * page..(at + 1) * page).collect();
            let stretch = Stretch { first, count, size, extent_size: EXTENT, base: &base, changed: &bytes, rotation };
            let decisions = decide(stretch);
            prop_assert_eq!(decisions.len() as u64, count);
            for (number, decision) in (first..).zip(&decisions) {
                let (offset, length) = span(number, size, EXTENT);
                let differs = |at: u64| pages.contains(&((offset + at) / page));
                let before = base.get(usize::try_from(number - first).unwrap());
                let fits = before.is_some_and(|before| before.plain() as usize == length);
                let count = (0..length as u64).filter(|at| differs(*at)).count();
                match decision {
                    Decision::Keep => prop_assert!(fits && count == 0 && number % 8 != rotation % 8),
                    Decision::Whole { expected: Some(id) } => {
                        prop_assert!(fits && count == 0 && number % 8 == rotation % 8);
                        prop_assert_eq!(before.unwrap().id(), Some(*id));
                    }
                    Decision::Whole { expected: None } => {
                        let runs = before.map_or(0, |before| before.patches().len());
                        let zeros = matches!(before, Some(Extent::Zeros { .. }));
                        prop_assert!(!fits || number % 8 == rotation % 8 || count * 2 > length || runs >= 4 || zeros && count > 0);
                    }
                    Decision::Patch(parts) => {
                        prop_assert!(fits && count > 0 && count * 2 <= length);
                        for at in 0..length as u64 {
                            let read = parts.iter().any(|part| (u64::from(part.start)..u64::from(part.end)).contains(&at));
                            prop_assert_eq!(read, differs(at), "byte {} of extent {}", at, number);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn eight_backups_read_everything_whole() {
        let base: Vec<Extent> = (0..40).map(|_| Extent::Stored(frame(7, EXTENT))).collect();
        let mut whole = [0; 40];
        for rotation in 3..11 {
            let stretch = Stretch {
                first: 0,
                count: 40,
                size: 40 * u64::from(EXTENT),
                extent_size: EXTENT,
                base: &base,
                changed: &[],
                rotation,
            };
            for (count, decision) in whole.iter_mut().zip(decide(stretch)) {
                *count += u32::from(matches!(decision, Decision::Whole { expected: Some(_) }));
            }
        }
        assert!(whole.iter().all(|count| *count == 1));
    }
}
