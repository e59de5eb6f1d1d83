//! The directory that a restore writes, and nothing outside it.
//!
//! Invariant: no call of this file creates or changes anything outside the target, whatever path it is given: paths are
//! checked, directories are opened beneath the target without following links, and the last part is never followed. A file
//! has its right name only when it is complete: until then it has none, or lies beside it under a name of ours.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_crypto::{Secret, Suite};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::attributes::{Dresser, Metadata};
use super::durable::Durability;
use super::extra::remove_below;
use super::marker::MARKER;
use crate::PipelineError;

/// Directories held open.
const DIRECTORIES_MAX: usize = 64;

/// Where open files have paths.
const DESCRIPTORS: &str = "/proc/self/fd";

/// How names of unfinished files begin; 24 hex digits follow.
const WORKING: &[u8] = b".restoring-";

/// Apart from the classes of content, so that a name is never the id of a chunk.
const NAME_CLASS: u8 = 0xF0;

/// A directory opened once, and paths beneath it.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    pub(crate) root: OwnedFd,
    pub(crate) dresser: Dresser,
    pub(crate) durability: Durability,
    /// It held something when the restore began.
    pub(crate) existing: bool,
    /// A directory that holds something may go for what is none.
    pub(crate) may_delete: bool,
    /// Files without names can be made here, and named; false as soon as it is known that they cannot.
    makes_nameless: AtomicBool,
    /// A descriptor can be named without a way through `/proc`; false as soon as it is known that it cannot.
    links_descriptors: AtomicBool,
    namer: Namer,
    directories: Mutex<HashMap<Vec<u8>, Arc<OwnedFd>>>,
}

/// Makes names of unfinished files: the same for the same path, so that a restore finds what an earlier one has begun, and
/// without the key nobody knows which path has which.
#[derive(Clone, Debug)]
pub(crate) struct Namer {
    pub(crate) suite: Suite,
    pub(crate) key: Secret,
}

impl Target {
    /// Opens the directory, which is there.
    pub(crate) fn open(path: &Path, dresser: Dresser, namer: Namer, existing: bool) -> Result<Target, PipelineError> {
        let failed = |error: Errno| PipelineError::io(format!("opening the target {}", path.display()), error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let durability = Durability::of(&root);
        // What lies at a path in a target that held something may have to be replaced, and only a rename does that at once.
        let makes_nameless = AtomicBool::new(!existing && Path::new(DESCRIPTORS).is_dir());
        let (path, may_delete, directories) = (path.to_owned(), false, Mutex::default());
        let links_descriptors = AtomicBool::new(true);
        Ok(Target {
            path,
            root,
            dresser,
            durability,
            existing,
            may_delete,
            makes_nameless,
            links_descriptors,
            namer,
            directories,
        })
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

    /// The path for people.
    pub(crate) fn shown(&self, path: &[u8]) -> String {
        self.path.join(OsStr::from_bytes(path)).display().to_string()
    }

    /// Creates a directory that only we may enter until its attributes are set. What is no directory there gives way in a
    /// target that held something.
    pub(crate) fn create_directory(&self, path: &[u8]) -> Result<(), PipelineError> {
        let (parent, name) = self.parent_of(path)?;
        let name = name.as_os_str();
        let make = || rustix::fs::mkdirat(&*parent, name, Mode::RWXU);
        let made = match make() {
            Err(Errno::EXIST) if self.existing => match self.stat(&parent, name)? {
                Some(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {
                    self.enterable(path, &parent, name, &stat)
                }
                _ => rustix::fs::unlinkat(&*parent, name, AtFlags::empty()).and_then(|()| make()),
            },
            made => made,
        };
        made.map_err(|error| self.failed("creating", path, error))
    }

    /// A directory that we may not write into is made ours while the restore lasts.
    fn enterable(&self, path: &[u8], parent: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<(), Errno> {
        if stat.st_mode & 0o700 == 0o700 || rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let by_path = format!("{DESCRIPTORS}/{}", place.as_raw_fd());
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700);
        rustix::fs::chmod(by_path.as_str(), mode).inspect_err(|_| {
            tracing::debug!(path = %path.escape_ascii(), "a directory cannot be made writable");
        })
    }

    /// Metadata of the last part of a path, itself; none when there is nothing.
    pub(crate) fn stat(&self, parent: &OwnedFd, name: &OsStr) -> Result<Option<Stat>, PipelineError> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("looking at", name.as_bytes(), error)),
        }
    }

    /// Creates a file that was not there, for reading and writing.
    pub(crate) fn create_file(&self, parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<File, PipelineError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(|error| self.failed("creating", path, error))
    }

