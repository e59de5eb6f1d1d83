//! A store in memory, with the same rules as every other: for tests and rehearsals.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use breakwater_core::{Clock, Timestamp};
use breakwater_runtime::SystemClock;
use bytes::Bytes;
use futures::StreamExt;

use crate::backend::range_trouble;
use crate::{Backend, Listing, ObjectMeta, Operation, Payload, StorageError, StorageErrorKind};

const LOCATION: &str = "memory:";

/// Objects that live as long as this value.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Object>>,
}

#[derive(Clone, Debug)]
struct Object {
    content: Bytes,
    modified: Timestamp,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        // Every change is one insert or remove, so the map is whole also after a panic elsewhere.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, operation: Operation, key: &str) -> Result<Object, StorageError> {
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| StorageError::new(StorageErrorKind::NotFound, operation, LOCATION, key))
    }
}

#[async_trait]
impl Backend for Memory {
    fn location(&self) -> &str {
        LOCATION
    }

    async fn create(&self, key: &str, payload: Payload) -> Result<(), StorageError> {
        let object = Object { content: payload.to_bytes(), modified: SystemClock.now() };
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
        Ok(self.find(Operation::Get, key)?.content)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let content = self.find(Operation::GetRange, key)?.content;
        if let Some((kind, trouble)) = range_trouble(&range, content.len() as u64) {
            return Err(StorageError::new(kind, Operation::GetRange, LOCATION, key).because(trouble));
        }
        Ok(content.slice(index(range.start)..index(range.end)))
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let content = self.find(Operation::GetTail, key)?.content;
        let size = content.len() as u64;
        Ok((content.slice(index(size.saturating_sub(length))..), size))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let object = self.find(Operation::Head, key)?;
        Ok(ObjectMeta { key: key.to_owned(), size: object.content.len() as u64, modified: object.modified })
    }

    fn list(&self, prefix: &str) -> Listing {
        let objects = self.objects();
        let metas: Vec<_> = starting_with(&objects, prefix)
            .map(|(key, object)| {
                Ok(ObjectMeta { key: key.clone(), size: object.content.len() as u64, modified: object.modified })
            })
            .collect();
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
        self.objects().remove(key);
        Ok(())
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
