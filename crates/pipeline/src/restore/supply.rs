//! Which region a range of a pack is read from.
//!
//! The order that the person gave holds while the first region is quick enough; a region that is much slower than another,
//! that hangs, or that does not have the pack whole gives way to the next. Nobody has to be asked how fast a region is: it
//! is measured with every read.
//!
//! Invariant: a region that delivered damage for a pack, or had none, is asked for that pack again only when no other region
//! is left.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use breakwater_repository::{Cause, FormatError, ObjectName, PackId, ReadOrder, Region, Trouble};
use breakwater_runtime::ByteBudget;
use breakwater_storage::StorageErrorKind;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

/// How long one read of a range may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// A measurement older than this is made again.
const MEASURED_FOR: Duration = Duration::from_secs(30);
/// A region that failed is asked again after this.
const RESTS_FOR: Duration = Duration::from_secs(5);
/// Another region is used when it needs less than half of the time, and this less. Differences below are noise.
const WORTH_CHANGING: f64 = 0.025;
/// A second region is asked when the first takes this many times what was expected, and at least so long.
const HEDGE_FACTOR: f64 = 4.0;
const HEDGE_LEAST: Duration = Duration::from_millis(750);
/// Reads up to this size tell of latency, larger ones of throughput.
const SMALL: u64 = 4096;
/// A region that answers a small read sooner is near.
const NEAR: f64 = 0.003;
/// Packs whose trouble is remembered.
const PACKS_MAX: usize = 1 << 16;

/// What was measured of one region.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Seconds of a small read.
    latency: Option<f64>,
    /// Bytes a second of a large one, beyond the latency.
    rate: Option<f64>,
    measured: Option<Instant>,
    failed: Option<Instant>,
    /// Someone is finding out how fast it is.
    trying: bool,
}

impl Pace {
    fn is_fresh(&self, now: Instant) -> bool {
        self.measured.is_some_and(|moment| now.duration_since(moment) < MEASURED_FOR)
    }

    /// Seconds that a read is expected to take; nothing where nothing is known.
    fn expected(&self, bytes: u64, now: Instant) -> f64 {
        if !self.is_fresh(now) {
            return 0.0;
        }
        self.latency.unwrap_or(0.0) + self.rate.map_or(0.0, |rate| bytes as f64 / rate)
    }

    fn is_near(&self, now: Instant) -> bool {
        self.is_fresh(now) && self.failed.is_none() && self.latency.is_some_and(|seconds| seconds < NEAR)
    }

    fn observe(&mut self, bytes: u64, seconds: f64, now: Instant) {
        if !self.is_fresh(now) {
            (self.latency, self.rate) = (None, None);
        }
        let blend = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + (new - old) * 0.3));
        if bytes <= SMALL {
            self.latency = blend(self.latency, seconds);
        } else {
            let transfer = (seconds - self.latency.unwrap_or(0.0)).max(seconds / 10.0).max(1e-6);
            self.rate = blend(self.rate, bytes as f64 / transfer);
        }
        self.measured = Some(now);
        self.failed = None;
    }
}

/// The regions of one restore, what was measured of them, and what each of them served.
pub(crate) struct Supply {
    regions: Vec<Arc<Region>>,
    state: Mutex<State>,
    budget: ByteBudget,
}

#[derive(Default)]
struct State {
    paces: Vec<Pace>,
    /// For each pack, the regions (one bit each) that do not have it whole.
    lacking: HashMap<PackId, u64>,
    served: BTreeMap<String, u64>,
    damage: Vec<String>,
}

/// What a region delivered.
#[derive(Debug)]
pub(crate) struct Delivered<T> {
    pub(crate) value: T,
    /// Index of the region.
    pub(crate) region: usize,
}

impl Supply {
    pub(crate) fn new(order: &ReadOrder, budget: ByteBudget) -> Supply {
        let regions = order.regions().to_vec();
        let state = State { paces: vec![Pace::default(); regions.len()], ..State::default() };
        Supply { regions, state: Mutex::new(state), budget }
    }

    pub(crate) fn region(&self, index: usize) -> Option<&Arc<Region>> {
        self.regions.get(index)
    }

    pub(crate) fn count(&self) -> usize {
        self.regions.len()
    }

