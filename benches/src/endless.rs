//! A source of any size that costs nothing to read: its extents repeat, in an order that has no pattern to a pack.

use std::sync::Arc;

use breakwater_core::{Attributes, Timestamp};
use breakwater_engine::{
    BackupEnd, BackupSession, EngineError, Entry, EntryKind, ExtentReader, ReadExtent, Unreadable,
};

/// Different extents.
const DIFFERENT: u64 = 1 << 16;

/// Extents of one file.
const FILE: u64 = 1 << 13;

/// A read of such a source.
#[derive(Debug)]
pub struct Endless {
    next: u64,
    extents: u64,
    extent_size: u32,
}

impl Endless {
    /// A source of so many extents.
    pub const fn new(extents: u64, extent_size: u32) -> Endless {
        Endless { next: 0, extents, extent_size }
    }
}

#[async_trait::async_trait]
impl BackupSession for Endless {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let mut entries = Vec::new();
        while self.next < self.extents && entries.len() < limit {
            let count = (self.extents - self.next).min(FILE);
            let reader = Reader { first: self.next, extent_size: self.extent_size };
            entries.push(Entry {
                path: format!("{:012}", self.next).into_bytes(),
                kind: EntryKind::file(count * u64::from(self.extent_size), Arc::new(reader)),
                mode: 0o600,
                uid: 0,
                gid: 0,
                mtime: Timestamp(0),
                last: false,
                attributes: Attributes::default(),
                stamp: None,
                tolerant: false,
            });
            self.next += count;
        }
        Ok(entries)
    }

    async fn finish(self: Box<Self>) -> Result<BackupEnd, EngineError> {
        Ok(BackupEnd {
            entries: Vec::new(),
            range: None,
            consistent_at: Timestamp::from_micros(1_795_179_038_000_123),
            facts: serde_json::Value::Null,
            warnings: Vec::new(),
            unreadable: Unreadable::default(),
        })
    }
}

#[derive(Debug)]
struct Reader {
    first: u64,
    extent_size: u32,
}

impl ExtentReader for Reader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        for (part, number) in
            buffer.chunks_mut(self.extent_size as usize).zip(self.first + offset / u64::from(self.extent_size)..)
        {
            let seed = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % DIFFERENT + 1;
            part.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&seed.to_le_bytes()));
        }
        Ok(ReadExtent { length: buffer.len(), damaged_pages: Vec::new() })
    }
}
