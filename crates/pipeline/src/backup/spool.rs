//! Tree entries set aside until the engine has said which entries come late.
//!
//! Invariant: what goes in comes out in path order, and no more than a few MiB of it are in memory: the rest waits in a file
//! without a name, which is gone when this program is. Entries wait as the lines that the tree will have, so that nothing is
//! encoded twice.

use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use breakwater_repository::format::tree::{TreeEntry, TreeKind, encode_line};
use tempfile::SpooledTempFile;

use crate::PipelineError;

/// Bytes kept in memory before a file is used.
const IN_MEMORY: usize = 1 << 20;

/// Bytes that are written at once.
const PIECE: usize = 64 << 10;

/// Entries going in.
pub(crate) struct Spool {
    file: SpooledTempFile,
    waiting: Vec<u8>,
}

/// Entries coming out.
pub(crate) struct Spooled {
    file: BufReader<SpooledTempFile>,
    next: Option<Line>,
}

/// An entry as the tree will have it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) path: Vec<u8>,
    pub(crate) is_symlink: bool,
    /// Of a hard link, the file that it names.
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) bytes: Vec<u8>,
}

impl Spool {
    /// `directory` is where the file would be.
    pub(crate) fn new(directory: &Path) -> Spool {
        Spool { file: tempfile::spooled_tempfile_in(IN_MEMORY, directory), waiting: Vec::new() }
    }

    /// Adds an entry, whose path comes after all before it.
    pub(crate) fn push(&mut self, entry: &TreeEntry) -> Result<(), PipelineError> {
        let (kind, target) = match &entry.kind {
            TreeKind::Symlink { .. } => (1, &[][..]),
            TreeKind::Hardlink { target } => (2, &target[..]),
            _ => (0, &[][..]),
        };
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        self.waiting.push(kind);
        for part in [&entry.path, target] {
            self.waiting.extend_from_slice(&length(part.len()));
            self.waiting.extend_from_slice(part);
        }
        let before = self.waiting.len();
        self.waiting.extend_from_slice(&length(0));
        let line = self.waiting.len();
        encode_line(&mut self.waiting, entry).map_err(|error| PipelineError::bad_tree(error.to_string()))?;
        let encoded = length(self.waiting.len() - line);
        if let Some(place) = self.waiting.get_mut(before..line) {
            place.copy_from_slice(&encoded);
        }
        if self.waiting.len() >= PIECE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), PipelineError> {
        self.file.write_all(&self.waiting).map_err(failed)?;
        self.waiting.clear();
        Ok(())
    }

    /// Ends the writing.
    pub(crate) fn finish(mut self) -> Result<Spooled, PipelineError> {
        self.write()?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut spooled = Spooled { file: BufReader::with_capacity(PIECE, self.file), next: None };
        spooled.next = spooled.read()?;
        Ok(spooled)
    }
}

impl Spooled {
    fn take(&mut self) -> Result<Option<Line>, PipelineError> {
        let next = self.read()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn read(&mut self) -> Result<Option<Line>, PipelineError> {
        let mut kind = [0];
        match self.file.read_exact(&mut kind) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let [kind] = kind;
        let mut part = || -> Result<Vec<u8>, PipelineError> {
            let mut length = [0; 4];
            self.file.read_exact(&mut length).map_err(failed)?;
            let mut part = vec![0; u32::from_le_bytes(length) as usize];
            self.file.read_exact(&mut part).map_err(failed)?;
            Ok(part)
        };
        let (path, target, bytes) = (part()?, part()?, part()?);
        Ok(Some(Line { path, is_symlink: kind == 1, target: (kind == 2).then_some(target), bytes }))
    }
}

/// The next entry of two spools in path order. A late entry takes the place of one with the same path.
pub(crate) fn merged(early: &mut Spooled, late: &mut Spooled) -> Result<Option<Line>, PipelineError> {
    let order = match (&early.next, &late.next) {
        (None, None) => return Ok(None),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (Some(early), Some(late)) => early.path.cmp(&late.path),
    };
    if order == std::cmp::Ordering::Equal {
        early.take()?;
    }
    if order == std::cmp::Ordering::Less { early.take() } else { late.take() }
}

fn failed(error: std::io::Error) -> PipelineError {
    PipelineError::io("keeping the tree in a temporary file (hint: TMPDIR chooses the place)", error)
}

#[cfg(test)]
mod tests {
    use breakwater_core::{Attributes, Timestamp};
    use breakwater_repository::format::tree::TreeKind;

    use super::*;

    fn entry(path: &str, mode: u32) -> TreeEntry {
        let path = path.as_bytes().to_vec();
        TreeEntry {
            path,
            kind: TreeKind::Directory,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp(0),
            last: false,
            attributes: Attributes::default(),
            stamp: None,
            changed: false,
        }
    }

    fn spooled(entries: &[TreeEntry]) -> Spooled {
        let mut spool = Spool::new(&std::env::temp_dir());
        entries.iter().for_each(|entry| spool.push(entry).unwrap());
        spool.finish().unwrap()
    }

    #[test]
    fn two_spools_come_out_as_one_in_order() {
        let many: Vec<_> = (0..60_000).map(|n| entry(&format!("d/{n:08}"), 1)).collect();
        let mut early = spooled(&many);
        let mut late = spooled(&[entry("a", 2), entry("d/00000007", 2), entry("d/00000007x", 2), entry("z", 2)]);
        let mut all = Vec::new();
        while let Some(entry) = merged(&mut early, &mut late).unwrap() {
            all.push(entry);
        }
        assert_eq!(all.len(), 60_003);
        assert!(all.windows(2).all(|pair| pair[0].path < pair[1].path));
        let late = all.iter().filter(|line| String::from_utf8_lossy(&line.bytes).contains("\"mode\":2,"));
        assert_eq!(late.count(), 4, "the late one replaces");
    }
}
