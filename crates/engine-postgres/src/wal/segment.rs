//! Segments: the files that the log is cut into, their numbers and their names.
//!
//! Invariant: a [`SegmentSize`] is one that PostgreSQL can have, so arithmetic with it needs no further checks. The size
//! is a property of the cluster and never assumed to be 16 MiB.

use std::fmt;

use breakwater_core::{ErrorClass, Lsn, TimelineId};

/// The size of a cluster's log segments: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// What `initdb` chooses unless told otherwise: 16 MiB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// Checks a number of bytes.
    ///
    /// # Errors
    /// When it is not a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Result<Self, BadSegmentSize> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(SegmentSize(size)),
            _ => Err(BadSegmentSize(format!("{bytes} bytes"))),
        }
    }

    /// Reads what `SHOW wal_segment_size` answers: a number and `kB`, `MB` or `GB`, or plain bytes.
    ///
    /// # Errors
    /// When the text is no such size, or the size is not one that PostgreSQL can have.
    pub fn from_setting(text: &str) -> Result<Self, BadSegmentSize> {
        let bad = || BadSegmentSize(text.to_owned());
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
            "" | "B" => 1,
            "kB" => 1 << 10,
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            _ => return Err(bad()),
        };
        let count: u64 = digits.trim().parse().map_err(|_| bad())?;
        SegmentSize::new(count.checked_mul(unit).ok_or_else(bad)?).map_err(|_| bad())
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// The number of the segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.bytes()
    }

    /// The position of the first byte of segment `segno`.
    pub const fn start_of(self, segno: u64) -> Lsn {
        Lsn(segno.saturating_mul(self.bytes()))
    }

    /// The distance of `lsn` from the start of its segment.
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }

    /// How many segments share one middle part of a file name.
    const fn per_log_id(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}

/// A size that no cluster can have.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a segment size: PostgreSQL has powers of two from 1 MiB to 1 GiB")]
pub struct BadSegmentSize(String);

impl BadSegmentSize {
    /// What the error means to a caller.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

/// The name of the file that holds segment `segno` of timeline `tli`.
pub fn segment_file_name(tli: TimelineId, segno: u64, size: SegmentSize) -> String {
    format!("{:08X}{:08X}{:08X}", tli.0, segno / size.per_log_id(), segno % size.per_log_id())
}

/// The last segment needed to replay up to `stop`, which is the position *after* the last byte: when `stop` is exactly
/// a segment's start, that segment is not needed.
pub fn last_needed_segment(stop: Lsn, size: SegmentSize) -> u64 {
    size.segment_of(Lsn(stop.0.saturating_sub(1)))
}

/// What a file name that PostgreSQL uses in `pg_wal` (its `%f`) stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// A whole segment: `000000010000000000000002`.
    Segment {
        /// The timeline in the name.
        tli: TimelineId,
        /// The number of the segment.
        segno: u64,
    },
    /// The last, incomplete segment of a timeline that ended: `….partial`.
    Partial {
        /// The timeline in the name.
        tli: TimelineId,
        /// The number of the segment.
        segno: u64,
    },
    /// The history of a timeline: `00000002.history`.
    History {
        /// The timeline whose history it is.
        tli: TimelineId,
    },
    /// The note that a base backup leaves: `000000010000000000000002.00000028.backup`.
    Backup {
        /// The timeline in the name.
        tli: TimelineId,
        /// The number of the segment where the backup starts.
        segno: u64,
        /// The distance of the backup's start from the segment's start.
        offset: u32,
    },
}

impl WalFileName {
    /// Reads a file name of a cluster whose segments have `size`.
    ///
    /// # Errors
    /// When the name is none of the four kinds, or names a segment that cannot exist with this size.
    pub fn parse(name: &str, size: SegmentSize) -> Result<Self, BadFileName> {
        let bad = || BadFileName(name.to_owned());
        if let Some(stem) = name.strip_suffix(".history") {
            return Ok(WalFileName::History { tli: timeline(stem).ok_or_else(bad)? });
        }
        if let Some(stem) = name.strip_suffix(".partial") {
            let (tli, segno) = segment(stem, size).ok_or_else(bad)?;
            return Ok(WalFileName::Partial { tli, segno });
        }
        if let Some(stem) = name.strip_suffix(".backup") {
            let (stem, offset) = stem.split_once('.').ok_or_else(bad)?;
            let (tli, segno) = segment(stem, size).ok_or_else(bad)?;
            let offset = hex8(offset).filter(|offset| u64::from(*offset) < size.bytes()).ok_or_else(bad)?;
            return Ok(WalFileName::Backup { tli, segno, offset });
        }
        let (tli, segno) = segment(name, size).ok_or_else(bad)?;
        Ok(WalFileName::Segment { tli, segno })
    }

