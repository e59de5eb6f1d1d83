//! The boundary for new kinds of places: what a backend promises to [`Storage`](crate::Storage).

use std::fmt;
use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use breakwater_core::Timestamp;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{Payload, StorageError, StorageErrorKind};

/// Objects in the byte order of their keys. Ends after the first error; only an end without error means that the list is
/// whole.
pub type Listing = BoxStream<'static, Result<ObjectMeta, StorageError>>;

/// What is known about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole key.
    pub key: String,
    /// The length in bytes.
    pub size: u64,
    /// When it was created, by the clock of the place that holds it.
    pub modified: Timestamp,
}

/// What can be asked of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Opening the place itself.
    Open,
    /// [`Backend::create`].
    Create,
    /// [`Backend::get`].
    Get,
    /// [`Backend::get_range`].
    GetRange,
    /// [`Backend::get_tail`].
    GetTail,
    /// [`Backend::head`].
    Head,
    /// [`Backend::list`].
    List,
    /// [`Backend::list_directories`].
    ListDirectories,
    /// [`Backend::delete`].
    Delete,
}

impl Operation {
    /// The verb.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Get => "get",
            Operation::GetRange => "get a range of",
            Operation::GetTail => "get the end of",
            Operation::Head => "look up",
            Operation::List => "list",
            Operation::ListDirectories => "list the directories of",
            Operation::Delete => "delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place that holds objects. Keys and prefixes are checked before they come here.
///
/// A backend does not retry, log, count or limit; decorators do. Dropping a future cancels the operation: a dropped or
/// failed [`create`](Backend::create) leaves nothing or the whole object, and one may not know which. When a place that was
/// there is gone, every answer is [`Unreachable`](StorageErrorKind::Unreachable): never `NotFound`, never an empty list.
#[async_trait]
pub trait Backend: Send + Sync + Debug + 'static {
    /// The place, for people: `file:///srv/r1`. Holds no secret.
    fn location(&self) -> &str;

    /// Creates an object, durable once this answers `Ok`. Of any number of callers with one key, in any process, one wins;
    /// the others get [`AlreadyExists`](StorageErrorKind::AlreadyExists). After any other error it is unknown whether the
    /// object was created.
    async fn create(&self, key: &str, payload: Payload) -> Result<(), StorageError>;

    /// The whole object.
    async fn get(&self, key: &str) -> Result<Bytes, StorageError>;

    /// Exactly the bytes of `range`; [`Corrupt`](StorageErrorKind::Corrupt) when the object is shorter.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError>;

    /// The last `length` bytes, or all when there are fewer, and the size of the object.
    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError>;

    /// What is known about the object.
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError>;

    /// All objects whose key begins with `prefix`. An object created or deleted meanwhile may be in it or not; every other
    /// is.
    fn list(&self, prefix: &str) -> Listing;

    /// The names directly below `prefix`, which is empty or ends with `/`, that have objects below them; in byte order.
    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError>;

    /// Deletes the object; `Ok` also when there was none. After an error it is unknown whether it is gone.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;
}

/// The trouble of an object of `size` bytes that does not hold `range`; `None` when it does.
pub(crate) fn range_trouble(range: &Range<u64>, size: u64) -> Option<(StorageErrorKind, RangeTrouble)> {
    let trouble = RangeTrouble { start: range.start, end: range.end, size };
    if range.start > range.end {
        Some((StorageErrorKind::Invalid, trouble))
    } else if range.end > size {
        Some((StorageErrorKind::Corrupt, trouble))
    } else {
        None
    }
}

/// A range that is not in the object.
#[derive(Debug, thiserror::Error)]
#[error("bytes {start} to {end} were asked of an object of {size} bytes")]
pub(crate) struct RangeTrouble {
    start: u64,
    end: u64,
    size: u64,
}