    /// Whether the region that comes first answers so soon that few reads on their way are enough.
    pub(crate) fn is_near(&self) -> bool {
        self.state().paces.first().is_some_and(|pace| pace.is_near(Instant::now()))
    }

    /// Notes bytes that became part of the restore.
    pub(crate) fn served(&self, region: usize, bytes: u64) {
        if let Some(region) = self.regions.get(region) {
            *self.state().served.entry(region.name().to_owned()).or_default() += bytes;
        }
    }

    /// Notes damage that was mended, and that the region does not have the pack whole.
    pub(crate) fn damaged(&self, region: usize, pack: PackId, text: String) {
        tracing::warn!("{text}");
        let mut state = self.state();
        state.damage.push(text);
        state.lacks(pack, region);
    }

    /// Bytes by region, and what was damaged where.
    pub(crate) fn take(&self) -> (BTreeMap<String, u64>, Vec<String>) {
        let mut state = self.state();
        (std::mem::take(&mut state.served), std::mem::take(&mut state.damage))
    }

    /// Reads `range` of the object `name`, which is the pack `pack`, from the region that suits best and whose bytes
    /// `decode` takes.
    pub(crate) async fn read<T>(
        &self,
        pack: PackId,
        name: &ObjectName,
        range: Range<u64>,
        decode: impl Fn(Bytes) -> Result<T, FormatError>,
    ) -> Result<Delivered<T>, Vec<Cause>> {
        let (bytes, key) = (range.end - range.start, name.to_string());
        let mut waiting = self.ranked(pack, bytes).into_iter();
        let mut running = FuturesUnordered::new();
        let mut causes = Vec::new();
        // Memory for the answers of all regions but the first.
        let mut hedges = Vec::new();
        let mut begun: Vec<(usize, Instant)> = Vec::new();
        let mut hedge_after = Duration::MAX;
        if let Some((region, expected)) = waiting.next() {
            hedge_after = Duration::from_secs_f64(expected * HEDGE_FACTOR).max(HEDGE_LEAST);
            begun.push((region, Instant::now()));
            running.push(self.one(region, &key, range.clone()));
        }
        let mut hedge_at = tokio::time::Instant::now() + hedge_after.min(PATIENCE);
        loop {
            let next = tokio::select! {
                biased;
                Some((region, answer)) = running.next() => {
                    let elapsed = begun.iter().find(|(one, _)| *one == region).map(|(_, since)| since.elapsed());
                    let elapsed = elapsed.unwrap_or_default().as_secs_f64();
                    match answer.and_then(|read| decode(read).map_err(Trouble::Format)) {
                        Ok(value) => {
                            self.settle(&begun, region, bytes, elapsed);
                            return Ok(Delivered { value, region });
                        }
                        Err(trouble) => {
                            self.fails(region, pack, &key, &trouble);
                            if let Some(region) = self.regions.get(region) {
                                causes.push(Cause { region: region.name().to_owned(), trouble });
                            }
                        }
                    }
                    running.is_empty()
                }
                () = tokio::time::sleep_until(hedge_at), if !running.is_empty() => {
                    hedge_at = tokio::time::Instant::now() + hedge_after.min(PATIENCE);
                    match self.budget.try_acquire(bytes) {
                        Some(permit) => { hedges.push(permit); true }
                        None => false,
                    }
                }
            };
            if next {
                match waiting.next() {
                    Some((region, _)) => {
                        begun.push((region, Instant::now()));
                        running.push(self.one(region, &key, range.clone()));
                    }
                    None if running.is_empty() => return Err(causes),
                    // Everybody was asked; the deadline of each read ends this.
                    None => hedge_at = tokio::time::Instant::now() + PATIENCE,
                }
            }
        }
    }

