//! A source whose entries are given one by one, with everything that an entry can carry.

use std::sync::Arc;

use breakwater_core::{Attributes, Timestamp};
use breakwater_engine::{BackupEnd, BackupSession, Chunking, EngineError, Entry, EntryKind, ExtentReader, ReadExtent};

/// A backup of these entries.
pub(crate) struct Shelf(pub(crate) Vec<Entry>);

#[async_trait::async_trait]
impl BackupSession for Shelf {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let count = limit.min(self.0.len());
        Ok(self.0.drain(..count).collect())
    }

    async fn finish(self: Box<Self>) -> Result<BackupEnd, EngineError> {
        Ok(BackupEnd {
            entries: Vec::new(),
            range: None,
            consistent_at: Timestamp(1_795_179_038_000_123),
            facts: serde_json::json!({}),
            warnings: Vec::new(),
            unreadable: breakwater_engine::Unreadable::default(),
        })
    }
}

#[derive(Debug)]
struct Memory(Vec<u8>);

impl ExtentReader for Memory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        let from = usize::try_from(offset).expect("small").min(self.0.len());
        let length = buffer.len().min(self.0.len() - from);
        buffer[..length].copy_from_slice(&self.0[from..from + length]);
        Ok(ReadExtent { length, damaged_pages: Vec::new() })
    }
}

pub(crate) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o640,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: Timestamp(1_700_000_000_123_456),
        last: false,
        attributes: Attributes::default(),
        stamp: None,
        tolerant: false,
    }
}

pub(crate) fn file(path: &str, content: Vec<u8>, chunking: Chunking) -> Entry {
    let size = content.len() as u64;
    entry(path, EntryKind::File { size, reader: Arc::new(Memory(content)), chunking, changed: None })
}
