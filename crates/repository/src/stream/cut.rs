//! Cutting what is received into segments and tails. Pure.
//!
//! Invariant: the segments of a branch hold every byte received on it once; a tail holds bytes of the segment that is not
//! full yet, from where the tail before it ended.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use breakwater_core::{LogPosition, Timestamp, Watermark};

use super::piece::describe;
use crate::format::log::{SegmentFooter, TransactionMark};
use crate::format::names::LogRange;

/// A piece that was cut.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) bytes: Vec<Bytes>,
    pub(super) marks: Vec<TransactionMark>,
    pub(super) footer: SegmentFooter,
    pub(super) watermarks: Vec<Watermark>,
    /// Tails that the piece covers; only of a segment.
    pub(super) covers: Vec<String>,
}

/// The segment being received.
#[derive(Debug)]
pub(super) struct Cutter {
    segment_size: u64,
    branch: u32,
    start: u64,
    at: u64,
    parts: Vec<Bytes>,
    marks: Vec<TransactionMark>,
    watermarks: Vec<(Timestamp, u64)>,
    /// Seen at the source, carried by no object yet; oldest first.
    pending: Vec<Watermark>,
    hasher: Sha256,
    chain: [u8; 32],
    tail_start: u64,
    tail_hasher: Sha256,
    tail_chain: [u8; 32],
    covers: Vec<String>,
}

impl Cutter {
    /// A cutter of a stream that begins at `start`, with the chain value there.
    pub(super) fn new(segment_size: u64, start: LogPosition, chain: [u8; 32]) -> Cutter {
        Cutter {
            segment_size,
            branch: start.branch,
            start: start.offset,
            at: start.offset,
            parts: Vec::new(),
            marks: Vec::new(),
            watermarks: Vec::new(),
            pending: Vec::new(),
            hasher: Sha256::new(),
            chain,
            tail_start: start.offset,
            tail_hasher: Sha256::new(),
            tail_chain: chain,
            covers: Vec::new(),
        }
    }

    /// The bytes up to `held` are stored as tails already; `chain` is the chain value there and `covers` their names.
    pub(super) fn resume(&mut self, held: u64, chain: [u8; 32], covers: Vec<String>) {
        self.tail_start = held.max(self.start);
        self.tail_chain = chain;
        self.covers = covers;
    }

    /// Where the next byte comes from.
    pub(super) fn position(&self) -> LogPosition {
        LogPosition::new(self.branch, self.at)
    }

    /// The chain value before the current segment, and where that begins.
    pub(super) fn boundary(&self) -> (LogPosition, [u8; 32]) {
        (LogPosition::new(self.branch, self.start), self.chain)
    }

