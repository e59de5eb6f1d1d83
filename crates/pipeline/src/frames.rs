//! Reading what a snapshot is made of: the frames of its tree and its leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use breakwater_crypto::ChunkId;
use breakwater_repository::FrameReader;
use breakwater_repository::format::leaf::{self, Extent};
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::format::tree::{LeafRef, TreeDecoder, TreeEntry};
use breakwater_repository::format::{Class, FormatError, FrameLocation};

use crate::PipelineError;

/// Delivers single frames of structure, checked.
#[async_trait::async_trait]
pub(crate) trait Frames: Send + Sync {
    /// The chunk at `location`.
    async fn frame(&self, class: Class, location: &FrameLocation) -> Result<Vec<u8>, PipelineError>;
}

#[async_trait::async_trait]
impl Frames for FrameReader {
    async fn frame(&self, class: Class, location: &FrameLocation) -> Result<Vec<u8>, PipelineError> {
        let read = self.read(KeyKind::Structure, class, location.pack, &[*location]).await;
        let chunks = read.map_err(|error| PipelineError::repository("reading the structure of a snapshot", error))?;
        Ok(chunks.into_iter().next().map(Vec::from).unwrap_or_default())
    }
}

/// The entries of a snapshot in path order, one frame in memory at a time.
pub(crate) struct TreeReader {
    frames: Arc<dyn Frames>,
    tree: VecDeque<FrameLocation>,
    decoder: TreeDecoder,
    ready: VecDeque<TreeEntry>,
}

impl TreeReader {
    pub(crate) fn new(frames: Arc<dyn Frames>, tree: &[FrameLocation]) -> TreeReader {
        let tree = tree.iter().copied().collect();
        TreeReader { frames, tree, decoder: TreeDecoder::default(), ready: VecDeque::new() }
    }

    /// The next entry without taking it.
    pub(crate) async fn peek(&mut self) -> Result<Option<&TreeEntry>, PipelineError> {
        while self.ready.is_empty() {
            let Some(location) = self.tree.pop_front() else { return Ok(None) };
            let content = self.frames.frame(Class::Tree, &location).await?;
            self.ready.extend(self.decoder.frame(&content).map_err(bad)?);
        }
        Ok(self.ready.front())
    }

    /// The next entry.
    pub(crate) async fn next(&mut self) -> Result<Option<TreeEntry>, PipelineError> {
        self.peek().await?;
        Ok(self.ready.pop_front())
    }
}

/// Leaves read one after the other; neighbours often share one.
pub(crate) struct LeafReader {
    frames: Arc<dyn Frames>,
    recent: Option<(ChunkId, Arc<Vec<Extent>>)>,
}

impl LeafReader {
    pub(crate) fn new(frames: Arc<dyn Frames>) -> LeafReader {
        LeafReader { frames, recent: None }
    }

    /// The extents that `part` names.
    pub(crate) async fn extents(&mut self, part: &LeafRef) -> Result<Vec<Extent>, PipelineError> {
        let all = self.leaf(&part.leaf).await?;
        let (first, count) = (part.first as usize, part.count as usize);
        let named = first.checked_add(count).and_then(|end| all.get(first..end));
        named.map(<[Extent]>::to_vec).ok_or_else(|| {
            PipelineError::bad_tree(format!(
                "extents {first} to {} of the leaf {} do not exist",
                first + count,
                part.leaf.id
            ))
        })
    }

    async fn leaf(&mut self, location: &FrameLocation) -> Result<Arc<Vec<Extent>>, PipelineError> {
        if let Some((_, extents)) = self.recent.as_ref().filter(|(id, _)| *id == location.id) {
            return Ok(Arc::clone(extents));
        }
        let content = self.frames.frame(Class::Leaf, location).await?;
        let extents = Arc::new(leaf::decode(&content).map_err(bad)?);
        self.recent = Some((location.id, Arc::clone(&extents)));
        Ok(extents)
    }
}

fn bad(error: FormatError) -> PipelineError {
    PipelineError::Repository {
        doing: "reading the snapshot's tree".to_owned(),
        class: error.class(),
        source: Box::new(error),
    }
}
