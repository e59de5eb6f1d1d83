//! Who holds what of the stream being written: the arithmetic behind *released*, *durable* and each region's recoverable
//! point. Pure.
//!
//! Invariant: a position is only reported when every byte from the origin up to it is held; a watermark only counts for a
//! region once the object that carries it and every byte before its position are there.

use std::collections::{BTreeMap, HashSet, VecDeque};

use breakwater_core::{LogPosition, RegionId, Timestamp, Watermark};

use crate::format::names::LogRange;

/// Watermarks kept for a region that is behind; beyond that every second one is forgotten.
const MOST_WATERMARKS: usize = 4096;

/// Byte ranges of one branch, merged.
#[derive(Clone, Debug, Default)]
struct Intervals(BTreeMap<u64, u64>);

impl Intervals {
    fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((before, reached)) = self.0.range(..=start).next_back()
            && *reached >= start
        {
            start = *before;
            end = end.max(*reached);
        }
        while let Some((inside, reached)) = self.0.range(start..=end).next() {
            let (inside, reached) = (*inside, *reached);
            self.0.remove(&inside);
            end = end.max(reached);
        }
        self.0.insert(start, end);
    }

    /// The end of the unbroken run from `start`.
    fn reach(&self, start: u64) -> u64 {
        self.0.range(..=start).next_back().map_or(start, |(_, end)| (*end).max(start))
    }
}

/// One branch of the way that the stream takes.
#[derive(Clone, Copy, Debug)]
struct Leg {
    branch: u32,
    /// Where its bytes begin.
    start: u64,
    /// Where the next branch left it.
    left_at: Option<u64>,
    /// Where it left the branch before.
    forked_at: u64,
}

/// Ranges held somewhere, by branch.
#[derive(Clone, Debug, Default)]
struct Cover(BTreeMap<u32, Intervals>);

impl Cover {
    fn insert(&mut self, range: LogRange) {
        self.0.entry(range.branch).or_default().insert(range.start, range.end);
    }

    /// How far the way is held without a break.
    fn reach(&self, way: &[Leg]) -> Option<LogPosition> {
        let mut reached = None;
        for leg in way {
            let end = self.0.get(&leg.branch).map_or(leg.start, |intervals| intervals.reach(leg.start));
            // What a new branch holds below its fork says nothing new: the old branch has it too.
            reached = Some(LogPosition::new(leg.branch, end.max(leg.forked_at)));
            if leg.left_at.is_none_or(|left_at| end < left_at) {
                return Some(LogPosition::new(leg.branch, end.max(leg.forked_at).min(leg.left_at.unwrap_or(u64::MAX))));
            }
        }
        reached
    }
}

/// An object that a region still misses, and what it will bring.
#[derive(Clone, Debug)]
struct Outstanding {
    name: String,
    range: LogRange,
    watermarks: Vec<Watermark>,
}

#[derive(Clone, Debug)]
struct RegionLedger {
    id: RegionId,
    /// Whether it counts for durability.
    counts: bool,
    cover: Cover,
    outstanding: Vec<Outstanding>,
    /// Watermarks in objects that the region holds, newest last, whose position it does not hold yet.
    waiting: VecDeque<Watermark>,
    recoverable: Option<Watermark>,
}

/// Who holds what.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    way: Vec<Leg>,
    /// How many regions that count must hold an object before it is durable.
    commit: usize,
    /// Stored objects that fewer hold so far.
    too_few: Vec<(String, LogRange)>,
    durable: Cover,
    released: Cover,
    regions: Vec<RegionLedger>,
}

impl Ledger {
    /// A ledger of a stream that counts from `origin`. The regions come with whether they count for durability; `commit` of
    /// those that do must hold an object.
    pub(super) fn new(origin: LogPosition, regions: impl Iterator<Item = (RegionId, bool)>, commit: usize) -> Ledger {
        let way = vec![Leg { branch: origin.branch, start: origin.offset, left_at: None, forked_at: origin.offset }];
        let region = |(id, counts)| RegionLedger {
            id,
            counts,
            cover: Cover::default(),
            outstanding: Vec::new(),
            waiting: VecDeque::new(),
            recoverable: None,
        };
        Ledger {
            way,
            commit,
            too_few: Vec::new(),
            durable: Cover::default(),
            released: Cover::default(),
            regions: regions.map(region).collect(),
        }
    }

    /// The way goes on as `next`, whose bytes begin at `start`, from `at` on.
    pub(super) fn fork(&mut self, at: u64, next: u32, start: u64) {
        if let Some(leg) = self.way.last_mut() {
            leg.left_at = Some(at);
        }
        self.way.push(Leg { branch: next, start, left_at: None, forked_at: at });
    }

