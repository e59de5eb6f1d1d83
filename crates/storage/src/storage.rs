//! The handle that the rest of Breakwater uses.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use breakwater_core::Entropy;
use breakwater_runtime::RetryPolicy;
use bytes::Bytes;
use futures::StreamExt;

use crate::file_system::FileSystem;
use crate::key::{BadKey, check_key, check_prefix};
use crate::memory::Memory;
use crate::{Backend, Listing, ObjectMeta, Operation, Payload, Retry, StorageError, StorageErrorKind, Traced};

/// A place that holds write-once objects. A clone is another handle to the same place.
#[derive(Clone, Debug)]
pub struct Storage {
    backend: Arc<dyn Backend>,
}

impl Storage {
    /// A handle to `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Storage {
        Storage { backend }
    }

    /// A fresh store in the memory of this process.
    pub fn memory() -> Storage {
        Storage::new(Arc::new(Memory::new()))
    }

    /// The store in the directory `root`, an absolute path. A missing directory is created with mode 0700; its parent must
    /// exist.
    pub fn file_system(root: &Path) -> Result<Storage, StorageError> {
        Ok(Storage::new(Arc::new(FileSystem::create(root)?)))
    }

    /// The store at `url`: `file:///srv/r1`, a plain absolute path, or `memory:` for a fresh one in memory. The path is taken
    /// as it stands, without percent-decoding. A missing directory is created like in
    /// [`file_system`](Storage::file_system).
    pub fn open(url: &str) -> Result<Storage, StorageError> {
        match Place::parse(url)? {
            Place::Memory => Ok(Storage::memory()),
            Place::Directory(root) => Storage::file_system(root),
        }
    }

    /// Like [`open`](Storage::open), for a place that was used before: creates nothing. While a directory is away, as with
    /// an unmounted volume, every operation answers `Unreachable`, and works again once it is back.
    pub fn open_existing(url: &str) -> Result<Storage, StorageError> {
        match Place::parse(url)? {
            Place::Memory => Ok(Storage::memory()),
            Place::Directory(root) => Ok(Storage::new(Arc::new(FileSystem::existing(root)?))),
        }
    }

    /// The place, for people: `file:///srv/r1`.
    pub fn location(&self) -> &str {
        self.backend.location()
    }

    /// The backend, for a decorator around it.
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    /// The same place with operations tried again by `policy` while it is unreachable.
    #[must_use]
    pub fn with_retry(&self, policy: RetryPolicy, entropy: Arc<dyn Entropy>) -> Storage {
        Storage::new(Arc::new(Retry::new(self.backend(), policy, entropy)))
    }

    /// The same place with a tracing span around each operation, which names it `region`.
    #[must_use]
    pub fn traced(&self, region: &str) -> Storage {
        Storage::new(Arc::new(Traced::new(self.backend(), region)))
    }

    /// Creates the object `key`, durable once this answers `Ok`. `AlreadyExists` when the name is taken. After any other
    /// error it is unknown whether it was created; it is never visible in part.
    pub async fn create(&self, key: &str, payload: Payload) -> Result<(), StorageError> {
        self.check(Operation::Create, key, check_key)?;
        self.backend.create(key, payload).await
    }

    /// The whole object.
    pub async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.check(Operation::Get, key, check_key)?;
        self.backend.get(key).await
    }

    /// Exactly the bytes of `range`; `Corrupt` when the object is shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.check(Operation::GetRange, key, check_key)?;
        self.backend.get_range(key, range).await
    }

    /// The last `length` bytes, or all when there are fewer, and the size of the object.
    pub async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        self.check(Operation::GetTail, key, check_key)?;
        self.backend.get_tail(key, length).await
    }

    /// What is known about the object without reading it.
    pub async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.check(Operation::Head, key, check_key)?;
        self.backend.head(key).await
    }

    /// Whether there is an object `key`; an error when that cannot be known.
    pub async fn exists(&self, key: &str) -> Result<bool, StorageError> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All objects whose key begins with `prefix`, in byte order. Ends after the first error.
    pub fn list(&self, prefix: &str) -> Listing {
        match self.check(Operation::List, prefix, check_prefix) {
            Ok(()) => self.backend.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    /// The names directly below `prefix`, which is empty or ends with `/`, that have objects below them: of `meta/`, the
    /// sources.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.check(Operation::ListDirectories, prefix, |prefix| {
            if prefix.is_empty() || prefix.ends_with('/') { check_prefix(prefix) } else { Err(BadKey::EmptySegment) }
        })?;
        self.backend.list_directories(prefix).await
    }

    /// Deletes the object; `Ok` also when there was none. After an error it is unknown whether it is gone.
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.check(Operation::Delete, key, check_key)?;
        self.backend.delete(key).await
    }

    fn check(
        &self,
        operation: Operation,
        key: &str,
        check: impl FnOnce(&str) -> Result<(), BadKey>,
    ) -> Result<(), StorageError> {
        check(key).map_err(|reason| {
            StorageError::new(StorageErrorKind::Invalid, operation, self.location(), key).because(reason)
        })
    }
}

enum Place<'a> {
    Memory,
    Directory(&'a Path),
}

impl Place<'_> {
    fn parse(url: &str) -> Result<Place<'_>, StorageError> {
        if url == "memory:" {
            return Ok(Place::Memory);
        }
        let path = url.strip_prefix("file://").unwrap_or(url);
        if path.starts_with('/') {
            return Ok(Place::Directory(Path::new(path)));
        }
        Err(StorageError::new(StorageErrorKind::Invalid, Operation::Open, &format!("`{url}`"), "").because(BadUrl))
    }
}

/// A text that names no place.
#[derive(Debug, thiserror::Error)]
#[error("a place is named by an absolute path, file:///absolute/path, or memory:")]
struct BadUrl;

#[cfg(test)]
mod tests {
    use breakwater_core::Chain;

    use super::*;

    #[test]
    fn urls_name_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        assert_eq!(Storage::open(path).unwrap().location(), format!("file://{path}"));
        assert_eq!(Storage::open(&format!("file://{path}")).unwrap().location(), format!("file://{path}"));
        assert_eq!(Storage::open("memory:").unwrap().location(), "memory:");
        for bad in ["s3://bucket", "relative/path", "file://relative", "", "memory"] {
            let error = Storage::open(bad).unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Invalid);
            let text = Chain(&error).to_string();
            assert!(text.contains(bad) && text.contains("file:///") && text.contains("memory:"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_bad_key_says_why() {
        let error = Storage::memory().get("a/../b").await.unwrap_err();
        assert_eq!(
            Chain(&error).to_string(),
            "cannot get `a/../b` in memory:: not a valid request: `.` and `..` cannot be parts of a key"
        );
    }
}
