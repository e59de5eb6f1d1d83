//! Names of things, one type each, so that one cannot be passed for another.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Entropy, Timestamp};

/// Sixteen bytes that name one thing for ever. Shown as 32 lower-case hex digits without dashes, which is also its form
/// in object names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uid(pub [u8; 16]);

impl Uid {
    /// A UUID of version 7 made of `now` and bytes of `entropy`: later ids sort after earlier ones.
    pub fn v7(now: Timestamp, entropy: &dyn Entropy) -> Uid {
        let mut random = [0; 10];
        entropy.fill(&mut random);
        let millis = u64::try_from(now.as_micros().max(0) / 1000).unwrap_or(0);
        Uid(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes())
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Uuid::from_bytes(self.0).simple().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uid {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        // The dashed form is accepted because people paste it.
        Uuid::try_parse(text.trim()).map(|uuid| Uid(uuid.into_bytes())).map_err(|_| BadId(text.to_owned()))
    }
}

impl Serialize for Uid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        Text::deserialize(deserializer)?.0.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is not an id.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an id of 32 hexadecimal digits")]
pub struct BadId(String);

macro_rules! uid_type {
    ($(#[$doc:meta] $name:ident)*) => {$(
        #[$doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uid);

        impl $name {
            /// The sixteen bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                $name(Uid(bytes))
            }

            /// A new id that sorts after those made before `now`.
            pub fn v7(now: Timestamp, entropy: &dyn Entropy) -> Self {
                $name(Uid::v7(now, entropy))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                text.parse().map($name)
            }
        }
    )*};
}

uid_type! {
    /// A repository.
    RepositoryId
    /// One region of a repository: the id written into that place when it was joined.
    RegionId
    /// A source, assigned once and never reused.
    SourceUid
    /// One restorable state of a source. Scheduled: a hash of source, plan and scheduled time; manual: UUIDv7.
    SnapshotId
    /// One writer's open write into a repository.
    SessionId
    /// One run of work on one agent.
    JobId
}

/// The number of a try at a job; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first.
    pub const FIRST: Attempt = Attempt(1);
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a stream's writer. A higher one continues, and so fences, the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The name of an object of the control plane: what people type. Lower-case letters, digits, `-` and `.`, at most 63
/// characters, beginning and ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Checks `text` and makes it a name.
    pub fn new(text: &str) -> Result<Self, BadName> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let allowed = text.chars().all(|c| inner(c) || c == '-' || c == '.');
        let ends = text.starts_with(inner) && text.ends_with(inner);
        if allowed && ends && text.len() <= 63 { Ok(Name(text.to_owned())) } else { Err(BadName(text.to_owned())) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Name::new(text)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Name::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A text that cannot be a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a name: use lower-case letters, digits, `-` and `.`, at most 63, with a letter or digit at both ends"
)]
pub struct BadName(String);

/// The name of a domain: the unit of dedup, keys and erasure inside a repository. Same alphabet as [`Name`].
pub type DomainName = Name;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "pg-main", "db.7", "0"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a/b", "a b", "..", "ä", &long] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_read_what_they_show() {
        let id = SnapshotId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<SnapshotId>().unwrap(), id);
        assert!("12".parse::<SnapshotId>().is_err());
    }
}
