//! Sealed pieces kept on the local disk while too few regions answer.
//!
//! Invariant: a piece counts as spooled once its file and the directory are fsynced under its final name; a file leaves
//! when its object is durable, or another durable or spooled object holds the same bytes. One directory serves one
//! source.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use breakwater_core::ByteCount;
use breakwater_storage::Payload;

use super::StreamError;

const TEMPORARY: &str = ".tmp";
const LOCK: &str = ".lock";
/// How long the writer before may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Where the spool lies and how large it may get.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// A directory of this source's own; created with mode 0700.
    pub directory: PathBuf,
    /// Bytes at most.
    pub limit: ByteCount,
}

impl SpoolOptions {
    /// A spool of at most 1 GiB.
    pub fn new(directory: &Path) -> SpoolOptions {
        SpoolOptions { directory: directory.to_owned(), limit: ByteCount(1 << 30) }
    }
}

/// A spooled object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spooled {
    pub(super) name: String,
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) struct Spool {
    options: SpoolOptions,
    /// By the order in which they were cut.
    entries: Mutex<BTreeMap<u64, Spooled>>,
    /// One store at a time, so that the limit holds.
    storing: Mutex<()>,
    /// Locked as long as any task of this spool runs.
    _lock: File,
}

/// What storing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Done,
    /// There is no room for it.
    Full,
}

impl Spool {
    /// Opens the directory and finds what an earlier process left there. Refuses one that another writer uses. Blocks.
    pub(super) fn open(options: SpoolOptions) -> Result<Spool, StreamError> {
        let directory = options.directory.clone();
        let failed = |action: &str, path: &Path| {
            let (path, problem) = (path.to_owned(), format!("cannot {action}"));
            move |source| StreamError::Spool { path, problem, source: Some(source) }
        };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(failed("create the directory", &directory))?;
        let lock_path = directory.join(LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(failed("open the lock", &lock_path))?;
        let begun = Instant::now();
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::Error(source) => return Err(failed("lock", &lock_path)(source)),
                TryLockError::WouldBlock if begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                TryLockError::WouldBlock => {
                    let problem = "is in use; hint: is another agent running for this source?".to_owned();
                    return Err(StreamError::Spool { path: directory, problem, source: None });
                }
            }
        }
        let mut entries = BTreeMap::new();
        let files = std::fs::read_dir(&directory).map_err(failed("read the directory", &directory))?;
        for file in files {
            let file = file.map_err(failed("read the directory", &directory))?;
            let text = file.file_name().to_string_lossy().into_owned();
            if text == LOCK {
                continue;
            }
            if text.ends_with(TEMPORARY) {
                // Never finished, so nobody counts on it.
                std::fs::remove_file(file.path()).map_err(failed("remove an unfinished file", &file.path()))?;
                continue;
            }
            let unknown = || StreamError::Spool {
                path: file.path(),
                problem: "is no file of a spool; hint: give the spool a directory of its own".to_owned(),
                source: None,
            };
            let (sequence, name) = parse(&text).ok_or_else(unknown)?;
            let size = file.metadata().map_err(failed("look at a file", &file.path()))?.len();
            entries.insert(sequence, Spooled { name, size });
        }
        Ok(Spool { options, entries: Mutex::new(entries), storing: Mutex::default(), _lock: lock })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Spooled>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number after the last one in use.
    pub(super) fn next_sequence(&self) -> u64 {
        self.entries().keys().next_back().map_or(0, |last| last + 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// Objects and bytes in it.
    pub(super) fn usage(&self) -> (u64, ByteCount) {
        let entries = self.entries();
        (entries.len() as u64, ByteCount(entries.values().map(|entry| entry.size).sum()))
    }

    /// The oldest object.
    pub(super) fn first(&self) -> Option<(u64, Spooled)> {
        self.entries().first_key_value().map(|(sequence, entry)| (*sequence, entry.clone()))
    }

    fn path(&self, sequence: u64, name: &str) -> PathBuf {
        self.options.directory.join(format!("{sequence:016x}~{}", name.replace('/', "+")))
    }

    fn failed(path: &Path, action: &str) -> impl FnOnce(std::io::Error) -> StreamError {
        let (path, problem) = (path.to_owned(), format!("cannot {action}"));
        move |source| StreamError::Spool { path, problem, source: Some(source) }
    }

    /// Stores an object, durable when this answers `Done`. Blocks.
    pub(super) fn store(&self, sequence: u64, name: &str, payload: &Payload) -> Result<Stored, StreamError> {
        let _one = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        let size = payload.len();
        if self.usage().1.as_u64().saturating_add(size) > self.options.limit.as_u64() {
            return Ok(Stored::Full);
        }
        let path = self.path(sequence, name);
        let temporary = path.with_extension(format!("{sequence:x}{TEMPORARY}"));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            for part in payload.parts() {
                file.write_all(part)?;
            }
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&self.options.directory)?.sync_all()
        };
        match write() {
            Ok(()) => {
                self.entries().insert(sequence, Spooled { name: name.to_owned(), size });
                Ok(Stored::Done)
            }
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                std::fs::remove_file(&temporary).ok();
                Ok(Stored::Full)
            }
            Err(error) => Err(Spool::failed(&path, "write")(error)),
        }
    }

    /// Reads an object back. Blocks.
    pub(super) fn load(&self, sequence: u64, entry: &Spooled) -> Result<Payload, StreamError> {
        let path = self.path(sequence, &entry.name);
        let bytes = std::fs::read(&path).map_err(Spool::failed(&path, "read"))?;
        Ok(Payload::from(bytes))
    }

    /// Removes an object that is durable elsewhere. Blocks.
    pub(super) fn remove(&self, sequence: u64) -> Result<(), StreamError> {
        let Some(entry) = self.entries().get(&sequence).cloned() else { return Ok(()) };
        let path = self.path(sequence, &entry.name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Spool::failed(&path, "remove")(error)),
            _ => {}
        }
        self.entries().remove(&sequence);
        Ok(())
    }

    /// Whether this object is still in it.
    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.entries().contains_key(&sequence)
    }

    /// The numbers of the objects with these names.
    pub(super) fn find(&self, names: &[String]) -> Vec<u64> {
        let entries = self.entries();
        entries.iter().filter(|(_, entry)| names.contains(&entry.name)).map(|(sequence, _)| *sequence).collect()
    }
}

