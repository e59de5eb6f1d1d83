//! A log of what was asked of a backend: tests read from it in which order things were written. What things cost, the
//! [`Meter`](crate::Meter) counts, which keeps no log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::decorator::{Answer, Call, Decorator, Many};
use crate::{Backend, Listing, Operation, StorageError, StorageErrorKind};

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

/// A backend that notes every operation when it is answered, without a bound: for tests. A clone shares the log.
#[derive(Clone, Debug)]
pub struct Record {
    inner: Arc<dyn Backend>,
    log: Arc<Mutex<Vec<Recorded>>>,
}

impl Record {
    /// Notes the operations of `inner`.
    pub fn new(inner: Arc<dyn Backend>) -> Record {
        Record { inner, log: Arc::default() }
    }

    /// The operations so far, in the order of their answers.
    pub fn operations(&self) -> Vec<Recorded> {
        self.log().clone()
    }

    /// The keys of the objects that were created, in the order of the answers.
    pub fn created(&self) -> Vec<String> {
        let is_created = |recorded: &&Recorded| recorded.operation == Operation::Create && recorded.error.is_none();
        self.log().iter().filter(is_created).map(|recorded| recorded.key.clone()).collect()
    }

    /// How often `operation` was answered.
    pub fn count(&self, operation: Operation) -> usize {
        self.log().iter().filter(|recorded| recorded.operation == operation).count()
    }

    /// Forgets the operations so far.
    pub fn clear(&self) {
        self.log().clear();
    }

    fn log(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, operation: Operation, key: &str, bytes: u64, error: Option<&StorageError>) {
        let error = error.map(|error| error.kind);
        self.log().push(Recorded { operation, key: key.to_owned(), bytes, error });
    }
}

impl Decorator for Record {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, call: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        let result = work().await;
        let bytes = result.as_ref().map_or(0, |answer| answer.fetched().max(call.sends));
        self.note(call.operation, call.key, bytes, result.as_ref().err());
        result
    }

    async fn delete_many_around(&self, keys: &[String]) -> Many {
        let results = self.inner.delete_many(keys).await;
        for (key, result) in keys.iter().zip(&results) {
            self.note(Operation::DeleteMany, key, 0, result.as_ref().err());
        }
        results
    }

    fn list_around(&self, prefix: &str) -> Listing {
        self.note(Operation::List, prefix, 0, None);
        self.inner.list(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Payload, Storage};

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
        assert_eq!(record.count(Operation::Create), 3);
        let last = |operation, bytes| Recorded { operation, key: "a".to_owned(), bytes, error: None };
        assert_eq!(record.operations()[3..], [last(Operation::GetTail, 3), last(Operation::Delete, 0)]);
        assert_eq!(record.operations()[1].error, Some(StorageErrorKind::AlreadyExists));
        record.clear();
        assert!(record.operations().is_empty());
    }
}
