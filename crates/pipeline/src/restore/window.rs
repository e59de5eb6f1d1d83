//! A stretch of the tree that is restored at once: files, and the extents to fetch for them.

use std::collections::HashMap;

use breakwater_repository::format::leaf::Extent;
use breakwater_repository::format::{FrameLocation, PackId};

use super::plan::{Fetch, Need, plan};
use super::target::Attributes;
use crate::PipelineError;

/// Extents of one window at most: 8 GiB of content at 128 KiB, 6 MiB of memory.
const EXTENTS_MAX: usize = 1 << 16;

/// Files of one window at most.
const FILES_MAX: usize = 1 << 13;

/// A file with extents in the window.
#[derive(Debug)]
pub(crate) struct WindowFile {
    /// Where it is written; not yet its right name when it comes last.
    pub(crate) path: Vec<u8>,
    pub(crate) attributes: Attributes,
    /// All its extents are in this window or were in an earlier one.
    pub(crate) complete: bool,
}

/// Where one extent goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) location: FrameLocation,
}

/// Files and extents collected so far.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) files: Vec<WindowFile>,
    pub(crate) destinations: Vec<Destination>,
    /// Bytes of zeros, which are holes in the files already.
    pub(crate) zeros: u64,
}

/// A window with its fetches planned.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) files: Vec<WindowFile>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) packs: Vec<PackId>,
    pub(crate) needs: Vec<Need>,
    pub(crate) fetches: Vec<Fetch>,
}

impl Window {
    pub(crate) fn is_full(&self) -> bool {
        self.destinations.len() >= EXTENTS_MAX || self.files.len() >= FILES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a file; its extents follow.
    pub(crate) fn file(&mut self, path: Vec<u8>, attributes: Attributes) {
        self.files.push(WindowFile { path, attributes, complete: false });
    }

    /// All extents of the file added last are known.
    pub(crate) fn complete(&mut self) {
        if let Some(file) = self.files.last_mut() {
            file.complete = true;
        }
    }

    /// Adds an extent of the file added last, at `offset` in it.
    pub(crate) fn extent(&mut self, offset: u64, extent: &Extent) -> Result<(), PipelineError> {
        match extent {
            Extent::Patched { .. } => {
                return Err(PipelineError::bad_tree("an extent has patches, which this program does not restore yet"));
            }
            Extent::Zeros { plain, .. } => self.zeros += u64::from(*plain),
            Extent::Stored(location) => {
                let file = u32::try_from(self.files.len().saturating_sub(1)).unwrap_or(u32::MAX);
                self.destinations.push(Destination { file, offset, location: *location });
            }
        }
        Ok(())
    }

    /// Plans the fetches, in ranges of at most `largest` bytes.
    pub(crate) fn plan(self, largest: u64) -> Planned {
        let mut numbers: HashMap<PackId, u32> = HashMap::new();
        let mut packs = Vec::new();
        let mut needs: Vec<Need> = Vec::with_capacity(self.destinations.len());
        for (extent, destination) in (0..).zip(&self.destinations) {
            let location = &destination.location;
            let pack = *numbers.entry(location.pack).or_insert_with(|| {
                packs.push(location.pack);
                u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
            });
            let range = location.range();
            let length = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
            needs.push(Need { pack, offset: location.offset, length, extent });
        }
        let fetches = plan(&mut needs, largest);
        Planned { files: self.files, destinations: self.destinations, packs, needs, fetches }
    }
}
