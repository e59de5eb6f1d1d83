//! A directory of files read through the engine contract, by the thinnest engine there can be.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use breakwater_core::{Attributes, Timestamp};
use breakwater_engine::{
    BackupEnd, BackupSession, EngineError, Entry, EntryKind, ExtentReader, ReadExtent, Unreadable,
};

/// A read of the files of one directory.
#[derive(Debug)]
pub struct Directory {
    entries: VecDeque<Entry>,
}

impl Directory {
    /// The files directly in `root`.
    pub fn open(root: &Path) -> std::io::Result<Directory> {
        let names = std::fs::read_dir(root)?.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
        names.sort_unstable();
        let entries = names.iter().map(|name| entry(&root.join(name))).collect::<std::io::Result<_>>()?;
        Ok(Directory { entries })
    }
}

fn entry(path: &Path) -> std::io::Result<Entry> {
    let meta = std::fs::metadata(path)?;
    Ok(Entry {
        path: path.file_name().unwrap_or_default().to_string_lossy().into_owned().into_bytes(),
        kind: EntryKind::file(meta.len(), Arc::new(Reader { path: path.to_owned(), file: OnceLock::new() })),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: Timestamp::from_micros(meta.mtime() * 1_000_000 + meta.mtime_nsec() / 1000),
        last: false,
        attributes: Attributes::default(),
        stamp: None,
        tolerant: false,
    })
}

#[async_trait::async_trait]
impl BackupSession for Directory {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        let count = limit.min(self.entries.len());
        Ok(self.entries.drain(..count).collect())
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
    path: PathBuf,
    /// Opened at the first read.
    file: OnceLock<File>,
}

impl ExtentReader for Reader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        let open = match self.file.get() {
            Some(file) => file,
            None => {
                let opened = File::open(&self.path);
                let opened = opened.map_err(|error| EngineError::io("opening a file of the benchmark", error))?;
                self.file.get_or_init(|| opened)
            }
        };
        let mut length = 0;
        while length < buffer.len() {
            let read = open.read_at(&mut buffer[length..], offset + length as u64);
            match read.map_err(|error| EngineError::io("reading a file of the benchmark", error))? {
                0 => break,
                count => length += count,
            }
        }
        Ok(ReadExtent { length, damaged_pages: Vec::new() })
    }
}