    /// Reads from the one region and no other.
    pub(crate) async fn read_from(
        &self,
        region: usize,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<Bytes, Trouble> {
        self.one(region, &name.to_string(), range).await.1
    }

    async fn one(&self, region: usize, key: &str, range: Range<u64>) -> (usize, Result<Bytes, Trouble>) {
        let Some(place) = self.regions.get(region) else {
            return (region, Err(Trouble::Unusable("there is no such region".to_owned())));
        };
        let reading = async { place.ready().await?.get_range(key, range).await.map_err(Trouble::Storage) };
        let answer = tokio::time::timeout(PATIENCE, reading).await.unwrap_or(Err(Trouble::Silent));
        (region, answer)
    }

    /// The winner was so fast, and whoever was asked before it is slower than that.
    fn settle(&self, begun: &[(usize, Instant)], winner: usize, bytes: u64, seconds: f64) {
        let now = Instant::now();
        let mut state = self.state();
        for (region, since) in begun {
            let Some(pace) = state.paces.get_mut(*region) else { continue };
            pace.trying = false;
            if *region == winner {
                pace.observe(bytes, seconds, now);
            } else if pace.failed.is_none() {
                pace.observe(bytes, since.elapsed().as_secs_f64(), now);
            }
        }
    }

    fn fails(&self, region: usize, pack: PackId, key: &str, trouble: &Trouble) {
        let name = self.regions.get(region).map_or("", |region| region.name());
        tracing::warn!(region = name, object = key, error = %trouble, "a region does not deliver");
        let mut state = self.state();
        let archived = matches!(trouble, Trouble::Storage(error) if error.kind == StorageErrorKind::Archived);
        let here = archived || trouble.is_not_found() || trouble.class() == breakwater_core::ErrorClass::Corrupt;
        if here {
            state.lacks(pack, region);
        }
        if let Some(pace) = state.paces.get_mut(region) {
            pace.trying = false;
            if !here {
                pace.failed = Some(Instant::now());
            }
        }
    }

    /// All regions, the best for this read first, with the seconds that it is expected to take.
    fn ranked(&self, pack: PackId, bytes: u64) -> Vec<(usize, f64)> {
        let now = Instant::now();
        let mut state = self.state();
        let lacking = state.lacking.get(&pack).copied().unwrap_or(0);
        let rests = |pace: &Pace| pace.failed.is_some_and(|moment| now.duration_since(moment) < RESTS_FOR);
        let mut ranked: Vec<(u8, usize, f64)> = (0..)
            .zip(&state.paces)
            .map(|(index, pace)| {
                let lacks = lacking & bit(index) != 0;
                (u8::from(lacks) * 2 + u8::from(rests(pace)), index, pace.expected(bytes, now))
            })
            .collect();
        ranked.sort_by_key(|(trouble, index, _)| (*trouble, *index));
        let Some(&(least, ..)) = ranked.first() else { return Vec::new() };
        let mut best = 0;
        for (at, (trouble, index, expected)) in ranked.iter().enumerate().skip(1) {
            let than = ranked.get(best).map_or(0.0, |(_, _, expected)| *expected);
            let tried = state.paces.get(*index).is_some_and(|pace| pace.trying && !pace.is_fresh(now));
            if *trouble == least && !tried && expected * 2.0 + WORTH_CHANGING < than {
                best = at;
            }
        }
        let first = ranked.remove(best);
        if let Some(pace) = state.paces.get_mut(first.1).filter(|pace| !pace.is_fresh(now)) {
            pace.trying = true;
        }
        std::iter::once(first).chain(ranked).map(|(_, index, expected)| (index, expected)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lacks(&mut self, pack: PackId, region: usize) {
        if self.lacking.len() >= PACKS_MAX {
            self.lacking.clear();
        }
        *self.lacking.entry(pack).or_default() |= bit(region);
    }
}

/// Regions beyond the sixty-fourth share a bit: they are passed over too often, which costs nothing but speed.
fn bit(region: usize) -> u64 {
    1 << region.min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_are_learned_and_forgotten() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.expected(1 << 20, begun), 0.0, "what is not known is worth a try");
        pace.observe(128, 0.05, begun);
        assert!((pace.expected(1 << 20, begun) - 0.05).abs() < 1e-9);
        pace.observe(1 << 20, 0.15, begun);
        assert!((pace.expected(2 << 20, begun) - 0.25).abs() < 1e-6, "{}", pace.expected(2 << 20, begun));
        let later = begun + MEASURED_FOR + Duration::from_secs(1);
        assert_eq!(pace.expected(1 << 20, later), 0.0);
        pace.observe(1 << 20, 1.0, later);
        assert!((pace.expected(1 << 20, later) - 1.0).abs() < 1e-6, "the old figures are gone");
        assert!(!pace.is_near(later), "large reads say nothing of latency");
        pace.observe(128, 0.0005, later);
        assert!(pace.is_near(later) && !pace.is_near(later + MEASURED_FOR + Duration::from_secs(1)));
    }
}
