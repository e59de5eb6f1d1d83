//! What the threads of a backup work on: a batch of small entries, an extent of a large file, or a stretch of one.
//!
//! Invariant: claims are numbered 0, 1, 2, … in path order and by offset within a file, whatever thread takes them, so that
//! everything behind them can be put back into that order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use breakwater_core::{Attributes, Timestamp};
use breakwater_engine::{ChangedPages, Chunking, ExtentReader};
use breakwater_repository::format::FrameLocation;
use breakwater_repository::format::leaf::Extent;
use breakwater_repository::format::tree::TreeKind;
use tokio::sync::mpsc;

use super::assemble::ReadXattrs;

/// Bytes of a large file with content-defined chunks that one thread reads in one go; a chunk ends there. What a shift moves
/// across such an end costs one chunk of it.
pub(crate) const SEGMENT: u64 = 64 << 20;

/// What an entry is, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) last: bool,
    pub(crate) attributes: Attributes,
    pub(crate) stamp: Option<String>,
    pub(crate) tolerant: bool,
    pub(crate) kind: MetaKind,
}

/// The kind of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetaKind {
    /// A file.
    File,
    /// Something without content.
    Other(TreeKind),
}

/// One entry that is done in one go.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) meta: Meta,
    /// `None` for what has no content.
    pub(crate) content: Option<Content>,
}

/// The bytes of a file: how to get at them, and what the base holds.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) reader: Arc<dyn ExtentReader>,
    /// Bytes of the file when it was listed.
    pub(crate) listed: u64,
    pub(crate) chunking: Chunking,
    pub(crate) sparse: bool,
    /// The pages that may differ from the base, where the engine knows.
    pub(crate) changed: Option<ChangedPages>,
    /// The base has the same file: nothing is read.
    pub(crate) kept: bool,
    /// What the base holds from the first byte on; may be shorter than the file.
    pub(crate) base: Vec<Extent>,
    /// The leaves in which the base holds it.
    pub(crate) base_leaves: Vec<FrameLocation>,
}

/// A file that several threads may read at once.
#[derive(Debug)]
pub(crate) struct Large {
    pub(crate) path: Arc<[u8]>,
    pub(crate) reader: Arc<dyn ExtentReader>,
    pub(crate) listed: u64,
    pub(crate) chunking: Chunking,
    pub(crate) tolerant: bool,
    pub(crate) sparse: bool,
    /// Claims that are not done yet.
    left: AtomicU64,
    /// Why the file is left out.
    failed: OnceLock<String>,
    /// It changed while it was read.
    changed: AtomicBool,
    /// Its size then.
    size: AtomicU64,
    /// The base has the same file: its attributes are known.
    pub(crate) kept: bool,
    attributes: OnceLock<ReadXattrs>,
}

impl Large {
    pub(crate) fn new(path: &[u8], content: &Content, tolerant: bool, claims: u64) -> Large {
        Large {
            path: path.into(),
            reader: Arc::clone(&content.reader),
            listed: content.listed,
            chunking: content.chunking,
            tolerant,
            sparse: content.sparse,
            left: AtomicU64::new(claims),
            failed: OnceLock::new(),
            changed: AtomicBool::new(false),
            size: AtomicU64::new(content.listed),
            kept: content.kept,
            attributes: OnceLock::new(),
        }
    }

    /// One claim is done; true for the last one.
    pub(crate) fn done_with_one(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(crate) fn fail(&self, reason: String) {
        // The first reason is the one to tell.
        drop(self.failed.set(reason));
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    pub(crate) fn note_attributes(&self, attributes: ReadXattrs) {
        // They are read once.
        drop(self.attributes.set(attributes));
    }

    /// What its reader brought.
    pub(crate) fn attributes(&self) -> ReadXattrs {
        self.attributes.get().cloned().unwrap_or(Ok(None))
    }

    pub(crate) fn note_change(&self, size: u64) {
        self.size.store(size, Ordering::Release);
        self.changed.store(true, Ordering::Release);
    }

    /// The size that the file has now, if it changed while it was read.
    pub(crate) fn change(&self) -> Option<u64> {
        self.changed.load(Ordering::Acquire).then(|| self.size.load(Ordering::Acquire))
    }
}

/// How a stretch of a large file is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each extent is a claim.
    Extents,
    /// One claim: only these bytes of the file may differ from the base.
    Pages(Vec<std::ops::Range<u64>>),
    /// One claim: cut where the content says.
    Chunks(std::ops::Range<u64>),
    /// One claim without reading: as in the base.
    Kept,
}

/// Neighbouring extents of one file, with what the base holds at their place.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) file: Arc<Large>,
    /// Number of the first extent within the file.
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) mode: Mode,
    /// What the base holds from the first extent on; may be shorter than the run.
    pub(crate) base: Vec<Extent>,
    /// The leaves in which the base holds it.
    pub(crate) base_leaves: Vec<FrameLocation>,
}

/// One piece of work in the queue.
#[derive(Debug)]
pub(crate) enum Work {
    /// Entries that one thread does one after the other.
    Batch(Vec<Item>),
    /// A large file begins; its runs follow.
    Begin(Meta, Arc<Large>),
    /// A stretch of the file begun last.
    Run(Run),
}

/// What a thread has claimed.
#[derive(Debug)]
pub(crate) enum Claim {
    Batch(Vec<Item>),
    Begin(Meta, Arc<Large>),
    /// Extent number `index` of the run.
    Extent {
        run: Arc<Run>,
        index: u64,
    },
    /// All of the run.
    Run(Arc<Run>),
}

/// The end of the queue that all threads take from.
#[derive(Debug)]
pub(crate) struct Claims {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    run: Option<(Arc<Run>, u64)>,
    queue: mpsc::Receiver<Work>,
}

impl Claims {
    pub(crate) fn new(queue: mpsc::Receiver<Work>) -> Claims {
        Claims { inner: Mutex::new(Inner { next: 0, run: None, queue }) }
    }

    /// The next claim and its number; `None` at the end of the queue. Blocks the thread.
    pub(crate) fn take(&self) -> Option<(u64, Claim)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((run, index)) = inner.run.take()
                && index < run.count
            {
                inner.run = Some((Arc::clone(&run), index + 1));
                return Some(inner.number(Claim::Extent { run, index }));
            }
            match inner.queue.blocking_recv()? {
                Work::Batch(items) => return Some(inner.number(Claim::Batch(items))),
                Work::Begin(meta, file) => return Some(inner.number(Claim::Begin(meta, file))),
                Work::Run(run) if run.mode == Mode::Extents => inner.run = Some((Arc::new(run), 0)),
                Work::Run(run) => return Some(inner.number(Claim::Run(Arc::new(run)))),
            }
        }
    }
}

impl Inner {
    fn number(&mut self, claim: Claim) -> (u64, Claim) {
        let number = self.next;
        self.next += 1;
        (number, claim)
    }
}

/// Where extent number `index` of a file of `size` bytes lies, and how many bytes it has.
pub(crate) fn span(index: u64, size: u64, extent_size: u32) -> (u64, usize) {
    let offset = index * u64::from(extent_size);
    let length = size.saturating_sub(offset).min(u64::from(extent_size));
    (offset, usize::try_from(length).unwrap_or(0))
}