fn parse(file: &str) -> Option<(u64, String)> {
    let (sequence, name) = file.split_once('~')?;
    let sequence = u64::from_str_radix(sequence, 16).ok()?;
    let name = name.replace('+', "/");
    crate::format::ObjectName::parse(&name)?;
    Some((sequence, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "meta/0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a/history/00000002";

    fn spool(directory: &Path, limit: u64) -> Spool {
        Spool::open(SpoolOptions { directory: directory.join("spool"), limit: ByteCount(limit) }).unwrap()
    }

    #[test]
    fn what_was_stored_is_there_after_a_restart_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let first = spool(directory.path(), 100);
        assert_eq!(first.store(7, NAME, &Payload::from(b"seven".to_vec())).unwrap(), Stored::Done);
        assert_eq!(first.store(3, NAME, &Payload::from(b"three".to_vec())).unwrap(), Stored::Done);
        std::fs::write(directory.path().join("spool/half.tmp"), b"x").unwrap();
        drop(first);
        let again = spool(directory.path(), 100);
        let (sequence, entry) = again.first().unwrap();
        assert_eq!((sequence, again.next_sequence(), again.usage()), (3, 8, (2, ByteCount(10))));
        assert_eq!(&again.load(sequence, &entry).unwrap().to_bytes()[..], b"three");
        again.remove(3).unwrap();
        assert_eq!(again.find(&[NAME.to_owned()]), [7]);
        drop(again);
        assert_eq!(spool(directory.path(), 100).usage().0, 1);
    }

    #[test]
    fn a_full_spool_says_so_and_a_foreign_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let small = spool(directory.path(), 8);
        assert_eq!(small.store(0, NAME, &Payload::from(b"seven77".to_vec())).unwrap(), Stored::Done);
        assert_eq!(small.store(1, NAME, &Payload::from(b"xy".to_vec())).unwrap(), Stored::Full);
        drop(small);
        std::fs::write(directory.path().join("spool/notes.txt"), b"x").unwrap();
        let options = SpoolOptions { directory: directory.path().join("spool"), limit: ByteCount(8) };
        assert!(Spool::open(options).unwrap_err().to_string().contains("notes.txt"));
    }
}
