//! Tree entries set aside until the engine has said which entries come late.
//!
//! Invariant: what goes in comes out in path order, and no more than a few MiB of it are in memory: the rest waits in a file
//! without a name, which is gone when this program is.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use breakwater_repository::format::tree::{TreeDecoder, TreeEncoder, TreeEntry};
use tempfile::SpooledTempFile;

use crate::PipelineError;

/// Bytes kept in memory before a file is used.
const IN_MEMORY: usize = 4 << 20;

/// Entries going in.
pub(crate) struct Spool {
    file: SpooledTempFile,
    encoder: TreeEncoder,
}

/// Entries coming out.
pub(crate) struct Spooled {
    file: SpooledTempFile,
    decoder: TreeDecoder,
    ready: VecDeque<TreeEntry>,
}

impl Spool {
    /// `directory` is where the file would be.
    pub(crate) fn new(directory: &Path) -> Spool {
        let file = tempfile::spooled_tempfile_in(IN_MEMORY, directory);
        Spool { file, encoder: TreeEncoder::default() }
    }

    /// Adds an entry, whose path comes after all before it.
    pub(crate) fn push(&mut self, entry: &TreeEntry) -> Result<(), PipelineError> {
        match self.encoder.push(entry).map_err(|source| bad(&source))? {
            Some(frame) => write(&mut self.file, &frame),
            None => Ok(()),
        }
    }

    /// Ends the writing.
    pub(crate) fn finish(self) -> Result<Spooled, PipelineError> {
        let Spool { mut file, encoder } = self;
        if let Some(frame) = encoder.finish() {
            write(&mut file, &frame)?;
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(Spooled { file, decoder: TreeDecoder::default(), ready: VecDeque::new() })
    }
}

impl Spooled {
    /// The next entry without taking it.
    fn peek(&mut self) -> Result<Option<&TreeEntry>, PipelineError> {
        while self.ready.is_empty() {
            let mut length = [0; 8];
            match self.file.read_exact(&mut length) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
            let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
            let mut frame = vec![0; length];
            self.file.read_exact(&mut frame).map_err(failed)?;
            self.ready.extend(self.decoder.frame(&frame).map_err(|source| bad(&source))?);
        }
        Ok(self.ready.front())
    }

    fn take(&mut self) -> Option<TreeEntry> {
        self.ready.pop_front()
    }
}

/// The next entry of two spools in path order. A late entry takes the place of one with the same path.
pub(crate) fn merged(early: &mut Spooled, late: &mut Spooled) -> Result<Option<TreeEntry>, PipelineError> {
    let order = match (early.peek()?, late.peek()?) {
        (None, None) => return Ok(None),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (Some(early), Some(late)) => early.path.cmp(&late.path),
    };
    if order == std::cmp::Ordering::Equal {
        early.take();
    }
    Ok(if order == std::cmp::Ordering::Less { early.take() } else { late.take() })
}

fn write(file: &mut SpooledTempFile, frame: &[u8]) -> Result<(), PipelineError> {
    file.write_all(&(frame.len() as u64).to_le_bytes()).and_then(|()| file.write_all(frame)).map_err(failed)
}

fn failed(error: std::io::Error) -> PipelineError {
    PipelineError::io("keeping the tree in a temporary file (hint: TMPDIR chooses the place)", error)
}

fn bad(error: &breakwater_repository::format::FormatError) -> PipelineError {
    PipelineError::bad_tree(error.to_string())
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
        assert_eq!(all.iter().filter(|entry| entry.mode == 2).count(), 4, "the late one replaces");
    }
}