    /// Creates a file without a name, for one that is written in one visit; none where such files cannot be made or named.
    pub(crate) fn create_nameless(&self, parent: &OwnedFd, path: &[u8]) -> Result<Option<File>, PipelineError> {
        if !self.makes_nameless.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                self.makes_nameless.store(false, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(self.failed("creating", path, error)),
        }
    }

    /// Gives a finished file without a name its right one, where nothing may be.
    pub(crate) fn link_at(&self, file: &File, parent: &OwnedFd, to: &OsStr, path: &[u8]) -> Result<(), PipelineError> {
        let linked = match self.links_descriptors.load(Ordering::Relaxed) {
            true => rustix::fs::linkat(file, "", parent, to, AtFlags::EMPTY_PATH),
            false => Err(Errno::NOENT),
        };
        let linked = match linked {
            // Only who may read everything may name a descriptor, before Linux 6.10; its path serves everybody.
            Err(Errno::NOENT) => {
                self.links_descriptors.store(false, Ordering::Relaxed);
                let by_path = format!("{DESCRIPTORS}/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, by_path.as_str(), parent, to, AtFlags::SYMLINK_FOLLOW)
            }
            linked => linked,
        };
        linked.map_err(|error| self.failed("naming", path, error))
    }

    /// Opens the unfinished file `name`, where there is one. What has that name and is none of ours, or has other names too,
    /// is taken away: writing into it could change something outside the target.
    pub(crate) fn open_working(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &[u8],
    ) -> Result<Option<File>, PipelineError> {
        let failed = |error| self.failed("opening", path, error);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(file) => Some(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS | Errno::PERM) => None,
            Err(error) => return Err(failed(error)),
        };
        if let Some(file) = file {
            let stat = rustix::fs::fstat(&file).map_err(failed)?;
            if FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1 {
                return Ok(Some(File::from(file)));
            }
        }
        self.take_away(parent, name).map_err(failed)?;
        Ok(None)
    }

