//! Where chunks lie: an index of any size in a fixed amount of memory.
//!
//! New entries gather in a table in memory; a full table becomes a sorted *run* on disk ([`run`]), and runs of like size are
//! merged (`index/merge.rs`), so that a lookup asks few of them. Each run has a filter ([`filter`]) that spares most of those
//! questions: a chunk that no run knows costs one page of a filter per run, one that a run knows two pages more. Everything on
//! disk is read a page at a time through a small cache ([`page`]); nothing is mapped.
//!
//! Invariants: memory stays within what [`Index::new`] was given, plus 16 bytes for each 32,258 entries on disk and 40 bytes a
//! session. What is answered is what was inserted last: pages carry checksums, and a run that cannot be read any more is
//! forgotten, not believed. Losing entries costs room in a repository, never truth, so trouble with the scratch directory stops
//! nothing: it is counted and said ([`Index::trouble`]). The files have no names: whatever ends the program, they are gone.

mod cache;
mod entry;
mod filter;
mod merge;
mod page;
mod run;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use breakwater_core::ErrorClass;

use cache::Cache;
use entry::{Entry, Packed, Sessions};
use merge::merge;
use run::{Run, RunWriter};

pub use entry::{Half, Place, half};

/// Bytes of a slot in the table of new entries, and of the same entry where it is sorted before it is written.
const SLOT: usize = 33;
const SORTED: usize = 32;

/// The table has so many slots at least.
const SLOTS_LEAST: usize = 64;

/// Runs of like size that are merged into one.
const FAN: usize = 4;

/// More runs than that are merged whatever their sizes are.
const RUNS_MAX: usize = 32;

/// An index of chunks. Shared by threads; every call may read or write files, so none is for an async thread.
#[derive(Debug)]
pub struct Index {
    dir: PathBuf,
    /// New entries that make a run.
    limit: usize,
    state: RwLock<State>,
    sessions: RwLock<Sessions>,
    cache: Cache,
    /// Held by the thread that merges.
    merging: Mutex<()>,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct State {
    young: HashMap<Half, Packed>,
    /// Oldest first.
    runs: Arc<Vec<Arc<Run>>>,
}

#[derive(Debug, Default)]
struct Trouble {
    first: Option<String>,
    forgotten: u64,
}

/// Why a sorted run was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The entries were not in order.
    #[error("the entries of a run are not sorted")]
    Unsorted,
    /// The scratch directory does not take them.
    #[error("writing a run of the index")]
    Io(#[source] io::Error),
}

impl IndexError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            IndexError::Unsorted => ErrorClass::Internal,
            IndexError::Io(_) => ErrorClass::Unavailable,
        }
    }
}

impl Index {
    /// An empty index with its files in `dir`, which takes up to `memory` bytes (1 MiB at least) for itself: one half for new
    /// entries, the other for pages.
    pub fn new(dir: &Path, memory: usize) -> Index {
        let half = (memory / 2).max(512 << 10);
        let slots = (half / (SLOT + SORTED)).max(SLOTS_LEAST);
        // The table doubles; it is full at seven eighths.
        let slots = if slots.is_power_of_two() { slots } else { slots.next_power_of_two() / 2 };
        Index {
            dir: dir.to_owned(),
            limit: slots / 8 * 7,
            state: RwLock::default(),
            sessions: RwLock::default(),
            cache: Cache::new(half),
            merging: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// Remembers that the chunk lies there. What was known of it before is replaced.
    pub fn insert(&self, half: Half, place: Place) {
        let Some(packed) = self.pack(&place) else { return self.forget(1, None) };
        let flushed = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.young.insert(half, packed);
            let full = state.young.len() >= self.limit;
            if full {
                self.flush(&mut state);
            }
            full
        };
        if flushed {
            self.tidy();
        }
    }

    /// Where the chunk lies, if that is known.
    pub fn get(&self, half: &Half) -> Option<Place> {
        let runs = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(packed) = state.young.get(half) {
                return self.unpack(*packed);
            }
            Arc::clone(&state.runs)
        };
        for run in runs.iter().rev().filter(|run| !run.is_lost()) {
            match run.get(half, &self.cache) {
                Ok(Some(packed)) => return self.unpack(packed),
                Ok(None) => {}
                Err(error) => self.lose(run, &error),
            }
        }
        None
    }

