//! What can go wrong with a repository, for the one who has to act on it.

use std::fmt;

use breakwater_core::{DomainName, ErrorClass, RepositoryId, SessionId, SnapshotId, SourceUid, Timestamp};
use breakwater_crypto::{Fingerprint, SealError};
use breakwater_storage::StorageError;

use crate::format::FormatError;
use crate::regions::RegionError;

/// Why one region did not deliver an object.
#[derive(Debug)]
pub struct Cause {
    /// The region's name.
    pub region: String,
    /// What happened there.
    pub trouble: Trouble,
}

/// The two ways in which a region does not deliver.
#[derive(Debug)]
pub enum Trouble {
    /// The place did not do what was asked.
    Storage(StorageError),
    /// What it delivered cannot be used.
    Format(FormatError),
    /// It is not used, and why.
    Unusable(String),
    /// No answer in time.
    Silent,
}

impl Trouble {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            Trouble::Storage(error) => error.class(),
            Trouble::Format(error) => error.class(),
            Trouble::Unusable(_) | Trouble::Silent => ErrorClass::Unavailable,
        }
    }

    /// Whether the region answered that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Trouble::Storage(error) if error.is_not_found())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Storage(error) => fmt::Display::fmt(&breakwater_core::Chain(error), f),
            Trouble::Format(error) => fmt::Display::fmt(&breakwater_core::Chain(error), f),
            Trouble::Unusable(text) => f.write_str(text),
            Trouble::Silent => f.write_str("no answer in time"),
        }
    }
}

fn listed(causes: &[Cause]) -> String {
    causes.iter().map(|cause| format!("{}: {}", cause.region, cause.trouble)).collect::<Vec<_>>().join("; ")
}

/// The error of every operation on a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Something about the request cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// Nothing was changed because of this.
    #[error("{0}")]
    Refused(String),
    /// A place that is to become a region is not empty.
    #[error(
        "{location} (region `{region}`) is not empty: it holds `{found}`; hint: give each region an empty place of its own"
    )]
    NotEmpty {
        /// The region's name.
        region: String,
        /// The place.
        location: String,
        /// One of the objects in it.
        found: String,
    },
    /// A place that is to become a region holds a repository.
    #[error(
        "{location} (region `{region}`) already holds repository {repository}; hint: open it with its key, or give an \
         empty place"
    )]
    AlreadyRepository {
        /// The region's name.
        region: String,
        /// The place.
        location: String,
        /// What is there.
        repository: RepositoryId,
    },
    /// A create was interrupted.
    #[error(
        "{location} (region `{region}`) holds the beginning of repository {repository}, whose creation was interrupted \
         before any key was handed out; hint: nothing can be in it, so remove the objects under `repo/` there and create \
         again"
    )]
    HalfCreated {
        /// The region's name.
        region: String,
        /// The place.
        location: String,
        /// What was begun there.
        repository: RepositoryId,
    },
    /// Two regions are one place.
    #[error("regions `{first}` and `{second}` are one and the same place; hint: give each region a place of its own")]
    SamePlace {
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// The key belongs to another repository.
    #[error(
        "region `{region}` at {location} holds repository {found}, but the key is for repository {expected}; hint: use \
         the key of {found}, or the place of {expected}"
    )]
    Foreign {
        /// The region's name.
        region: String,
        /// The place.
        location: String,
        /// The repository there.
        found: RepositoryId,
        /// The repository of the key.
        expected: RepositoryId,
    },
    /// The descriptor is not the one that the key pins.
    #[error(
        "the descriptor in region `{region}` has fingerprint {found}, but the key pins {pinned}; hint: the descriptor was \
         changed, or the key is of an older state of the repository"
    )]
    Fingerprint {
        /// The region's name.
        region: String,
        /// What is there.
        found: Fingerprint,
        /// What the key says.
        pinned: Fingerprint,
    },
    /// No region can be used.
    #[error("no region of the repository can be used: {}", listed(causes))]
    NoRegion {
        /// Why, for each.
        causes: Vec<Cause>,
    },
    /// There is no region of this name.
    #[error("there is no region `{0}` in this repository")]
    UnknownRegion(String),
    /// Every region answered, none has it.
    #[error("no region holds `{name}`")]
    NotFound {
        /// The object.
        name: String,
    },
    /// No region delivered it.
    #[error("`{name}` cannot be read from any region: {}", listed(causes))]
    Unreadable {
        /// The object.
        name: String,
        /// Why, for each.
        causes: Vec<Cause>,
    },
    /// One region did not do what was asked.
    #[error("region `{region}` failed")]
    Region {
        /// The region's name.
        region: String,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// Writing into the regions failed.
    #[error("cannot write to the repository")]
    Write(#[source] RegionError),
    /// Bytes cannot be used.
    #[error("{what} cannot be used")]
    Format {
        /// The object, or what it is.
        what: String,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// A secret cannot be sealed or opened.
    #[error("{what}")]
    Key {
        /// Which secret.
        what: String,
        /// Why.
        #[source]
        source: SealError,
    },
    /// The key was a recipient once.
    #[error(
        "key `{name}` was removed from the repository's recipients at {since}; hint: use the key of a present recipient"
    )]
    Removed {
        /// What people call the key.
        name: String,
        /// When.
        since: Timestamp,
    },
    /// The key is none of the recipients.
    #[error("key `{name}` is not a recipient of this repository; hint: use the key of a present recipient")]
    NotRecipient {
        /// What people call the key.
        name: String,
    },
    /// A session was sealed to a restore key that the key does not give.
    #[error(
        "session {session} is sealed to the restore key of epoch {epoch} of domain `{domain}`, which was not found; hint: \
         a region that is away may hold it"
    )]
    NoRestoreKey {
        /// The session.
        session: SessionId,
        /// Its domain.
        domain: DomainName,
        /// The restore key's epoch.
        epoch: u32,
    },
    /// The grant is for another snapshot.
    #[error("session {session} is not in the grant, which is for snapshot {snapshot} alone")]
    NotGranted {
        /// The session.
        session: SessionId,
        /// What was granted.
        snapshot: SnapshotId,
    },
    /// A key that lies locked in the repository does not open.
    #[error("{0}")]
    Locked(String),
    /// There is no domain of this name, or the key does not open it.
    #[error("there is no domain `{0}` that this key opens")]
    UnknownDomain(DomainName),
    /// Only a recipient's key does this.
    #[error(
        "{what} needs a recipient's key; hint: a writer key adds, but opens no content: give the recovery key or `--key`"
    )]
    NeedsRecipient {
        /// What was to be done.
        what: &'static str,
    },
    /// The source is not the one that the repository knows under this id.
    #[error(
        "source {uid} (`{name}`) is recorded in the repository with {field} `{recorded}`, but now it is `{found}`; hint: a \
         new database is a new source, give it another name"
    )]
    OtherSource {
        /// The source.
        uid: SourceUid,
        /// What people call it.
        name: String,
        /// What differs.
        field: &'static str,
        /// What the repository says.
        recorded: String,
        /// What the source says.
        found: String,
    },
    /// The directory for files of this run cannot be used.
    #[error("cannot write into the scratch directory; hint: give one with room")]
    Scratch(#[source] std::io::Error),
    /// It is not known whether the session is committed: it may be, and must not be taken for either.
    #[error(
        "session {session} is neither committed nor fenced yet ({detail}); hint: commit again once the regions answer"
    )]
    Undecided {
        /// The session.
        session: SessionId,
        /// What stands where.
        detail: String,
    },
}