    /// Opens what lies at a path to compare it, where it is a file.
    pub(crate) fn open_old(&self, parent: &OwnedFd, name: &OsStr) -> Result<Option<(File, Stat)>, PipelineError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(file) => file,
            // A link, a socket, or what may not be read is replaced, as anything is that differs.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(error) => return Err(self.failed("opening", name.as_bytes(), error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| self.failed("looking at", name.as_bytes(), error))?;
        Ok(FileType::from_raw_mode(stat.st_mode).is_file().then(|| (File::from(file), stat)))
    }

    /// Creates what is no file at `path`: `make` makes it under a free name in a directory, after which it gets its
    /// attributes and its right name.
    pub(crate) fn create_named(
        &self,
        path: &[u8],
        metadata: Option<(&Metadata, bool)>,
        make: impl Fn(&OwnedFd, &OsStr) -> Result<(), Errno>,
    ) -> Result<(), PipelineError> {
        let (parent, name) = self.parent_of(path)?;
        let failed = |error| self.failed("creating", path, error);
        let free = if self.existing { self.working_name(path) } else { name.clone() };
        match make(&parent, &free) {
            Err(Errno::EXIST) if self.existing => {
                rustix::fs::unlinkat(&*parent, &free, AtFlags::empty()).map_err(failed)?;
                make(&parent, &free).map_err(failed)?;
            }
            made => made.map_err(failed)?,
        }
        if let Some((metadata, has_mode)) = metadata {
            self.dresser.named(path, &*parent, &free, metadata, has_mode).map_err(failed)?;
        }
        if free == name { Ok(()) } else { self.rename_at(&parent, &free, &name, path) }
    }

    /// Attributes of a directory, and its entries onto the disk.
    pub(crate) fn finish_directory(&self, path: &[u8], metadata: &Metadata) -> Result<(), PipelineError> {
        let directory = self.directory(path)?;
        let dressed = self.dresser.open(path, &*directory, metadata, !self.existing);
        dressed.map_err(|error| self.failed("setting the attributes of", path, error))?;
        self.durability.entry(&*directory).map_err(|error| self.failed("syncing", path, error))
    }

    /// Puts the entries of a directory onto the disk, at once.
    pub(crate) fn sync_directory(&self, path: &[u8]) -> Result<(), PipelineError> {
        let directory = self.directory(path)?;
        rustix::fs::fsync(&*directory).map_err(|error| self.failed("syncing", path, error))
    }

    /// Gives the finished file its right name. In a target that was empty nothing can be there, unless the file system takes
    /// two names for one.
    pub(crate) fn rename_at(
        &self,
        parent: &OwnedFd,
        from: &OsStr,
        to: &OsStr,
        path: &[u8],
    ) -> Result<(), PipelineError> {
        let flags = if self.existing { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed = match rustix::fs::renameat_with(parent, from, parent, to, flags) {
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(parent, from, parent, to),
            Err(Errno::ISDIR) if self.may_delete => {
                self.take_away(parent, to).and_then(|()| rustix::fs::renameat(parent, from, parent, to))
            }
            renamed => renamed,
        };
        renamed.map_err(|error| self.failed("naming", path, error))
    }

    /// Removes what has this name; a directory only where that was allowed.
    fn take_away(&self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        if self.may_delete {
            let device = rustix::fs::fstat(parent)?.st_dev;
            return remove_below(parent, name, device);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())
    }

    /// The name of the unfinished file that will be at `path`, in the same directory.
    pub(crate) fn working_name(&self, path: &[u8]) -> OsString {
        let id = self.namer.suite.chunk_id(&self.namer.key, NAME_CLASS, path);
        let mut name = WORKING.to_vec();
        for byte in id.0.iter().take(12) {
            for digit in [byte >> 4, byte & 15] {
                name.push(b"0123456789abcdef".get(usize::from(digit)).copied().unwrap_or(b'0'));
            }
        }
        OsString::from_vec(name)
    }

    /// The directory that holds the last part of `path`, and that part.
    pub(crate) fn parent_of(&self, path: &[u8]) -> Result<(Arc<OwnedFd>, OsString), PipelineError> {
        check_path(path).map_err(|why| PipelineError::bad_tree(format!("`{}` {why}", path.escape_ascii())))?;
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match cut {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (Default::default(), path),
        };
        Ok((self.directory(parent)?, OsString::from_vec(name.to_vec())))
    }

    /// A directory of the target; the empty path is the target itself.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<Arc<OwnedFd>, PipelineError> {
        let known = || self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = known().get(path) {
            return Ok(Arc::clone(directory));
        }
        let opened =
            open_beneath(&self.root, path).map_err(|error| self.failed("opening the directory", path, error))?;
        if self.existing {
            self.durability.meet(&opened);
        }
        let directory = Arc::new(opened);
        let mut known = known();
        if known.len() >= DIRECTORIES_MAX {
            known.clear();
        }
        known.insert(path.to_vec(), Arc::clone(&directory));
        Ok(directory)
    }

    pub(crate) fn failed(&self, doing: &str, path: &[u8], error: Errno) -> PipelineError {
        PipelineError::io(format!("{doing} {}", self.shown(path)), error)
    }
}