    /// The name that [`parse`](Self::parse) reads.
    pub fn to_name(self, size: SegmentSize) -> String {
        match self {
            WalFileName::Segment { tli, segno } => segment_file_name(tli, segno, size),
            WalFileName::Partial { tli, segno } => format!("{}.partial", segment_file_name(tli, segno, size)),
            WalFileName::History { tli } => format!("{:08X}.history", tli.0),
            WalFileName::Backup { tli, segno, offset } => {
                format!("{}.{offset:08X}.backup", segment_file_name(tli, segno, size))
            }
        }
    }

    /// The timeline in the name.
    pub fn timeline(self) -> TimelineId {
        match self {
            WalFileName::Segment { tli, .. }
            | WalFileName::Partial { tli, .. }
            | WalFileName::History { tli }
            | WalFileName::Backup { tli, .. } => tli,
        }
    }
}

/// A name that is not one of PostgreSQL's.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the name of a log segment, timeline history or backup note")]
pub struct BadFileName(String);

impl BadFileName {
    /// What the error means to a caller.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

/// Eight upper-case hexadecimal digits; PostgreSQL writes no others, and two spellings of one name would be two files.
fn hex8(digits: &str) -> Option<u32> {
    let canonical = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if digits.len() != 8 || !digits.bytes().all(canonical) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

fn timeline(digits: &str) -> Option<TimelineId> {
    hex8(digits).filter(|tli| *tli > 0).map(TimelineId)
}

fn segment(name: &str, size: SegmentSize) -> Option<(TimelineId, u64)> {
    let tli = timeline(name.get(..8)?)?;
    let log_id = u64::from(hex8(name.get(8..16)?)?);
    let within = u64::from(hex8(name.get(16..)?)?);
    if within >= size.per_log_id() {
        return None;
    }
    Some((tli, log_id * size.per_log_id() + within))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(mib: u64) -> SegmentSize {
        SegmentSize::new(mib << 20).unwrap()
    }

    #[test]
    fn sizes_are_those_of_postgresql() {
        for (text, mib) in [("16MB", 16), ("1MB", 1), ("1GB", 1024), ("1048576", 1), ("2048kB", 2)] {
            assert_eq!(SegmentSize::from_setting(text).unwrap(), size(mib), "{text}");
        }
        for bad in ["", "MB", "3MB", "2GB", "512kB", "16 mb", "-1MB", "99999999999999999999GB"] {
            assert!(SegmentSize::from_setting(bad).is_err(), "{bad}");
        }
        assert!(SegmentSize::new(0).is_err());
        assert!(SegmentSize::new((16 << 20) + 1).is_err());
    }

    #[test]
    fn names_follow_the_segment_size() {
        let tli = TimelineId(1);
        let at = |lsn: &str| lsn.parse::<Lsn>().unwrap();
        let name = |lsn: &str, mib| segment_file_name(tli, size(mib).segment_of(at(lsn)), size(mib));
        assert_eq!(name("0/16B3748", 16), "000000010000000000000001");
        assert_eq!(name("1/FF000000", 16), "0000000100000001000000FF");
        assert_eq!(name("2/0", 16), "000000010000000200000000");
        assert_eq!(name("0/16B3748", 1), "000000010000000000000016");
        assert_eq!(name("1/FFFFFFFF", 1), "000000010000000100000FFF");
        assert_eq!(name("3/C0000000", 1024), "000000010000000300000003");
    }

    #[test]
    fn every_kind_of_name_reads_back() {
        let names = [
            "0000000A0000000100000003",
            "0000000A0000000100000003.partial",
            "0000000A.history",
            "0000000A0000000100000003.00000028.backup",
        ];
        for mib in [1, 16, 64, 1024] {
            for name in names {
                assert_eq!(WalFileName::parse(name, size(mib)).unwrap().to_name(size(mib)), name);
            }
        }
        let parsed = WalFileName::parse("0000000A0000000100000003", size(16)).unwrap();
        assert_eq!(parsed, WalFileName::Segment { tli: TimelineId(10), segno: 0x103 });
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "RECOVERYXLOG",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000000000000000000000A",
            "00000001000000000000000g",
            "0000000a0000000100000003",
            "000000010000000000000100",
            "+0000001.history",
            "00000000.history",
            "00000001.history.tmp",
            "000000010000000000000001.backup",
            "000000010000000000000001.01000000.backup",
            "../000001000000000000000000001",
            "0000000100000000000000é",
        ] {
            assert!(WalFileName::parse(name, size(16)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_stop_on_the_boundary_does_not_need_the_next_segment() {
        let s = size(16);
        let boundary = s.start_of(5);
        assert_eq!(last_needed_segment(boundary, s), 4);
        assert_eq!(last_needed_segment(Lsn(boundary.0 + 1), s), 5);
        assert_eq!(last_needed_segment(Lsn(boundary.0 - 1), s), 4);
        assert_eq!(last_needed_segment(Lsn(0), s), 0);
    }
}
