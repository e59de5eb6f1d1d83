//! An engine whose source is a tree in memory.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use breakwater_core::{Attributes, Timestamp};
use breakwater_engine::{
    BackupEnd, BackupSession, Chunking, EngineError, Entry, EntryKind, ExtentReader, ReadExtent, Unreadable,
};

use crate::tree::{How, Item, Node, Tree};

/// A backup of a [`Tree`].
pub(crate) struct TreeSession(VecDeque<Entry>);

impl TreeSession {
    /// Its files belong to whoever owns `owner`, so that everybody may restore them.
    pub(crate) fn new(tree: &Tree, owner: &Path) -> TreeSession {
        let owner = std::fs::metadata(owner).unwrap();
        TreeSession(tree.0.iter().map(|(path, item)| entry(path, item, &tree.1, (owner.uid(), owner.gid()))).collect())
    }
}

fn entry(path: &[u8], item: &Item, how: &How, (uid, gid): (u32, u32)) -> Entry {
    let kind = match &item.node {
        Node::File(_) if how.hard_links.contains_key(path) => {
            EntryKind::Hardlink { target: how.hard_links[path].clone() }
        }
        Node::File(content) if how.content_defined.contains(path) || how.changed.contains_key(path) => {
            let chunking = if how.changed.contains_key(path) { Chunking::Extents } else { Chunking::ContentDefined };
            let (size, reader) = (content.len() as u64, Arc::new(Reader(Arc::clone(content))));
            EntryKind::File { size, reader, chunking, changed: how.changed.get(path).cloned() }
        }
        Node::Fifo => EntryKind::Fifo,
        Node::Directory => EntryKind::Directory,
        Node::Link(target) => EntryKind::Symlink { target: target.clone() },
        Node::File(content) => EntryKind::file(content.len() as u64, Arc::new(Reader(Arc::clone(content)))),
    };
    let last = path.ends_with(b"pg_control");
    Entry {
        path: path.to_vec(),
        kind,
        mode: item.mode,
        uid,
        gid,
        mtime: Timestamp::from_micros(item.mtime),
        last,
        attributes: Attributes::default(),
        stamp: None,
        tolerant: false,
    }
}

#[async_trait::async_trait]
impl BackupSession for TreeSession {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let count = limit.min(self.0.len());
        Ok(self.0.drain(..count).collect())
    }

    async fn finish(self: Box<Self>) -> Result<BackupEnd, EngineError> {
        Ok(BackupEnd {
            entries: Vec::new(),
            range: None,
            consistent_at: Timestamp::from_micros(1_795_179_038_000_123),
            facts: serde_json::json!({"engine": "tree"}),
            warnings: Vec::new(),
            unreadable: Unreadable::default(),
        })
    }
}

#[derive(Debug)]
struct Reader(Arc<Vec<u8>>);

impl ExtentReader for Reader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        let from = usize::try_from(offset).unwrap().min(self.0.len());
        let length = buffer.len().min(self.0.len() - from);
        buffer[..length].copy_from_slice(&self.0[from..from + length]);
        Ok(ReadExtent { length, damaged_pages: Vec::new() })
    }
}