/// Whether a name is one that unfinished files have.
pub(crate) fn is_working_name(name: &[u8]) -> bool {
    let digits = name.strip_prefix(WORKING);
    digits
        .is_some_and(|digits| digits.len() == 24 && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory `path` (empty: the root itself) beneath `root`; no part of it may be a link.
pub(crate) fn open_beneath(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
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
    if path == MARKER.as_bytes() {
        return Err("has the name that marks an unfinished restore");
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use breakwater_core::Timestamp;

    use super::*;
    use crate::restore::owners::{OwnerBy, Owners};
    use crate::restore::shortfall::Shortfalls;

    fn plain(mode: u32) -> Metadata {
        Metadata { mode, uid: 0, gid: 0, mtime: Timestamp(1_700_000_000_123_456), more: None }
    }

    fn open(path: &Path, existing: bool) -> Target {
        let owners = Owners::new(OwnerBy::Nobody, Path::new("/etc"));
        let dresser = Dresser { owners, shortfalls: Shortfalls::default(), default_owner: None };
        let namer = Namer { suite: Suite::Standard, key: Secret::from_bytes([1; 32]) };
        Target::open(path, dresser, namer, existing).unwrap()
    }

    fn create(target: &Target, path: &[u8]) -> Result<File, PipelineError> {
        let (parent, name) = target.parent_of(path)?;
        target.create_file(&parent, &name, path)
    }

    fn link(target: &Target, path: &[u8], to: &str) -> Result<(), PipelineError> {
        let metadata = plain(0o777);
        target.create_named(path, Some((&metadata, false)), |parent, name| rustix::fs::symlinkat(to, parent, name))
    }

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
    fn links_on_the_way_are_not_followed() {
        for existing in [false, true] {
            let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let target = open(inside.path(), existing);
            std::os::unix::fs::symlink(outside.path(), inside.path().join("door")).unwrap();
            for attempt in [
                create(&target, b"door/x").map(drop),
                target.create_directory(b"door/d"),
                link(&target, b"door/l", "x"),
                create(&target, b"../x").map(drop),
                target.finish_directory(b"door", &plain(0o700)),
            ] {
                attempt.unwrap_err();
            }
            open_by_parts(&target.root, b"door").unwrap_err();
            open_by_parts(&target.root, b"a/..").unwrap_err();
            std::os::unix::fs::symlink(outside.path().join("new"), inside.path().join("file")).unwrap();
            create(&target, b"file").unwrap_err();
            let (root, name) = target.parent_of(b"file").unwrap();
            assert!(target.open_old(&root, &name).unwrap().is_none());
            assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_link_gives_way_to_a_directory_only_where_something_was() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), inside.path().join("d")).unwrap();
        open(inside.path(), false).create_directory(b"d").unwrap_err();
        let target = open(inside.path(), true);
        target.create_directory(b"d").unwrap();
        target.create_directory(b"d").unwrap();
        create(&target, b"d/x").unwrap();
        assert!(inside.path().join("d/x").exists());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_unfinished_file_with_another_name_is_not_written() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = open(inside.path(), true);
        let (root, working) = (target.parent_of(b"a").unwrap().0, target.working_name(b"a"));
        std::fs::write(outside.path().join("mine"), "keep").unwrap();
        std::fs::hard_link(outside.path().join("mine"), inside.path().join(&working)).unwrap();
        assert!(target.open_working(&root, &working, b"a").unwrap().is_none());
        assert!(!inside.path().join(&working).exists());
        std::os::unix::fs::symlink(outside.path().join("mine"), inside.path().join(&working)).unwrap();
        assert!(target.open_working(&root, &working, b"a").unwrap().is_none());
        assert_eq!(std::fs::read(outside.path().join("mine")).unwrap(), b"keep");
        create(&target, b"b").unwrap();
        assert!(is_working_name(working.as_bytes()) && !is_working_name(b".restoring-x"));
    }

    #[test]
    fn a_file_without_a_name_gets_one_where_nothing_is() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = open(inside.path(), false);
        let (root, name) = target.parent_of(b"a").unwrap();
        let made = target.create_nameless(&root, b"a").unwrap();
        let mut file = made.expect("the test's file system makes files without a name");
        std::io::Write::write_all(&mut file, b"whole").unwrap();
        assert_eq!(std::fs::read_dir(inside.path()).unwrap().count(), 0, "half of it can be seen");
        target.link_at(&file, &root, &name, b"a").unwrap();
        assert_eq!(std::fs::read(inside.path().join("a")).unwrap(), b"whole");
        std::os::unix::fs::symlink(outside.path().join("new"), inside.path().join("link")).unwrap();
        target.link_at(&file, &root, OsStr::new("link"), b"link").unwrap_err();
        target.link_at(&file, &root, &name, b"a").unwrap_err();
        // As for somebody who may not name a descriptor.
        target.links_descriptors.store(false, Ordering::Relaxed);
        target.link_at(&file, &root, OsStr::new("by-path"), b"by-path").unwrap();
        assert_eq!(std::fs::read(inside.path().join("by-path")).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let replaces = open(inside.path(), true).create_nameless(&root, b"a").unwrap();
        assert!(replaces.is_none(), "only a rename replaces what is there");
    }

    #[test]
    fn attributes_and_the_last_rename() {
        let directory = tempfile::tempdir().unwrap();
        let target = open(directory.path(), false);
        target.create_directory(b"d").unwrap();
        let (parent, name) = target.parent_of(b"d/file").unwrap();
        let working = target.working_name(b"d/file");
        let file = target.create_file(&parent, &working, b"d/file").unwrap();
        target.dresser.open(b"d/file", &file, &plain(0o640), true).unwrap();
        link(&target, b"d/link", "../../etc").unwrap();
        target.rename_at(&parent, &working, &name, b"d/file").unwrap();
        create(&target, b"d/other").unwrap();
        target.rename_at(&parent, OsStr::new("other"), &name, b"d/file").unwrap_err();
        target.finish_directory(b"d", &plain(0o700)).unwrap();
        let meta = std::fs::metadata(directory.path().join("d/file")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o640, 1_700_000_000, 123_456_000));
        assert_eq!(std::fs::metadata(directory.path().join("d")).unwrap().mtime(), 1_700_000_000);
        assert_eq!(std::fs::read_link(directory.path().join("d/link")).unwrap(), Path::new("../../etc"));
    }
}
