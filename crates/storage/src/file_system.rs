//! A store in a directory: one file for each object.
//!
//! An object is written to `.tmp/`, flushed, and moved to its name by a rename that refuses to replace, so it is visible
//! whole or not at all, after a crash too. `create` answers `Ok` once the file and all directories above it are flushed.
//!
//! The root is opened anew for every operation and never made again: a volume that was unmounted or moved away is
//! `Unreachable` until it is back. A different directory under the same path is used as it is; whether it is the right one
//! is told by the ids stored in it, which the repository checks.

mod directory;
mod failure;
mod list;
mod object;
#[cfg(test)]
mod power_cut;
mod slots;
mod steps;
mod write;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::{Backend, Listing, ObjectMeta, Operation, Payload, Placement, StorageError, StorageErrorKind};
use failure::Failure;
use list::Batch;
use slots::Slots;

/// Batches of a listing that wait for the reader: enough to keep the disk busy.
const LIST_BATCHES: usize = 2;

/// The store in one directory.
#[derive(Clone, Debug)]
pub struct FileSystem {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    root: PathBuf,
    location: String,
    slots: Arc<Slots>,
    /// Whether leftovers were looked for.
    swept: AtomicBool,
}

impl FileSystem {
    /// The store in the directory `root`, an absolute path, which is created with mode 0700 when it is missing. Nothing
    /// else is written.
    pub fn create(root: &Path) -> Result<FileSystem, StorageError> {
        let file_system = FileSystem::existing(root)?;
        let place = &file_system.place;
        match rustix::fs::mkdir(&place.root, Mode::from_raw_mode(directory::DIRECTORY_MODE)) {
            Ok(()) => directory::sync_path(place.root.parent().unwrap_or(Path::new("/")))
                .map_err(|errno| place.error(Operation::Open, "", Failure::from(errno)))?,
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                let failure = Failure::because(
                    StorageErrorKind::Unreachable,
                    "the directory above it does not exist (hint: create it, or mount what should be there)",
                );
                return Err(place.error(Operation::Open, "", failure));
            }
            Err(errno) => return Err(place.error(Operation::Open, "", Failure::from(errno))),
        }
        drop(place.open_root().map_err(|failure| place.error(Operation::Open, "", failure))?);
        Ok(file_system)
    }

    /// The store in the directory `root`, an absolute path, which may be away for now, or hang. Creates nothing and looks at
    /// nothing yet. Leftovers of writers that died more than a day ago are removed by the first call that finds it there.
    pub fn existing(root: &Path) -> Result<FileSystem, StorageError> {
        let location = format!("file://{}", root.display());
        if !root.is_absolute() {
            return Err(StorageError::new(StorageErrorKind::Invalid, Operation::Open, &location, "")
                .because("the path is not absolute"));
        }
        let place = Place { root: root.to_owned(), location, slots: Slots::of(root), swept: AtomicBool::new(false) };
        Ok(FileSystem { place: Arc::new(place) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce(&OwnedFd, &str) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StorageError> {
        let slot = self.place.slots.call().await.map_err(|failure| self.place.error(operation, key, failure))?;
        let place = Arc::clone(&self.place);
        let owned_key = key.to_owned();
        let done = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            place.run(operation, &owned_key, work)
        })
        .await;
        done.unwrap_or_else(|error| {
            let kind = if error.is_cancelled() { StorageErrorKind::Cancelled } else { StorageErrorKind::Other };
            Err(self.place.error(operation, key, Failure::because(kind, error)))
        })
    }
}

impl Place {
    fn run<T>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce(&OwnedFd, &str) -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        let attempt = || {
            let root = self.open_root()?;
            if !self.swept.swap(true, Ordering::Relaxed) {
                write::sweep(&root);
            }
            let result = work(&root, key);
            // What is not there may be so because the whole root went away meanwhile. That must not read as `NotFound`.
            if matches!(&result, Err(failure) if failure.kind == StorageErrorKind::NotFound) {
                drop(self.open_root()?);
            }
            result
        };
        attempt().map_err(|failure| self.error(operation, key, failure))
    }

    /// The root as it stands under its path now.
    fn open_root(&self) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &self.root, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => Failure::because(StorageErrorKind::Unreachable, "the directory does not exist"),
            Errno::NOTDIR => Failure::because(StorageErrorKind::Unreachable, "the path is not a directory"),
            errno => Failure::from(errno),
        })
    }

    fn error(&self, operation: Operation, key: &str, failure: Failure) -> StorageError {
        let error = StorageError::new(failure.kind, operation, &self.location, key);
        StorageError { source: failure.source, ..error }
    }
}

