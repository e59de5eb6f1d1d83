//! Which ranges of which packs to fetch for a window of extents. Pure.
//!
//! Invariant: every frame that is needed lies in exactly one range, no range exceeds the largest unless one frame does, and
//! ranges come in the order of pack and offset, so each place is read once and forwards.

use std::ops::Range;

/// Bytes between two needed frames that are cheaper to read than to skip.
const WORTH_READING: u64 = 128 << 10;

/// A frame needed, in pack number `pack` of the caller's list, and who needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) pack: u32,
    /// Bytes from the beginning of the pack to the frame.
    pub(crate) offset: u32,
    /// Bytes of the frame, header included.
    pub(crate) length: u32,
    /// The caller's number of the extent that needs it.
    pub(crate) extent: u32,
}

/// One range of a pack to fetch, and the needs it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) pack: u32,
    /// Bytes of the pack.
    pub(crate) range: Range<u64>,
    /// Indices into the sorted needs.
    pub(crate) needs: Range<usize>,
}

/// Sorts `needs` and cuts them into ranges of at most `largest` bytes.
pub(crate) fn plan(needs: &mut [Need], largest: u64) -> Vec<Fetch> {
    needs.sort_unstable();
    let mut fetches: Vec<Fetch> = Vec::new();
    for (index, need) in needs.iter().enumerate() {
        let start = u64::from(need.offset);
        let end = start + u64::from(need.length);
        match fetches.last_mut() {
            Some(last)
                if last.pack == need.pack
                    && start <= last.range.end + WORTH_READING
                    && end.max(last.range.end) - last.range.start <= largest =>
            {
                last.range.end = last.range.end.max(end);
                last.needs.end = index + 1;
            }
            _ => fetches.push(Fetch { pack: need.pack, range: start..end, needs: index..index + 1 }),
        }
    }
    fetches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(pack: u32, offset: u32, length: u32, extent: u32) -> Need {
        Need { pack, offset, length, extent }
    }

    #[test]
    fn neighbours_are_fetched_together_and_strangers_are_not() {
        let mut needs = [need(1, 0, 100, 4), need(0, 1000, 500, 0), need(0, 128, 872, 1), need(0, 50_000_000, 10, 2)];
        let fetches = plan(&mut needs, 8 << 20);
        let ranges: Vec<_> = fetches.iter().map(|fetch| (fetch.pack, fetch.range.clone())).collect();
        assert_eq!(ranges, [(0, 128..1500), (0, 50_000_000..50_000_010), (1, 0..100)]);
    }

    #[test]
    fn the_same_frame_for_two_extents_is_fetched_once() {
        let mut needs = [need(0, 128, 100, 7), need(0, 128, 100, 3)];
        let fetches = plan(&mut needs, 1000);
        assert_eq!(fetches, [Fetch { pack: 0, range: 128..228, needs: 0..2 }]);
    }

    proptest! {
        #[test]
        fn every_need_is_covered_once_and_ranges_are_bounded(
            frames in prop::collection::vec((0u32..3, 0u32..400), 0..200),
            largest in 100_000u64..1_000_000,
        ) {
            let mut needs: Vec<Need> = frames.iter().zip(0..)
                .map(|((pack, slot), extent)| need(*pack, slot * 100_000, 1 + slot * 7919 % 90_000, extent)).collect();
            let fetches = plan(&mut needs, largest);
            let mut covered = 0;
            for fetch in &fetches {
                prop_assert!(fetch.range.end - fetch.range.start <= largest);
                prop_assert_eq!(fetch.needs.start, covered);
                covered = fetch.needs.end;
                for need in &needs[fetch.needs.clone()] {
                    let (start, end) = (u64::from(need.offset), u64::from(need.offset) + u64::from(need.length));
                    prop_assert!(need.pack == fetch.pack && fetch.range.start <= start && end <= fetch.range.end);
                }
            }
            prop_assert_eq!(covered, needs.len());
            for pair in fetches.windows(2) {
                prop_assert!((pair[0].pack, pair[0].range.end) <= (pair[1].pack, pair[1].range.start) || pair[0].pack < pair[1].pack);
            }
        }
    }
}
