//! Opening what lies beneath a directory, and nothing else.
//!
//! Invariant: no call here follows a symbolic link or leaves the directory, whatever others do to the tree meanwhile, and none
//! waits: a pipe or device that took a file's place is opened without blocking and refused by whoever looks at it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// The longest path that the kernel takes in one call.
const PATH_MAX: usize = 4095;

/// How often a lookup is tried again that a rename elsewhere has disturbed.
const TRIES: u32 = 8;

/// Flags that every open of this file uses.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Opens the file at `path` beneath `root` for reading, without touching its access time where that is allowed.
pub(crate) fn file(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    match open(root, path, OFlags::RDONLY | OFlags::NOATIME) {
        // Only the owner of a file may leave its access time alone.
        Err(Errno::PERM) => open(root, path, OFlags::RDONLY),
        other => other,
    }
}

/// Opens the directory at `path` beneath `root`; the empty path is the root itself.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b".".as_slice() } else { path };
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if path.len() > PATH_MAX {
        return open_by_parts(root, path, flags);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        tries += 1;
        match openat2(root, path, flags | ALWAYS, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => {}
            Err(Errno::NOSYS | Errno::AGAIN) => return open_by_parts(root, path, flags),
            // Sandboxes answer so for calls that they do not know.
            Err(Errno::PERM) if !flags.contains(OFlags::NOATIME) => return open_by_parts(root, path, flags),
            other => return other,
        }
    }
}

/// The same with one call for each part of the path.
fn open_by_parts(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts = path.split(|byte| *byte == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        if part == b".." {
            return Err(Errno::XDEV);
        }
        let directory = at.as_ref().map_or(root, AsFd::as_fd);
        let flags =
            if parts.peek().is_some() { OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW } else { flags | ALWAYS };
        at = Some(openat(directory, part, flags | OFlags::CLOEXEC, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_ways_out_are_refused_and_long_paths_are_not() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("root/a/b")).unwrap();
        std::fs::write(directory.path().join("secret"), "x").unwrap();
        std::fs::write(directory.path().join("root/a/b/f"), "x").unwrap();
        symlink("../..", directory.path().join("root/a/up")).unwrap();
        symlink("b/f", directory.path().join("root/a/link")).unwrap();
        let root = File::open(directory.path().join("root")).unwrap();
        type Opener = fn(BorrowedFd<'_>, &[u8], OFlags) -> Result<OwnedFd, Errno>;
        for open in [open as Opener, open_by_parts as Opener] {
            assert!(open(root.as_fd(), b"a/b/f", OFlags::RDONLY).is_ok());
            for bad in [b"../secret".as_slice(), b"a/up/secret", b"a/link", b"a/up"] {
                assert!(open(root.as_fd(), bad, OFlags::RDONLY).is_err(), "{}", bad.escape_ascii());
            }
        }
        let long = [b"a/".to_vec(), b"./".repeat(2100), b"b/f".to_vec()].concat();
        assert!(file(root.as_fd(), &long).is_ok());
    }

    #[test]
    fn a_pipe_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        rustix::fs::mknodat(&root, "pipe", rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(file(root.as_fd(), b"pipe").is_ok());
    }
}
