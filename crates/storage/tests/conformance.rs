//! The conformance suite on every backend, bare and decorated.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use breakwater_core::{Clock, Entropy};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::{Fault, Limits, Operation, Record, Storage, assemble, conformance};

/// Makes a fresh store in a numbered directory each time.
struct Directories {
    root: tempfile::TempDir,
    next: AtomicU32,
}

impl Directories {
    fn new() -> Directories {
        Directories { root: tempfile::tempdir().expect("a temporary directory"), next: AtomicU32::new(0) }
    }

    fn storage(&self) -> Storage {
        Storage::file_system(&self.path(self.next.fetch_add(1, Ordering::Relaxed))).expect("a new store")
    }

    fn path(&self, number: u32) -> PathBuf {
        self.root.path().join(format!("r{number}"))
    }

    /// Nothing of an unfinished or refused write is left in any store.
    fn assert_clean(&self) {
        for number in 0..self.next.load(Ordering::Relaxed) {
            let temporary = self.path(number).join(".tmp");
            let left = std::fs::read_dir(&temporary).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{}", temporary.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    conformance::run(async || Storage::memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_system() {
    let directories = Directories::new();
    conformance::run(async || directories.storage()).await;
    // Abandoned work may still be on its way out.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while std::time::Instant::now() < deadline && std::panic::catch_unwind(|| directories.assert_clean()).is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    directories.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_system_with_every_decorator() {
    let directories = Directories::new();
    let creates = AtomicU32::new(0);
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    conformance::run(async || {
        let record = Record::new(Arc::new(Fault::new(directories.storage().backend())));
        creates.fetch_add(1, Ordering::Relaxed);
        assert_eq!(record.count(Operation::Create), 0);
        assemble(&Storage::new(Arc::new(record)), "r1", &Limits::default(), &clock, &entropy).storage
    })
    .await;
    assert!(creates.load(Ordering::Relaxed) > 10, "every case has its own store");
}
