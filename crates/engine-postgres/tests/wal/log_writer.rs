//! Writes a log as PostgreSQL 15 lays it out, so that the scanner meets every kind of boundary in every place.

use breakwater_core::{Lsn, TimelineId};
use breakwater_engine_postgres::wal::event::timestamp_from_postgres;
use breakwater_engine_postgres::wal::{SegmentSize, WalEvent};

pub(crate) const SYSTEM_ID: u64 = 7_000_000_000_000_000_001;
const PAGE: u64 = 8192;

/// What to append to a log.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A record of no interest with a body of this length.
    Filler(usize),
    Commit {
        xid: u32,
        micros: i64,
        with_origin: bool,
        long: bool,
    },
    Abort {
        xid: u32,
        micros: i64,
    },
    /// The second phase of a prepared transaction, with this many of each thing before its id.
    CommitPrepared {
        xid: u32,
        micros: i64,
        items: u16,
    },
    RestorePoint {
        name: String,
        micros: i64,
    },
    Switch,
}

/// A log from the start of a segment, and the events that a scanner must find in it.
pub(crate) struct LogWriter {
    pub(crate) bytes: Vec<u8>,
    pub(crate) start: Lsn,
    pub(crate) events: Vec<WalEvent>,
    size: SegmentSize,
    prev: Lsn,
}

impl LogWriter {
    pub(crate) fn new(segno: u64, size: SegmentSize) -> Self {
        LogWriter { bytes: Vec::new(), start: size.start_of(segno), events: Vec::new(), size, prev: Lsn(0) }
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    /// Begins the log inside a record of which `left` bytes are on its pages.
    pub(crate) fn begin_inside_record(&mut self, left: usize) {
        self.put(&vec![0xAB; left], true);
        self.pad();
    }

    pub(crate) fn append(&mut self, entry: &Entry) {
        match entry {
            Entry::Filler(length) => {
                self.record(7, 10, 0, &vec![0x5A; *length]);
            }
            Entry::Commit { xid, micros, with_origin, long } => {
                let mut body = if *with_origin { vec![253, 1, 0] } else { Vec::new() };
                let mut data = micros.to_le_bytes().to_vec();
                if *long {
                    // Flags, then 100 ids of subtransactions.
                    data.extend([2, 0, 0, 0, 100, 0, 0, 0]);
                    data.resize(data.len() + 400, 1);
                }
                body.extend(main_data(&data));
                let (lsn_start, lsn_end) = self.record(*xid, 1, if *long { 0x80 } else { 0 }, &body);
                let time = timestamp_from_postgres(*micros);
                self.events.push(WalEvent::Commit { xid: *xid, time, lsn_start, lsn_end });
            }
            Entry::Abort { xid, micros } => {
                let (lsn_start, lsn_end) = self.record(*xid, 1, 0x20, &main_data(&micros.to_le_bytes()));
                let time = timestamp_from_postgres(*micros);
                self.events.push(WalEvent::Abort { xid: *xid, time, lsn_start, lsn_end });
            }
            Entry::CommitPrepared { xid, micros, items } => {
                let mut data = micros.to_le_bytes().to_vec();
                // Database, subtransactions, relations, dropped statistics, invalidations, prepared id, its name.
                data.extend((1_u32 | 2 | 4 | 256 | 8 | 16 | 128).to_le_bytes());
                data.extend([9; 8]);
                for each in [4, 12, 12, 16] {
                    data.extend(u32::from(*items).to_le_bytes());
                    data.resize(data.len() + usize::from(*items) * each, 9);
                }
                data.extend(xid.to_le_bytes());
                data.extend(b"gid\0");
                let (lsn_start, lsn_end) = self.record(0, 1, 0x80 | 0x30, &main_data(&data));
                let time = timestamp_from_postgres(*micros);
                self.events.push(WalEvent::Commit { xid: *xid, time, lsn_start, lsn_end });
            }
            Entry::RestorePoint { name, micros } => {
                let mut data = micros.to_le_bytes().to_vec();
                data.extend(name.bytes());
                data.resize(72, 0);
                let (lsn_start, lsn_end) = self.record(0, 0, 0x70, &main_data(&data));
                let time = timestamp_from_postgres(*micros);
                self.events.push(WalEvent::RestorePoint { name: name.clone(), time, lsn_start, lsn_end });
            }
            Entry::Switch => {
                self.record(0, 0, 0x40, &[]);
                let left = (self.size.bytes() - self.size.offset_of(self.end())) % self.size.bytes();
                self.bytes.resize(self.bytes.len() + usize::try_from(left).unwrap(), 0);
            }
        }
    }

    /// Leaves a record unfinished at the end of its page, as a crash does, and goes on as recovery does.
    pub(crate) fn give_up_a_record(&mut self) {
        self.page_if_due(0, 0);
        let room = usize::try_from(PAGE - self.end().0 % PAGE).unwrap();
        let mut part = vec![0x77; room];
        part[..4].copy_from_slice(&100_000_u32.to_le_bytes());
        if room >= 16 {
            let upto = room.min(16);
            part[8..upto].copy_from_slice(&self.prev.0.to_le_bytes()[..upto - 8]);
        }
        self.bytes.extend(part);
        self.page_if_due(8, 0);
    }

    /// Appends one record and answers where it begins and ends.
    fn record(&mut self, xid: u32, rmgr: u8, info: u8, body: &[u8]) -> (Lsn, Lsn) {
        self.page_if_due(0, 0);
        let start = self.end();
        let mut bytes = u32::try_from(24 + body.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(xid.to_le_bytes());
        bytes.extend(self.prev.0.to_le_bytes());
        bytes.extend([info, rmgr, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &bytes);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(body);
        self.put(&bytes, false);
        self.pad();
        self.prev = start;
        (start, self.end())
    }

    fn put(&mut self, mut bytes: &[u8], mut inside: bool) {
        while !bytes.is_empty() {
            if inside {
                self.page_if_due(1, u32::try_from(bytes.len()).unwrap());
            }
            let room = usize::try_from(PAGE - self.end().0 % PAGE).unwrap();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.bytes.extend(now);
            bytes = later;
            inside = true;
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn page_if_due(&mut self, flags: u16, continued: u32) {
        let at = self.end();
        if !at.0.is_multiple_of(PAGE) {
            return;
        }
        let first = self.size.offset_of(at) == 0;
        self.bytes.extend(0xD110_u16.to_le_bytes());
        self.bytes.extend((flags | if first { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(TimelineId(1).0.to_le_bytes());
        self.bytes.extend(at.0.to_le_bytes());
        self.bytes.extend(continued.to_le_bytes());
        self.bytes.extend([0; 4]);
        if first {
            self.bytes.extend(SYSTEM_ID.to_le_bytes());
            self.bytes.extend(u32::try_from(self.size.bytes()).unwrap().to_le_bytes());
            self.bytes.extend(u32::try_from(PAGE).unwrap().to_le_bytes());
        }
    }
}

fn main_data(data: &[u8]) -> Vec<u8> {
    let mut bytes = match u8::try_from(data.len()) {
        Ok(length) => vec![255, length],
        Err(_) => {
            let mut bytes = vec![254];
            bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            bytes
        }
    };
    bytes.extend(data);
    bytes
}
