//! What a backup stores: entries with their metadata, and what could not be read of them.

use std::ops::Range;
use std::sync::Arc;

use breakwater_core::{Attributes, DeviceNumber, Timestamp};

use crate::ExtentReader;

/// Paths that [`Unreadable`] names; more are only counted.
const UNREADABLE_NAMED: usize = 100;

/// How a file's bytes are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunking {
    /// Into extents of the size that the request named: for files whose bytes stay where they are.
    #[default]
    Extents,
    /// Where the content says: for files in which bytes move, such as documents.
    ContentDefined,
}

/// The only pages of a file that may differ from the base. Asked for again by nobody: an engine that is not sure says
/// `None` instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedPages {
    /// Bytes of a page.
    pub page_size: u32,
    /// Numbers of pages, ascending, not overlapping.
    pub ranges: Vec<Range<u64>>,
}

/// What one entry is.
#[derive(Clone, Debug)]
pub enum EntryKind {
    /// A file of about `size` bytes (the size when it was listed: reading may find less, more is not asked for unless
    /// [`ExtentReader::settle`] says that there is more).
    File {
        /// Bytes when listed.
        size: u64,
        /// Reads its bytes.
        reader: Arc<dyn ExtentReader>,
        /// How they are cut.
        chunking: Chunking,
        /// The pages that may differ from the base, where the engine knows.
        changed: Option<ChangedPages>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and its target bytes.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// Another name of a file that was listed before.
    Hardlink {
        /// The path of that entry, which is a file and comes before this one.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
}

impl EntryKind {
    /// A file cut into extents, any of which may have changed: what engines of databases list.
    pub fn file(size: u64, reader: Arc<dyn ExtentReader>) -> EntryKind {
        EntryKind::File { size, reader, chunking: Chunking::Extents, changed: None }
    }
}

/// One thing to store, with the metadata that a restore puts back.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Path relative to the source's root: bytes, `/` between parts, no empty, `.` or `..` part.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Put in place last by a restore, so that half a restore can never start (PostgreSQL: `global/pg_control`).
    pub last: bool,
    /// More metadata, for file trees.
    pub attributes: Attributes,
    /// A token of this engine's making. When the base holds this path with an equal one, its content is the same and need
    /// not be read. Only an engine that can promise that sets it.
    pub stamp: Option<String>,
    /// The backup goes on without this entry when it has vanished or cannot be read, and says so.
    pub tolerant: bool,
}

/// One path that is not in the backup although it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadablePath {
    /// Where, as [`Entry::path`]. A directory stands for all in it.
    pub path: Vec<u8>,
    /// Why, for people.
    pub reason: String,
}

/// What could not be read: how much, and examples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// How many paths.
    pub count: u64,
    /// The first hundred.
    pub paths: Vec<UnreadablePath>,
}

impl Unreadable {
    /// Notes one path.
    pub fn note(&mut self, path: Vec<u8>, reason: impl Into<String>) {
        self.count += 1;
        if self.paths.len() < UNREADABLE_NAMED {
            self.paths.push(UnreadablePath { path, reason: reason.into() });
        }
    }

    /// Adds what `other` holds.
    pub fn add(&mut self, other: Unreadable) {
        self.count += other.count;
        let room = UNREADABLE_NAMED.saturating_sub(self.paths.len());
        self.paths.extend(other.paths.into_iter().take(room));
    }
}