    /// Bytes received that no tail holds.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.at.saturating_sub(self.tail_start)
    }

    /// How many bytes the current segment still takes.
    pub(super) fn room(&self) -> u64 {
        self.boundary_after() - self.at
    }

    fn boundary_after(&self) -> u64 {
        (self.start - self.start % self.segment_size).saturating_add(self.segment_size)
    }

    /// Takes bytes; at most [`room`](Self::room).
    pub(super) fn push(&mut self, bytes: Bytes) {
        let end = self.at + bytes.len() as u64;
        self.hasher.update(&bytes);
        if end > self.tail_start {
            let skip = usize::try_from(self.tail_start.saturating_sub(self.at)).unwrap_or(usize::MAX);
            self.tail_hasher.update(bytes.get(skip..).unwrap_or_default());
        }
        self.at = end;
        self.parts.push(bytes);
    }

    /// Takes an index entry whose record ends within the segment.
    pub(super) fn mark(&mut self, mark: TransactionMark) {
        self.marks.push(mark);
    }

    pub(super) fn watermark(&mut self, watermark: Watermark) {
        // A clock that went back says nothing new.
        if self.pending.last().is_none_or(|last| last.clock < watermark.clock) {
            // Of one position only the newest is of use.
            if self.pending.last().is_some_and(|last| last.position == watermark.position) {
                self.pending.pop();
            }
            self.pending.push(watermark);
        }
    }

    /// The newest watermark that no object carries and whose position was received.
    pub(super) fn newest_watermark(&self) -> Option<Watermark> {
        self.pending.iter().rev().find(|watermark| watermark.position <= self.position()).copied()
    }

    /// The idle mark of that watermark was written.
    pub(super) fn carried(&mut self, upto: Timestamp) {
        self.pending.retain(|watermark| watermark.clock > upto);
    }

    /// Takes the watermarks that the piece up to now can carry.
    fn carry(&mut self) -> Vec<Watermark> {
        let position = self.position();
        let (ready, later) = self.pending.drain(..).partition::<Vec<_>, _>(|item| item.position <= position);
        self.pending = later;
        let here = ready.iter().filter(|item| item.position.branch == self.branch);
        self.watermarks.extend(here.map(|item| (item.clock, item.position.offset)));
        ready
    }

    /// Cuts a tail of what no tail holds yet; `name` gives its name to what covers it.
    pub(super) fn cut_tail(&mut self, name: impl FnOnce(LogRange) -> String) -> Option<Cut> {
        if self.pending_bytes() == 0 {
            return None;
        }
        let range = LogRange { branch: self.branch, start: self.tail_start, end: self.at };
        let ready = self.carry();
        let marks = self.marks.iter().filter(|mark| mark.end > range.start).cloned().collect::<Vec<_>>();
        let digest = std::mem::take(&mut self.tail_hasher).finalize().into();
        let carried = ready.iter().filter(|item| item.position.branch == self.branch);
        let carried = carried.map(|item| (item.clock, item.position.offset)).collect::<Vec<_>>();
        let footer = describe(range, digest, self.tail_chain, &carried, &marks);
        let bytes = self.slice(range.start);
        self.tail_start = self.at;
        self.tail_chain = footer.chain;
        self.covers.push(name(range));
        Some(Cut { bytes, marks, footer, watermarks: ready, covers: Vec::new() })
    }

    /// Cuts the segment where it stands and begins the next one there; none when it holds nothing.
    pub(super) fn cut_segment(&mut self) -> Option<Cut> {
        if self.at == self.start {
            return None;
        }
        let range = LogRange { branch: self.branch, start: self.start, end: self.at };
        self.carry();
        let marks = std::mem::take(&mut self.marks);
        let digest = std::mem::take(&mut self.hasher).finalize().into();
        let carried = std::mem::take(&mut self.watermarks);
        let footer = describe(range, digest, self.chain, &carried, &marks);
        let watermark = |(clock, offset): &(Timestamp, u64)| Watermark {
            clock: *clock,
            position: LogPosition::new(range.branch, *offset),
        };
        let watermarks = footer.watermarks.iter().map(watermark).collect();
        let bytes = std::mem::take(&mut self.parts);
        let covers = std::mem::take(&mut self.covers);
        self.begin(self.at, footer.chain);
        Some(Cut { bytes, marks, footer, watermarks, covers })
    }

    /// The branch goes on as `next` from the segment boundary at or below where it stands.
    pub(super) fn fork(&mut self, next: u32) -> LogPosition {
        let start = self.at - self.at % self.segment_size;
        self.branch = next;
        self.begin(start, self.chain);
        self.at = start;
        self.position()
    }

    fn begin(&mut self, start: u64, chain: [u8; 32]) {
        self.start = start;
        self.chain = chain;
        // A segment that ends inside of what older tails hold is one of a branch that ended: they are of no use on.
        self.tail_start = start;
        self.tail_hasher = Sha256::new();
        self.tail_chain = chain;
        self.hasher = Sha256::new();
        self.parts.clear();
        self.marks.clear();
        self.watermarks.clear();
    }

    /// The received bytes of the segment from `from` on.
    fn slice(&self, from: u64) -> Vec<Bytes> {
        let mut at = self.start;
        let mut slice = Vec::new();
        for part in &self.parts {
            let end = at + part.len() as u64;
            if end > from {
                let skip = usize::try_from(from.saturating_sub(at)).unwrap_or(usize::MAX);
                slice.push(part.slice(skip.min(part.len())..));
            }
            at = end;
        }
        slice
    }
}
