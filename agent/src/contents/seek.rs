//! Finding a path in a tree without reading it whole: frames are in the order of paths, so half of them are out with each
//! look.

use breakwater_core::{Chain, SourceUid};
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::format::tree::{TreeDecoder, TreeEntry};
use breakwater_repository::{Class, FormatError, FrameLocation, FrameReader, Repository};

use crate::error::AgentError;

/// The frames of one tree.
pub(super) struct Tree {
    reader: FrameReader,
    frames: Vec<FrameLocation>,
}

impl Tree {
    pub(super) fn of(repository: &Repository, source: SourceUid, manifest: &Manifest) -> Tree {
        let reader = FrameReader::new(repository, source, repository.read_order());
        Tree { reader, frames: manifest.tree.clone() }
    }

    /// How many frames there are.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// What identifies the content of a frame: trees share the frames that did not change.
    pub(super) fn identity(&self, index: usize) -> Option<[u8; 32]> {
        self.frames.get(index).map(|frame| frame.id.0)
    }

    /// The entries of one frame, in the order of paths.
    pub(super) async fn frame(&self, index: usize) -> Result<Vec<TreeEntry>, AgentError> {
        let Some(location) = self.frames.get(index) else { return Ok(Vec::new()) };
        let read = self.reader.read(KeyKind::Structure, Class::Tree, location.pack, &[*location]).await;
        let content = read.map_err(AgentError::repository("reading the tree"))?.into_iter().next().unwrap_or_default();
        let entries = TreeDecoder::default().frame(&content);
        entries.map_err(|source| damaged(&format!("tree frame {}", location.id), &source))
    }

    /// The frame that `path` is in, if it is in any: the last one that does not begin after it.
    pub(super) async fn frame_of(&self, path: &[u8]) -> Result<usize, AgentError> {
        let (mut low, mut high) = (0, self.frames.len());
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            let first = self.frame(middle).await?.into_iter().next();
            if first.is_some_and(|first| first.path.as_slice() <= path) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The ids of the chunks of a file and their lengths: equal for equal content.
    pub(super) async fn content(&self, entry: &TreeEntry) -> Result<Vec<u8>, AgentError> {
        use breakwater_repository::format::leaf::{Extent, decode};
        use breakwater_repository::format::tree::TreeKind;
        let mut key = Vec::new();
        let TreeKind::File { leaves, .. } = &entry.kind else { return Ok(key) };
        for part in leaves {
            let read = self.reader.read(KeyKind::Structure, Class::Leaf, part.leaf.pack, &[part.leaf]).await;
            let bytes = read.map_err(AgentError::repository("reading a leaf"))?.into_iter().next().unwrap_or_default();
            let extents = decode(&bytes).map_err(|source| damaged(&format!("leaf {}", part.leaf.id), &source))?;
            for extent in extents.iter().skip(part.first as usize).take(part.count as usize) {
                key.extend_from_slice(&extent.plain().to_le_bytes());
                match extent {
                    Extent::Stored(location) => key.extend_from_slice(&location.id.0),
                    Extent::Zeros { id, .. } => key.extend_from_slice(&id.0),
                    Extent::Patched { base, patches } => {
                        key.extend_from_slice(&base.id.0);
                        for patch in patches {
                            key.extend_from_slice(&patch.offset.to_le_bytes());
                            key.extend_from_slice(&patch.length.to_le_bytes());
                            key.extend_from_slice(&patch.run.id.0);
                            key.extend_from_slice(&patch.run_offset.to_le_bytes());
                        }
                    }
                }
            }
        }
        Ok(key)
    }
}

fn damaged(what: &str, source: &FormatError) -> AgentError {
    AgentError::Corrupt(format!("{what} cannot be used: {} (hint: brctl repository check)", Chain(source)))
}
