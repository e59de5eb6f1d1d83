//! Creating one object, whole or not at all.

use std::fs::File;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use breakwater_core::{Clock, Entropy, Timestamp, Uid};
use breakwater_runtime::{SystemClock, SystemEntropy};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::file_system::directory;
use crate::file_system::failure::Failure;
use crate::file_system::object::meta_of;
use crate::file_system::steps;
use crate::{Payload, StorageErrorKind};

/// Unfinished writes; in the same file system as the objects, so that a rename is enough.
const TEMPORARY: &str = ".tmp";
/// How old the unfinished write of a dead writer is before it is removed.
const SWEEP_AGE_MICROS: i64 = 24 * 3600 * 1_000_000;
/// How much is written between two looks at whether the caller still wants it.
const SLICE_BYTES: usize = 1 << 20;
const SLICES_PER_WRITE: usize = 8;
/// How often a directory may be pruned away under a writer before it gives up. Each time somebody else has deleted something, so this
/// is only against a file system that answers nonsense.
const PLACE_ATTEMPTS: u32 = 100_000;

/// Creates the object `key` and flushes it. When `abandoned` is raised before the object has its name, nothing remains.
///
/// That the name is taken is answered only once the object that has it is durable too: the caller acts on that answer.
pub(super) fn create(root: &OwnedFd, key: &str, payload: &Payload, abandoned: &AtomicBool) -> Result<(), Failure> {
    let created = create_unflushed(root, key, payload, abandoned);
    let taken = |failure: &Failure| failure.kind == StorageErrorKind::AlreadyExists;
    if created.as_ref().err().is_none_or(taken) {
        directory::sync_upwards(root, directory::parent(key))?;
    }
    created
}

fn create_unflushed(root: &OwnedFd, key: &str, payload: &Payload, abandoned: &AtomicBool) -> Result<(), Failure> {
    // Spares the write where the answer is known already; the rename below is what decides.
    match rustix::fs::statat(root, key, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            return Err(Failure::new(StorageErrorKind::AlreadyExists));
        }
        _ => {}
    }
    let mut temporary = Temporary::new(root)?;
    write(&mut temporary, payload, abandoned)?;
    steps::sync_file(&temporary.file, &temporary.path())?;
    if abandoned.load(Ordering::Relaxed) {
        return Err(Failure::new(StorageErrorKind::Cancelled));
    }
    place(root, key, &mut temporary)
}

/// Removes unfinished writes of writers that died more than a day ago. What cannot be removed stays; it is not visible.
pub(super) fn sweep(root: &OwnedFd) {
    let Ok(directory) = directory::open(root, TEMPORARY) else { return };
    let Ok(entries) = Dir::read_from(&directory) else { return };
    let oldest = SystemClock.now().plus_micros(-SWEEP_AGE_MICROS);
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if is_dead(&directory, name, oldest) && steps::remove_file(&directory, name, &temporary_path(name)).is_ok() {
            tracing::debug!(name, "unfinished write of a dead writer removed");
        }
    }
}

fn is_dead(directory: &OwnedFd, name: &str, oldest: Timestamp) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty()) else { return false };
    let meta = rustix::fs::fstat(&file).ok().and_then(|stat| meta_of(name, &stat));
    let old = meta.is_some_and(|meta| meta.modified < oldest);
    // A living writer holds the lock, however long it takes and whatever the clocks say.
    old && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// A file in `.tmp/` that is removed with this value unless it was moved to its name.
struct Temporary {
    directory: OwnedFd,
    name: String,
    file: File,
    moved: bool,
}

impl Temporary {
    fn new(root: &OwnedFd) -> Result<Temporary, Failure> {
        directory::make(root, TEMPORARY).map_err(root_is_gone)?;
        let directory = directory::open(root, TEMPORARY).map_err(root_is_gone)?;
        let mut random = [0; 16];
        SystemEntropy.fill(&mut random);
        let name = Uid(random).to_string();
        let file = steps::create_file(&directory, &name, &temporary_path(&name)).map_err(root_is_gone)?;
        let temporary = Temporary { directory, name, file, moved: false };
        // Where there are no locks, sweepers go by age alone.
        let _ = rustix::fs::flock(&temporary.file, FlockOperation::NonBlockingLockExclusive);
        Ok(temporary)
    }

