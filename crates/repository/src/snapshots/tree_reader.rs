//! The entries of a snapshot, a frame at a time: memory does not grow with the number of files.

use breakwater_core::SourceUid;
use bytes::Bytes;

use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::leaf::Extent;
use crate::format::manifest::Manifest;
use crate::format::pack::KeyKind;
use crate::format::tree::{LeafRef, TreeDecoder, TreeEntry};
use crate::format::{Class, FrameLocation};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots;

/// Reads a tree from its first entry to its last. Structure only: a writer's key is enough.
#[derive(Debug)]
pub struct TreeReader {
    frames: FrameReader,
    decoder: TreeDecoder,
    rest: std::vec::IntoIter<FrameLocation>,
}

impl TreeReader {
    /// A reader of the tree of `manifest`, from the regions in `order`.
    pub fn new(repository: &Repository, order: ReadOrder, manifest: &Manifest) -> Self {
        Self::with_frames(FrameReader::new(repository, manifest.source.uid, order), manifest)
    }

    /// The same with a reader of frames that exists already.
    pub fn with_frames(frames: FrameReader, manifest: &Manifest) -> Self {
        frames.lean_on(&manifest.leans);
        TreeReader { frames, decoder: TreeDecoder::default(), rest: manifest.tree.clone().into_iter() }
    }

    /// The source.
    pub const fn source(&self) -> SourceUid {
        self.frames.source()
    }

    /// The entries of the next frame, in path order; `None` after the last frame. Paths are checked: all stay inside the
    /// target, also those of later frames.
    pub async fn next(&mut self) -> Result<Option<Vec<TreeEntry>>, RepositoryError> {
        let Some(location) = self.rest.next() else { return Ok(None) };
        let content: Vec<Bytes> = self.frames.read(KeyKind::Structure, Class::Tree, location.pack, &[location]).await?;
        let content = content.into_iter().next().unwrap_or_default();
        let entries = self.decoder.frame(&content);
        entries.map(Some).map_err(|source| RepositoryError::format(format!("tree frame {}", location.id), source))
    }

    /// The extents of a file that one leaf lists.
    pub async fn leaf_extents(&self, leaf: &LeafRef) -> Result<Vec<Extent>, RepositoryError> {
        snapshots::leaf_extents(&self.frames, leaf).await
    }
}
