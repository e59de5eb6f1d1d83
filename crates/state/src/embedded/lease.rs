//! When leases end. The file remembers which leases there are; their deadlines live in memory, by the monotonic clock,
//! and start anew when the file is opened, because nobody could keep a lease alive while it was closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use breakwater_core::Chain;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Inner, blocking};
use crate::error::StateError;
use crate::store::LeaseId;

/// How long the reaper waits before it tries again to delete the keys of a lease when the file would not take it.
const RETRY: Duration = Duration::from_secs(1);

/// How long the reaper sleeps when there is no lease.
const IDLE: Duration = Duration::from_secs(3600);

/// The deadlines of all leases.
pub(super) struct Leases {
    deadlines: Mutex<BTreeMap<LeaseId, Deadline>>,
    changed: Arc<Notify>,
}

#[derive(Clone, Copy)]
struct Deadline {
    ttl: Duration,
    at: Instant,
}

impl Deadline {
    fn from_now(ttl: Duration) -> Self {
        Deadline { ttl, at: Instant::now() + ttl }
    }

    fn is_over(&self) -> bool {
        self.at <= Instant::now()
    }
}

impl Leases {
    pub(super) fn new(leases: Vec<(LeaseId, i64)>) -> Self {
        let all = Leases { deadlines: Mutex::default(), changed: Arc::default() };
        for (lease, seconds) in leases {
            all.add(lease, seconds);
        }
        all
    }

    /// What is notified when a deadline may have moved closer.
    pub(super) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    pub(super) fn add(&self, lease: LeaseId, seconds: i64) {
        let ttl = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        self.lock().insert(lease, Deadline::from_now(ttl));
        self.changed.notify_one();
    }

    /// Takes the lease away; whether it was there.
    pub(super) fn remove(&self, lease: LeaseId) -> bool {
        self.lock().remove(&lease).is_some()
    }

    /// Takes the lease away if its time is over; whether that was so.
    fn remove_if_over(&self, lease: LeaseId) -> bool {
        let mut deadlines = self.lock();
        let over = deadlines.get(&lease).is_some_and(Deadline::is_over);
        if over {
            deadlines.remove(&lease);
        }
        over
    }

    pub(super) fn is_alive(&self, lease: LeaseId) -> bool {
        self.lock().get(&lease).is_some_and(|deadline| !deadline.is_over())
    }

    pub(super) fn keep_alive(&self, lease: LeaseId) -> Result<(), StateError> {
        let mut deadlines = self.lock();
        match deadlines.get_mut(&lease) {
            Some(deadline) if !deadline.is_over() => {
                *deadline = Deadline::from_now(deadline.ttl);
                Ok(())
            }
            _ => Err(StateError::LeaseGone { lease }),
        }
    }

    fn over(&self) -> Vec<LeaseId> {
        self.lock().iter().filter(|(_, deadline)| deadline.is_over()).map(|(lease, _)| *lease).collect()
    }

    fn next(&self) -> Instant {
        self.lock().values().map(|deadline| deadline.at).min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// The map is whole after every statement above, so a panic elsewhere while it was locked does no harm.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Deadline>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the lease and deletes its keys, if `begin` says yes once nothing else can write; whether it did.
pub(super) fn end(inner: &Inner, lease: LeaseId, begin: impl FnOnce() -> bool) -> Result<bool, StateError> {
    match inner.history.end_lease(lease, begin) {
        Ok(revision) => {
            revision.inspect(|revision| inner.announce(*revision));
            Ok(revision.is_some())
        }
        Err(error) => {
            // The keys may still be there. The lease stays over, and the reaper finds it again.
            inner.leases.lock().insert(lease, Deadline { ttl: Duration::ZERO, at: Instant::now() });
            inner.leases.changed.notify_one();
            Err(error)
        }
    }
}

/// Ends leases whose time is over, until the store is gone.
pub(super) async fn reap(store: Weak<Inner>, changed: Arc<Notify>) {
    loop {
        let Some(next) = store.upgrade().map(|inner| inner.leases.next()) else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = changed.notified() => continue,
        }
        let Some(inner) = store.upgrade() else { return };
        let result = blocking("ending leases", move || {
            for lease in inner.leases.over() {
                end(&inner, lease, || inner.leases.remove_if_over(lease))?;
            }
            Ok(())
        })
        .await;
        if let Err(error) = result {
            tracing::warn!(error = %Chain(&error), "an expired lease could not be ended yet");
            tokio::time::sleep(RETRY).await;
        }
    }
}
