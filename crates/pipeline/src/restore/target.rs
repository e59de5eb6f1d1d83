//! The directory that a restore writes, and nothing outside it.
//!
//! Invariant: no call of this file creates or changes anything outside the target, whatever path it is given: paths are
//! checked, directories are opened beneath the target without following links, and the last part is never followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::Timestamp;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::PipelineError;

/// The name of the file that says that a restore has not finished.
pub const MARKER: &str = "RESTORE-IS-INCOMPLETE";

const MARKER_TEXT: &str = "A Breakwater restore into this directory has not finished. What lies here is not usable.\n\
    Remove the directory and run the restore again.\n";

/// What goes back onto a path besides content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mtime: Timestamp,
}

/// A directory opened once, and paths beneath it.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    root: OwnedFd,
    /// The directory opened last, because files come in path order.
    recent: Mutex<Option<(Vec<u8>, Arc<OwnedFd>)>>,
}

impl Target {
    /// Refuses a target that is not a directory or holds anything; a missing one is fine. Changes nothing.
    pub(crate) fn check(path: &Path) -> Result<(), PipelineError> {
        let mut entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(PipelineError::io(format!("listing the target {}", path.display()), error)),
        };
        match entries.next() {
            None => Ok(()),
            Some(Ok(entry)) => {
                let found = entry.file_name().to_string_lossy().into_owned();
                Err(PipelineError::TargetNotEmpty { target: path.to_owned(), found })
            }
            Some(Err(error)) => Err(PipelineError::io(format!("listing the target {}", path.display()), error)),
        }
    }

    /// Bytes free for us where `path` is, or will be.
    pub(crate) fn free_bytes(path: &Path) -> Result<u64, PipelineError> {
        let mut place = path;
        loop {
            match rustix::fs::statvfs(if place.as_os_str().is_empty() { Path::new(".") } else { place }) {
                Ok(answer) => return Ok(answer.f_bavail.saturating_mul(answer.f_frsize)),
                Err(Errno::NOENT) => match place.parent() {
                    Some(parent) => place = parent,
                    None => return Err(PipelineError::io(format!("free room of {}", path.display()), Errno::NOENT)),
                },
                Err(error) => return Err(PipelineError::io(format!("free room of {}", path.display()), error)),
            }
        }
    }

    /// Creates the directory where it is missing, opens it and marks it as incomplete.
    pub(crate) fn begin(path: &Path) -> Result<Target, PipelineError> {
        let failed =
            |error: std::io::Error| PipelineError::io(format!("creating the target {}", path.display()), error);
        std::fs::create_dir_all(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let target = Target { path: path.to_owned(), root, recent: Mutex::new(None) };
        let mut marker = target.create_file(MARKER.as_bytes())?;
        std::io::Write::write_all(&mut marker, MARKER_TEXT.as_bytes()).map_err(failed)?;
        Ok(target)
    }

    /// The path for people.
    pub(crate) fn shown(&self, path: &[u8]) -> String {
        self.path.join(OsStr::from_bytes(path)).display().to_string()
    }

    /// Creates a directory that only we may enter until its attributes are set.
    pub(crate) fn create_directory(&self, path: &[u8]) -> Result<(), PipelineError> {
        let (parent, name) = self.parent_of(path)?;
        rustix::fs::mkdirat(&*parent, name.as_os_str(), Mode::RWXU)
            .map_err(|error| self.failed("creating", path, error))
    }

    /// Creates a file that was not there, for writing.
    pub(crate) fn create_file(&self, path: &[u8]) -> Result<File, PipelineError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.open_at(path, flags, "creating")
    }

    /// Opens a file that this restore has created, for writing.
    pub(crate) fn open_file(&self, path: &[u8]) -> Result<File, PipelineError> {
        self.open_at(path, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, "opening")
    }

    fn open_at(&self, path: &[u8], flags: OFlags, doing: &str) -> Result<File, PipelineError> {
        let (parent, name) = self.parent_of(path)?;
        let file = rustix::fs::openat(&*parent, name.as_os_str(), flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(|error| self.failed(doing, path, error))
    }

    /// Creates a symbolic link. Nothing is ever opened through it.
    pub(crate) fn create_symlink(&self, path: &[u8], link: &[u8], attributes: Attributes) -> Result<(), PipelineError> {
        let (parent, name) = self.parent_of(path)?;
        let failed = |error| self.failed("creating the link", path, error);
        rustix::fs::symlinkat(OsStr::from_bytes(link), &*parent, name.as_os_str()).map_err(failed)?;
        if let Some((uid, gid)) = attributes.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(&*parent, name.as_os_str(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed)?;
        }
        let times = times(attributes.mtime);
        rustix::fs::utimensat(&*parent, name.as_os_str(), &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    /// Owner, mode and time of an open file, in the order in which one does not undo the other.
    pub(crate) fn set_attributes(
        &self,
        path: &[u8],
        file: impl AsFd,
        attributes: Attributes,
    ) -> Result<(), PipelineError> {
        let failed = |error| self.failed("setting the attributes of", path, error);
        if let Some((uid, gid)) = attributes.owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed)?;
        }
        // Linux takes the twelve bits below the file type.
        let mode = Mode::from_raw_mode((attributes.mode & 0o7777) as RawMode);
        rustix::fs::fchmod(&file, mode).map_err(failed)?;
        rustix::fs::futimens(&file, &times(attributes.mtime)).map_err(failed)
    }

    /// Attributes of a directory, and its entries onto the disk.
    pub(crate) fn finish_directory(&self, path: &[u8], attributes: Attributes) -> Result<(), PipelineError> {
        let directory = self.open_directory(path)?;
        self.set_attributes(path, &*directory, attributes)?;
        rustix::fs::fsync(&*directory).map_err(|error| self.failed("syncing", path, error))
    }

    /// Puts the entries of a directory onto the disk.
    pub(crate) fn sync_directory(&self, path: &[u8]) -> Result<(), PipelineError> {
        let directory = self.open_directory(path)?;
        rustix::fs::fsync(&*directory).map_err(|error| self.failed("syncing", path, error))
    }

    /// Gives a file of this restore its right name, as the last step of the restore.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), PipelineError> {
        let (parent, old) = self.parent_of(from)?;
        let (_, new) = self.parent_of(to)?;
        let failed = |error| self.failed("renaming into place", to, error);
        rustix::fs::renameat(&*parent, old.as_os_str(), &*parent, new.as_os_str()).map_err(failed)?;
        rustix::fs::fsync(&*parent).map_err(failed)
    }

    /// Puts the directory's own entries onto the disk.
    pub(crate) fn sync_root(&self) -> Result<(), PipelineError> {
        rustix::fs::fsync(&self.root).map_err(|error| self.failed("syncing", b"", error))
    }

    /// Takes the mark of incompleteness away from the target at `path`.
    pub(crate) fn unmark(path: &Path) -> Result<(), PipelineError> {
        let marker = path.join(MARKER);
        let failed = |error| PipelineError::io(format!("removing {}", marker.display()), error);
        std::fs::remove_file(&marker).map_err(failed)?;
        File::open(path).and_then(|directory| directory.sync_all()).map_err(failed)
    }

    /// The directory that holds the last part of `path`, and that part.
    fn parent_of(&self, path: &[u8]) -> Result<(Arc<OwnedFd>, OsString), PipelineError> {
        check_path(path).map_err(|why| PipelineError::bad_tree(format!("`{}` {why}", path.escape_ascii())))?;
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match cut {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (Default::default(), path),
        };
        Ok((self.open_directory(parent)?, OsString::from_vec(name.to_vec())))
    }

    fn open_directory(&self, path: &[u8]) -> Result<Arc<OwnedFd>, PipelineError> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, directory)) = recent().as_ref().filter(|(known, _)| known == path) {
            return Ok(Arc::clone(directory));
        }
        let opened =
            open_beneath(&self.root, path).map_err(|error| self.failed("opening the directory", path, error))?;
        let directory = Arc::new(opened);
        *recent() = Some((path.to_vec(), Arc::clone(&directory)));
        Ok(directory)
    }

    fn failed(&self, doing: &str, path: &[u8], error: Errno) -> PipelineError {
        PipelineError::io(format!("{doing} {}", self.shown(path)), error)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory `path` (empty: the root itself) beneath `root`; no part of it may be a link.
fn open_beneath(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return rustix::fs::openat(root, ".", DIRECTORY, Mode::empty());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, OsStr::from_bytes(path), DIRECTORY, Mode::empty(), resolve) {
        // Kernels before 5.6 lack the call, and some sandboxes forbid it.
        Err(Errno::NOSYS | Errno::PERM) => open_by_parts(root, path),
        answer => answer,
    }
}

