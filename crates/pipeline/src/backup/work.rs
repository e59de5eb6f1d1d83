//! What the threads of a backup work on, one extent at a time.
//!
//! Invariant: claims are numbered 0, 1, 2, … in path order and by offset within a file, whatever thread takes them, so that
//! everything behind them can be put back into that order.

use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::{Attributes, Timestamp};
use breakwater_engine::ExtentReader;
use breakwater_repository::format::FrameLocation;
use breakwater_repository::format::leaf::Extent;
use breakwater_repository::format::tree::TreeKind;
use tokio::sync::mpsc;

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
    pub(crate) kind: MetaKind,
}

/// The kind of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MetaKind {
    /// A file of this many bytes when it was listed.
    File { listed: u64 },
    /// Something without content.
    Other(TreeKind),
}

/// Neighbouring extents of one file, with what the base holds at their place.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) path: Arc<[u8]>,
    pub(crate) reader: Arc<dyn ExtentReader>,
    /// Number of the first extent within the file.
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// Bytes of the file when it was listed.
    pub(crate) listed: u64,
    /// What the base holds from the first extent on; may be shorter than the run.
    pub(crate) base: Vec<Extent>,
    /// The leaves in which the base holds it.
    pub(crate) base_leaves: Vec<FrameLocation>,
}

/// One piece of work in the queue.
#[derive(Debug)]
pub(crate) enum Work {
    /// An entry begins; for files its runs follow.
    Begin(Meta),
    /// Extents of the file begun last.
    Run(Run),
}

/// What a thread has claimed.
#[derive(Debug)]
pub(crate) enum Claim {
    Begin(Meta),
    /// Extent number `index` of the run.
    Extent {
        run: Arc<Run>,
        index: u64,
    },
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
                Work::Begin(meta) => return Some(inner.number(Claim::Begin(meta))),
                Work::Run(run) => inner.run = Some((Arc::new(run), 0)),
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

impl Run {
    /// Where extent number `index` of the run lies in the file, and how many bytes it has.
    pub(crate) fn span(&self, index: u64, extent_size: u32) -> (u64, usize) {
        let offset = (self.first + index) * u64::from(extent_size);
        let length = self.listed.saturating_sub(offset).min(u64::from(extent_size));
        (offset, usize::try_from(length).unwrap_or(0))
    }
}
