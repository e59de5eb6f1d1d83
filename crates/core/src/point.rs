//! Places in the log of a source.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A PostgreSQL log sequence number; shown as PostgreSQL shows it (`0/16B3748`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The start of the segment of `segment_size` bytes that holds this position.
    pub const fn segment_start(self, segment_size: u64) -> Lsn {
        Lsn(self.0 - self.0 % segment_size)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;
    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.trim().split_once('/').ok_or_else(bad)?;
        let part = |digits: &str| {
            if digits.is_empty() || digits.len() > 8 {
                return Err(bad());
            }
            u64::from_str_radix(digits, 16).map_err(|_| bad())
        };
        Ok(Lsn(part(high)? << 32 | part(low)?))
    }
}

/// A text that is not an LSN.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a log position, like 0/16B3748")]
pub struct BadLsn(String);

/// A PostgreSQL timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position in a source's stream: the branch of history (PostgreSQL: timeline) and the offset on it. Engines without
/// branches use branch 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The branch of history.
    pub branch: u32,
    /// The offset in bytes on that branch (PostgreSQL: the LSN).
    pub offset: u64,
}

impl LogPosition {
    /// The position `offset` on `branch`.
    pub const fn new(branch: u32, offset: u64) -> Self {
        LogPosition { branch, offset }
    }

    /// The offset as an LSN.
    pub const fn lsn(self) -> Lsn {
        Lsn(self.offset)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.branch, self.lsn())
    }
}

/// An observation of a source: read its clock first, then its flush position. Everything committed at the source up to
/// `clock` lies before `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The source's own clock.
    pub clock: Timestamp,
    /// The source's flush position, read after the clock.
    pub position: LogPosition,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_what_it_shows() {
        for value in [0, 1, 0x16B_3748, 0xFFFF_FFFF, 0x1_0000_0000, u64::MAX] {
            assert_eq!(Lsn(value).to_string().parse::<Lsn>().unwrap(), Lsn(value));
        }
        for bad in ["", "/", "0", "0/", "/0", "G/0", "0/123456789", "0/0/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn segment_start_rounds_down() {
        assert_eq!(Lsn(0x16B_3748).segment_start(16 << 20), Lsn(0x100_0000));
    }
}