    /// Where it lies below the root.
    fn path(&self) -> String {
        temporary_path(&self.name)
    }
}

fn temporary_path(name: &str) -> String {
    format!("{TEMPORARY}/{name}")
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved {
            // If this fails the file stays invisible, and a sweep gets it.
            let _ = steps::remove_file(&self.directory, &self.name, &self.path());
        }
    }
}

/// A missing directory on the way of a write means that the root was removed: a writer makes all others itself.
fn root_is_gone(errno: Errno) -> Failure {
    match errno {
        Errno::NOENT => Failure::because(StorageErrorKind::Unreachable, "the directory was removed"),
        errno => errno.into(),
    }
}

fn write(temporary: &mut Temporary, payload: &Payload, abandoned: &AtomicBool) -> Result<(), Failure> {
    let path = temporary.path();
    let mut slices: Vec<IoSlice<'_>> =
        payload.parts().iter().flat_map(|part| part.chunks(SLICE_BYTES)).map(IoSlice::new).collect();
    for batch in slices.chunks_mut(SLICES_PER_WRITE) {
        if abandoned.load(Ordering::Relaxed) {
            return Err(Failure::new(StorageErrorKind::Cancelled));
        }
        let mut rest = batch;
        while !rest.is_empty() {
            match steps::write(&mut temporary.file, &path, rest) {
                Ok(0) => return Err(std::io::Error::from(ErrorKind::WriteZero).into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Gives the temporary file its name, unless that is taken.
fn place(root: &OwnedFd, key: &str, temporary: &mut Temporary) -> Result<(), Failure> {
    for _ in 0..PLACE_ATTEMPTS {
        match directory::make(root, directory::parent(key)) {
            // A directory above was pruned between two steps: again.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(nested(errno)),
        }
        match rename_or_link(root, key, temporary) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) if is_removed(root) => break,
            Err(Errno::NOENT) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(root, key, AtFlags::SYMLINK_NOFOLLOW);
                if !stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
                    return Err(Failure::new(StorageErrorKind::AlreadyExists));
                }
                // A directory that lost its last object in a crash may stand in the way.
                if steps::remove_directory(root, key).is_err() {
                    return Err(nested(Errno::ISDIR));
                }
            }
            Err(errno) => return Err(nested(errno)),
        }
    }
    Err(root_is_gone(Errno::NOENT))
}

/// Whether the directory has no name any more.
fn is_removed(directory: &OwnedFd) -> bool {
    rustix::fs::fstat(directory).is_ok_and(|stat| stat.st_nlink == 0)
}

fn rename_or_link(root: &OwnedFd, key: &str, temporary: &mut Temporary) -> Result<(), Errno> {
    let path = temporary.path();
    match steps::rename(&temporary.directory, &temporary.name, &path, root, key) {
        Ok(()) => {
            temporary.moved = true;
            Ok(())
        }
        // NFS and others have no such rename; there a hard link refuses to replace.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link(root, key, temporary),
        Err(errno) => Err(errno),
    }
}

fn link(root: &OwnedFd, key: &str, temporary: &Temporary) -> Result<(), Errno> {
    match steps::link(&temporary.directory, &temporary.name, &temporary.path(), root, key) {
        // An NFS server whose answer was lost is asked again and sees its own link. Two names mean that it is ours.
        Err(Errno::EXIST) if rustix::fs::fstat(&temporary.file).is_ok_and(|stat| stat.st_nlink == 2) => Ok(()),
        result => result,
    }
}

fn nested(errno: Errno) -> Failure {
    match errno {
        Errno::NOTDIR | Errno::ISDIR => Failure::because(
            StorageErrorKind::Invalid,
            "another object lies above or below this name, and a file system cannot hold both",
        ),
        errno => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        OwnedFd::from(File::open(path).unwrap())
    }

    fn temporaries(path: &Path) -> usize {
        fs::read_dir(path.join(TEMPORARY)).unwrap().count()
    }

    #[test]
    fn files_are_for_the_owner_alone_and_nothing_is_left_over() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        create(&root, "data/u/p", &Payload::from(vec![7; 3 << 20]), &AtomicBool::new(false)).unwrap();
        let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode("data"), mode("data/u"), mode("data/u/p"), mode(TEMPORARY)], [0o700, 0o700, 0o600, 0o700]);
        assert_eq!(fs::read(directory.path().join("data/u/p")).unwrap(), vec![7; 3 << 20]);
        let again = create(&root, "data/u/p", &Payload::from(vec![8]), &AtomicBool::new(false)).unwrap_err();
        assert_eq!(again.kind, StorageErrorKind::AlreadyExists);
        assert_eq!(temporaries(directory.path()), 0);
    }

    #[test]
    fn an_abandoned_write_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let failure = create(&root, "data/p", &Payload::from(vec![7; 10]), &AtomicBool::new(true)).unwrap_err();
        assert_eq!(failure.kind, StorageErrorKind::Cancelled);
        assert_eq!(temporaries(directory.path()), 0);
        assert!(!directory.path().join("data").exists());
    }

    #[test]
    fn a_hard_link_serves_where_there_is_no_such_rename() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let temporary = Temporary::new(&root).unwrap();
        link(&root, "p", &temporary).unwrap();
        // Asked again, as after a lost answer, it is still ours; another's is not.
        link(&root, "p", &temporary).unwrap();
        let other = Temporary::new(&root).unwrap();
        assert_eq!(link(&root, "p", &other).unwrap_err(), Errno::EXIST);
        drop((temporary, other));
        assert_eq!(temporaries(directory.path()), 0);
        assert!(directory.path().join("p").is_file());
    }

    #[test]
    fn an_empty_directory_in_the_way_is_no_object() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        let root = open(directory.path());
        create(&root, "a/b", &Payload::from(vec![1]), &AtomicBool::new(false)).unwrap();
        let below = create(&root, "a/b/c", &Payload::from(vec![1]), &AtomicBool::new(false)).unwrap_err();
        let above = create(&root, "a", &Payload::from(vec![1]), &AtomicBool::new(false)).unwrap_err();
        assert_eq!((below.kind, above.kind), (StorageErrorKind::Invalid, StorageErrorKind::Invalid));
    }

    #[test]
    fn a_directory_that_is_pruned_on_the_way_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let root = open(directory.path());
                while !done.load(Ordering::Relaxed) {
                    directory::prune(&root, "data/u").unwrap();
                }
            });
            let lives = || {
                for n in 0..300 {
                    let key = format!("data/u/{n}");
                    create(&root, &key, &Payload::from(vec![1]), &AtomicBool::new(false))?;
                    crate::file_system::object::delete(&root, &key)?;
                }
                Ok::<_, Failure>(())
            };
            let outcome = lives();
            done.store(true, Ordering::Relaxed);
            outcome.unwrap();
        });
        assert!(!directory.path().join("data").exists());
    }

    #[test]
    fn the_sweep_takes_the_old_files_of_the_dead() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let old = SystemTime::now() - Duration::from_secs(25 * 3600);
        let living = Temporary::new(&root).unwrap();
        living.file.set_modified(old).unwrap();
        let path = directory.path().join(TEMPORARY);
        for (name, time) in [("dead", old), ("young", SystemTime::now())] {
            File::create(path.join(name)).unwrap().set_modified(time).unwrap();
        }
        sweep(&root);
        let mut left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected = vec![living.name.clone().into(), std::ffi::OsString::from("young")];
        expected.sort();
        assert_eq!(left, expected);
    }
}
