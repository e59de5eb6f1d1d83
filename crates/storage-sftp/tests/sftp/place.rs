//! A server, and regions on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use breakwater_core::Chain;
use breakwater_storage::places::UseAs;
use breakwater_storage::{Storage, StorageError};
use breakwater_storage_sftp::{Environment, Patience, Settings, Sftp};
use breakwater_testkit::sshd::{Sshd, SshdSetup};

/// A server and a directory for roots.
pub(crate) struct Place {
    pub(crate) sshd: Sshd,
    roots: tempfile::TempDir,
    next: AtomicU32,
}

/// For all tests that are about something else, so long that no machine is too busy.
pub(crate) const LONG: Patience = Patience {
    connect: Duration::from_secs(120),
    answer: Duration::from_secs(120),
    turn: Duration::from_secs(240),
    silence: Duration::from_secs(60),
};

/// So short that a test of silence is over soon, and long enough for a machine that is busy.
pub(crate) const SHORT: Patience = Patience {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(10),
    turn: Duration::from_secs(10),
    silence: Duration::from_secs(1),
};

impl Place {
    pub(crate) async fn start() -> Place {
        Place::start_with(SshdSetup::default()).await
    }

    /// A server whose SFTP is `subsystem`.
    pub(crate) async fn serving(subsystem: &str) -> Place {
        Place::start_with(SshdSetup { subsystem: subsystem.to_owned(), ..SshdSetup::default() }).await
    }

    pub(crate) async fn start_with(setup: SshdSetup) -> Place {
        // In memory where there is such a place: a flush then costs nothing, and nobody here cuts the power.
        let memory = Path::new("/dev/shm");
        let roots = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Place { sshd: Sshd::start(setup).await.unwrap(), roots: roots.unwrap(), next: AtomicU32::new(0) }
    }

    /// The path of a root that was not used before and is not there yet.
    pub(crate) fn fresh_root(&self) -> PathBuf {
        self.root(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn root(&self, number: u32) -> PathBuf {
        self.roots.path().join(format!("r{number}"))
    }

    /// A new region.
    pub(crate) fn storage(&self) -> Storage {
        self.open(&self.fresh_root(), UseAs::Fresh, LONG)
    }

    /// The region at `root`, as our own user.
    pub(crate) fn open(&self, root: &Path, use_as: UseAs, patience: Patience) -> Storage {
        storage(&self.sshd.url(root).unwrap(), &Environment::default(), use_as, patience)
    }

    /// Nothing of an unfinished or refused write is left in any root.
    pub(crate) fn is_clean(&self) -> bool {
        (0..self.next.load(Ordering::Relaxed)).all(|number| temporaries(&self.root(number)).is_empty())
    }
}

/// The region at `url`.
pub(crate) fn storage(url: &str, environment: &Environment, use_as: UseAs, patience: Patience) -> Storage {
    let settings = Settings::of(&url.parse().unwrap(), environment).unwrap();
    Storage::new(Arc::new(Sftp::new(settings.with_patience(patience), use_as)))
}

/// The names of unfinished writes in `root`.
pub(crate) fn temporaries(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join(".tmp")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// All that an error says.
pub(crate) fn text(error: &StorageError) -> String {
    Chain(error).to_string()
}
