//! The handle that the rest of Breakwater uses.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use crate::file_system::FileSystem;
use crate::key::{BadKey, check_key, check_prefix};
use crate::memory::Memory;
use crate::placement::Plain;
use crate::{
    Backend, Features, Listing, ObjectMeta, Operation, Payload, Placing, Protection, Retention, StorageError,
    StorageErrorKind, Thaw, Tier, Traced,
};

/// A place that holds write-once objects. A clone is another handle to the same place.
#[derive(Clone, Debug)]
pub struct Storage {
    backend: Arc<dyn Backend>,
    placing: Arc<dyn Placing>,
}

impl Storage {
    /// A handle to `backend` that keeps all objects hot and without a lock.
    pub fn new(backend: Arc<dyn Backend>) -> Storage {
        Storage { backend, placing: Arc::new(Plain) }
    }

    /// The same place; how new objects are kept, `placing` decides.
    #[must_use]
    pub fn with_placing(&self, placing: Arc<dyn Placing>) -> Storage {
        Storage { backend: self.backend(), placing }
    }

    /// The same place with `decorate` around its backend.
    #[must_use]
    pub fn decorated(&self, decorate: impl FnOnce(Arc<dyn Backend>) -> Arc<dyn Backend>) -> Storage {
        Storage { backend: decorate(self.backend()), placing: Arc::clone(&self.placing) }
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

    /// The place, for people: `file:///srv/r1`.
    pub fn location(&self) -> &str {
        self.backend.location()
    }

    /// The backend, for a decorator around it.
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    /// The same place with a tracing span around each operation, which names it `region`.
    #[must_use]
    pub fn traced(&self, region: &str) -> Storage {
        self.decorated(|inner| Arc::new(Traced::new(inner, region)))
    }

    /// Creates the object `key`, durable once this answers `Ok`. `AlreadyExists` when the name is taken. After any other
    /// error it is unknown whether it was created; it is never visible in part.
    pub async fn create(&self, key: &str, payload: Payload) -> Result<(), StorageError> {
        self.check(Operation::Create, key, check_key)?;
        self.backend.create(key, payload, &self.placing.placement(key)).await
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

    /// All objects whose key begins with `prefix`, in byte order. Ends after the first error, and once it has ended it says so
    /// whenever it is asked again.
    pub fn list(&self, prefix: &str) -> Listing {
        match self.check(Operation::List, prefix, check_prefix) {
            Ok(()) => self.backend.list(prefix).fuse().boxed(),
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

    /// Deletes the object with all its versions; `Ok` also when there was none, `Locked` when the place keeps it. After any other
    /// error it is unknown whether it is gone.
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.check(Operation::Delete, key, check_key)?;
        self.backend.delete(key).await
    }

    /// Deletes each of `keys`, in as few calls as the place allows; the answers are in the order of the keys.
    pub async fn delete_many(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        let bad = keys.iter().find_map(|key| self.check(Operation::DeleteMany, key, check_key).err());
        match bad {
            Some(error) => {
                let again = |key| StorageError::new(error.kind, Operation::DeleteMany, self.location(), key);
                keys.iter().map(|key| Err(again(key).because(error.to_string()))).collect()
            }
            None => self.backend.delete_many(keys).await,
        }
    }

    /// What the place offers as it is set up now.
    pub async fn features(&self) -> Result<Features, StorageError> {
        self.backend.features().await
    }

    /// What keeps the object from being deleted.
    pub async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        self.check(Operation::Protection, key, check_key)?;
        self.backend.protection(key).await
    }

    /// Locks the object, or makes its lock longer.
    pub async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        self.check(Operation::Retain, key, check_key)?;
        self.backend.retain(key, retention).await
    }

    /// Holds the object, or lifts its hold.
    pub async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        self.check(Operation::Hold, key, check_key)?;
        self.backend.hold(key, held).await
    }

    /// Moves the object to another tier.
    pub async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        self.check(Operation::SetTier, key, check_key)?;
        self.backend.set_tier(key, tier).await
    }

    /// Begins to make an archived object readable.
    pub async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        self.check(Operation::Thaw, key, check_key)?;
        self.backend.thaw(key, thaw).await
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

#[cfg(test)]
mod tests {
    use breakwater_core::Chain;

    use super::*;

    #[tokio::test]
    async fn a_bad_key_says_why() {
        let error = Storage::memory().get("a/../b").await.unwrap_err();
        assert_eq!(
            Chain(&error).to_string(),
            "cannot get `a/../b` in memory:: not a valid request: `.` and `..` cannot be parts of a key"
        );
    }
}
