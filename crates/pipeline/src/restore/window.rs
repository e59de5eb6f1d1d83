//! A stretch of the tree that is restored at once: files, and the chunks to fetch for them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use breakwater_repository::format::leaf::Extent;
use breakwater_repository::format::pack::PackKey;
use breakwater_repository::format::{Class, FrameLocation, PackId};

use super::attributes::Metadata;
use super::plan::{Fetch, Need, plan};

/// Extents of one window at most: 8 GiB of content at 128 KiB, 8 MiB of memory.
const EXTENTS_MAX: usize = 1 << 16;

/// Files of one window at most.
const FILES_MAX: usize = 1 << 13;

/// A file with content in the window.
#[derive(Debug)]
pub(crate) struct WindowFile {
    pub(crate) path: Vec<u8>,
    pub(crate) metadata: Metadata,
    pub(crate) size: u64,
    /// Gets its right name when everything else is done.
    pub(crate) last: bool,
    /// Nothing of it was in an earlier window.
    pub(crate) begins: bool,
    /// Nothing of it is in a later window.
    pub(crate) complete: bool,
    /// What is written into it, by index.
    pub(crate) destinations: Range<usize>,
    /// Its stretches of zeros, by index.
    pub(crate) zeros: Range<usize>,
}

/// Some bytes of one chunk, and where they go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    pub(crate) file: u32,
    pub(crate) class: Class,
    /// All of the chunk, and it alone is the extent: what lies there can be compared with its id.
    pub(crate) whole: bool,
    /// Where the bytes go in the file.
    pub(crate) offset: u64,
    /// Where they begin in the chunk.
    pub(crate) from: u32,
    pub(crate) length: u32,
    pub(crate) location: FrameLocation,
    /// Index of the key that opens it.
    pub(crate) key: u32,
}

/// A stretch of zeros, which is a hole in a new file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zeros {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What was collected so far.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Directories, parents first.
    pub(crate) directories: Vec<Vec<u8>>,
    pub(crate) files: Vec<WindowFile>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) zeros: Vec<Zeros>,
}

/// A window with its fetches planned.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) files: Vec<WindowFile>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) keys: Vec<Arc<PackKey>>,
    pub(crate) packs: Vec<PackId>,
    pub(crate) needs: Vec<Need>,
    pub(crate) fetches: Vec<Fetch>,
}

impl Window {
    pub(crate) fn is_full(&self) -> bool {
        self.destinations.len() >= EXTENTS_MAX
            || self.files.len() >= FILES_MAX
            || self.directories.len() >= FILES_MAX
            || self.zeros.len() >= EXTENTS_MAX
    }

    /// Nothing in it was begun in an earlier window.
    pub(crate) fn stands_alone(&self) -> bool {
        self.files.first().is_none_or(|file| file.begins)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty()
    }

    /// Adds a file; its extents follow.
    pub(crate) fn file(&mut self, path: Vec<u8>, metadata: Metadata, size: u64, last: bool, begins: bool) {
        let destinations = self.destinations.len()..self.destinations.len();
        let zeros = self.zeros.len()..self.zeros.len();
        self.files.push(WindowFile { path, metadata, size, last, begins, complete: false, destinations, zeros });
    }

    /// All extents of the file added last are known.
    pub(crate) fn complete(&mut self) {
        if let Some(file) = self.files.last_mut() {
            file.complete = true;
        }
    }

    /// Adds an extent of the file added last, at `offset` in it; whole chunks have the class `class`.
    pub(crate) fn extent(&mut self, offset: u64, extent: &Extent, class: Class) {
        let Some(last) = self.files.len().checked_sub(1) else { return };
        let file = u32::try_from(last).unwrap_or(u32::MAX);
        let pieces = extent.pieces(class);
        if pieces.is_empty() && extent.plain() > 0 {
            let length = u64::from(extent.plain());
            match self.zeros.last_mut().filter(|zeros| zeros.offset + zeros.length == offset) {
                Some(zeros) if self.files.last().is_some_and(|file| !file.zeros.is_empty()) => zeros.length += length,
                _ => self.zeros.push(Zeros { offset, length }),
            }
        }
        let whole = extent.patches().is_empty();
        for piece in pieces {
            self.destinations.push(Destination {
                file,
                class: piece.class,
                whole,
                offset: offset + u64::from(piece.at),
                from: piece.offset,
                length: piece.length,
                location: piece.frame,
                key: 0,
            });
        }
        if let Some(file) = self.files.last_mut() {
            file.destinations.end = self.destinations.len();
            file.zeros.end = self.zeros.len();
        }
    }

    /// Plans the fetches of all destinations but those that are `kept`, in ranges of at most `largest` bytes.
    pub(crate) fn plan(self, keys: Vec<Arc<PackKey>>, kept: &[bool], largest: u64) -> Planned {
        let mut numbers: HashMap<PackId, u32> = HashMap::new();
        let mut packs = Vec::new();
        let mut needs: Vec<Need> = Vec::with_capacity(self.destinations.len());
        for (index, destination) in self.destinations.iter().enumerate() {
            if kept.get(index).copied().unwrap_or(false) {
                continue;
            }
            let location = &destination.location;
            let pack = *numbers.entry(location.pack).or_insert_with(|| {
                packs.push(location.pack);
                u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
            });
            let range = location.range();
            let length = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
            let extent = u32::try_from(index).unwrap_or(u32::MAX);
            needs.push(Need { pack, offset: location.offset, length, extent });
        }
        let fetches = plan(&mut needs, largest);
        Planned { files: self.files, destinations: self.destinations, keys, packs, needs, fetches }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::Timestamp;

    use super::*;

    #[test]
    fn a_window_that_goes_on_with_a_file_does_not_stand_alone() {
        let metadata = Metadata { mode: 0o600, uid: 0, gid: 0, mtime: Timestamp(0), more: None };
        let with = |begins| {
            let mut window = Window::default();
            window.file(b"a".to_vec(), metadata.clone(), 1, false, begins);
            window.file(b"b".to_vec(), metadata.clone(), 1, false, true);
            window.stands_alone()
        };
        assert!(with(true) && !with(false));
        assert!(Window::default().stands_alone(), "directories alone");
    }
}
