//! Which regions were compared with which others, over which sources, since the set was made.
//!
//! What a region missed before this process began is known only once its listing was laid beside those of the others. So
//! a manifest is held back from a region until its source was compared with every other region that answers; a region
//! that is away cannot be compared with, and is made up for when it is back. Where the source leans on others, all that goes
//! for those too.
//!
//! Invariant: a pair of regions counts as compared over a source only when both listings were whole, and both places
//! have said after it that they are still the regions that were joined.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_core::{RegionId, SourceUid};
use tokio::sync::Notify;

use super::{RegionSet, Set, Tasks};

/// The waits after a comparison that was not whole.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What two regions were compared over.
#[derive(Clone, Debug, Default)]
struct Pair {
    sources: Arc<HashSet<SourceUid>>,
    /// Everything that was there at the time.
    whole: bool,
}

/// Who leans on whom.
type Leans = HashMap<String, BTreeSet<String>>;

/// What was compared, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// By the numbers of the regions, the lower one first.
    pairs: Mutex<HashMap<(usize, usize), Pair>>,
    /// By source, the sources whose packs its manifests may name; both as in names.
    leans: Mutex<Arc<Leans>>,
    /// Whether everything is to be compared, and not only what a manifest waits for.
    keep: AtomicBool,
    /// A manifest waits.
    pub(super) wanted: Notify,
    /// A region answers that did not, or more is to be compared.
    pub(super) news: Notify,
}

/// What held a region's manifests back at one moment.
#[derive(Debug, Default)]
pub(super) struct Gate {
    compared: Vec<Arc<HashSet<SourceUid>>>,
    leans: Arc<Leans>,
}

impl Gate {
    /// Whether a manifest of the source that `scope` names may become visible.
    pub(super) fn is_open(&self, scope: &str) -> bool {
        let is_compared = |scope: &str| {
            let Ok(source) = scope.parse::<SourceUid>() else { return true };
            self.compared.iter().all(|compared| compared.contains(&source))
        };
        is_compared(scope) && self.leaned_on(scope).all(is_compared)
    }

    /// The sources that the one which `scope` names leans on.
    pub(super) fn leaned_on(&self, scope: &str) -> impl Iterator<Item = &str> {
        self.leans.get(scope).into_iter().flatten().map(String::as_str)
    }
}

