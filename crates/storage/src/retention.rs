//! Immutability that the place itself enforces: until when, and against whom.

use std::fmt;
use std::str::FromStr;

use breakwater_core::Timestamp;

/// Whom a lock binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// All but those with a special right of the provider's: S3 governance, an unlocked Azure or GCS policy.
    Governance,
    /// Everyone, the owner of the account too: S3 compliance, a locked Azure or GCS policy. It can be made longer, never
    /// shorter.
    Compliance,
}

impl LockMode {
    /// The word in documents and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            LockMode::Governance => "governance",
            LockMode::Compliance => "compliance",
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no mode of a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode of a lock (hint: governance or compliance)")]
pub struct UnknownLockMode(String);

impl FromStr for LockMode {
    type Err = UnknownLockMode;

    fn from_str(text: &str) -> Result<LockMode, UnknownLockMode> {
        let modes = [LockMode::Governance, LockMode::Compliance];
        modes.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| UnknownLockMode(text.to_owned()))
    }
}

/// A lock on an object: it can neither be deleted nor replaced before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Whom it binds.
    pub mode: LockMode,
    /// Its end, by the clock of the place.
    pub until: Timestamp,
}

/// What keeps an object from being deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Its lock; none when it never had one or it has run out.
    pub retention: Option<Retention>,
    /// Whether it is held until the hold is lifted, whatever its lock says.
    pub held: bool,
}

impl Protection {
    /// Whether the object cannot be deleted at `now`.
    pub fn binds(&self, now: Timestamp) -> bool {
        self.held || self.retention.is_some_and(|retention| now < retention.until)
    }
}