    /// An object is stored: these regions hold it, the others will. It is durable once enough do.
    pub(super) fn stored(&mut self, name: &str, range: LogRange, watermarks: &[Watermark], held: &[RegionId]) {
        let holders = self.regions.iter().filter(|region| region.counts && held.contains(&region.id)).count();
        if holders >= self.commit {
            self.durable.insert(range);
            self.released.insert(range);
        } else {
            self.too_few.push((name.to_owned(), range));
        }
        for index in 0..self.regions.len() {
            let Some(region) = self.regions.get_mut(index) else { continue };
            if held.contains(&region.id) {
                region.hold(&self.way, range, watermarks);
            } else {
                let (name, watermarks) = (name.to_owned(), watermarks.to_vec());
                region.outstanding.push(Outstanding { name, range, watermarks });
            }
        }
    }

    /// An object is fsynced in the spool.
    pub(super) fn spooled(&mut self, range: LogRange) {
        self.released.insert(range);
    }

    /// Asks of every object that a region missed whether it still does.
    pub(super) fn poll(&mut self, misses: impl Fn(RegionId, &str) -> bool) {
        for region in &mut self.regions {
            let (id, all) = (region.id, std::mem::take(&mut region.outstanding));
            let (still, arrived): (Vec<_>, Vec<_>) = all.into_iter().partition(|object| misses(id, &object.name));
            region.outstanding = still;
            for object in arrived {
                region.hold(&self.way, object.range, &object.watermarks);
            }
        }
        let regions = &self.regions;
        let misses = |region: &RegionLedger, name: &str| region.outstanding.iter().any(|object| object.name == name);
        let holders = |name: &str| regions.iter().filter(|region| region.counts && !misses(region, name)).count();
        let (enough, too_few): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.too_few).into_iter().partition(|(name, _)| holders(name) >= self.commit);
        self.too_few = too_few;
        for (_, range) in enough {
            self.durable.insert(range);
            self.released.insert(range);
        }
    }

    /// These objects are not waited for any more: another one brings what they would have.
    pub(super) fn superseded(&mut self, names: &[String]) {
        let names = names.iter().collect::<HashSet<_>>();
        for region in &mut self.regions {
            region.outstanding.retain(|object| !names.contains(&object.name));
        }
        self.too_few.retain(|(name, _)| !names.contains(name));
    }

    /// What the source may forget.
    pub(super) fn released_to(&self) -> Option<LogPosition> {
        self.released.reach(&self.way)
    }

    /// What enough regions hold.
    pub(super) fn durable_to(&self) -> Option<LogPosition> {
        self.durable.reach(&self.way)
    }

    /// The same as ranges, one a branch.
    pub(super) fn proven(&self) -> Vec<LogRange> {
        let mut ranges = Vec::new();
        for leg in &self.way {
            let held = self.durable.0.get(&leg.branch).map_or(leg.start, |intervals| intervals.reach(leg.start));
            let end = held.min(leg.left_at.unwrap_or(u64::MAX));
            ranges.push(LogRange { branch: leg.branch, start: leg.start, end });
            if leg.left_at.is_none_or(|left_at| held < left_at) {
                break;
            }
        }
        ranges
    }

    /// What one region holds.
    pub(super) fn held_to(&self, region: RegionId) -> Option<LogPosition> {
        self.regions.iter().find(|item| item.id == region)?.cover.reach(&self.way)
    }

    /// The newest watermark that counts for one region.
    pub(super) fn recoverable(&self, region: RegionId) -> Option<Watermark> {
        self.regions.iter().find(|item| item.id == region)?.recoverable
    }
}

