//! A log with a history: written by several writers, idle at times, cut by a switch of branches and by a gap.

use std::time::Duration;

use breakwater_core::{Clock as _, LogPosition, Timestamp, Watermark};
use breakwater_repository::format::log::{MarkKind, TransactionMark};
use breakwater_repository::stream::{StreamOptions, StreamWriter};
use breakwater_runtime::SystemClock;
use bytes::Bytes;

use crate::lab::{Lab, PATIENCE};
use crate::tree::{noise, text};

/// Segments end at multiples of this.
const SEGMENT: u64 = 1 << 16;

/// Where the log begins.
const BEGIN: u64 = 3 * SEGMENT;

/// Where branch 2 leaves branch 1, in mid-segment.
const FORK: u64 = 7 * SEGMENT + 12_345;

/// Where the log ends before the gap, and where it goes on.
const GAP: (u64, u64) = (9 * SEGMENT + 500, 12 * SEGMENT);

/// Where it ends.
const END: u64 = 13 * SEGMENT + 1000;

/// What the source has written; the bytes at an offset follow from it.
pub(crate) struct Written {
    parent: Vec<u8>,
    child: Vec<u8>,
}

impl Written {
    fn new() -> Written {
        let length = usize::try_from(END).unwrap();
        let parent = noise(100, length);
        let mut child = text(200, length);
        let fork = usize::try_from(FORK).unwrap();
        child[..fork].copy_from_slice(&parent[..fork]);
        Written { parent, child }
    }

    /// The log of a branch between two offsets.
    pub(crate) fn bytes(&self, branch: u32, start: u64, end: u64) -> Vec<u8> {
        let log = if branch == 1 { &self.parent } else { &self.child };
        log[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].to_vec()
    }

    /// Ranges that can be read: branch, start, end.
    pub(crate) fn readable(&self) -> Vec<(u32, u64, u64)> {
        let middle = 5 * SEGMENT + 700;
        vec![
            (1, BEGIN, FORK),
            (1, middle, middle + 1),
            (2, BEGIN, GAP.0),
            (2, FORK - 10, FORK + 10),
            (2, FORK, FORK + SEGMENT),
            (2, GAP.1, END),
            (2, END - 1, END),
        ]
    }

    /// Ranges that nobody can read: before the log begins, past the fork on the branch that ended, in the gap, after the end.
    pub(crate) fn missing(&self) -> Vec<(u32, u64, u64)> {
        vec![(1, 0, BEGIN), (1, FORK - 1, FORK + 1), (2, GAP.0, GAP.1), (2, GAP.0 - 1, GAP.1 + 1), (2, END, END + 1)]
    }
}

/// Writes it all into the stream of the lab's source.
pub(crate) async fn write(lab: &mut Lab) -> Written {
    let log = Written::new();
    // A first writer with segments, a tail, and the watermark of an idle source.
    let mut writer = begin(lab, LogPosition::new(1, BEGIN)).await;
    feed(&mut writer, &log, 1, BEGIN, 5 * SEGMENT + 300).await;
    flush(&mut writer).await;
    drop(writer);

    // The second receives the begun segment again, and leaves two tails behind each other.
    lab.restart();
    let mut writer = begin(lab, LogPosition::new(1, 5 * SEGMENT)).await;
    feed(&mut writer, &log, 1, 5 * SEGMENT, 5 * SEGMENT + 2000).await;
    flush(&mut writer).await;
    feed(&mut writer, &log, 1, 5 * SEGMENT + 2000, 5 * SEGMENT + 9000).await;
    flush(&mut writer).await;
    drop(writer);

    // The third takes a new session, and so a new generation, with every segment, and goes on with another branch.
    lab.restart();
    let options = StreamOptions { session_age: Duration::ZERO, ..options() };
    let mut writer = begin_with(lab, LogPosition::new(1, 5 * SEGMENT), options).await;
    feed(&mut writer, &log, 1, 5 * SEGMENT, FORK).await;
    writer.end_of_branch(LogPosition::new(1, FORK), 2, b"1\t0/7\tno recovery target specified\n").await.unwrap();
    feed(&mut writer, &log, 2, 7 * SEGMENT, GAP.0).await;
    flush(&mut writer).await;
    drop(writer);

    // The source could not keep all of it for the fourth.
    lab.restart();
    let mut writer = begin(lab, LogPosition::new(2, GAP.1)).await;
    feed(&mut writer, &log, 2, GAP.1, END).await;
    flush(&mut writer).await;
    let clock = SystemClock.now();
    writer.watermark(Watermark { clock, position: LogPosition::new(2, END) }).unwrap();
    writer.tick(Timestamp::from_micros(clock.as_micros() + 3_600_000_000)).await.unwrap();
    flush(&mut writer).await;
    assert!(lab.set.drained(PATIENCE).await, "{:#?}", lab.set.statuses());
    log
}

/// Tails are cut when this says so, not by the clock.
fn options() -> StreamOptions {
    StreamOptions { patience: PATIENCE, interval: Duration::from_secs(24 * 3600), ..StreamOptions::new(SEGMENT) }
}

async fn begin(lab: &Lab, start: LogPosition) -> StreamWriter {
    begin_with(lab, start, options()).await
}

async fn begin_with(lab: &Lab, start: LogPosition, options: StreamOptions) -> StreamWriter {
    let mut writer = StreamWriter::open(&lab.writer, &lab.set, lab.source, options).await.unwrap();
    writer.begin(start).await.unwrap();
    writer
}

/// The source sends its log in messages of odd sizes, with a commit in each.
async fn feed(writer: &mut StreamWriter, log: &Written, branch: u32, start: u64, end: u64) {
    let mut at = start;
    while at < end {
        let upto = end.min(at + 7001);
        let time = Timestamp::from_micros(1_795_000_000_000_000 + i64::try_from(upto).unwrap());
        let mark = TransactionMark { kind: MarkKind::Commit, time, xid: upto / 100, start: at, end: upto, name: None };
        let bytes = Bytes::from(log.bytes(branch, at, upto));
        writer.append(LogPosition::new(branch, at), bytes, vec![mark]).await.unwrap();
        writer.watermark(Watermark { clock: time, position: LogPosition::new(branch, upto) }).unwrap();
        at = upto;
    }
}

async fn flush(writer: &mut StreamWriter) {
    assert!(writer.flush(PATIENCE).await.unwrap(), "{:#?}", writer.status());
}
