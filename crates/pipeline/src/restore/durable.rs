//! When what was laid is on the disk.
//!
//! A restore is not used before its mark of incompleteness is gone, so nothing has to be durable sooner: one `syncfs` at the
//! end instead of an `fsync` for each file, which for many small files is most of the time that a restore takes. That holds
//! only where `syncfs` waits for the data and says when writing it failed: Linux 5.8 or newer, and file systems known to do
//! so. Elsewhere each file is synced before it gets its name.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// ext4, xfs, btrfs, f2fs, tmpfs, zfs, bcachefs.
const KNOWN: &[u64] = &[0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994, 0x2FC1_2FC1, 0xCA45_1A4E];

/// So many bytes of small files are sent to the disk together while the next are written.
const SENT: u64 = 96 << 20;

/// How this target becomes durable.
#[derive(Debug)]
pub(crate) struct Durability {
    each: bool,
    /// One open directory of each file system that was met, by device number. What `syncfs` says of failed writes counts
    /// from when its descriptor was opened, so these are opened before anything is written there.
    systems: Mutex<BTreeMap<u64, OwnedFd>>,
    /// Bytes of small files written since the last were sent to the disk.
    unsent: AtomicU64,
    sending: AtomicBool,
}

impl Durability {
    pub(crate) fn of(root: &OwnedFd) -> Durability {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let each = !(tells_failures(&release) && is_known(root));
        let (systems, unsent, sending) = Default::default();
        let durability = Durability { each, systems, unsent, sending };
        durability.meet(root);
        durability
    }

    /// Notes the file system of a directory that is to be written.
    pub(crate) fn meet(&self, directory: &OwnedFd) {
        let Ok(stat) = rustix::fs::fstat(directory) else { return };
        let mut systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
        if !systems.contains_key(&stat.st_dev)
            && let Ok(kept) = directory.try_clone()
        {
            systems.insert(stat.st_dev, kept);
        }
    }

    /// Counts bytes of a small file; true when it is time to [send](Self::send) them to the disk.
    pub(crate) fn is_due(&self, bytes: u64) -> bool {
        // Where each file is synced, there is nothing left to send.
        let due = !self.each && self.unsent.fetch_add(bytes, Ordering::Relaxed) + bytes >= SENT;
        due && !self.sending.swap(true, Ordering::AcqRel)
    }

    /// Sends what was written to the disk while more is written, so that not all of a restore waits there for the last sync.
    /// Only that one says whether it went well.
    pub(crate) fn send(&self) {
        self.unsent.store(0, Ordering::Relaxed);
        let systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
        // Opened anew: a failed write is told once to each descriptor that was opened.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |directory| rustix::fs::openat(directory, ".", flags, Mode::empty());
        let opened: Vec<_> = systems.values().map(open).collect();
        drop(systems);
        for directory in opened {
            if let Err(errno) = directory.and_then(rustix::fs::syncfs) {
                tracing::debug!(%errno, "what was written is sent to the disk at the end only");
            }
        }
        self.sending.store(false, Ordering::Release);
    }

    /// Before a file gets its right name.
    pub(crate) fn file(&self, file: &File) -> std::io::Result<()> {
        if self.each { file.sync_all() } else { Ok(()) }
    }

    /// When a directory has all its entries.
    pub(crate) fn entry(&self, directory: impl AsFd) -> Result<(), Errno> {
        if self.each { rustix::fs::fsync(directory) } else { Ok(()) }
    }

    /// Everything that was written, onto the disk.
    pub(crate) fn all(&self) -> Result<(), Errno> {
        let systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
        systems.values().try_for_each(|directory| match rustix::fs::syncfs(directory) {
            // Each file was synced.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) if self.each => Ok(()),
            answer => answer,
        })
    }
}

fn is_known(root: &OwnedFd) -> bool {
    let kind = |system: rustix::fs::StatFs| u64::from(u32::try_from(system.f_type & 0xFFFF_FFFF).unwrap_or(0));
    rustix::fs::fstatfs(root).is_ok_and(|system| KNOWN.contains(&kind(system)))
}

/// Whether this kernel's `syncfs` answers with an error when writing back has failed.
fn tells_failures(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (5, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_tell() {
        for (release, tells) in [
            ("6.18.44-fc", true),
            ("5.8.0", true),
            ("5.7.19", false),
            ("4.18.0-553.el8", false),
            ("", false),
            ("x", false),
        ] {
            assert_eq!(tells_failures(release), tells, "{release}");
        }
    }

    #[test]
    fn everything_can_be_synced() {
        let directory = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(directory.path()).unwrap());
        let durability = Durability::of(&root);
        let file = File::create(directory.path().join("a")).unwrap();
        durability.file(&file).unwrap();
        durability.entry(&root).unwrap();
        let of_each = Durability { each: true, ..Durability::of(&root) };
        assert!(!of_each.is_due(SENT), "each file is synced there");
        assert!(!durability.is_due(SENT - 1));
        assert!(durability.is_due(1));
        assert!(!durability.is_due(SENT), "one at a time");
        durability.send();
        assert!(!durability.is_due(1), "counted anew");
        durability.all().unwrap();
    }
}
