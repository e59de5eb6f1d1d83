//! The bytes of one file: opened at the first read, let go of when settled.
//!
//! Invariant: what was read between opening and a `Stable` answer is one state of the file, the one that was listed or the one
//! that the last `Changed` has announced.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::Xattrs;
use breakwater_engine::{EngineError, EngineErrorKind, ExtentReader, ReadExtent, Settled};
use rustix::io::Errno;

use crate::beneath;
use crate::look::{self, Identity, Kind};
use crate::xattrs;

/// Reads one file beneath a root.
#[derive(Debug)]
pub(crate) struct FileReader {
    root: Arc<OwnedFd>,
    /// Relative to the root.
    path: Box<[u8]>,
    /// Where holes are to be looked for.
    sparse: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Option<Arc<OwnedFd>>,
    /// The state that reading is to find.
    expected: Identity,
}

impl FileReader {
    /// A reader for the file at `path` beneath `root`, which was `listed` so.
    pub(crate) fn new(root: &Arc<OwnedFd>, path: &[u8], listed: Identity, sparse: bool) -> FileReader {
        let state = Mutex::new(State { file: None, expected: listed });
        FileReader { root: Arc::clone(root), path: path.into(), sparse, state }
    }

    fn file(&self) -> Result<Arc<OwnedFd>, EngineError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &state.file {
            return Ok(Arc::clone(file));
        }
        let file = beneath::file(self.root.as_fd(), &self.path).map_err(|error| self.failed("open", error))?;
        // What took the file's place must not be read: a device would answer.
        let now = look::of(file.as_fd()).map_err(|error| self.failed("look at", error))?;
        if now.kind != Kind::File {
            let what = format!("not a file any more: {}", self.path.escape_ascii());
            return Err(EngineError::new(EngineErrorKind::NotFound, what));
        }
        let file = Arc::new(file);
        state.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn failed(&self, doing: &str, error: Errno) -> EngineError {
        let what = format!("cannot {doing} {}", self.path.escape_ascii());
        let kind = match error {
            // A link or a directory in the place of the file, or of a directory above it.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE => EngineErrorKind::NotFound,
            Errno::ACCESS | Errno::PERM => EngineErrorKind::Denied,
            Errno::IO | Errno::BADMSG | Errno::UCLEAN => EngineErrorKind::Corrupt,
            other => return EngineError::io(what, other.into()),
        };
        EngineError::new(kind, what).because(std::io::Error::from(error))
    }

    /// Where the next data begins, from `offset` on; `None` when there is none any more.
    fn data_from(&self, file: &OwnedFd, offset: u64) -> Result<Option<u64>, EngineError> {
        match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(Some(offset)),
            Err(error) => Err(self.failed("look for holes of", error)),
        }
    }

    fn read_through(&self, file: &OwnedFd, offset: u64, buffer: &mut [u8]) -> Result<usize, EngineError> {
        let mut length = 0;
        while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(file, rest, offset + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
        Ok(length)
    }
}

impl ExtentReader for FileReader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        let file = self.file()?;
        let zeros = if self.sparse { self.zeros_at(offset)? } else { 0 };
        let zeros = usize::try_from(zeros).unwrap_or(usize::MAX).min(buffer.len());
        let (hole, rest) = buffer.split_at_mut(zeros);
        hole.fill(0);
        let read = self.read_through(&file, offset + zeros as u64, rest)?;
        Ok(ReadExtent { length: zeros + read, damaged_pages: Vec::new() })
    }

    fn zeros_at(&self, offset: u64) -> Result<u64, EngineError> {
        if !self.sparse {
            return Ok(0);
        }
        let file = self.file()?;
        let size = look::of(file.as_fd()).map_err(|error| self.failed("look at", error))?.identity.size;
        let data = self.data_from(&file, offset)?.unwrap_or(size);
        Ok(data.min(size).saturating_sub(offset))
    }

    fn xattrs(&self) -> Result<Option<Xattrs>, EngineError> {
        let file = self.file()?;
        xattrs::of(file.as_fd()).map(Some).map_err(|error| self.failed("read the attributes of", error))
    }

    fn settle(&self) -> Result<Settled, EngineError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing was read: an empty file, or one that the caller did not need.
        let Some(file) = state.file.take() else { return Ok(Settled::Stable) };
        let now = look::of(file.as_fd()).map_err(|error| self.failed("look at", error))?.identity;
        if now == state.expected {
            return Ok(Settled::Stable);
        }
        state.expected = now;
        Ok(Settled::Changed { size: now.size })
    }
}
