//! Whether a place keeps the promises that everything else is built on. Run before a repository trusts it.

use breakwater_core::{Clock, Entropy, Uid};
use breakwater_runtime::{SystemClock, SystemEntropy};
use futures::TryStreamExt;

use crate::{Operation, Payload, Storage, StorageError, StorageErrorKind};

/// What a probe found. Promises that everything needs are not here: a place that breaks one of those is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How far the clock of the place is ahead of that of this machine, in microseconds; negative when it is behind. The
    /// time of one call is in it.
    pub clock_skew_micros: i64,
}

/// A promise that every place must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenPromise {
    /// A second create of one name must be refused.
    #[error("a second object was accepted under a name that was taken, so backups could be overwritten here")]
    CreateOnly,
    /// The refused create must change nothing.
    #[error("a create that was refused changed the object all the same")]
    Unchanged,
    /// What was created can be read.
    #[error("an object cannot be read back as it was written")]
    ReadYourWrite,
    /// A range is exactly what was asked for.
    #[error("a part of an object is not the part that was asked for")]
    Range,
    /// What was created is in the next list.
    #[error("an object is missing from a list made right after it was created")]
    ListAfterWrite,
    /// What was deleted is gone.
    #[error("an object is still there after it was deleted")]
    Delete,
}

/// Tries the promises on objects below `scratch_prefix`, which is empty or ends with `/`, and deletes those again. The error
/// names the promise that is broken.
pub async fn probe(storage: &Storage, scratch_prefix: &str) -> Result<Capabilities, StorageError> {
    let mut random = [0; 16];
    SystemEntropy.fill(&mut random);
    let key = format!("{scratch_prefix}probe-{}", Uid(random));
    let found = promises(storage, &key).await;
    // Also after a failure, whose error is the one that matters.
    let deleted = storage.delete(&key).await;
    let capabilities = found?;
    deleted?;
    if storage.exists(&key).await? {
        return Err(broken(storage, Operation::Delete, &key, BrokenPromise::Delete));
    }
    if storage.list(&key).try_next().await?.is_some() {
        return Err(broken(storage, Operation::List, &key, BrokenPromise::Delete));
    }
    Ok(capabilities)
}

async fn promises(storage: &Storage, key: &str) -> Result<Capabilities, StorageError> {
    let fail = |operation, promise| Err(broken(storage, operation, key, promise));
    let content = b"breakwater tries whether this place keeps what it promises".as_slice();
    storage.create(key, Payload::from(content)).await?;
    let created = SystemClock.now();

    if let Some(promise) = second_create(storage, key).await? {
        return fail(Operation::Create, promise);
    }
    let read = storage.get(key).await?;
    if read != content {
        let changed = read == OTHER;
        return fail(Operation::Get, if changed { BrokenPromise::Unchanged } else { BrokenPromise::ReadYourWrite });
    }
    if storage.get_range(key, 11..16).await? != content[11..16] || storage.get_tail(key, 8).await?.0 != content[50..] {
        return fail(Operation::GetRange, BrokenPromise::Range);
    }
    match storage.list(key).try_next().await? {
        Some(meta) if meta.key == key && meta.size == content.len() as u64 => {
            Ok(Capabilities { clock_skew_micros: meta.modified.micros_since(created) })
        }
        _ => fail(Operation::List, BrokenPromise::ListAfterWrite),
    }
}

const OTHER: &[u8] = b"this must never be seen";

async fn second_create(storage: &Storage, key: &str) -> Result<Option<BrokenPromise>, StorageError> {
    match storage.create(key, Payload::from(OTHER)).await {
        Ok(()) => Ok(Some(BrokenPromise::CreateOnly)),
        Err(error) if error.kind == StorageErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

fn broken(storage: &Storage, operation: Operation, key: &str, promise: BrokenPromise) -> StorageError {
    StorageError::new(StorageErrorKind::Invalid, operation, storage.location(), key).because(promise)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use bytes::Bytes;
    use std::ops::Range;

    use super::*;
    use crate::{Backend, Effect, Fault, Listing, ObjectMeta, Placement, Rule};

    /// A place that overwrites, or forgets to delete.
    #[derive(Debug)]
    struct Liar {
        inner: Arc<dyn Backend>,
        overwrites: bool,
    }

    #[async_trait]
    impl Backend for Liar {
        fn location(&self) -> &str {
            "liar:"
        }
        async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
            if self.overwrites {
                self.inner.delete(key).await?;
            }
            self.inner.create(key, payload, placement).await
        }
        async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
            self.inner.get(key).await
        }
        async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
            self.inner.get_range(key, range).await
        }
        async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
            self.inner.get_tail(key, length).await
        }
        async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
            self.inner.head(key).await
        }
        fn list(&self, prefix: &str) -> Listing {
            self.inner.list(prefix)
        }
        async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
            self.inner.list_directories(prefix).await
        }
        async fn delete(&self, key: &str) -> Result<(), StorageError> {
            if self.overwrites { self.inner.delete(key).await } else { Ok(()) }
        }
    }

    fn promise(error: &StorageError) -> BrokenPromise {
        assert_eq!(error.kind, StorageErrorKind::Invalid);
        *error.source.as_ref().unwrap().downcast_ref().unwrap()
    }

    #[tokio::test]
    async fn honest_places_pass_and_stay_empty() {
        let directory = tempfile::tempdir().unwrap();
        for storage in [Storage::memory(), Storage::file_system(directory.path()).unwrap()] {
            let capabilities = probe(&storage, "repo/scratch/").await.unwrap();
            assert!(capabilities.clock_skew_micros.abs() < 10_000_000, "{capabilities:?}");
            assert_eq!(storage.list("").try_next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_broken_promise_is_named() {
        for (overwrites, expected) in [(true, BrokenPromise::CreateOnly), (false, BrokenPromise::Delete)] {
            let liar = Storage::new(Arc::new(Liar { inner: Storage::memory().backend(), overwrites }));
            assert_eq!(promise(&probe(&liar, "").await.unwrap_err()), expected);
        }
        let check = async |operation, effect, expected| {
            let fault = Fault::new(Storage::memory().backend());
            fault.add(Rule::on(operation), effect);
            assert_eq!(promise(&probe(&Storage::new(Arc::new(fault)), "s/").await.unwrap_err()), expected);
        };
        check(Operation::Get, Effect::Flip { offset: 3, mask: 4 }, BrokenPromise::ReadYourWrite).await;
        check(Operation::GetRange, Effect::Truncate(2), BrokenPromise::Range).await;
        check(Operation::List, Effect::Hide("s/".to_owned()), BrokenPromise::ListAfterWrite).await;
    }

    #[tokio::test]
    async fn trouble_of_the_place_is_reported_as_it_is() {
        let fault = Fault::new(Storage::memory().backend());
        fault.set_reachable(false);
        let error = probe(&Storage::new(Arc::new(fault)), "").await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Unreachable);
    }
}