/// The same, one part at a time.
fn open_by_parts(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut directory = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty())?;
    for part in path.split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." || part == b".." {
            return Err(Errno::XDEV);
        }
        directory = rustix::fs::openat(&directory, OsStr::from_bytes(part), DIRECTORY, Mode::empty())?;
    }
    Ok(directory)
}

/// Says what keeps `path` from staying inside the target.
pub(crate) fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("is an empty path");
    }
    if path.starts_with(b"/") {
        return Err("is an absolute path");
    }
    if path.contains(&0) {
        return Err("holds a zero byte");
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" => return Err("has an empty part"),
            b"." | b".." => return Err("has a part that would leave its directory"),
            part if part.len() > 255 => return Err("has a part longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

fn times(mtime: Timestamp) -> Timestamps {
    let seconds = mtime.as_micros().div_euclid(1_000_000);
    let nanos = mtime.as_micros().rem_euclid(1_000_000) * 1000;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const PLAIN: Attributes = Attributes { mode: 0o640, owner: None, mtime: Timestamp(1_700_000_000_123_456) };

    #[test]
    fn paths_that_leave_are_refused() {
        for bad in [&b""[..], b"/etc/passwd", b"a//b", b"a/", b".", b"..", b"a/../../b", b"./a", b"a\0b", &[b'x'; 256]]
        {
            assert!(check_path(bad).is_err(), "{}", bad.escape_ascii());
        }
        for good in [&b"a"[..], b"a/b", b"...", b"a/..b", b"\xff\xfe", b"base/1/1259"] {
            assert!(check_path(good).is_ok(), "{}", good.escape_ascii());
        }
    }

    #[test]
    fn a_target_that_holds_something_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mine"), "keep").unwrap();
        let error = Target::check(directory.path()).unwrap_err();
        assert!(error.to_string().contains("`mine`"), "{error}");
        let file = directory.path().join("mine");
        assert!(Target::check(&file).is_err(), "a file is no target");
        assert_eq!(std::fs::read(&file).unwrap(), b"keep");
        Target::check(&directory.path().join("new")).unwrap();
    }

    #[test]
    fn links_on_the_way_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let target = Target::begin(inside.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("door")).unwrap();
        for attempt in [
            target.create_file(b"door/x").map(drop),
            target.create_directory(b"door/d"),
            target.create_symlink(b"door/l", b"x", PLAIN),
            target.create_file(b"../x").map(drop),
            target.finish_directory(b"door", PLAIN),
        ] {
            attempt.unwrap_err();
        }
        open_by_parts(&target.root, b"door").unwrap_err();
        open_by_parts(&target.root, b"a/..").unwrap_err();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        std::os::unix::fs::symlink(outside.path().join("new"), inside.path().join("file")).unwrap();
        target.open_file(b"file").unwrap_err();
        target.create_file(b"file").unwrap_err();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn content_attributes_and_the_last_rename() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target::begin(directory.path()).unwrap();
        assert!(directory.path().join(MARKER).exists());
        target.create_directory(b"d").unwrap();
        let file = target.create_file(b"d/.new").unwrap();
        target.set_attributes(b"d/.new", &file, PLAIN).unwrap();
        target.create_symlink(b"d/link", b"../../etc", PLAIN).unwrap();
        target.rename(b"d/.new", b"d/file").unwrap();
        target.finish_directory(b"d", Attributes { mode: 0o700, ..PLAIN }).unwrap();
        Target::unmark(directory.path()).unwrap();
        let meta = std::fs::metadata(directory.path().join("d/file")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o640, 1_700_000_000, 123_456_000));
        assert_eq!(std::fs::metadata(directory.path().join("d")).unwrap().mtime(), 1_700_000_000);
        assert_eq!(std::fs::read_link(directory.path().join("d/link")).unwrap(), Path::new("../../etc"));
        assert!(!directory.path().join(MARKER).exists());
    }
}