impl Comparison {
    fn pairs(&self) -> MutexGuard<'_, HashMap<(usize, usize), Pair>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pair(&self, one: usize, other: usize) -> Pair {
        self.pairs().get(&(one.min(other), one.max(other))).cloned().unwrap_or_default()
    }

    /// Takes up what a name `meta/<source>/leans/<other>` says; other names say nothing.
    pub(super) fn note_leaning(&self, name: &str) {
        let mut parts = name.split('/');
        if let (Some("meta"), Some(source), Some("leans"), Some(other), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        {
            let mut leans = self.leans.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::make_mut(&mut leans).entry(source.to_owned()).or_default().insert(other.to_owned());
        }
    }

    /// Who leans on whom, as far as it was seen.
    fn leans(&self) -> Arc<Leans> {
        Arc::clone(&self.leans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The sources that `source` leans on.
    pub(super) fn leaned_on(&self, source: SourceUid) -> Vec<SourceUid> {
        let leans = self.leans();
        leans.get(&source.to_string()).into_iter().flatten().filter_map(|other| other.parse().ok()).collect()
    }

    /// These regions were compared with each other over `source`.
    fn mark(&self, regions: &BTreeSet<usize>, source: SourceUid) {
        self.each_pair(regions, |pair| {
            Arc::make_mut(&mut pair.sources).insert(source);
        });
    }

    /// These regions were compared with each other over all that was there.
    fn mark_whole(&self, regions: &BTreeSet<usize>) {
        self.each_pair(regions, |pair| pair.whole = true);
    }

    fn each_pair(&self, regions: &BTreeSet<usize>, change: impl Fn(&mut Pair)) {
        let mut pairs = self.pairs();
        for one in regions {
            for other in regions.range(one + 1..) {
                change(pairs.entry((*one, *other)).or_default());
            }
        }
    }
}

impl Set {
    /// The regions that number `index` is to be compared with: all others but those known to be away.
    fn peers(&self, index: usize) -> impl Iterator<Item = usize> {
        let others = self.regions.iter().enumerate().filter(move |(other, _)| *other != index);
        others.filter(|(_, region)| !region.health().is_away()).map(|(other, _)| other)
    }

    /// What holds the manifests of region number `index` back now.
    pub(super) fn gate(&self, index: usize) -> Gate {
        let compared = self.peers(index).map(|other| self.comparison.pair(index, other).sources).collect();
        Gate { compared, leans: self.comparison.leans() }
    }

    /// Whether all that region number `index` missed before this set was made is known.
    pub(super) fn is_compared(&self, index: usize, compared: impl Fn(usize) -> bool) -> bool {
        let others = (0..self.regions.len()).filter(|other| *other != index).collect::<Vec<_>>();
        if others.iter().all(|other| compared(*other)) {
            return true;
        }
        let verified = self.regions.get(index).is_some_and(|region| region.health().verified);
        verified && self.peers(index).all(compared)
    }

    /// The same over one source, or over all of them.
    pub(super) fn is_compared_over(&self, index: usize, source: Option<SourceUid>) -> bool {
        self.is_compared(index, |other| {
            let pair = self.comparison.pair(index, other);
            source.map_or(pair.whole, |source| pair.sources.contains(&source))
        })
    }

    /// `regions` were compared over `source`, and what they miss is in their queues. Manifests that waited for that go
    /// behind it.
    pub(super) fn compared(&self, regions: &BTreeSet<usize>, source: SourceUid) {
        let scope = source.to_string();
        for region in regions.iter().filter_map(|index| self.regions.get(*index)) {
            region.lane().requeue_commits(&scope);
        }
        self.comparison.mark(regions, source);
        self.wake_all();
    }

    /// `regions` were compared over everything.
    pub(super) fn compared_whole(&self, regions: &BTreeSet<usize>) {
        self.comparison.mark_whole(regions);
    }

    pub(super) fn wake_all(&self) {
        for region in &self.regions {
            region.wake.notify_one();
        }
    }

    /// The sources of manifests that wait for a comparison in a region that answers.
    fn waited_for(&self) -> BTreeSet<SourceUid> {
        let mut found = BTreeSet::new();
        for (index, region) in self.regions.iter().enumerate() {
            if !region.health().verified {
                continue;
            }
            let gate = self.gate(index);
            let scopes = region.lane().waiting_commits();
            let shut = scopes.iter().filter(|scope| !gate.is_open(scope));
            found.extend(shut.filter_map(|scope| scope.parse::<SourceUid>().ok()));
        }
        found
    }
}

impl RegionSet {
    /// Has everything compared in the background, now and whenever a region answers that was away, until each region was
    /// compared with each other one once. Regions are only written to where they miss something. For whoever writes for
    /// long; a source that is written in between is compared by itself, before its first manifest becomes visible.
    pub fn keep_compared(&self) {
        self.set.comparison.keep.store(true, Ordering::Relaxed);
        self.set.comparison.news.notify_one();
    }

    /// Whether what this region missed of `source` before this set was made is known. While it is not, nobody can say that
    /// the region is not behind.
    pub fn is_compared(&self, region: RegionId, source: SourceUid) -> bool {
        let index = self.handles().position(|handle| handle.id == region);
        index.is_some_and(|index| {
            self.set.is_compared_over(index, Some(source)) || self.set.is_compared_over(index, None)
        })
    }

    /// One round; answers whether nothing is left to be compared.
    async fn compare_round(&self) -> bool {
        let waited_for = self.set.waited_for().into_iter().collect::<Vec<_>>();
        if !waited_for.is_empty() {
            self.audit(&waited_for).await;
        }
        if self.set.comparison.keep.load(Ordering::Relaxed) && !self.answering_are_whole() {
            self.audit_all().await;
            if !self.answering_are_whole() {
                return false;
            }
        }
        self.set.waited_for().is_empty()
    }

    fn answering_are_whole(&self) -> bool {
        let set = &self.set;
        let answering = |index: &usize| set.regions.get(*index).is_some_and(|region| region.health().verified);
        (0..set.regions.len())
            .filter(answering)
            .all(|index| set.peers(index).filter(answering).all(|other| set.comparison.pair(index, other).whole))
    }
}

/// Compares what is wanted until it is aborted.
pub(super) async fn run(set: Arc<Set>) {
    // This handle keeps no task alive, so it may live in one.
    let regions = RegionSet { set: Arc::clone(&set), _tasks: Arc::new(Tasks(Vec::new())) };
    let mut pause = FIRST_PAUSE;
    loop {
        if regions.compare_round().await {
            pause = FIRST_PAUSE;
            tokio::select! {
                () = set.comparison.wanted.notified() => {}
                () = set.comparison.news.notified() => {}
            }
        } else {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = set.comparison.news.notified() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
