//! Whether a place keeps the promises that everything else is built on. Run before a repository trusts it.

use breakwater_core::{Clock, Entropy, Uid};
use breakwater_runtime::{SystemClock, SystemEntropy};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;

use crate::{Operation, Payload, Placement, Storage, StorageError, StorageErrorKind};

/// How many creates of one name are under way at once, and how often that is tried: a place that looks first and writes later is
/// found out by the first round or two.
const RACERS: usize = 16;
const RACES: usize = 4;

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
    /// Of creates that are under way at once one is accepted.
    #[error(
        "of {RACERS} objects created under one name at once more than one was accepted, so backups could be lost here"
    )]
    Race,
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
    /// What is created with a lock is locked.
    #[error("an object that was to be locked is not, so backups could be deleted here")]
    Lock,
    /// What is created in a tier is in it.
    #[error("an object is not in the tier that it was put into, so it would cost what nobody expects")]
    Tier,
}

/// Tries the promises on objects below `scratch_prefix`, which is empty or ends with `/`, and deletes those again. The error
/// names the promise that is broken.
pub async fn probe(storage: &Storage, scratch_prefix: &str) -> Result<Capabilities, StorageError> {
    let key = scratch_key(scratch_prefix);
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
    for _ in 0..RACES {
        let key = scratch_key(scratch_prefix);
        let raced = race(storage, &key).await;
        let deleted = storage.delete(&key).await;
        raced?;
        deleted?;
    }
    Ok(capabilities)
}

/// Tries whether the place keeps an object as `placement` says: in its tier, and locked from the start. What is locked stays below
/// `scratch_prefix` until its lock ends, so that should be soon; anything else is deleted again.
pub async fn probe_placement(
    storage: &Storage,
    scratch_prefix: &str,
    placement: &Placement,
) -> Result<(), StorageError> {
    let key = scratch_key(scratch_prefix);
    storage.backend().create(&key, Payload::from(CONTENT), placement).await?;
    let kept = is_kept(storage, &key, placement).await;
    match storage.delete(&key).await {
        Ok(()) if placement.retention.is_some() => Err(broken(storage, Operation::Delete, &key, BrokenPromise::Lock)),
        Err(error) if placement.retention.is_some() && error.kind == StorageErrorKind::Locked => kept,
        deleted => kept.and(deleted),
    }
}

async fn is_kept(storage: &Storage, key: &str, placement: &Placement) -> Result<(), StorageError> {
    if storage.head(key).await?.tier != placement.tier {
        return Err(broken(storage, Operation::Create, key, BrokenPromise::Tier));
    }
    let Some(asked) = placement.retention else { return Ok(()) };
    let is_locked = storage.protection(key).await?.retention;
    if is_locked.is_some_and(|lock| lock.mode >= asked.mode && lock.until >= asked.until) {
        return Ok(());
    }
    Err(broken(storage, Operation::Create, key, BrokenPromise::Lock))
}

fn scratch_key(scratch_prefix: &str) -> String {
    let mut random = [0; 16];
    SystemEntropy.fill(&mut random);
    format!("{scratch_prefix}probe-{}", Uid(random))
}

/// Creates one name many times at once; one create wins, and its content is what is there.
async fn race(storage: &Storage, key: &str) -> Result<(), StorageError> {
    let contents: Vec<Bytes> = (0..RACERS).map(|racer| Bytes::from(format!("racer {racer}"))).collect();
    let outcomes = join_all(contents.iter().map(|content| storage.create(key, content.clone().into()))).await;
    let (mut winners, mut trouble) = (Vec::new(), None);
    for (content, outcome) in contents.iter().zip(outcomes) {
        match outcome {
            Ok(()) => winners.push(content),
            Err(error) if error.kind == StorageErrorKind::AlreadyExists => {}
            Err(error) => trouble = Some(error),
        }
    }
    let broken = || Err(broken(storage, Operation::Create, key, BrokenPromise::Race));
    match (winners.as_slice(), trouble) {
        ([_, _, ..], _) => broken(),
        (_, Some(trouble)) => Err(trouble),
        ([winner], None) => {
            if storage.get(key).await? == **winner {
                Ok(())
            } else {
                broken()
            }
        }
        ([], None) => broken(),
    }
}

