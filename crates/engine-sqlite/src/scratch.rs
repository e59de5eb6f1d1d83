//! The directory of one private copy.
//!
//! Invariant: a directory belongs to the one who holds the lock on its `lock` file. What a killed process left behind is
//! recognised by its free lock and removed by the next backup, so copies never pile up.

use std::fs::File;
use std::path::{Path, PathBuf};

use breakwater_engine::{EngineError, EngineErrorKind};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

const PREFIX: &str = "breakwater-sqlite-";

/// A private directory, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    // Held for its lock.
    _lock: File,
}

impl Scratch {
    /// Makes a directory under `parent`, after removing those that nobody holds any more.
    pub(crate) fn new(parent: &Path) -> Result<Scratch, EngineError> {
        let wrap = |error| EngineError::io(format!("cannot make a private copy in {}", parent.display()), error);
        std::fs::create_dir_all(parent).map_err(wrap)?;
        sweep(parent);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(wrap)?;
        let lock = File::create_new(dir.path().join("lock")).map_err(wrap)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| wrap(error.into()))?;
        Ok(Scratch { dir, _lock: lock })
    }

    /// A path inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Refuses when fewer than `bytes` are free here, before a half copy fills the disk.
    pub(crate) fn require_room(&self, bytes: u64) -> Result<(), EngineError> {
        let answer = rustix::fs::statvfs(self.dir.path()).map_err(|error| {
            EngineError::io(format!("cannot ask for free space: {}", self.dir.path().display()), error.into())
        })?;
        let free = answer.f_bavail.saturating_mul(answer.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        let place = self.dir.path().parent().unwrap_or(self.dir.path()).display();
        let what = format!("no room for the private copy: it needs {bytes} bytes, {free} are free: {place}");
        Err(EngineError::new(EngineErrorKind::Unreachable, what)
            .hint("free space there, or choose another scratch directory"))
    }
}

/// Removes what killed processes left. Failures are no reason not to back up; the next run tries again.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        match std::fs::remove_dir_all(entry.path()) {
            Ok(()) => {
                tracing::info!(path = %entry.path().display(), "removed the private copy of a backup that was killed")
            }
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove an abandoned private copy")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_lives_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let abandoned = parent.path().join("breakwater-sqlite-dead");
        std::fs::create_dir(&abandoned).unwrap();
        std::fs::write(abandoned.join("lock"), "").unwrap();
        std::fs::write(abandoned.join("copy"), "x").unwrap();
        let foreign = parent.path().join("somebody-elses");
        std::fs::create_dir(&foreign).unwrap();

        let first = Scratch::new(parent.path()).unwrap();
        assert!(!abandoned.exists());
        let second = Scratch::new(parent.path()).unwrap();
        assert!(first.path("lock").exists(), "a directory in use stays");
        assert!(foreign.exists());
        drop((first, second));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn too_little_room_is_said_before_copying() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        scratch.require_room(1).unwrap();
        let error = scratch.require_room(u64::MAX).unwrap_err();
        assert_eq!(error.class(), breakwater_core::ErrorClass::Unavailable);
        assert!(error.to_string().contains(&parent.path().display().to_string()), "{error}");
    }
}