    /// Adds many entries at once, sorted by their halves; of equal ones the first counts. They are newer than all before.
    /// Answers how many there were.
    pub fn add_run(&self, entries: impl IntoIterator<Item = (Half, Place)>) -> Result<u64, IndexError> {
        let mut writer = RunWriter::new(&self.dir).map_err(IndexError::Io)?;
        let (mut last, mut skipped) = (None, 0);
        for (half, place) in entries {
            match last {
                Some(last) if last > half => return Err(IndexError::Unsorted),
                Some(last) if last == half => continue,
                _ => last = Some(half),
            }
            match self.pack(&place) {
                Some(packed) => writer.push(&Entry { half, packed }).map_err(IndexError::Io)?,
                None => skipped += 1,
            }
        }
        let run = writer.finish().map_err(IndexError::Io)?;
        let count = run.entries();
        self.forget(skipped, None);
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            // What is in memory is older than these.
            self.flush(&mut state);
            if count > 0 {
                Arc::make_mut(&mut state.runs).push(Arc::new(run));
            }
        }
        self.tidy();
        Ok(count)
    }

    /// Runs on disk.
    pub fn runs(&self) -> usize {
        self.state.read().unwrap_or_else(PoisonError::into_inner).runs.len()
    }

    /// What went wrong first, and how many entries were forgotten for it; `None` while all is well.
    pub fn trouble(&self) -> Option<(String, u64)> {
        let trouble = self.troubles();
        trouble.first.clone().map(|first| (first, trouble.forgotten))
    }

    /// Writes the new entries as a run.
    fn flush(&self, state: &mut State) {
        let young = std::mem::take(&mut state.young);
        if young.is_empty() {
            return;
        }
        let count = young.len() as u64;
        let mut entries: Vec<Entry> = young.into_iter().map(|(half, packed)| Entry { half, packed }).collect();
        entries.sort_unstable_by_key(|entry| entry.half);
        let write = || -> io::Result<Run> {
            let mut writer = RunWriter::new(&self.dir)?;
            entries.iter().try_for_each(|entry| writer.push(entry))?;
            writer.finish()
        };
        match write() {
            Ok(run) => Arc::make_mut(&mut state.runs).push(Arc::new(run)),
            Err(error) => self.forget(count, Some(format!("writing a run of the index: {error}"))),
        }
    }

    /// Merges runs until there are few. One thread does it, the others go on.
    fn tidy(&self) {
        let Ok(_merging) = self.merging.try_lock() else { return };
        loop {
            let runs = Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).runs);
            let Some(group) = self.group(&runs) else { return };
            let merged = match merge(&self.dir, group) {
                Ok(merged) => merged,
                Err(error) => {
                    // The runs stay as they are; they are read one by one until room is found.
                    self.forget(0, Some(format!("merging runs of the index: {error}")));
                    return;
                }
            };
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let current = Arc::make_mut(&mut state.runs);
            // Only this thread takes runs away; others have at most added some behind.
            let Some(first) = current.iter().position(|run| Arc::ptr_eq(run, &group[0])) else { return };
            let merged = (merged.entries() > 0).then(|| Arc::new(merged));
            current.splice(first..first + group.len(), merged);
        }
    }

    /// Neighbours that are worth a merge.
    fn group<'a>(&self, runs: &'a [Arc<Run>]) -> Option<&'a [Arc<Run>]> {
        let tier = |run: &Arc<Run>| (run.entries() / self.limit as u64).max(1).ilog(FAN as u64);
        let alike = runs.windows(FAN).find(|window| window.iter().all(|run| tier(run) == tier(&window[0])));
        alike.or_else(|| (runs.len() > RUNS_MAX).then_some(runs))
    }

    fn pack(&self, place: &Place) -> Option<Packed> {
        let known = self.sessions.read().unwrap_or_else(PoisonError::into_inner).number(place.pack.session);
        let number = match known {
            Some(number) => number,
            None => self.sessions.write().unwrap_or_else(PoisonError::into_inner).add(place.pack.session)?,
        };
        Packed::new(number, place)
    }

    fn unpack(&self, packed: Packed) -> Option<Place> {
        packed.place(&self.sessions.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lose(&self, run: &Run, error: &io::Error) {
        if run.give_up() {
            self.forget(run.entries(), Some(format!("reading a run of the index: {error}")));
        }
    }

    fn forget(&self, entries: u64, why: Option<String>) {
        if entries == 0 && why.is_none() {
            return;
        }
        let mut trouble = self.troubles();
        trouble.forgotten += entries;
        if let (None, Some(why)) = (&trouble.first, why) {
            tracing::warn!(error = %why, entries, "the index of chunks forgets; what it knew may be stored once more");
            trouble.first = Some(why);
        }
    }

    fn troubles(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
