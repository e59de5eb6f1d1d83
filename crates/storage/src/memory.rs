//! A store in memory, with the same rules as every other, locks and tiers among them: for tests and rehearsals. What is
//! archived thaws at once, or when a test says so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use breakwater_core::{Clock, Timestamp};
use breakwater_runtime::SystemClock;
use bytes::Bytes;
use futures::StreamExt;

use crate::backend::range_trouble;
use crate::{
    Availability, Backend, Features, Listing, LockMode, ObjectMeta, Operation, Payload, Placement, Protection,
    Retention, StorageError, StorageErrorKind, Thaw, Tier,
};

const LOCATION: &str = "memory:";

/// Objects that live as long as this value.
#[derive(Debug)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Object>>,
    clock: Arc<dyn Clock>,
    /// Whether thaws wait for [`finish_thaws`](Memory::finish_thaws).
    slow: AtomicBool,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::with_clock(Arc::new(SystemClock))
    }
}

#[derive(Clone, Debug)]
struct Object {
    content: Bytes,
    modified: Timestamp,
    tier: Tier,
    /// How far it is out of the archive.
    availability: Availability,
    protection: Protection,
}

impl Object {
    fn meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            tier: self.tier,
            availability: self.availability,
            ..ObjectMeta::new(key, self.content.len() as u64, self.modified)
        }
    }
}

fn availability_in(tier: Tier) -> Availability {
    if tier == Tier::Archive { Availability::Archived } else { Availability::Ready }
}

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// An empty store whose locks end by `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Memory {
        Memory { objects: Mutex::default(), clock, slow: AtomicBool::new(false) }
    }

    /// Takes the lock of an object away, as no place does: for tests of what happens when it has none.
    pub fn forget_lock(&self, key: &str) {
        if let Some(object) = self.objects().get_mut(key) {
            object.protection.retention = None;
        }
    }

    /// From now on what is thawed stays on its way until [`finish_thaws`](Memory::finish_thaws).
    pub fn thaw_slowly(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }

    /// What is on its way out of the archive can be read now; how many objects that are.
    pub fn finish_thaws(&self) -> usize {
        let mut objects = self.objects();
        let thawing = objects.values_mut().filter(|object| object.availability == Availability::Thawing);
        thawing.map(|object| object.availability = Availability::Ready).count()
    }

    /// Objects on their way out of the archive.
    pub fn thawing(&self) -> usize {
        self.objects().values().filter(|object| object.availability == Availability::Thawing).count()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        // Every change is one insert or remove, so the map is whole also after a panic elsewhere.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, operation: Operation, key: &str) -> Result<Object, StorageError> {
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| StorageError::new(StorageErrorKind::NotFound, operation, LOCATION, key))
    }

    /// The content of an object that can be read now.
    fn content(&self, operation: Operation, key: &str) -> Result<Bytes, StorageError> {
        let object = self.find(operation, key)?;
        match object.availability {
            Availability::Ready => Ok(object.content),
            _ => Err(StorageError::new(StorageErrorKind::Archived, operation, LOCATION, key)),
        }
    }

    fn change(
        &self,
        operation: Operation,
        key: &str,
        change: impl FnOnce(&mut Object) -> Result<(), StorageErrorKind>,
    ) -> Result<(), StorageError> {
        let error = |kind| StorageError::new(kind, operation, LOCATION, key);
        let mut objects = self.objects();
        let object = objects.get_mut(key).ok_or_else(|| error(StorageErrorKind::NotFound))?;
        change(object).map_err(error)
    }
}

#[async_trait]
impl Backend for Memory {
    fn location(&self) -> &str {
        LOCATION
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let protection = Protection { retention: placement.retention, held: false };
        let (content, modified) = (payload.to_bytes(), self.clock.now());
        let (tier, availability) = (placement.tier, availability_in(placement.tier));
        let object = Object { content, modified, tier, availability, protection };
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(StorageError::new(StorageErrorKind::AlreadyExists, Operation::Create, LOCATION, key));
        }
        if let Some(other) = nested(&objects, key) {
            return Err(StorageError::new(StorageErrorKind::Invalid, Operation::Create, LOCATION, key)
                .because(format!("one of `{key}` and `{other}` would lie below the other")));
        }
        objects.insert(key.to_owned(), object);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.content(Operation::Get, key)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let content = self.content(Operation::GetRange, key)?;
        if let Some((kind, trouble)) = range_trouble(&range, content.len() as u64) {
            return Err(StorageError::new(kind, Operation::GetRange, LOCATION, key).because(trouble));
        }
        Ok(content.slice(index(range.start)..index(range.end)))
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let content = self.content(Operation::GetTail, key)?;
        let size = content.len() as u64;
        Ok((content.slice(index(size.saturating_sub(length))..), size))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        Ok(self.find(Operation::Head, key)?.meta(key))
    }

    fn list(&self, prefix: &str) -> Listing {
        let objects = self.objects();
        let metas: Vec<_> = starting_with(&objects, prefix).map(|(key, object)| Ok(object.meta(key))).collect();
        futures::stream::iter(metas).boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let objects = self.objects();
        let mut names: Vec<String> = starting_with(&objects, prefix)
            .filter_map(|(key, _)| Some(key.strip_prefix(prefix)?.split_once('/')?.0.to_owned()))
            .collect();
        // Keys of one directory are not all neighbours of each other: `a-b` lies between `a` and `a/b`.
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let mut objects = self.objects();
        if objects.get(key).is_some_and(|object| object.protection.binds(self.clock.now())) {
            return Err(StorageError::new(StorageErrorKind::Locked, Operation::Delete, LOCATION, key));
        }
        objects.remove(key);
        Ok(())
    }

    async fn features(&self) -> Result<Features, StorageError> {
        Ok(Features { locks: true, holds: true, versions: false, tiers: Tier::ALL.to_vec(), checksums: false })
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        Ok(self.find(Operation::Protection, key)?.protection)
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        self.change(Operation::Retain, key, |object| {
            let weakens = |old: Retention| {
                let weaker = (retention.mode, retention.until) < (old.mode, old.until) || retention.until < old.until;
                old.mode == LockMode::Compliance && self.clock.now() < old.until && weaker
            };
            if object.protection.retention.is_some_and(weakens) {
                return Err(StorageErrorKind::Locked);
            }
            object.protection.retention = Some(retention);
            Ok(())
        })
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        self.change(Operation::Hold, key, |object| {
            object.protection.held = held;
            Ok(())
        })
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        self.change(Operation::SetTier, key, |object| {
            (object.tier, object.availability) = (tier, availability_in(tier));
            Ok(())
        })
    }

    async fn thaw(&self, key: &str, _: Thaw) -> Result<(), StorageError> {
        self.change(Operation::Thaw, key, |object| {
            if object.availability == Availability::Archived {
                let slow = self.slow.load(Ordering::Relaxed);
                object.availability = if slow { Availability::Thawing } else { Availability::Ready };
            }
            Ok(())
        })
    }
}

fn starting_with<'a>(
    objects: &'a BTreeMap<String, Object>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a Object)> {
    objects.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
}

/// An object above or below `key`.
fn nested(objects: &BTreeMap<String, Object>, key: &str) -> Option<String> {
    let above = key.match_indices('/').map(|(at, _)| &key[..at]).find(|above| objects.contains_key(*above));
    let below = format!("{key}/");
    above.map(str::to_owned).or_else(|| starting_with(objects, &below).next().map(|(key, _)| key.clone()))
}

/// A place in an object that is in memory, and so fits.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset inside of an object in memory fits an index")
}