impl RepositoryError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            RepositoryError::Invalid(_) => ErrorClass::Invalid,
            RepositoryError::Refused(_)
            | RepositoryError::NotEmpty { .. }
            | RepositoryError::AlreadyRepository { .. }
            | RepositoryError::HalfCreated { .. }
            | RepositoryError::SamePlace { .. }
            | RepositoryError::OtherSource { .. }
            | RepositoryError::Foreign { .. } => ErrorClass::Refused,
            RepositoryError::Fingerprint { .. } => ErrorClass::Corrupt,
            RepositoryError::NeedsRecipient { .. }
            | RepositoryError::Removed { .. }
            | RepositoryError::NotGranted { .. }
            | RepositoryError::Locked(_)
            | RepositoryError::NotRecipient { .. } => ErrorClass::Denied,
            RepositoryError::NoRestoreKey { .. }
            | RepositoryError::UnknownDomain(_)
            | RepositoryError::UnknownRegion(_)
            | RepositoryError::NotFound { .. } => ErrorClass::NotFound,
            RepositoryError::NoRegion { causes } | RepositoryError::Unreadable { causes, .. } => worst(causes),
            RepositoryError::Region { source, .. } => source.class(),
            RepositoryError::Write(source) => source.class(),
            RepositoryError::Format { source, .. } => source.class(),
            RepositoryError::Key { source, .. } => source.class(),
            RepositoryError::Undecided { .. } | RepositoryError::Scratch(_) => ErrorClass::Unavailable,
        }
    }

    /// Whether at least one region says that there is no such object, and none that answers has it.
    pub(crate) fn is_absent(&self) -> bool {
        match self {
            RepositoryError::NotFound { .. } => true,
            RepositoryError::Unreadable { causes, .. } => {
                let away = |cause: &Cause| cause.trouble.class() == ErrorClass::Unavailable;
                causes.iter().any(|cause| cause.trouble.is_not_found())
                    && causes.iter().all(|cause| cause.trouble.is_not_found() || away(cause))
            }
            _ => false,
        }
    }

    pub(crate) fn format(what: impl fmt::Display, source: FormatError) -> Self {
        RepositoryError::Format { what: what.to_string(), source }
    }
}

/// Waiting may help while a region is away; otherwise damage is what a person has to know first.
fn worst(causes: &[Cause]) -> ErrorClass {
    let classes: Vec<ErrorClass> = causes.iter().map(|cause| cause.trouble.class()).collect();
    let order = [ErrorClass::Unavailable, ErrorClass::Corrupt, ErrorClass::Refused, ErrorClass::Denied];
    let found = order.into_iter().find(|class| classes.contains(class));
    found.or(classes.first().copied()).unwrap_or(ErrorClass::Unavailable)
}