async fn promises(storage: &Storage, key: &str) -> Result<Capabilities, StorageError> {
    let fail = |operation, promise| Err(broken(storage, operation, key, promise));
    let content = CONTENT;
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
    let middle = storage.get_range(key, 11..16).await;
    let tail = storage.get_tail(key, 8).await.map(|(tail, _)| tail);
    for (part, expected) in [(middle, &content[11..16]), (tail, &content[50..])] {
        match part {
            Ok(part) if part == expected => {}
            // A backend that noticed it says `Corrupt`.
            Ok(_) => return fail(Operation::GetRange, BrokenPromise::Range),
            Err(error) if error.kind == StorageErrorKind::Corrupt => {
                return fail(Operation::GetRange, BrokenPromise::Range);
            }
            Err(error) => return Err(error),
        }
    }
    match storage.list(key).try_next().await? {
        Some(meta) if meta.key == key && meta.size == content.len() as u64 => {
            Ok(Capabilities { clock_skew_micros: meta.modified.micros_since(created) })
        }
        _ => fail(Operation::List, BrokenPromise::ListAfterWrite),
    }
}

const CONTENT: &[u8] = b"breakwater tries whether this place keeps what it promises";
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
    use crate::{Backend, Effect, Fault, Listing, LockMode, ObjectMeta, Protection, Retention, Rule, Tier};

    /// How a place lies.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Lie {
        Overwrites,
        /// It looks, and writes later.
        Races,
        KeepsDeleted,
        ForgetsPlacement,
    }

    #[derive(Debug)]
    struct Liar {
        inner: Arc<dyn Backend>,
        lie: Lie,
    }

    #[async_trait]
    impl Backend for Liar {
        fn location(&self) -> &str {
            "liar:"
        }
        async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
            let is_free = self.inner.head(key).await.is_err();
            tokio::task::yield_now().await;
            if self.lie == Lie::Overwrites || self.lie == Lie::Races && is_free {
                self.inner.delete(key).await?;
            }
            let forgotten = Placement::default();
            let placement = if self.lie == Lie::ForgetsPlacement { &forgotten } else { placement };
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
            if self.lie == Lie::KeepsDeleted { Ok(()) } else { self.inner.delete(key).await }
        }
        async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
            self.inner.protection(key).await
        }
    }

    fn liar(lie: Lie) -> Storage {
        Storage::new(Arc::new(Liar { inner: Storage::memory().backend(), lie }))
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
        for (lie, expected) in [
            (Lie::Overwrites, BrokenPromise::CreateOnly),
            (Lie::Races, BrokenPromise::Race),
            (Lie::KeepsDeleted, BrokenPromise::Delete),
        ] {
            assert_eq!(promise(&probe(&liar(lie), "").await.unwrap_err()), expected);
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
    async fn placements_are_tried() {
        let until = SystemClock.now().plus_micros(60_000_000);
        let locked = Placement { retention: Some(Retention { mode: LockMode::Compliance, until }), tier: Tier::Hot };
        let cold = Placement { tier: Tier::Cold, retention: None };
        let honest = Storage::memory();
        probe_placement(&honest, "s/", &cold).await.unwrap();
        assert_eq!(honest.list("").try_next().await.unwrap(), None);
        probe_placement(&honest, "s/", &locked).await.unwrap();
        assert!(honest.list("s/").try_next().await.unwrap().is_some(), "what is locked stays");
        for (placement, expected) in [(locked, BrokenPromise::Lock), (cold, BrokenPromise::Tier)] {
            let error = probe_placement(&liar(Lie::ForgetsPlacement), "s/", &placement).await.unwrap_err();
            assert_eq!(promise(&error), expected);
        }
    }

    #[tokio::test]
    async fn trouble_of_the_place_is_reported_as_it_is() {
        let fault = Fault::new(Storage::memory().backend());
        fault.set_reachable(false);
        let error = probe(&Storage::new(Arc::new(fault)), "").await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Unreachable);
    }
}