#[async_trait]
impl Backend for FileSystem {
    fn location(&self) -> &str {
        &self.place.location
    }

    fn may_lose_answers(&self) -> bool {
        false
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        if !placement.is_plain() {
            return Err(self
                .unsupported(Operation::Create, key)
                .because("directories have neither tiers nor locks (hint: declare the region without them)"));
        }
        // Blocking work goes on when its future is dropped; the flag tells it to stop and to leave nothing.
        let abandoned = Abandoned(Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&abandoned.0);
        let result =
            self.blocking(Operation::Create, key, move |root, key| write::create(root, key, &payload, &flag)).await;
        drop(abandoned);
        result
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.blocking(Operation::Get, key, object::read).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.blocking(Operation::GetRange, key, move |root, key| object::read_range(root, key, &range)).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        self.blocking(Operation::GetTail, key, move |root, key| object::read_tail(root, key, length)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.blocking(Operation::Head, key, object::meta).await
    }

    fn list(&self, prefix: &str) -> Listing {
        let this = self.clone();
        let prefix = prefix.to_owned();
        async move { this.listing(prefix).await }.into_stream().flatten().boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let place = Arc::clone(&self.place);
        let work = move |root: &OwnedFd, prefix: &str| {
            let names = list::directories(root, prefix)?;
            drop(place.open_root()?);
            Ok(names)
        };
        self.blocking(Operation::ListDirectories, prefix, work).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let place = Arc::clone(&self.place);
        let work = move |root: &OwnedFd, key: &str| {
            object::delete(root, key)?;
            // The answer `Ok, it is gone` needs a root that is there.
            drop(place.open_root()?);
            Ok(())
        };
        self.blocking(Operation::Delete, key, work).await
    }
}

impl FileSystem {
    /// Walks the tree on a blocking thread, no further ahead of the reader than a few batches.
    async fn listing(&self, prefix: String) -> Listing {
        let slot = match self.place.slots.listing().await {
            Ok(slot) => slot,
            Err(failure) => {
                let error = self.place.error(Operation::List, &prefix, failure);
                return futures::stream::once(async { Err(error) }).boxed();
            }
        };
        let (sender, receiver) = mpsc::channel::<Result<Batch, StorageError>>(LIST_BATCHES);
        let place = Arc::clone(&self.place);
        let error_place = Arc::clone(&self.place);
        let error_prefix = prefix.clone();
        // Not awaited: it ends by itself when it is done or when the receiver is dropped.
        drop(tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let walked = place.run(Operation::List, &prefix, |root, prefix| {
                list::walk(root, prefix, &mut |batch| sender.blocking_send(Ok(batch)).is_ok())?;
                drop(place.open_root()?);
                Ok(())
            });
            // The last message, without which the list is not whole. An error is that of a reader who has gone.
            drop(sender.blocking_send(walked.map(|()| Batch::End)));
        }));
        let state = Some(receiver);
        futures::stream::unfold(state, move |state| {
            let (place, prefix) = (Arc::clone(&error_place), error_prefix.clone());
            async move {
                let mut receiver = state?;
                match receiver.recv().await {
                    Some(Ok(Batch::Objects(objects))) => {
                        Some((futures::stream::iter(objects.into_iter().map(Ok)).boxed(), Some(receiver)))
                    }
                    Some(Ok(Batch::End)) => None,
                    Some(Err(error)) => Some((futures::stream::once(async { Err(error) }).boxed(), None)),
                    None => {
                        let failure = Failure::because(StorageErrorKind::Cancelled, "the walk ended too early");
                        let error = place.error(Operation::List, &prefix, failure);
                        Some((futures::stream::once(async { Err(error) }).boxed(), None))
                    }
                }
            }
        })
        .flatten()
        .boxed()
    }
}

