//! Counters of a run that anybody may read while it goes on.
//!
//! Invariant: every counter only grows, and a byte is counted once: kept, or read and then as unchanged, repeated, zero or new. Who shows
//! them decides how often to look; the run never waits for its watcher.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What a backup or restore has done so far. Shared by `Arc`.
#[derive(Debug, Default)]
pub struct Progress {
    entries: AtomicU64,
    files: AtomicU64,
    expected: AtomicU64,
    read: AtomicU64,
    kept: AtomicU64,
    unchanged: AtomicU64,
    repeated: AtomicU64,
    zeros: AtomicU64,
    new: AtomicU64,
    stored: AtomicU64,
}

/// The counters of one moment; bytes, but for `entries` and `files`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Entries of every kind that are done.
    pub entries: u64,
    /// Files that are done.
    pub files: u64,
    /// Bytes of content that there are to do, as far as known now.
    pub expected: u64,
    /// Bytes of content read from the source (restore: written to the target).
    pub read: u64,
    /// Bytes taken from the base without reading them, because the source says that they have not changed.
    #[serde(default)]
    pub kept: u64,
    /// Of the bytes read, those that are as they were in the base.
    pub unchanged: u64,
    /// Of those, bytes that this run, or a dead run before it, has stored already.
    pub repeated: u64,
    /// Of those, bytes of extents that hold nothing but zeros.
    pub zeros: u64,
    /// Of those, bytes that had to be stored.
    pub new: u64,
    /// Bytes that the new ones take in packs (restore: bytes fetched from regions).
    pub stored: u64,
}

/// One of the ways in which a read byte is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unchanged,
    Repeated,
    Zeros,
    New,
}

impl Progress {
    /// The counters now.
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            entries: get(&self.entries),
            files: get(&self.files),
            expected: get(&self.expected),
            read: get(&self.read),
            kept: get(&self.kept),
            unchanged: get(&self.unchanged),
            repeated: get(&self.repeated),
            zeros: get(&self.zeros),
            new: get(&self.new),
            stored: get(&self.stored),
        }
    }

    /// For work that counts by itself: `bytes` were read so far.
    pub fn read_so_far(&self, bytes: u64) {
        self.read.fetch_max(bytes, Ordering::Relaxed);
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn entry(&self, is_file: bool) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.files.fetch_add(u64::from(is_file), Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: u64, kind: Kind) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        let counter = match kind {
            Kind::Unchanged => &self.unchanged,
            Kind::Repeated => &self.repeated,
            Kind::Zeros => &self.zeros,
            Kind::New => &self.new,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn kept(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_counted_once() {
        let progress = Progress::default();
        for (bytes, kind) in [(1, Kind::Unchanged), (20, Kind::Repeated), (300, Kind::Zeros), (4000, Kind::New)] {
            progress.read(bytes, kind);
        }
        let totals = progress.totals();
        assert_eq!(totals.read, 4321);
        assert_eq!(totals.read, totals.unchanged + totals.repeated + totals.zeros + totals.new);
    }
}
