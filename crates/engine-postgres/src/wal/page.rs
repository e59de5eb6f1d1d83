//! Page headers: what each page of the log says about itself, and the check of a segment before it is delivered.
//!
//! Invariant: a segment passes [`check_segment`] only if its own header names the cluster, the segment size and the
//! position that were asked for, so a foreign or shifted segment never reaches a recovering server.

use breakwater_core::{ErrorClass, Lsn, TimelineId};

use super::segment::{SegmentSize, segment_file_name};

/// Length of the header of an ordinary page.
pub const SHORT_HEADER: usize = 24;
/// Length of the header of a segment's first page.
pub const LONG_HEADER: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const HAS_LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const KNOWN_FLAGS: u16 = 0x000F;

/// Page magic numbers by major version, oldest first.
const MAGICS: [(u16, u32); 6] = [(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// The header of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The major version of PostgreSQL whose magic number the page carries.
    pub version: u32,
    /// The timeline of the page's first record. In a segment that was copied at a timeline switch the pages before the
    /// switch name the parent.
    pub timeline: TimelineId,
    /// The position of the page's first byte.
    pub address: Lsn,
    /// How many bytes of a record from earlier pages are still to come, this page included; 0 without one.
    pub continued: u32,
    /// Whether the page starts with the rest of a record from the page before.
    pub is_continuation: bool,
    /// Whether a record that was begun on the page before was given up in a crash; its rest will never come.
    pub is_overwrite: bool,
    /// What only the first page of a segment carries.
    pub segment: Option<SegmentHeader>,
}

/// The part of the header that only the first page of a segment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The system identifier of the cluster.
    pub system_id: u64,
    /// The segment size of the cluster.
    pub segment_size: SegmentSize,
    /// The size of a log page in bytes: a power of two from 1 KiB to 64 KiB.
    pub page_size: u32,
}

impl PageHeader {
    /// Reads the header of the page at `at` from its first bytes: [`LONG_HEADER`] of them for the first page of a
    /// segment, [`SHORT_HEADER`] for others.
    ///
    /// # Errors
    /// When the bytes are too few, the magic number or a flag is unknown, or the page says that it lies elsewhere.
    pub fn parse(bytes: &[u8], at: Lsn) -> Result<Self, PageError> {
        let short = PageError::Short { at, length: bytes.len() };
        let (Some(magic), Some(info), Some(tli), Some(address), Some(continued)) =
            (read_u16(bytes, 0), read_u16(bytes, 2), read_u32(bytes, 4), read_u64(bytes, 8), read_u32(bytes, 16))
        else {
            return Err(short);
        };
        let Some((_, version)) = MAGICS.iter().find(|(known, _)| *known == magic) else {
            return Err(PageError::Magic { at, magic });
        };
        if info & !KNOWN_FLAGS != 0 {
            return Err(PageError::Flags { at, info });
        }
        if address != at.0 {
            return Err(PageError::Address { at, found: Lsn(address) });
        }
        if tli == 0 {
            return Err(PageError::Timeline { at, found: TimelineId(0), limit: TimelineId(0) });
        }
        let segment = if info & HAS_LONG_HEADER == 0 {
            None
        } else {
            let (Some(system_id), Some(size), Some(page_size)) =
                (read_u64(bytes, 24), read_u32(bytes, 32), read_u32(bytes, 36))
            else {
                return Err(short);
            };
            let segment_size =
                SegmentSize::new(u64::from(size)).map_err(|_| PageError::SegmentSize { at, found: size })?;
            if !page_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_size) {
                return Err(PageError::PageSize { at, found: page_size });
            }
            Some(SegmentHeader { system_id, segment_size, page_size })
        };
        Ok(PageHeader {
            version: *version,
            timeline: TimelineId(tli),
            address: at,
            continued,
            is_continuation: info & FIRST_IS_CONTRECORD != 0,
            is_overwrite: info & FIRST_IS_OVERWRITE_CONTRECORD != 0,
            segment,
        })
    }

    /// The length of this header in bytes.
    pub const fn length(&self) -> usize {
        if self.segment.is_some() { LONG_HEADER } else { SHORT_HEADER }
    }
}

/// Checks that `bytes` are a whole segment `segno` of timeline `tli` of the cluster `system_id`, judged by its length
/// and its first page. Damage further in is found by [`RecordScanner`](super::RecordScanner).
///
/// # Errors
/// Names the first thing that does not fit.
pub fn check_segment(
    bytes: &[u8],
    tli: TimelineId,
    segno: u64,
    size: SegmentSize,
    system_id: u64,
) -> Result<PageHeader, PageError> {
    if bytes.len() as u64 != size.bytes() {
        return Err(PageError::Length {
            name: segment_file_name(tli, segno, size),
            expected: size.bytes(),
            found: bytes.len() as u64,
        });
    }
    check_segment_start(bytes, tli, segno, size, system_id)
}

/// Like [`check_segment`], for the first bytes of a segment that is not complete; at least [`LONG_HEADER`] of them.
///
/// # Errors
/// Names the first thing that does not fit.
pub fn check_segment_start(
    bytes: &[u8],
    tli: TimelineId,
    segno: u64,
    size: SegmentSize,
    system_id: u64,
) -> Result<PageHeader, PageError> {
    let at = size.start_of(segno);
    let header = PageHeader::parse(bytes, at)?;
    let Some(own) = header.segment else {
        return Err(PageError::NoLongHeader { at });
    };
    if own.system_id != system_id {
        return Err(PageError::SystemId { at, expected: system_id, found: own.system_id });
    }
    if own.segment_size != size {
        return Err(PageError::OtherSegmentSize { at, expected: size, found: own.segment_size });
    }
    // A segment that was copied at a switch starts on the parent's timeline, never on a later one.
    if header.timeline > tli {
        return Err(PageError::Timeline { at, found: header.timeline, limit: tli });
    }
    Ok(header)
}

