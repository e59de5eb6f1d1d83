//! The snapshot that a backup compares with, read along in path order.
//!
//! Invariant: what cannot be read of the base costs a comparison, never the backup: from then on everything counts as new,
//! and the reason becomes a warning.

use std::sync::Arc;

use breakwater_core::{Chain, Xattrs};
use breakwater_repository::format::FrameLocation;
use breakwater_repository::format::leaf::Extent;
use breakwater_repository::format::tree::{LeafRef, TreeKind};

use crate::PipelineError;
use crate::frames::{Frames, LeafReader, TreeReader, leaves_of};

/// The base of a backup; `None` inside when there is none, or none any more.
pub(crate) struct Base {
    reading: Option<Reading>,
    warning: Option<String>,
}

struct Reading {
    tree: TreeReader,
    leaves: LeafReader,
}

/// Where the base keeps one file; read from the front to the back.
pub(crate) struct BaseFile {
    parts: std::collections::VecDeque<LeafRef>,
    /// Bytes.
    pub(crate) size: u64,
    /// The engine's token for its content.
    pub(crate) stamp: Option<String>,
    /// It was being changed when it was read.
    pub(crate) changed: bool,
    pub(crate) xattrs: Xattrs,
}

impl BaseFile {
    /// Extents that were not read yet.
    pub(crate) fn extents(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.count)).sum()
    }

    /// The leaves that hold them.
    pub(crate) fn leaves(&self) -> Vec<FrameLocation> {
        self.parts.iter().map(|part| part.leaf).collect()
    }
}

impl Base {
    /// No base: everything is new.
    pub(crate) fn none() -> Base {
        Base { reading: None, warning: None }
    }

    pub(crate) fn new(frames: &Arc<dyn Frames>, tree: &[FrameLocation]) -> Base {
        let reading =
            Reading { tree: TreeReader::new(Arc::clone(frames), tree), leaves: LeafReader::new(Arc::clone(frames)) };
        Base { reading: Some(reading), warning: None }
    }

    /// Why the base was given up.
    pub(crate) fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    /// The file at `path` in the base, if it is cut into extents of `extent_size`. Paths must be asked for in ascending order.
    pub(crate) async fn file(&mut self, path: &[u8], extent_size: u32) -> Option<BaseFile> {
        let found = self.find(path, extent_size).await;
        self.or_give_up(found).flatten()
    }

    async fn find(&mut self, path: &[u8], extent_size: u32) -> Result<Option<BaseFile>, PipelineError> {
        let Some(reading) = &mut self.reading else { return Ok(None) };
        while let Some(entry) = reading.tree.peek().await? {
            if entry.path.as_slice() > path {
                return Ok(None);
            }
            let is_it = entry.path == path;
            let Some(entry) = reading.tree.next().await? else { return Ok(None) };
            if is_it {
                return Ok(match entry.kind {
                    TreeKind::File { size, extent, leaves } if extent == extent_size => {
                        let (parts, stamp, changed) = (leaves.into(), entry.stamp, entry.changed);
                        Some(BaseFile { parts, size, stamp, changed, xattrs: entry.attributes.xattrs })
                    }
                    _ => None,
                });
            }
        }
        Ok(None)
    }

    /// The next `count` extents of a file of the base, fewer at its end, and the leaves that hold them.
    pub(crate) async fn extents(&mut self, file: &mut BaseFile, count: u64) -> (Vec<Extent>, Vec<FrameLocation>) {
        let (mut extents, mut leaves) = (Vec::new(), Vec::new());
        while let Some(part) = file.parts.front_mut() {
            let missing = count - extents.len() as u64;
            let take = u32::try_from(missing.min(u64::from(part.count))).unwrap_or(part.count);
            if take == 0 {
                break;
            }
            let wanted = LeafRef { count: take, ..*part };
            part.first += take;
            part.count -= take;
            if part.count == 0 {
                file.parts.pop_front();
            }
            let Some(reading) = &mut self.reading else { break };
            let next = file.parts.iter().chain(leaves_of(reading.tree.at_hand()));
            let read = reading.leaves.extents(&wanted, next).await;
            let Some(read) = self.or_give_up(read) else { break };
            extents.extend(read);
            leaves.push(wanted.leaf);
        }
        (extents, leaves)
    }

    fn or_give_up<T>(&mut self, result: Result<T, PipelineError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let text = format!(
                    "the last snapshot could not be compared with, so more was stored than needed: {}",
                    Chain(&error)
                );
                tracing::warn!("{text}");
                self.warning.get_or_insert(text);
                self.reading = None;
                None
            }
        }
    }
}