/// Raises the flag when the future that holds it is dropped.
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Storage;

    #[test]
    fn a_root_that_goes_away_during_a_call_is_no_missing_object() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("r1");
        let place = FileSystem::create(&root).unwrap().place;
        assert_eq!(place.run(Operation::Get, "a", object::read).unwrap_err().kind, StorageErrorKind::NotFound);
        let vanish = |opened: &OwnedFd, key: &str| {
            fs::remove_dir(&root).unwrap();
            object::read(opened, key)
        };
        assert_eq!(place.run(Operation::Get, "a", vanish).unwrap_err().kind, StorageErrorKind::Unreachable);
        assert!(!root.exists());
    }

    /// Starts calls that hang until the sender is dropped, and gives each of them up once it hangs.
    async fn hang(store: &FileSystem, calls: usize) -> std::sync::mpsc::Sender<()> {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let receiver = Arc::new(std::sync::Mutex::new(receiver));
        for _ in 0..calls {
            let (entered, hangs) = tokio::sync::oneshot::channel();
            let receiver = Arc::clone(&receiver);
            let call = store.blocking(Operation::Get, "a", move |_, _| {
                entered.send(()).unwrap();
                let _ = receiver.lock().unwrap().recv();
                Ok(())
            });
            tokio::select! {
                _ = call => panic!("it hangs"),
                hangs = hangs => hangs.unwrap(),
            }
        }
        sender
    }

    #[tokio::test]
    async fn leftovers_are_looked_for_by_the_first_call() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileSystem::create(directory.path()).unwrap();
        store.create("a", Payload::from(vec![1]), &Placement::default()).await.unwrap();
        let leftover = directory.path().join(".tmp/left");
        fs::write(&leftover, "").unwrap();
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 3600);
        fs::File::options().write(true).open(&leftover).unwrap().set_modified(long_ago).unwrap();
        let again = FileSystem::existing(directory.path()).unwrap();
        assert!(leftover.exists());
        again.head("a").await.unwrap();
        assert!(!leftover.exists());
    }

    #[test]
    fn a_mount_that_hangs_takes_no_more_threads_than_its_own_and_no_other_place_waits_for_it() {
        // Fewer threads than two places may take would show nothing; more than one may take leave room for others.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(slots::CALLS + slots::LISTINGS + 4)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (hung, sound) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let [dead, alive] = [&hung, &sound].map(|directory| FileSystem::create(directory.path()).unwrap());
            alive.create("a", Payload::from(vec![1]), &Placement::default()).await.unwrap();
            dead.create("a", Payload::from(vec![1]), &Placement::default()).await.unwrap();
            let stop = hang(&dead, slots::CALLS).await;

            // Every further call waits for a slot and not in a thread, also through another store of the same path.
            drop(dead);
            let again = FileSystem::existing(hung.path()).unwrap();
            for _ in 0..100 {
                let call = tokio::time::timeout(std::time::Duration::from_millis(1), again.get("a"));
                call.await.expect_err("no slot is free");
            }
            assert_eq!(alive.get("a").await.unwrap(), [1].as_slice());
            assert_eq!(again.list("").count().await, 1, "a listing has a slot of its own");

            drop(stop);
            assert_eq!(again.get("a").await.unwrap(), [1].as_slice());
        });
    }

    #[tokio::test]
    async fn listings_that_nobody_reads_take_no_more_threads_than_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileSystem::create(directory.path()).unwrap();
        fs::create_dir_all(directory.path().join("a")).unwrap();
        for n in 0..2000 {
            fs::write(directory.path().join(format!("a/{n:04}")), "").unwrap();
        }
        let mut open = Vec::new();
        for _ in 0..slots::LISTINGS {
            let mut listing = store.list("");
            listing.next().await.unwrap().unwrap();
            open.push(listing);
        }
        let mut late = store.list("");
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(50), late.next()).await;
        waiting.expect_err("no slot is free");
        assert!(store.head("a/0000").await.is_ok(), "a call has a slot of its own");
        drop(open.pop());
        late.next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn directories_go_with_their_last_object() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::file_system(directory.path()).unwrap();
        for key in ["data/u/1/a", "data/u/2/b"] {
            storage.create(key, Payload::from(vec![1])).await.unwrap();
        }
        storage.delete("data/u/1/a").await.unwrap();
        assert!(!directory.path().join("data/u/1").exists() && directory.path().join("data/u").exists());
        storage.delete("data/u/2/b").await.unwrap();
        assert!(!directory.path().join("data").exists());
    }
}
