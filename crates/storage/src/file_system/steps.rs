//! The calls that change what lies in a directory, each a step of its own.
//!
//! Every change of a store goes through here and nowhere else, so that a test can write the steps down, let one fail, or end
//! the process at one, and so prove what a crash between any two of them leaves. Outside tests a step is the call alone.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::directory::DIRECTORY_MODE;

/// Something that is about to be done. Paths are relative to the root; the root itself is empty.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests look into a step"))]
pub(super) enum Step<'a> {
    MakeDirectory(&'a str),
    CreateFile(&'a str),
    /// Appends these bytes.
    Write(&'a str, &'a [IoSlice<'a>]),
    SyncFile(&'a str),
    SyncDirectory(&'a str),
    Rename(&'a str, &'a str),
    Link(&'a str, &'a str),
    RemoveFile(&'a str),
    RemoveDirectory(&'a str),
}

#[cfg(not(test))]
#[inline]
fn before(_: &Step<'_>) -> Result<(), Errno> {
    Ok(())
}

#[cfg(test)]
use super::power_cut::before;

pub(super) fn make_directory(root: &OwnedFd, key: &str) -> Result<(), Errno> {
    before(&Step::MakeDirectory(key))?;
    rustix::fs::mkdirat(root, key, Mode::from_raw_mode(DIRECTORY_MODE))
}

/// Creates a file that must not be there, for writing. `path` is where it lies below the root.
pub(super) fn create_file(directory: &OwnedFd, name: &str, path: &str) -> Result<File, Errno> {
    before(&Step::CreateFile(path))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}

pub(super) fn write(file: &mut File, path: &str, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    before(&Step::Write(path, slices))?;
    file.write_vectored(slices)
}

pub(super) fn sync_file(file: &File, path: &str) -> io::Result<()> {
    before(&Step::SyncFile(path))?;
    file.sync_all()
}

pub(super) fn sync_directory(directory: impl AsFd, key: &str) -> Result<(), Errno> {
    before(&Step::SyncDirectory(key))?;
    rustix::fs::fsync(directory)
}

/// Moves a file to a name that must be free.
pub(super) fn rename(directory: &OwnedFd, name: &str, path: &str, root: &OwnedFd, key: &str) -> Result<(), Errno> {
    before(&Step::Rename(path, key))?;
    rustix::fs::renameat_with(directory, name, root, key, RenameFlags::NOREPLACE)
}

/// Gives a file a second name, which must be free.
pub(super) fn link(directory: &OwnedFd, name: &str, path: &str, root: &OwnedFd, key: &str) -> Result<(), Errno> {
    before(&Step::Link(path, key))?;
    rustix::fs::linkat(directory, name, root, key, AtFlags::empty())
}

/// Removes the file `name` of `directory`. `path` is where it lies below the root.
pub(super) fn remove_file(directory: &OwnedFd, name: &str, path: &str) -> Result<(), Errno> {
    before(&Step::RemoveFile(path))?;
    rustix::fs::unlinkat(directory, name, AtFlags::empty())
}

/// Removes an empty directory.
pub(super) fn remove_directory(root: &OwnedFd, key: &str) -> Result<(), Errno> {
    before(&Step::RemoveDirectory(key))?;
    rustix::fs::unlinkat(root, key, AtFlags::REMOVEDIR)
}
