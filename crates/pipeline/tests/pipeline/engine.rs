//! A source in memory that follows the engine contract, and misbehaves on request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use breakwater_core::{Attributes, LogPosition, Timestamp, Xattrs};
use breakwater_engine::{
    BackupEnd, BackupSession, ChangedPages, Chunking, EngineError, EngineErrorKind, Entry, EntryKind, ExtentReader,
    ReadExtent, RecoveryRange, Settled, Unreadable,
};

use crate::tree::{Item, Node, Tree};

/// Ways in which a source behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// Bytes that a file has lost between listing and reading: path and length left.
    pub(crate) truncated: Option<(Vec<u8>, usize)>,
    /// A path whose page of this number is damaged.
    pub(crate) damaged: Option<(Vec<u8>, u64)>,
    /// A path whose reading fails.
    pub(crate) unreadable: Option<Vec<u8>>,
    /// Every read takes this long.
    pub(crate) slow: Option<Duration>,
    /// Entries that only the end knows.
    pub(crate) late: Tree,
    /// The end fails.
    pub(crate) fails_to_end: bool,
    /// The end needs the log up to here.
    pub(crate) needs_log: Option<LogPosition>,
    /// Pages of a path that may have changed; every other path's may all have.
    pub(crate) changed: Option<(Vec<u8>, ChangedPages)>,
    /// Files are cut where their content says.
    pub(crate) chunked: bool,
    /// Every file carries its content's hash as its stamp.
    pub(crate) stamped: bool,
    /// The backup goes on without what cannot be read.
    pub(crate) tolerant: bool,
    /// Extended attributes that the reader of a path brings; `None`: it cannot.
    pub(crate) xattrs: Option<(Vec<u8>, Option<Xattrs>)>,
    /// A path that says so often that it changed while it was read.
    pub(crate) restless: Option<(Vec<u8>, Arc<AtomicU64>)>,
}

/// A backup of a [`Tree`].
pub(crate) struct FakeSession {
    entries: VecDeque<Entry>,
    late: Vec<Entry>,
    behaviour: Behaviour,
    /// Bytes read so far.
    pub(crate) bytes_read: Arc<AtomicU64>,
    /// Whether the session was ended or dropped.
    pub(crate) gone: Arc<AtomicBool>,
}

impl FakeSession {
    pub(crate) fn new(tree: &Tree) -> FakeSession {
        FakeSession::behaving(tree, Behaviour::default())
    }

    pub(crate) fn behaving(tree: &Tree, behaviour: Behaviour) -> FakeSession {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let make = |(path, item): (&Vec<u8>, &Item)| entry(path, item, &behaviour, &bytes_read);
        let entries = tree.0.iter().map(make).collect();
        let late = behaviour.late.0.iter().map(make).collect();
        FakeSession { entries, late, behaviour, bytes_read, gone: Arc::default() }
    }
}

fn entry(path: &[u8], item: &Item, behaviour: &Behaviour, bytes_read: &Arc<AtomicU64>) -> Entry {
    let kind = match &item.node {
        Node::Directory => EntryKind::Directory,
        Node::Link(target) => EntryKind::Symlink { target: target.clone() },
        Node::File(content) => EntryKind::File {
            size: content.len() as u64,
            reader: Arc::new(Reader {
                path: path.to_vec(),
                content: Arc::clone(content),
                behaviour: behaviour.clone(),
                bytes_read: Arc::clone(bytes_read),
            }),
            chunking: if behaviour.chunked { Chunking::ContentDefined } else { Chunking::Extents },
            changed: behaviour.changed.clone().filter(|(changed, _)| changed == path).map(|(_, pages)| pages),
        },
    };
    let stamp = match &item.node {
        Node::File(content) if behaviour.stamped => {
            Some(breakwater_crypto::sha256(content).map(|byte| format!("{byte:02x}")).concat())
        }
        _ => None,
    };
    Entry {
        path: path.to_vec(),
        kind,
        mode: item.mode,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: Timestamp::from_micros(item.mtime),
        last: path.ends_with(b"pg_control"),
        attributes: Attributes::default(),
        stamp,
        tolerant: behaviour.tolerant,
    }
}

#[async_trait::async_trait]
impl BackupSession for FakeSession {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let count = limit.min(self.entries.len());
        Ok(self.entries.drain(..count).collect())
    }

    async fn finish(mut self: Box<Self>) -> Result<BackupEnd, EngineError> {
        if self.behaviour.fails_to_end {
            return Err(EngineError::new(EngineErrorKind::Conflict, "the source was promoted during the backup"));
        }
        let range = self.behaviour.needs_log.map(|end| RecoveryRange { start: LogPosition { offset: 0, ..end }, end });
        Ok(BackupEnd {
            entries: std::mem::take(&mut self.late),
            range,
            consistent_at: Timestamp::from_micros(1_795_179_038_000_123),
            facts: serde_json::json!({"engine": "fake"}),
            warnings: vec!["a warning of the engine".to_owned()],
            unreadable: Unreadable::default(),
        })
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Reader {
    path: Vec<u8>,
    content: Arc<Vec<u8>>,
    behaviour: Behaviour,
    bytes_read: Arc<AtomicU64>,
}

impl ExtentReader for Reader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        if self.behaviour.unreadable.as_ref() == Some(&self.path) {
            let what = format!("reading {}", self.path.escape_ascii());
            return Err(EngineError::new(EngineErrorKind::Denied, what));
        }
        if let Some(slow) = self.behaviour.slow {
            let until = Instant::now() + slow;
            while Instant::now() < until {
                std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
            }
        }
        let mut content = self.content.as_slice();
        if let Some((path, left)) = &self.behaviour.truncated
            && *path == self.path
        {
            content = &content[..*left];
        }
        let from = usize::try_from(offset).expect("small").min(content.len());
        let length = buffer.len().min(content.len() - from);
        buffer[..length].copy_from_slice(&content[from..from + length]);
        self.bytes_read.fetch_add(length as u64, Ordering::Relaxed);
        let damaged = self
            .behaviour
            .damaged
            .as_ref()
            .filter(|(path, page)| *path == self.path && (offset..offset + length as u64).contains(&(page * 8192)));
        Ok(ReadExtent { length, damaged_pages: damaged.map(|(_, page)| *page).into_iter().collect() })
    }

    fn xattrs(&self) -> Result<Option<Xattrs>, EngineError> {
        match self.behaviour.xattrs.as_ref().filter(|(path, _)| *path == self.path) {
            None => Ok(None),
            Some((_, Some(xattrs))) => Ok(Some(xattrs.clone())),
            Some((_, None)) => Err(EngineError::new(EngineErrorKind::Corrupt, "the attributes are damaged")),
        }
    }

    fn settle(&self) -> Result<Settled, EngineError> {
        let restless = self.behaviour.restless.as_ref().filter(|(path, _)| *path == self.path);
        let left = restless.map_or(0, |(_, left)| left.load(Ordering::SeqCst));
        if left == 0 {
            return Ok(Settled::Stable);
        }
        restless.inspect(|(_, left)| left.store(left.load(Ordering::SeqCst) - 1, Ordering::SeqCst));
        Ok(Settled::Changed { size: self.content.len() as u64 })
    }
}