/// Why a page or a segment was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PageError {
    /// Fewer bytes than the header has.
    #[error("page header at {at} is cut off: {length} bytes")]
    Short {
        /// Where the page lies.
        at: Lsn,
        /// How many bytes there were.
        length: usize,
    },
    /// Not a page of a version that is known here.
    #[error("page at {at} has unknown magic number {magic:#06X}: known are PostgreSQL 13 to 18")]
    Magic {
        /// Where the page lies.
        at: Lsn,
        /// The number found.
        magic: u16,
    },
    /// A flag that no known version sets.
    #[error("page at {at} has unknown flags {info:#06X}")]
    Flags {
        /// Where the page lies.
        at: Lsn,
        /// The flags found.
        info: u16,
    },
    /// The page belongs to another place of the log.
    #[error("page at {at} says it belongs at {found}")]
    Address {
        /// Where the page lies.
        at: Lsn,
        /// Where it says it lies.
        found: Lsn,
    },
    /// A timeline that is not possible there.
    #[error("page at {at} is of timeline {found}, which cannot be part of timeline {limit}")]
    Timeline {
        /// Where the page lies.
        at: Lsn,
        /// The timeline on the page.
        found: TimelineId,
        /// The timeline that was expected at most.
        limit: TimelineId,
    },
    /// A segment size that no cluster can have.
    #[error("page at {at} names a segment size of {found} bytes")]
    SegmentSize {
        /// Where the page lies.
        at: Lsn,
        /// The size found.
        found: u32,
    },
    /// A page size that no cluster can have.
    #[error("page at {at} names a page size of {found} bytes")]
    PageSize {
        /// Where the page lies.
        at: Lsn,
        /// The size found.
        found: u32,
    },
    /// The first page of a segment without the long header.
    #[error("page at {at} is the first of its segment but has no segment header")]
    NoLongHeader {
        /// Where the page lies.
        at: Lsn,
    },
    /// The segment belongs to another cluster.
    #[error("segment at {at} belongs to the cluster with system id {found}, not {expected}")]
    SystemId {
        /// Where the segment starts.
        at: Lsn,
        /// The cluster's id.
        expected: u64,
        /// The id found.
        found: u64,
    },
    /// The segment belongs to a cluster with another segment size.
    #[error("segment at {at} belongs to a cluster with segments of {found}, not {expected}")]
    OtherSegmentSize {
        /// Where the segment starts.
        at: Lsn,
        /// The cluster's segment size.
        expected: SegmentSize,
        /// The size found.
        found: SegmentSize,
    },
    /// Not a whole segment.
    #[error("segment {name} has {found} bytes instead of {expected}")]
    Length {
        /// The segment's file name.
        name: String,
        /// The segment size.
        expected: u64,
        /// How many bytes there were.
        found: u64,
    },
}

impl PageError {
    /// What the error means to a caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            PageError::SystemId { .. } | PageError::OtherSegmentSize { .. } => ErrorClass::Refused,
            _ => ErrorClass::Corrupt,
        }
    }
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

pub(super) fn read_i64(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..at + 8)?.try_into().ok().map(i64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(tli: u32, address: u64, system_id: u64, size: u32) -> Vec<u8> {
        let mut page = Vec::new();
        page.extend_from_slice(&0xD110_u16.to_le_bytes());
        page.extend_from_slice(&HAS_LONG_HEADER.to_le_bytes());
        page.extend_from_slice(&tli.to_le_bytes());
        page.extend_from_slice(&address.to_le_bytes());
        page.extend_from_slice(&[0; 8]);
        page.extend_from_slice(&system_id.to_le_bytes());
        page.extend_from_slice(&size.to_le_bytes());
        page.extend_from_slice(&8192_u32.to_le_bytes());
        page
    }

    #[test]
    fn a_segment_must_be_the_one_asked_for() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let mut bytes = header(2, 5 << 20, 77, 1 << 20);
        let check = |bytes: &[u8], tli, segno, id| check_segment(bytes, TimelineId(tli), segno, size, id);
        assert!(matches!(check(&bytes, 2, 5, 77), Err(PageError::Length { .. })));
        assert!(check_segment_start(&bytes, TimelineId(2), 5, size, 77).is_ok());
        bytes.resize(1 << 20, 0);

        assert_eq!(check(&bytes, 2, 5, 77).unwrap().version, 15);
        assert!(check(&bytes, 3, 5, 77).is_ok(), "a copy made at a switch starts on the parent");
        assert!(matches!(check(&bytes, 1, 5, 77), Err(PageError::Timeline { .. })));
        assert!(matches!(check(&bytes, 2, 6, 77), Err(PageError::Address { .. })));
        assert!(matches!(check(&bytes, 2, 5, 78), Err(PageError::SystemId { .. })));

        let mut other = header(2, 5 << 20, 77, 2 << 20);
        other.resize(1 << 20, 0);
        assert!(matches!(check(&other, 2, 5, 77), Err(PageError::OtherSegmentSize { .. })));
        bytes[0] = 0;
        assert!(matches!(check(&bytes, 2, 5, 77), Err(PageError::Magic { .. })));
        assert!(matches!(check(&vec![0; 1 << 20], 2, 5, 77), Err(PageError::Magic { .. })), "a hole is no segment");
    }
}
