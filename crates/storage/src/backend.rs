//! The boundary for new kinds of places: what a backend promises to [`Storage`](crate::Storage).

use std::fmt;
use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use breakwater_core::Timestamp;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{
    Availability, Features, Payload, Placement, Protection, Retention, StorageError, StorageErrorKind, Thaw, Tier,
};

/// Objects in the byte order of their keys. Ends after the first error; only an end without error means that the list is
/// whole.
pub type Listing = BoxStream<'static, Result<ObjectMeta, StorageError>>;

/// How many objects are deleted at once where the place deletes them one by one.
const DELETES_AT_ONCE: usize = 16;

/// What is known about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole key.
    pub key: String,
    /// The length in bytes.
    pub size: u64,
    /// When it was created, by the clock of the place that holds it.
    pub modified: Timestamp,
    /// Its tier.
    pub tier: Tier,
    /// Whether it can be read now.
    pub availability: Availability,
}

impl ObjectMeta {
    /// A hot object that can be read.
    pub fn new(key: impl Into<String>, size: u64, modified: Timestamp) -> ObjectMeta {
        ObjectMeta { key: key.into(), size, modified, tier: Tier::Hot, availability: Availability::Ready }
    }
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
    /// [`Backend::delete_many`].
    DeleteMany,
    /// [`Backend::features`].
    Features,
    /// [`Backend::protection`].
    Protection,
    /// [`Backend::retain`].
    Retain,
    /// [`Backend::hold`].
    Hold,
    /// [`Backend::set_tier`].
    SetTier,
    /// [`Backend::thaw`].
    Thaw,
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
            Operation::DeleteMany => "delete many of",
            Operation::Features => "find out what is offered by",
            Operation::Protection => "look up the locks of",
            Operation::Retain => "lock",
            Operation::Hold => "hold",
            Operation::SetTier => "move to another tier",
            Operation::Thaw => "thaw",
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

    /// Whether an answer can get lost on its way, so that asking again may help. Not so where a failure is the last word, like that of
    /// a disk that could not make something durable: what a second try finds there proves nothing.
    fn may_lose_answers(&self) -> bool {
        true
    }

    /// Creates an object kept as `placement` says, durable once this answers `Ok`. Of any number of callers with one key, in any process, one wins;
    /// the others get [`AlreadyExists`](StorageErrorKind::AlreadyExists). After any other error it is unknown whether the
    /// object was created. A placement that the place cannot keep is [`Unsupported`](StorageErrorKind::Unsupported), and
    /// nothing is created.
    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError>;

    /// The whole object. One that must be thawed first is [`Archived`](StorageErrorKind::Archived), here and in every other
    /// read.
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

    /// Deletes the object with all its versions; `Ok` also when there was none, and
    /// [`Locked`](StorageErrorKind::Locked) when the place keeps it. After any other error it is unknown whether it is gone.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;

    /// Deletes each of `keys` like [`delete`](Backend::delete), in as few calls as the place allows; the answers are in the
    /// order of the keys.
    async fn delete_many(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        let deletes = keys.iter().cloned().map(|key| async move { self.delete(&key).await });
        futures::stream::iter(deletes).buffered(DELETES_AT_ONCE).collect().await
    }

    /// What the place offers as it is set up now.
    async fn features(&self) -> Result<Features, StorageError> {
        Ok(Features::default())
    }

    /// What keeps the object from being deleted.
    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        Err(self.unsupported(Operation::Protection, key))
    }

    /// Locks the object, or makes its lock longer. One that would make it shorter or weaker is
    /// [`Locked`](StorageErrorKind::Locked).
    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        let _: Retention = retention;
        Err(self.unsupported(Operation::Retain, key))
    }

    /// Holds the object, or lifts its hold.
    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        let _: bool = held;
        Err(self.unsupported(Operation::Hold, key))
    }

    /// Moves the object to another tier. Moves out of the archive are thaws that last: the object is readable when its
    /// [`availability`](ObjectMeta::availability) says so.
    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        let _: Tier = tier;
        Err(self.unsupported(Operation::SetTier, key))
    }

    /// Begins to make an archived object readable; `Ok` also when that was begun before or it can be read already.
    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        let _: Thaw = thaw;
        Err(self.unsupported(Operation::Thaw, key))
    }

    /// That the place does not offer `operation`.
    fn unsupported(&self, operation: Operation, key: &str) -> StorageError {
        StorageError::new(StorageErrorKind::Unsupported, operation, self.location(), key)
    }
}

/// The trouble of an object of `size` bytes that does not hold `range`; `None` when it does.
pub fn range_trouble(range: &Range<u64>, size: u64) -> Option<(StorageErrorKind, RangeTrouble)> {
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
pub struct RangeTrouble {
    start: u64,
    end: u64,
    size: u64,
}
