//! Reading and deleting one object.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;

use breakwater_core::Timestamp;
use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::backend::range_trouble;
use crate::file_system::directory;
use crate::file_system::failure::Failure;
use crate::file_system::steps;
use crate::{ObjectMeta, StorageErrorKind};

pub(super) fn read(root: &OwnedFd, key: &str) -> Result<Bytes, Failure> {
    let (file, size) = open(root, key)?;
    read_at(&file, 0, size)
}

pub(super) fn read_range(root: &OwnedFd, key: &str, range: &Range<u64>) -> Result<Bytes, Failure> {
    let (file, size) = open(root, key)?;
    if let Some((kind, trouble)) = range_trouble(range, size) {
        return Err(Failure::because(kind, trouble));
    }
    read_at(&file, range.start, range.end - range.start)
}

pub(super) fn read_tail(root: &OwnedFd, key: &str, length: u64) -> Result<(Bytes, u64), Failure> {
    let (file, size) = open(root, key)?;
    let length = length.min(size);
    Ok((read_at(&file, size - length, length)?, size))
}

pub(super) fn meta(root: &OwnedFd, key: &str) -> Result<ObjectMeta, Failure> {
    let stat = rustix::fs::statat(root, key, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
    meta_of(key, &stat).ok_or(Failure::new(StorageErrorKind::NotFound))
}

/// What `stat` says about the object `key`; `None` when it is something else than a regular file.
pub(super) fn meta_of(key: &str, stat: &Stat) -> Option<ObjectMeta> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let micros = i64::try_from(stat.st_mtime_nsec / 1000).unwrap_or(0);
    let modified = Timestamp::from_micros(stat.st_mtime.saturating_mul(1_000_000).saturating_add(micros));
    Some(ObjectMeta::new(key, u64::try_from(stat.st_size).unwrap_or(0), modified))
}

/// Deletes the object and the directories that are empty without it. Flushed at once: what is deleted in an order must not
/// come back in another after a crash.
pub(super) fn delete(root: &OwnedFd, key: &str) -> Result<(), Failure> {
    match steps::remove_file(root, key, key) {
        Ok(()) => Ok(directory::prune(root, directory::parent(key))?),
        // A directory is no object, and so is what lies below an object.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn open(root: &OwnedFd, key: &str) -> Result<(File, u64), Failure> {
    // NONBLOCK: a named pipe that somebody put there must not hold up the reader.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, key, flags, Mode::empty()).map_err(missing)?;
    let size = meta_of(key, &rustix::fs::fstat(&file)?).ok_or(Failure::new(StorageErrorKind::NotFound))?.size;
    Ok((File::from(file), size))
}

fn missing(errno: Errno) -> Failure {
    match errno {
        // Part of the path is an object: then nothing can lie below it.
        Errno::NOTDIR | Errno::NXIO | Errno::LOOP => Failure::new(StorageErrorKind::NotFound),
        Errno::NOENT => Failure::new(StorageErrorKind::NotFound),
        errno => errno.into(),
    }
}

fn read_at(file: &File, start: u64, length: u64) -> Result<Bytes, Failure> {
    let length = usize::try_from(length).map_err(|error| Failure::because(StorageErrorKind::Invalid, error))?;
    // Filled by the kernel alone: zeros first would be one more pass over everything that is ever read.
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let at = start + buffer.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at) {
            // The size was read a moment ago, and objects never change.
            Ok(0) => return Err(Failure::because(StorageErrorKind::Corrupt, "the object became shorter")),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    buffer.truncate(length);
    Ok(buffer.into())
}
