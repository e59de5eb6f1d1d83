//! Directories below the root: made on the way to an object, flushed, and removed when nothing is left in them.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::steps;

/// Only the owner; the same for directories and, without `x`, for files.
pub(super) const DIRECTORY_MODE: u32 = 0o700;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The key of the directory that holds `key`; empty for the root.
pub(super) fn parent(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Opens the directory `key`, the root itself when that is empty.
pub(super) fn open(root: &OwnedFd, key: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(root, if key.is_empty() { "." } else { key }, OPEN, Mode::empty())
}

/// Makes the directory `key` and those above it, as far as they are missing.
pub(super) fn make(root: &OwnedFd, key: &str) -> Result<(), Errno> {
    if open(root, key).is_ok() {
        return Ok(());
    }
    let ends = key.match_indices('/').map(|(at, _)| at).chain(std::iter::once(key.len()));
    for end in ends {
        match steps::make_directory(root, &key[..end]) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Flushes the directory `key` and all above it. Those that another process made and has not flushed yet are so too before
/// this one promises anything; flushing a directory without changes costs next to nothing.
pub(super) fn sync_upwards(root: &OwnedFd, key: &str) -> Result<(), Errno> {
    let mut key = key;
    loop {
        match open(root, key) {
            Ok(directory) => steps::sync_directory(&directory, key)?,
            // It was removed because all in it was deleted; then there is nothing in it to be flushed.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if key.is_empty() {
            return Ok(());
        }
        key = parent(key);
    }
}

/// Flushes the directory at `path`.
pub(super) fn sync_path(path: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Removes the directory `key` and those above it as far as they are empty, and flushes the first that stays.
pub(super) fn prune(root: &OwnedFd, key: &str) -> Result<(), Errno> {
    let mut key = key;
    while !key.is_empty() {
        match steps::remove_directory(root, key) {
            Ok(()) | Err(Errno::NOENT) => key = parent(key),
            // Not empty, or a mount point: it stays.
            Err(_) => break,
        }
    }
    match open(root, key) {
        Ok(directory) => steps::sync_directory(&directory, key),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
