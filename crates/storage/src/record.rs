//! A log of what was asked of a backend: tests read from it in which order things were written, and at what cost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Backend, Features, Listing, ObjectMeta, Operation, Payload, Placement, Protection, Retention, StorageError,
    StorageErrorKind, Thaw, Tier,
};

/// One operation that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What was asked.
    pub operation: Operation,
    /// Of which object, or below which prefix.
    pub key: String,
    /// How many bytes of content went to or came from the place.
    pub bytes: u64,
    /// The kind of trouble, if there was any. A list is noted when it begins, and so always without.
    pub error: Option<StorageErrorKind>,
}

/// How often an operation was answered, and with how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Answers.
    pub calls: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// A backend that notes every operation when it is answered. A clone shares the log.
#[derive(Clone, Debug)]
pub struct Record {
    inner: Arc<dyn Backend>,
    log: Arc<Mutex<Log>>,
    keeps_operations: bool,
}

#[derive(Debug, Default)]
struct Log {
    counts: BTreeMap<Operation, Count>,
    operations: Vec<Recorded>,
}

impl Record {
    /// Counts and keeps every operation, without a bound: for tests.
    pub fn new(inner: Arc<dyn Backend>) -> Record {
        Record { inner, log: Arc::default(), keeps_operations: true }
    }

    /// Counts operations and keeps none.
    pub fn counting(inner: Arc<dyn Backend>) -> Record {
        Record { keeps_operations: false, ..Record::new(inner) }
    }

    /// The operations so far, in the order of their answers.
    pub fn operations(&self) -> Vec<Recorded> {
        self.log().operations.clone()
    }

    /// The keys of the objects that were created, in the order of the answers.
    pub fn created(&self) -> Vec<String> {
        let is_created = |recorded: &&Recorded| recorded.operation == Operation::Create && recorded.error.is_none();
        self.log().operations.iter().filter(is_created).map(|recorded| recorded.key.clone()).collect()
    }

    /// How often `operation` was answered.
    pub fn count(&self, operation: Operation) -> Count {
        self.log().counts.get(&operation).copied().unwrap_or_default()
    }

    /// Forgets operations and counts.
    pub fn clear(&self) {
        *self.log() = Log::default();
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(
        &self,
        operation: Operation,
        key: &str,
        result: Result<T, StorageError>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T, StorageError> {
        let (bytes, error) = match &result {
            Ok(value) => (bytes(value), None),
            Err(error) => (0, Some(error.kind)),
        };
        let mut log = self.log();
        let count = log.counts.entry(operation).or_default();
        count.calls += 1;
        count.errors += u64::from(error.is_some());
        count.bytes += bytes;
        if self.keeps_operations {
            log.operations.push(Recorded { operation, key: key.to_owned(), bytes, error });
        }
        drop(log);
        result
    }
}

#[async_trait]
impl Backend for Record {
    fn location(&self) -> &str {
        self.inner.location()
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let bytes = payload.len();
        let result = self.inner.create(key, payload, placement).await;
        self.note(Operation::Create, key, result, |()| bytes)
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        let result = self.inner.get(key).await;
        self.note(Operation::Get, key, result, |content| content.len() as u64)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let result = self.inner.get_range(key, range).await;
        self.note(Operation::GetRange, key, result, |content| content.len() as u64)
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let result = self.inner.get_tail(key, length).await;
        self.note(Operation::GetTail, key, result, |(content, _)| content.len() as u64)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let result = self.inner.head(key).await;
        self.note(Operation::Head, key, result, |_| 0)
    }

    fn list(&self, prefix: &str) -> Listing {
        // The answer to a list is a stream; that it was asked for is what is noted.
        drop(self.note(Operation::List, prefix, Ok(()), |()| 0));
        self.inner.list(prefix)
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let result = self.inner.list_directories(prefix).await;
        self.note(Operation::ListDirectories, prefix, result, |_| 0)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let result = self.inner.delete(key).await;
        self.note(Operation::Delete, key, result, |()| 0)
    }

    async fn delete_many(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        let results = self.inner.delete_many(keys).await;
        let noted = keys.iter().zip(results);
        noted.map(|(key, result)| self.note(Operation::DeleteMany, key, result, |()| 0)).collect()
    }

    async fn features(&self) -> Result<Features, StorageError> {
        let result = self.inner.features().await;
        self.note(Operation::Features, "", result, |_| 0)
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        let result = self.inner.protection(key).await;
        self.note(Operation::Protection, key, result, |_| 0)
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        let result = self.inner.retain(key, retention).await;
        self.note(Operation::Retain, key, result, |_| 0)
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        let result = self.inner.hold(key, held).await;
        self.note(Operation::Hold, key, result, |_| 0)
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        let result = self.inner.set_tier(key, tier).await;
        self.note(Operation::SetTier, key, result, |_| 0)
    }

    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        let result = self.inner.thaw(key, thaw).await;
        self.note(Operation::Thaw, key, result, |_| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Storage;

    #[tokio::test]
    async fn answers_are_noted_in_order() {
        let record = Record::new(Storage::memory().backend());
        let storage = Storage::new(Arc::new(record.clone()));
        storage.create("a", Payload::from(vec![0; 5])).await.unwrap();
        storage.create("a", Payload::from(vec![0; 5])).await.unwrap_err();
        storage.create("b", Payload::from(vec![0; 2])).await.unwrap();
        storage.get_tail("a", 3).await.unwrap();
        storage.delete("a").await.unwrap();
        assert_eq!(record.created(), ["a", "b"]);
        assert_eq!(record.count(Operation::Create), Count { calls: 3, errors: 1, bytes: 7 });
        let last = |operation, bytes| Recorded { operation, key: "a".to_owned(), bytes, error: None };
        assert_eq!(record.operations()[3..], [last(Operation::GetTail, 3), last(Operation::Delete, 0)]);
        assert_eq!(record.operations()[1].error, Some(StorageErrorKind::AlreadyExists));
        record.clear();
        assert!(record.operations().is_empty());

        let counting = Record::counting(storage.backend());
        Storage::new(Arc::new(counting.clone())).get("b").await.unwrap();
        assert_eq!(counting.count(Operation::Get), Count { calls: 1, errors: 0, bytes: 2 });
        assert!(counting.operations().is_empty());
    }
}
