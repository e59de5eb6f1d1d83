//! One region as the set sees it: its handle, its queue, and whether it answers.
//!
//! Invariant: nothing is written into a region before its `repo/region` object has said that it is the one that was
//! joined, and nothing while that object cannot be read or names another one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_core::{RegionId, Timestamp};
use breakwater_storage::Storage;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::Failure;
use super::lane::Lane;

/// What a region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Counts for durability.
    Sync,
    /// A full replica that nobody waits for.
    Async,
    /// A full replica for the long term; the last to be read from.
    Archive,
}

/// A place that was joined to the repository.
#[derive(Clone, Debug)]
pub struct RegionHandle {
    /// What people call it.
    pub name: String,
    /// The id that was written into the place when it was joined.
    pub id: RegionId,
    /// What it is for.
    pub role: Role,
    /// The place.
    pub storage: Storage,
}

/// What the last calls told about a region.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// `repo/region` was read and named this region; lost when a probe fails.
    pub(super) verified: bool,
    /// A probe has ended, one way or the other.
    pub(super) probed: bool,
    /// The last write failed.
    pub(super) failing: bool,
    /// The last error, with the time it was seen.
    pub(super) last_error: Option<(Failure, Timestamp)>,
    pub(super) last_success: Option<Timestamp>,
    pub(super) bytes_written: u64,
    /// Failures in a row, for the backoff.
    failures: u32,
    /// No write starts before this.
    pub(super) not_before: Option<Instant>,
    /// Bytes written and the time the writes took, fading: what the drain estimate is made of.
    rate_bytes: f64,
    rate_seconds: f64,
}

impl Health {
    /// Whether writes may start now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.verified && self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether the last probe failed; what was not asked yet is not away.
    pub(super) fn is_away(&self) -> bool {
        self.probed && !self.verified
    }

    /// Whether the region answers and takes what it is given.
    pub(super) fn is_reachable(&self) -> bool {
        self.verified && !self.failing
    }

    /// A write succeeded.
    pub(super) fn succeeded(&mut self, now: Timestamp, bytes: u64, took: Duration) {
        self.failing = false;
        self.failures = 0;
        self.not_before = None;
        self.last_success = Some(now);
        self.bytes_written = self.bytes_written.saturating_add(bytes);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = bytes as f64;
        self.rate_bytes = self.rate_bytes * 0.9 + bytes;
        self.rate_seconds = self.rate_seconds * 0.9 + took.as_secs_f64();
    }

    /// A write failed; `backoff` gives the wait for the number of failures in a row.
    pub(super) fn failed(&mut self, failure: Failure, now: Timestamp, backoff: impl FnOnce(u32) -> Duration) {
        self.failing = true;
        self.not_before = Some(Instant::now() + backoff(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some((failure, now));
    }

    /// The place answered a probe and is the right one. Answers whether that was news.
    pub(super) fn probe_passed(&mut self, now: Timestamp) -> bool {
        let back = !self.verified;
        self.probed = true;
        self.verified = true;
        self.last_success = Some(now);
        if back {
            self.failures = 0;
            self.not_before = None;
            self.failing = false;
        }
        back
    }

    /// The place did not answer a probe, or is another one.
    pub(super) fn probe_failed(&mut self, failure: Failure, now: Timestamp) {
        self.probed = true;
        self.verified = false;
        self.last_error = Some((failure, now));
    }

    /// How long `bytes` will take at the speed of the recent writes.
    pub(super) fn drain_estimate(&self, bytes: u64) -> Option<Duration> {
        if self.rate_bytes <= 0.0 || self.rate_seconds <= 0.0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = bytes as f64 * self.rate_seconds / self.rate_bytes;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[derive(Debug)]
pub(super) struct Region {
    pub(super) handle: RegionHandle,
    lane: Mutex<Lane>,
    health: Mutex<Health>,
    /// Wakes the region's worker.
    pub(super) wake: Notify,
    /// Wakes those who wait for an answer of a region that is found to be away.
    pub(super) gone: Notify,
}

impl Region {
    pub(super) fn new(handle: RegionHandle) -> Region {
        Region { handle, lane: Mutex::default(), health: Mutex::default(), wake: Notify::new(), gone: Notify::new() }
    }

    pub(super) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once a probe says that the region is away.
    pub(super) async fn gone_away(&self) {
        loop {
            // Made before the look, so that what happens in between wakes it.
            let gone = self.gone.notified();
            if self.health().is_away() {
                return;
            }
            gone.await;
        }
    }

    /// Whether writes may start now.
    pub(super) fn is_open(&self) -> bool {
        self.health().is_open(Instant::now())
    }

    /// Whether the region answers and owes nothing.
    pub(super) fn is_clear(&self) -> bool {
        let reachable = self.is_open() && self.health().is_reachable();
        reachable && !self.lane().owes()
    }

    /// Why the region takes nothing at the moment; none while it does, or before anything is known.
    pub(super) fn closed_because(&self) -> Option<Failure> {
        let health = self.health();
        if !health.probed || health.is_open(Instant::now()) {
            return None;
        }
        health.last_error.as_ref().map(|(failure, _)| failure.clone())
    }
}
