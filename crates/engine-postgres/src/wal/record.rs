//! One record of the log: its header, and a reader that takes from its body the few fields an index needs.
//!
//! Invariant: a body is read as it streams by and never kept; what is held is a fixed buffer, whatever lengths and counts
//! the record claims.

use breakwater_core::{Lsn, TimelineId};

use super::event::{WalEvent, timestamp_from_postgres};
use super::page::{read_i64, read_u16, read_u32, read_u64};

/// Length of a record's header.
pub(super) const RECORD_HEADER: usize = 24;
/// How much of the header the checksum covers: all before the checksum itself.
pub(super) const CHECKED_HEADER: usize = 20;

const RMGR_XLOG: u8 = 0;
const RMGR_XACT: u8 = 1;

const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;
const XLOG_END_OF_RECOVERY: u8 = 0x90;

const XACT_COMMIT: u8 = 0x00;
const XACT_ABORT: u8 = 0x20;
const XACT_COMMIT_PREPARED: u8 = 0x30;
const XACT_ABORT_PREPARED: u8 = 0x40;
const XACT_HAS_INFO: u8 = 0x80;

const BLOCK_ID_DATA_SHORT: u8 = 255;
const BLOCK_ID_DATA_LONG: u8 = 254;
const BLOCK_ID_ORIGIN: u8 = 253;
const BLOCK_ID_TOPLEVEL_XID: u8 = 252;

/// A time and a name of 64 bytes: the longest run of fields that is read at once.
const RESTORE_POINT_BODY: usize = 72;

/// The header of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    /// Length of header and body.
    pub(super) total: u32,
    pub(super) xid: u32,
    /// Where the record before this one begins.
    pub(super) prev: Lsn,
    pub(super) info: u8,
    pub(super) rmgr: u8,
    pub(super) crc: u32,
}

impl RecordHeader {
    pub(super) fn parse(bytes: &[u8; RECORD_HEADER]) -> Option<Self> {
        let [info, rmgr] = read_u16(bytes, 16)?.to_le_bytes();
        Some(RecordHeader {
            total: read_u32(bytes, 0)?,
            xid: read_u32(bytes, 4)?,
            prev: Lsn(read_u64(bytes, 8)?),
            info,
            rmgr,
            crc: read_u32(bytes, CHECKED_HEADER)?,
        })
    }

    /// Whether the rest of the segment after this record is unused.
    pub(super) fn is_switch(&self) -> bool {
        self.rmgr == RMGR_XLOG && self.info & 0xF0 == XLOG_SWITCH
    }
}

/// What a record that is of interest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commit,
    Abort,
    CommitPrepared,
    AbortPrepared,
    RestorePoint,
    CheckpointShutdown,
    EndOfRecovery,
}

/// The field that is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    BlockId,
    Origin,
    TopLevelXid,
    ShortLength,
    LongLength,
    XactTime,
    XactInfo,
    /// One of [`XACT_PARTS`].
    XactCount(usize),
    PreparedXid,
    RestorePoint,
    Checkpoint,
    EndOfRecovery,
    Done,
}

/// The parts of a transaction's record that may stand before the id of a prepared one, in their order: flag, and size
/// of one item or, for the first, of the part itself.
const XACT_PARTS: [(u32, Item); 5] = [
    (1 << 0, Item::Once(8)),
    (1 << 1, Item::Each(4)),
    (1 << 2, Item::Each(12)),
    (1 << 8, Item::DroppedStatistics),
    (1 << 3, Item::Each(16)),
];
const XACT_HAS_TWOPHASE: u32 = 1 << 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Once(u64),
    Each(u64),
    DroppedStatistics,
}

/// Reads the body of one record of interest.
#[derive(Debug)]
pub(super) struct BodyReader {
    kind: Kind,
    version: u32,
    has_xact_info: bool,
    step: Step,
    buffer: [u8; RESTORE_POINT_BODY],
    have: usize,
    skip: u64,
    xact_info: u32,
    micros: i64,
    xid: u32,
    timeline: TimelineId,
    previous: TimelineId,
    name: String,
    malformed: bool,
}

impl BodyReader {
    /// A reader for the record's body; none when no index needs the record.
    pub(super) fn for_record(header: &RecordHeader, version: u32) -> Option<Self> {
        let kind = match (header.rmgr, header.info & 0xF0) {
            (RMGR_XLOG, XLOG_RESTORE_POINT) => Kind::RestorePoint,
            (RMGR_XLOG, XLOG_CHECKPOINT_SHUTDOWN) => Kind::CheckpointShutdown,
            (RMGR_XLOG, XLOG_END_OF_RECOVERY) => Kind::EndOfRecovery,
            (RMGR_XACT, info) => match info & 0x70 {
                XACT_COMMIT => Kind::Commit,
                XACT_ABORT => Kind::Abort,
                XACT_COMMIT_PREPARED => Kind::CommitPrepared,
                XACT_ABORT_PREPARED => Kind::AbortPrepared,
                _ => return None,
            },
            _ => return None,
        };
        Some(BodyReader {
            kind,
            version,
            has_xact_info: header.info & XACT_HAS_INFO != 0,
            step: Step::BlockId,
            buffer: [0; RESTORE_POINT_BODY],
            have: 0,
            skip: 0,
            xact_info: 0,
            micros: 0,
            xid: header.xid,
            timeline: TimelineId(0),
            previous: TimelineId(0),
            name: String::new(),
            malformed: false,
        })
    }

