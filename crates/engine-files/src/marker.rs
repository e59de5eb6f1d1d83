//! Whom to trust: a mark of each file system's own clock, made before its first entry is looked at.
//!
//! A file that is written after the mark gets a change time that is not before it. So a change time *before* the mark will
//! never be that of a later write, and an entry that still has it at the next backup has not been written since. With a change
//! time at the mark or after it that is not so: a second write in the same tick of the clock would leave the same time, and
//! with it the same stamp, and would be missed. Such an entry gets no stamp and is read again next time.
//!
//! Invariant: no stamp is given that a later write could leave as it is, as long as the clock is not set back; when it is,
//! the next backup finds out and trusts no older stamp.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstatfs, openat};

use crate::look::{self, Moment};

/// What a file system may cut off its times: FAT keeps two seconds.
const COARSEST: i64 = 2;

/// File systems whose times come from another host's clock.
const REMOTE: [u64; 9] = [
    0x6969,      // NFS
    0x517B,      // SMB
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB 2
    0x0102_1997, // 9p
    0x5346_414F, // AFS
    0x00C3_6400, // Ceph
    0x0BD0_0BD0, // Lustre
    0x6573_5546, // FUSE
];

/// The marks of one scan, by device.
#[derive(Debug)]
pub(crate) struct Marks {
    scratch: PathBuf,
    marks: HashMap<u64, Option<Moment>>,
}

impl Marks {
    /// None yet. `scratch` is a directory of ours on a local file system.
    pub(crate) fn new(scratch: &Path) -> Marks {
        Marks { scratch: scratch.to_owned(), marks: HashMap::new() }
    }

    /// Marks the file system of `directory`, once. Must be called before anything on it is looked at.
    pub(crate) fn enter(&mut self, directory: BorrowedFd<'_>, device: u64) {
        let scratch = &self.scratch;
        self.marks.entry(device).or_insert_with(|| mark(directory, scratch));
    }

    /// Whether an entry on `device` with this change time will differ once it is written again.
    pub(crate) fn trusts(&self, device: u64, ctime: Moment) -> bool {
        self.marks.get(&device).copied().flatten().is_some_and(|mark| ctime < mark)
    }

    /// Whether there is a file system whose clock is not known.
    pub(crate) fn has_doubt(&self) -> bool {
        self.marks.values().any(Option::is_none)
    }
}

/// The time of the file system of `directory`; `None` where it cannot be known.
fn mark(directory: BorrowedFd<'_>, scratch: &Path) -> Option<Moment> {
    let magic = fstatfs(directory).ok()?.f_type;
    // Only the low 32 bits carry the number, whatever the width and sign of the field are here.
    #[expect(clippy::cast_sign_loss, reason = "the magic number is 32 bits wide")]
    let magic = magic as u64 & 0xFFFF_FFFF;
    if REMOTE.contains(&magic) {
        return None;
    }
    own_mark(directory).or_else(|| {
        // Where we may not write, the kernel's own clock serves, which is that of every local file system, less what a
        // coarse one cuts off.
        let (seconds, nanos) = now(scratch)?;
        Some((seconds - COARSEST, nanos))
    })
}

/// Makes a file without a name in the directory: the directory itself does not change.
fn own_mark(directory: BorrowedFd<'_>) -> Option<Moment> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(directory, c".", flags, Mode::from_raw_mode(0o600)).ok()?;
    rustix::io::write(&file, b"mark").ok()?;
    Some(look::of(file.as_fd()).ok()?.identity.ctime)
}

/// The present moment of the clock that local file systems use.
pub(crate) fn now(scratch: &Path) -> Option<Moment> {
    std::fs::create_dir_all(scratch).ok()?;
    let mut file = tempfile::tempfile_in(scratch).ok()?;
    std::io::Write::write_all(&mut file, b"mark").ok()?;
    Some(look::of(file.as_fd()).ok()?.identity.ctime)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_not_older_than_the_mark_is_not_trusted() {
        let mut marks = Marks::new(Path::new("/none"));
        marks.marks.insert(1, Some((100, 500)));
        marks.marks.insert(2, None);
        assert!(marks.trusts(1, (100, 499)) && marks.trusts(1, (99, 999_999_999)));
        assert!(!marks.trusts(1, (100, 500)), "a second write in this tick would leave the same time");
        assert!(!marks.trusts(1, (100, 501)) && !marks.trusts(1, (101, 0)));
        assert!(!marks.trusts(2, (1, 0)), "no clock, no trust");
        assert!(!marks.trusts(3, (1, 0)), "never entered");
        assert!(marks.has_doubt());
    }

    #[test]
    fn a_mark_leaves_no_trace_and_comes_from_the_file_systems_clock() {
        let directory = tempfile::tempdir().unwrap();
        let before = std::fs::metadata(directory.path()).unwrap();
        let open = File::open(directory.path()).unwrap();
        let mark = own_mark(open.as_fd()).expect("the test's file system makes files without a name");
        let after = std::fs::metadata(directory.path()).unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        std::fs::write(directory.path().join("later"), "x").unwrap();
        let later = look::at(open.as_fd(), c"later").unwrap();
        assert!(later.identity.ctime >= mark, "what is written later has no earlier time");
        let scratch = tempfile::tempdir().unwrap();
        assert!(now(scratch.path()).is_some());
    }
}
