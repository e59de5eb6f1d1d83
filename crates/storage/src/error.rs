//! What went wrong with an object, where, and what kind of trouble that is.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use breakwater_core::{Chain, ErrorClass};

use crate::Operation;

/// The kind of trouble, independent of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StorageErrorKind {
    /// There is no object of this name, and the place that answers so can be reached.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Credentials or permissions do not allow it, or the place is read-only.
    Denied,
    /// There is no room left.
    Full,
    /// The place does not answer, or is not there. The same call may pass later.
    Unreachable,
    /// The place asks to be left alone for a while: it is called too often. The same call may pass later.
    Throttled,
    /// The place keeps the object: a lock or a hold forbids to delete it, or to weaken what protects it.
    Locked,
    /// The object must be thawed before it can be read.
    Archived,
    /// The place does not offer that, or not as it is set up.
    Unsupported,
    /// The request cannot be right here: a bad key, an unknown scheme, a place that cannot hold a region.
    Invalid,
    /// The object is not what was written, such as shorter than the range that is known to be in it.
    Corrupt,
    /// Stopped before it was done.
    Cancelled,
    /// None of the others.
    Other,
}

impl StorageErrorKind {
    /// The word that stands for the kind in traces.
    pub fn as_str(self) -> &'static str {
        match self {
            StorageErrorKind::NotFound => "not-found",
            StorageErrorKind::AlreadyExists => "already-exists",
            StorageErrorKind::Denied => "denied",
            StorageErrorKind::Full => "full",
            StorageErrorKind::Unreachable => "unreachable",
            StorageErrorKind::Throttled => "throttled",
            StorageErrorKind::Locked => "locked",
            StorageErrorKind::Archived => "archived",
            StorageErrorKind::Unsupported => "unsupported",
            StorageErrorKind::Invalid => "invalid",
            StorageErrorKind::Corrupt => "corrupt",
            StorageErrorKind::Cancelled => "cancelled",
            StorageErrorKind::Other => "other",
        }
    }

    /// Whether the place itself is in trouble. The others are answers: of a place in health, to what was asked.
    pub fn is_trouble(self) -> bool {
        match self {
            StorageErrorKind::Denied
            | StorageErrorKind::Full
            | StorageErrorKind::Unreachable
            | StorageErrorKind::Throttled
            | StorageErrorKind::Corrupt
            | StorageErrorKind::Other => true,
            StorageErrorKind::NotFound
            | StorageErrorKind::AlreadyExists
            | StorageErrorKind::Locked
            | StorageErrorKind::Archived
            | StorageErrorKind::Unsupported
            | StorageErrorKind::Invalid
            | StorageErrorKind::Cancelled => false,
        }
    }

    /// What the kind means to the one who has to act on it.
    pub fn class(self) -> ErrorClass {
        match self {
            StorageErrorKind::NotFound => ErrorClass::NotFound,
            StorageErrorKind::AlreadyExists => ErrorClass::Conflict,
            StorageErrorKind::Denied => ErrorClass::Denied,
            StorageErrorKind::Full | StorageErrorKind::Unreachable | StorageErrorKind::Throttled => {
                ErrorClass::Unavailable
            }
            StorageErrorKind::Locked | StorageErrorKind::Archived | StorageErrorKind::Unsupported => {
                ErrorClass::Refused
            }
            StorageErrorKind::Invalid => ErrorClass::Invalid,
            StorageErrorKind::Corrupt => ErrorClass::Corrupt,
            StorageErrorKind::Cancelled => ErrorClass::Cancelled,
            StorageErrorKind::Other => ErrorClass::Internal,
        }
    }
}

impl fmt::Display for StorageErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StorageErrorKind::NotFound => "no such object",
            StorageErrorKind::AlreadyExists => "the name is taken",
            StorageErrorKind::Denied => "not permitted",
            StorageErrorKind::Full => "no room left",
            StorageErrorKind::Unreachable => "cannot be reached",
            StorageErrorKind::Throttled => "called too often",
            StorageErrorKind::Locked => "locked",
            StorageErrorKind::Archived => "must be thawed first",
            StorageErrorKind::Unsupported => "not offered there",
            StorageErrorKind::Invalid => "not a valid request",
            StorageErrorKind::Corrupt => "damaged",
            StorageErrorKind::Cancelled => "cancelled",
            StorageErrorKind::Other => "failed",
        })
    }
}

/// The error of every operation on storage.
#[derive(Debug)]
pub struct StorageError {
    /// The kind of trouble.
    pub kind: StorageErrorKind,
    /// What was attempted, as a verb: `create`.
    pub operation: Operation,
    /// The place, as [`Storage::location`](crate::Storage::location) shows it.
    pub location: String,
    /// The object, or the prefix of a list; empty when it is the place itself.
    pub key: String,
    /// How long the place asked to be left alone, where it said so.
    pub retry_after: Option<Duration>,
    /// What the layer below said.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// An error without a source.
    pub fn new(kind: StorageErrorKind, operation: Operation, location: &str, key: &str) -> StorageError {
        StorageError {
            kind,
            operation,
            location: location.to_owned(),
            key: key.to_owned(),
            retry_after: None,
            source: None,
        }
    }

    /// The same error with what the layer below said.
    #[must_use]
    pub fn because(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> StorageError {
        StorageError { source: Some(source.into()), ..self }
    }

    /// The same error with how long the place asked to be left alone.
    #[must_use]
    pub fn after(self, retry_after: Option<Duration>) -> StorageError {
        StorageError { retry_after, ..self }
    }

    /// The same trouble with another object, where one call was about several.
    pub(crate) fn of(&self, key: &str) -> StorageError {
        let source = self.source.as_ref().map(|source| Chain(&**source).to_string().into());
        let (location, key) = (self.location.clone(), key.to_owned());
        StorageError {
            kind: self.kind,
            operation: self.operation,
            location,
            key,
            retry_after: self.retry_after,
            source,
        }
    }

    /// Whether the same call may pass later without anything being changed.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, StorageErrorKind::Unreachable | StorageErrorKind::Throttled)
    }

    /// The kind of trouble.
    pub fn kind(&self) -> StorageErrorKind {
        self.kind
    }

    /// What the error means to the one who has to act on it.
    pub fn class(&self) -> ErrorClass {
        self.kind.class()
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == StorageErrorKind::NotFound
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.operation)?;
        if !self.key.is_empty() {
            write!(f, " `{}` in", self.key.escape_default())?;
        }
        write!(f, " {}: {}", self.location, self.kind)
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_where_and_why() {
        let error = StorageError::new(StorageErrorKind::Full, Operation::Create, "file:///srv/r1", "data/x")
            .because(std::io::Error::from_raw_os_error(28));
        assert_eq!(
            Chain(&error).to_string(),
            "cannot create `data/x` in file:///srv/r1: no room left: No space left on device (os error 28)"
        );
        assert_eq!(error.class(), ErrorClass::Unavailable);
        let error = StorageError::new(StorageErrorKind::Unreachable, Operation::Open, "file:///srv/r1", "");
        assert_eq!(error.to_string(), "cannot open file:///srv/r1: cannot be reached");
    }
}
