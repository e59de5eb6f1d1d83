//! What every decorator that treats all operations alike has in common: it is a [`Backend`] over a [`Backend`] by saying once what
//! it does around an operation.
//!
//! Invariant: the answer of a decorator is an answer of the backend below it, or an error of its own; it never makes up content.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Backend, Features, Listing, ObjectMeta, Operation, Payload, Placement, Protection, Retention, StorageError, Thaw,
    Tier,
};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The operation.
    pub operation: Operation,
    /// Of which object, or below which prefix; of many, the first.
    pub key: &'a str,
    /// How many bytes of content go to the place.
    pub sends: u64,
    /// How many bytes of content the answer holds at most, where the question says so.
    pub fetches: Option<u64>,
}

impl Call<'_> {
    /// Whether the answer to it is content.
    pub fn is_read(&self) -> bool {
        matches!(self.operation, Operation::Get | Operation::GetRange | Operation::GetTail)
    }
}

/// What an answer tells a decorator.
pub trait Answer: Send {
    /// How many bytes of content it holds.
    fn fetched(&self) -> u64 {
        0
    }

    /// The error in it, although the call as a whole succeeded: of many deletes, the first that failed.
    fn trouble(&self) -> Option<&StorageError> {
        None
    }
}

/// Deletes of many: each answers for itself.
pub type Many = Vec<Result<(), StorageError>>;

impl Answer for () {}
impl Answer for ObjectMeta {}
impl Answer for Features {}
impl Answer for Protection {}
impl Answer for Vec<String> {}

impl Answer for Bytes {
    fn fetched(&self) -> u64 {
        self.len() as u64
    }
}

impl Answer for (Bytes, u64) {
    fn fetched(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Answer for Many {
    fn trouble(&self) -> Option<&StorageError> {
        self.iter().find_map(|result| result.as_ref().err())
    }
}

/// A backend that does something around operations of another. Whatever implements this is a [`Backend`].
pub trait Decorator: Send + Sync + Debug + 'static {
    /// The backend below.
    fn inner(&self) -> &Arc<dyn Backend>;

    /// Answers `call`. `work` carries it out below, each time it is called.
    fn around<T, F>(
        &self,
        call: Call<'_>,
        work: impl Fn() -> F + Send + Sync,
    ) -> impl Future<Output = Result<T, StorageError>> + Send
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send;

    /// Creates an object. What is special about it is that a second try may find the first one's object.
    fn create_around(
        &self,
        key: &str,
        payload: Payload,
        placement: &Placement,
    ) -> impl Future<Output = Result<(), StorageError>> + Send {
        async move {
            let call = Call { operation: Operation::Create, key, sends: payload.len(), fetches: Some(0) };
            self.around(call, || self.inner().create(key, payload.clone(), placement)).await
        }
    }

    /// Deletes many objects. What is special about it is that a part of it can fail.
    fn delete_many_around(&self, keys: &[String]) -> impl Future<Output = Many> + Send {
        async move {
            let call = call(Operation::DeleteMany, keys.first().map_or("", String::as_str));
            let work = || async { Ok(self.inner().delete_many(keys).await) };
            self.around(call, work).await.unwrap_or_else(|error| keys.iter().map(|key| Err(error.of(key))).collect())
        }
    }

    /// A list, which is a stream, and so no operation that is over at some time.
    fn list_around(&self, prefix: &str) -> Listing {
        self.inner().list(prefix)
    }
}

/// A call that moves no content.
fn call(operation: Operation, key: &str) -> Call<'_> {
    Call { operation, key, sends: 0, fetches: Some(0) }
}

#[async_trait]
impl<D: Decorator> Backend for D {
    fn location(&self) -> &str {
        self.inner().location()
    }

    fn may_lose_answers(&self) -> bool {
        self.inner().may_lose_answers()
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        self.create_around(key, payload, placement).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        let call = Call { fetches: None, ..call(Operation::Get, key) };
        self.around(call, || self.inner().get(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let length = range.end.saturating_sub(range.start);
        let call = Call { fetches: Some(length), ..call(Operation::GetRange, key) };
        self.around(call, || self.inner().get_range(key, range.clone())).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        let call = Call { fetches: Some(length), ..call(Operation::GetTail, key) };
        self.around(call, || self.inner().get_tail(key, length)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.around(call(Operation::Head, key), || self.inner().head(key)).await
    }

    fn list(&self, prefix: &str) -> Listing {
        self.list_around(prefix)
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.around(call(Operation::ListDirectories, prefix), || self.inner().list_directories(prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.around(call(Operation::Delete, key), || self.inner().delete(key)).await
    }

    async fn delete_many(&self, keys: &[String]) -> Many {
        self.delete_many_around(keys).await
    }

    async fn features(&self) -> Result<Features, StorageError> {
        self.around(call(Operation::Features, ""), || self.inner().features()).await
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        self.around(call(Operation::Protection, key), || self.inner().protection(key)).await
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        self.around(call(Operation::Retain, key), || self.inner().retain(key, retention)).await
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        self.around(call(Operation::Hold, key), || self.inner().hold(key, held)).await
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        self.around(call(Operation::SetTier, key), || self.inner().set_tier(key, tier)).await
    }

    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        self.around(call(Operation::Thaw, key), || self.inner().thaw(key, thaw)).await
    }
}
