//! Reading one file of a backup.

use std::fmt::Debug;

use breakwater_core::Xattrs;

use crate::EngineError;

/// The answer of one read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadExtent {
    /// Bytes read; fewer than asked only where the file ends now (it was truncated or removed meanwhile, which the log
    /// replays).
    pub length: usize,
    /// Page numbers (within the file) whose checksum is wrong although they did not change between two reads.
    pub damaged_pages: Vec<u64>,
}

/// Whether what was read is one state of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is, or the engine's log makes it one.
    Stable,
    /// The file was changed since it was listed, or since the answer before this one: what was read may be of two states.
    /// Read again from the beginning, `size` bytes, and ask again.
    Changed {
        /// Bytes that the file has now.
        size: u64,
    },
}

/// Reads one file, from any thread, in any order. Blocking.
///
/// A reader opens its file at the first read and may keep it open until [`settle`](Self::settle), so whoever has read the
/// last byte asks that once, and then drops the reader.
pub trait ExtentReader: Send + Sync + Debug {
    /// Fills `buffer` with the bytes from `offset`. A file that is gone or may not be read is an error of kind
    /// [`NotFound`](crate::EngineErrorKind::NotFound) or [`Denied`](crate::EngineErrorKind::Denied) where nothing replays
    /// its loss.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError>;

    /// How many bytes from `offset` are known to be zeros without reading them: the rest of a hole. An upper bound is the
    /// listed size; 0 where the engine does not know, which [`read_at`](Self::read_at) answers too.
    fn zeros_at(&self, offset: u64) -> Result<u64, EngineError> {
        let _ = offset;
        Ok(0)
    }

    /// The extended attributes, where the listing did not bring them: reading them through the open file is cheaper, and those of
    /// a file that did not change since the base, by its stamp, are the base's. Asked once, after the last byte was read and
    /// before [`settle`](Self::settle), and only of a file that has content and is read; so whoever gives a stamp stands for
    /// the attributes too.
    fn xattrs(&self) -> Result<Option<Xattrs>, EngineError> {
        Ok(None)
    }

    /// Says, after the last byte was read, whether all that was read since the first byte is one state of the file. Lets
    /// go of the file; a read after that opens it again.
    fn settle(&self) -> Result<Settled, EngineError> {
        Ok(Settled::Stable)
    }
}