    /// Takes the next bytes of the body, in slices of any size.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while self.step != Step::Done && !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let need = self.need();
            let (taken, rest) = bytes.split_at((need - self.have).min(bytes.len()));
            if let Some(room) = self.buffer.get_mut(self.have..self.have + taken.len()) {
                room.copy_from_slice(taken);
            }
            self.have += taken.len();
            bytes = rest;
            if self.have == need {
                self.have = 0;
                self.step = self.take_field();
            }
        }
    }

    /// The event, once the whole body was fed; an error when the body did not have the fields.
    pub(super) fn finish(self, lsn_start: Lsn, lsn_end: Lsn) -> Result<WalEvent, Malformed> {
        if self.malformed || self.step != Step::Done {
            return Err(Malformed);
        }
        let time = timestamp_from_postgres(self.micros);
        let (xid, timeline, previous) = (self.xid, self.timeline, self.previous);
        Ok(match self.kind {
            Kind::Commit | Kind::CommitPrepared => WalEvent::Commit { xid, time, lsn_start, lsn_end },
            Kind::Abort | Kind::AbortPrepared => WalEvent::Abort { xid, time, lsn_start, lsn_end },
            Kind::RestorePoint => WalEvent::RestorePoint { name: self.name, time, lsn_start, lsn_end },
            Kind::CheckpointShutdown => WalEvent::CheckpointShutdown { timeline, previous, lsn_start, lsn_end },
            Kind::EndOfRecovery => WalEvent::EndOfRecovery { time, timeline, previous, lsn_start, lsn_end },
        })
    }

    /// How many bytes the present field has.
    fn need(&self) -> usize {
        match self.step {
            Step::BlockId | Step::ShortLength => 1,
            Step::Origin => 2,
            Step::TopLevelXid | Step::LongLength | Step::XactInfo | Step::XactCount(_) | Step::PreparedXid => 4,
            Step::XactTime => 8,
            Step::Checkpoint | Step::EndOfRecovery => 16,
            Step::RestorePoint => RESTORE_POINT_BODY,
            Step::Done => 0,
        }
    }

    /// Uses the field that is complete in the buffer and says which comes next.
    fn take_field(&mut self) -> Step {
        let [first, ..] = self.buffer;
        let number = read_u32(&self.buffer, 0).unwrap_or_default();
        match self.step {
            Step::BlockId => match first {
                BLOCK_ID_ORIGIN => Step::Origin,
                BLOCK_ID_TOPLEVEL_XID => Step::TopLevelXid,
                BLOCK_ID_DATA_SHORT => Step::ShortLength,
                BLOCK_ID_DATA_LONG => Step::LongLength,
                // None of these records refers to a block of a table.
                _ => self.give_up(),
            },
            Step::Origin | Step::TopLevelXid => Step::BlockId,
            Step::ShortLength | Step::LongLength => match self.kind {
                Kind::Commit | Kind::Abort | Kind::CommitPrepared | Kind::AbortPrepared => Step::XactTime,
                Kind::RestorePoint => Step::RestorePoint,
                Kind::CheckpointShutdown => Step::Checkpoint,
                Kind::EndOfRecovery => Step::EndOfRecovery,
            },
            Step::XactTime => {
                self.micros = read_i64(&self.buffer, 0).unwrap_or_default();
                match self.kind {
                    // The header of the second phase's record does not name the prepared transaction; its body does.
                    Kind::CommitPrepared | Kind::AbortPrepared if self.has_xact_info => Step::XactInfo,
                    Kind::CommitPrepared | Kind::AbortPrepared => self.give_up(),
                    _ => Step::Done,
                }
            }
            Step::XactInfo => {
                self.xact_info = number;
                self.after_part(0)
            }
            Step::XactCount(part) => {
                let each = match XACT_PARTS.get(part) {
                    Some((_, Item::Each(size))) => *size,
                    // PostgreSQL 18 widened the object's id.
                    Some((_, Item::DroppedStatistics)) => {
                        if self.version >= 18 {
                            16
                        } else {
                            12
                        }
                    }
                    _ => 0,
                };
                self.skip = u64::from(number) * each;
                self.after_part(part + 1)
            }
            Step::PreparedXid => {
                self.xid = number;
                Step::Done
            }
            Step::RestorePoint => {
                self.micros = read_i64(&self.buffer, 0).unwrap_or_default();
                let name = self.buffer.get(8..).unwrap_or_default();
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                self.name = String::from_utf8_lossy(name).into_owned();
                Step::Done
            }
            Step::Checkpoint | Step::EndOfRecovery => {
                self.micros = read_i64(&self.buffer, 0).unwrap_or_default();
                self.timeline = TimelineId(read_u32(&self.buffer, 8).unwrap_or_default());
                self.previous = TimelineId(read_u32(&self.buffer, 12).unwrap_or_default());
                Step::Done
            }
            Step::Done => Step::Done,
        }
    }

    /// The next part, from number `from` on, that the record says it has.
    fn after_part(&mut self, from: usize) -> Step {
        for (part, (flag, item)) in XACT_PARTS.iter().enumerate().skip(from) {
            if self.xact_info & flag == 0 {
                continue;
            }
            match item {
                Item::Once(size) => self.skip += size,
                Item::Each(_) | Item::DroppedStatistics => return Step::XactCount(part),
            }
        }
        if self.xact_info & XACT_HAS_TWOPHASE == 0 { self.give_up() } else { Step::PreparedXid }
    }

    fn give_up(&mut self) -> Step {
        self.malformed = true;
        Step::Done
    }
}

/// A record whose body does not have the fields of its kind.
#[derive(Debug)]
pub(super) struct Malformed;