impl RegionLedger {
    fn hold(&mut self, way: &[Leg], range: LogRange, watermarks: &[Watermark]) {
        self.cover.insert(range);
        self.waiting.extend(watermarks);
        self.waiting.make_contiguous().sort_by_key(|watermark| watermark.clock);
        if self.waiting.len() > MOST_WATERMARKS {
            let mut odd = false;
            self.waiting.retain(|_| {
                odd = !odd;
                odd
            });
        }
        let Some(reached) = self.cover.reach(way) else { return };
        let newest = self
            .waiting
            .iter()
            .filter(|watermark| watermark.position <= reached)
            .max_by_key(|item| item.clock)
            .copied();
        let Some(newest) = newest else { return };
        let clock = self.recoverable.map_or(Timestamp(i64::MIN), |known| known.clock);
        if newest.clock > clock {
            self.recoverable = Some(newest);
        }
        self.waiting.retain(|watermark| watermark.clock > newest.clock);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> LogRange {
        LogRange { branch: 1, start, end }
    }

    fn region(number: u8) -> RegionId {
        RegionId::from_bytes([number; 16])
    }

    fn mark(clock: i64, offset: u64) -> Watermark {
        Watermark { clock: Timestamp(clock), position: LogPosition::new(1, offset) }
    }

    fn ledger() -> Ledger {
        Ledger::new(LogPosition::new(1, 0), [(region(0), true), (region(1), true)].into_iter(), 1)
    }

    #[test]
    fn one_copy_is_not_durable_where_two_are_asked_for() {
        let regions = [(region(0), true), (region(1), true), (region(2), false)];
        let mut ledger = Ledger::new(LogPosition::new(1, 0), regions.into_iter(), 2);
        ledger.stored("a", range(0, 10), &[], &[region(0), region(2)]);
        ledger.poll(|id, _| id == region(1));
        let nothing = Some(LogPosition::new(1, 0));
        assert_eq!((ledger.durable_to(), ledger.released_to()), (nothing, nothing), "an archive does not count");
        ledger.stored("b", range(10, 20), &[], &[region(1)]);
        ledger.superseded(&["b".to_owned()]);
        ledger.poll(|_, _| false);
        let first = Some(LogPosition::new(1, 10));
        assert_eq!((ledger.durable_to(), ledger.released_to()), (first, first), "the needless one says nothing");
        assert_eq!(ledger.held_to(region(1)), Some(LogPosition::new(1, 20)));
    }

    #[test]
    fn a_hole_holds_everything_back() {
        let mut ledger = ledger();
        ledger.stored("b", range(10, 20), &[mark(2, 20)], &[region(0)]);
        assert_eq!(ledger.released_to(), Some(LogPosition::new(1, 0)));
        assert_eq!(ledger.recoverable(region(0)), None, "the bytes before are missing");
        ledger.spooled(range(0, 10));
        assert_eq!(ledger.released_to(), Some(LogPosition::new(1, 20)));
        assert_eq!(ledger.durable_to(), Some(LogPosition::new(1, 0)));
        ledger.stored("a", range(0, 10), &[mark(1, 8)], &[region(0), region(1)]);
        assert_eq!(ledger.durable_to(), Some(LogPosition::new(1, 20)));
        assert_eq!(ledger.recoverable(region(0)), Some(mark(2, 20)));
        assert_eq!(ledger.recoverable(region(1)), Some(mark(1, 8)));
        ledger.poll(|_, _| false);
        assert_eq!(ledger.recoverable(region(1)), Some(mark(2, 20)));
    }

    #[test]
    fn superseded_objects_are_not_waited_for() {
        let mut ledger = ledger();
        ledger.stored("tail", range(0, 5), &[mark(1, 5)], &[region(0)]);
        ledger.stored("segment", range(0, 10), &[mark(1, 5), mark(2, 10)], &[region(0)]);
        ledger.superseded(&["tail".to_owned()]);
        ledger.poll(|_, name| name == "tail");
        assert_eq!(ledger.held_to(region(1)), Some(LogPosition::new(1, 10)));
        assert_eq!(ledger.recoverable(region(1)), Some(mark(2, 10)));
    }

    #[test]
    fn a_fork_is_passed_when_the_old_branch_is_whole() {
        let mut ledger = ledger();
        ledger.stored("old", range(0, 16), &[], &[region(0)]);
        ledger.fork(21, 2, 16);
        ledger.stored("new", LogRange { branch: 2, start: 16, end: 30 }, &[], &[region(0)]);
        assert_eq!(ledger.durable_to(), Some(LogPosition::new(1, 16)), "16 to 21 of branch 1 is missing");
        assert_eq!(ledger.proven(), [range(0, 16)]);
        ledger.stored("rest", range(16, 21), &[], &[region(0)]);
        assert_eq!(ledger.durable_to(), Some(LogPosition::new(2, 30)));
        assert_eq!(ledger.proven(), [range(0, 21), LogRange { branch: 2, start: 16, end: 30 }]);
        let mut behind = ledger.clone();
        behind.durable = Cover::default();
        behind.durable.insert(range(0, 21));
        assert_eq!(behind.durable_to(), Some(LogPosition::new(2, 21)));
    }

    proptest! {
        #[test]
        fn intervals_agree_with_a_bitmap(ranges in proptest::collection::vec((0..60u64, 0..10u64), 0..20), from in 0..64u64) {
            let mut intervals = Intervals::default();
            let mut bits = [false; 80];
            for (start, length) in ranges {
                intervals.insert(start, start + length);
                for offset in start..start + length {
                    bits[usize::try_from(offset).unwrap()] = true;
                }
            }
            let held = bits[usize::try_from(from).unwrap()..].iter().take_while(|bit| **bit).count() as u64;
            prop_assert_eq!(intervals.reach(from), from + held);
        }
    }
}
