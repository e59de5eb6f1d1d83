//! How many threads one directory may hold at a time.
//!
//! A call on a network file system that hangs cannot be ended: its caller gives it up, and its thread stays in the kernel.
//! Threads for blocking work are shared by the whole process, so that without a limit one dead mount takes all of them, and
//! with them every other region.
//!
//! Invariant: a slot is given back by the thread that works in it and by nobody else, also when its caller has gone long
//! ago. All stores of one path share their slots, also one that is opened after another was dropped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use crate::StorageErrorKind;

/// Calls that may work at a time.
pub(super) const CALLS: usize = 48;
/// Listings that may be open at a time. They have slots of their own, because a listing keeps its slot while its reader
/// works, and what the reader does is often a call.
pub(super) const LISTINGS: usize = 16;
/// How long a slot is waited for. A disk that is only busy gives one back within this time.
const PATIENCE: Duration = Duration::from_secs(120);

static OF_PATHS: LazyLock<Mutex<HashMap<PathBuf, Weak<Slots>>>> = LazyLock::new(Mutex::default);

/// A thread's right to work in a directory.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    // Keeps the slots of the path known for as long as one of them is taken.
    _slots: Arc<Slots>,
}

/// The slots of one directory.
#[derive(Debug)]
pub(super) struct Slots {
    calls: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    patience: Duration,
}

impl Slots {
    /// The slots of the directory `path`.
    pub(super) fn of(path: &Path) -> Arc<Slots> {
        let mut known = OF_PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = known.get(path).and_then(Weak::upgrade) {
            return slots;
        }
        known.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Slots::new(CALLS, LISTINGS, PATIENCE));
        known.insert(path.to_owned(), Arc::downgrade(&slots));
        slots
    }

    fn new(calls: usize, listings: usize, patience: Duration) -> Slots {
        let [calls, listings] = [calls, listings].map(|count| Arc::new(Semaphore::new(count)));
        Slots { calls, listings, patience }
    }

    /// A slot for a call.
    pub(super) async fn call(self: &Arc<Self>) -> Result<Slot, Failure> {
        self.take(&self.calls).await
    }

    /// A slot for a listing.
    pub(super) async fn listing(self: &Arc<Self>) -> Result<Slot, Failure> {
        self.take(&self.listings).await
    }

    async fn take(self: &Arc<Self>, semaphore: &Arc<Semaphore>) -> Result<Slot, Failure> {
        match tokio::time::timeout(self.patience, Arc::clone(semaphore).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Slot { _permit: permit, _slots: Arc::clone(self) }),
            Ok(Err(closed)) => Err(Failure::because(StorageErrorKind::Other, closed)),
            Err(_) => {
                let what = format!(
                    "no call has come back for {} s (hint: check the mount; a hung network file system has to be unmounted \
                     with `umount -f`)",
                    self.patience.as_secs()
                );
                Err(Failure::because(StorageErrorKind::Unreachable, what))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_too_long_for_a_slot_is_told_why() {
        let slots = Arc::new(Slots::new(1, 1, Duration::from_millis(10)));
        let taken = slots.call().await.unwrap();
        let failure = slots.call().await.unwrap_err();
        assert_eq!(failure.kind, StorageErrorKind::Unreachable);
        assert!(failure.source.unwrap().to_string().contains("umount"));
        slots.listing().await.unwrap();
        drop(taken);
        slots.call().await.unwrap();
    }

    #[test]
    fn all_stores_of_a_path_share_its_slots() {
        let directory = tempfile::tempdir().unwrap();
        let first = Slots::of(directory.path());
        assert!(Arc::ptr_eq(&first, &Slots::of(directory.path())));
        assert!(!Arc::ptr_eq(&first, &Slots::of(Path::new("/elsewhere"))));
    }
}
