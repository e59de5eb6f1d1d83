//! Reading what a snapshot is made of: the frames of its tree and its leaves.
//!
//! Both are read a little ahead: a region may be far away, and a tree of small files has a leaf for every few dozen of them.
//!
//! Invariant: what could not be read ahead is an error only for whoever needs it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use breakwater_crypto::ChunkId;
use breakwater_repository::FrameReader;
use breakwater_repository::format::leaf::{self, Extent};
use breakwater_repository::format::pack::KeyKind;
use breakwater_repository::format::tree::{LeafRef, TreeDecoder, TreeEntry, TreeKind};
use breakwater_repository::format::{Class, FormatError, FrameLocation};
use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use crate::PipelineError;

/// Bytes of leaves that are read at once.
const LEAVES_AHEAD: u64 = 1 << 20;

/// Delivers frames of structure, checked.
#[async_trait::async_trait]
pub(crate) trait Frames: Send + Sync {
    /// The chunks at `locations`, which lie in one pack, in this order.
    async fn frames(&self, class: Class, locations: &[FrameLocation]) -> Result<Vec<Bytes>, PipelineError>;
}

#[async_trait::async_trait]
impl Frames for FrameReader {
    async fn frames(&self, class: Class, locations: &[FrameLocation]) -> Result<Vec<Bytes>, PipelineError> {
        let Some(first) = locations.first() else { return Ok(Vec::new()) };
        let read = self.read(KeyKind::Structure, class, first.pack, locations).await;
        read.map_err(|error| PipelineError::repository("reading the structure of a snapshot", error))
    }
}

/// The entries of a snapshot in path order, two frames in memory at a time.
pub(crate) struct TreeReader {
    /// Missing while the next frame is on its way, and after the last.
    rest: Option<Rest>,
    ahead: Option<AbortOnDropHandle<Result<(Vec<TreeEntry>, Rest), PipelineError>>>,
    ready: VecDeque<TreeEntry>,
}

/// The frames that were not read yet.
struct Rest {
    frames: Arc<dyn Frames>,
    tree: VecDeque<FrameLocation>,
    decoder: TreeDecoder,
}

impl TreeReader {
    pub(crate) fn new(frames: Arc<dyn Frames>, tree: &[FrameLocation]) -> TreeReader {
        let rest = Rest { frames, tree: tree.iter().copied().collect(), decoder: TreeDecoder::default() };
        TreeReader { rest: Some(rest), ahead: None, ready: VecDeque::new() }
    }

    /// A reader of entries that are all at hand.
    pub(crate) fn of(ready: VecDeque<TreeEntry>) -> TreeReader {
        TreeReader { rest: None, ahead: None, ready }
    }

    /// The next entry without taking it.
    pub(crate) async fn peek(&mut self) -> Result<Option<&TreeEntry>, PipelineError> {
        while self.ready.is_empty() {
            self.read_ahead();
            let Some(ahead) = self.ahead.take() else { break };
            let read = ahead.await;
            let read = read.map_err(|error| PipelineError::Defect(format!("reading a tree: {error}")))?;
            let (entries, rest) = read?;
            self.ready.extend(entries);
            self.rest = Some(rest);
            self.read_ahead();
        }
        Ok(self.ready.front())
    }

    /// The next entry.
    pub(crate) async fn next(&mut self) -> Result<Option<TreeEntry>, PipelineError> {
        self.peek().await?;
        Ok(self.ready.pop_front())
    }

    /// Those of the next entries that are at hand.
    pub(crate) fn at_hand(&self) -> impl Iterator<Item = &TreeEntry> {
        self.ready.iter()
    }

    /// Begins to read the next frame, unless it is on its way.
    fn read_ahead(&mut self) {
        if let Some(rest) = self.rest.take_if(|rest| !rest.tree.is_empty()) {
            self.ahead = Some(AbortOnDropHandle::new(tokio::spawn(rest.next())));
        }
    }
}

impl Rest {
    /// The entries of the next frame.
    async fn next(mut self) -> Result<(Vec<TreeEntry>, Rest), PipelineError> {
        let next: Vec<FrameLocation> = self.tree.pop_front().into_iter().collect();
        let mut entries = Vec::new();
        for frame in self.frames.frames(Class::Tree, &next).await? {
            entries.append(&mut self.decoder.frame(&frame).map_err(bad)?);
        }
        Ok((entries, self))
    }
}

/// Leaves in about the order of the tree; those that are needed next are read together.
pub(crate) struct LeafReader {
    frames: Arc<dyn Frames>,
    at_hand: HashMap<ChunkId, Arc<Vec<Extent>>>,
}

impl LeafReader {
    pub(crate) fn new(frames: Arc<dyn Frames>) -> LeafReader {
        LeafReader { frames, at_hand: HashMap::new() }
    }

    /// The extents that `part` names. Those that `next` names will be asked for soon.
    pub(crate) async fn extents<'a>(
        &mut self,
        part: &LeafRef,
        next: impl Iterator<Item = &'a LeafRef>,
    ) -> Result<Vec<Extent>, PipelineError> {
        let all = self.leaf(&part.leaf, next).await?;
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

    async fn leaf<'a>(
        &mut self,
        location: &FrameLocation,
        next: impl Iterator<Item = &'a LeafRef>,
    ) -> Result<Arc<Vec<Extent>>, PipelineError> {
        if let Some(extents) = self.at_hand.get(&location.id) {
            return Ok(Arc::clone(extents));
        }
        let (soon, together) = self.soon(location, next);
        self.at_hand.retain(|id, _| soon.contains(id));
        if self.read(&together).await.is_err() {
            self.read(&[*location]).await?;
        }
        let read = self.at_hand.get(&location.id).map(Arc::clone);
        read.ok_or_else(|| PipelineError::Defect("a leaf was read and is not there".to_owned()))
    }

    /// The leaves that are needed soon, and those of them that lie in the pack of the one that is needed now and are not at
    /// hand, that one first.
    fn soon<'a>(
        &self,
        now: &FrameLocation,
        next: impl Iterator<Item = &'a LeafRef>,
    ) -> (HashSet<ChunkId>, Vec<FrameLocation>) {
        let (mut soon, mut together) = (HashSet::from([now.id]), vec![*now]);
        let mut bytes = u64::from(now.plain);
        for LeafRef { leaf, .. } in next {
            if soon.contains(&leaf.id) {
                continue;
            }
            bytes += u64::from(leaf.plain);
            if bytes > LEAVES_AHEAD {
                break;
            }
            soon.insert(leaf.id);
            if leaf.pack == now.pack && !self.at_hand.contains_key(&leaf.id) {
                together.push(*leaf);
            }
        }
        (soon, together)
    }

    async fn read(&mut self, locations: &[FrameLocation]) -> Result<(), PipelineError> {
        let read = self.frames.frames(Class::Leaf, locations).await?;
        for (location, content) in locations.iter().zip(read) {
            self.at_hand.insert(location.id, Arc::new(leaf::decode(&content).map_err(bad)?));
        }
        Ok(())
    }
}

/// The leaves that entries refer to.
pub(crate) fn leaves_of<'a>(entries: impl Iterator<Item = &'a TreeEntry>) -> impl Iterator<Item = &'a LeafRef> {
    entries.flat_map(|entry| match &entry.kind {
        TreeKind::File { leaves, .. } => leaves.as_slice(),
        _ => &[],
    })
}

fn bad(error: FormatError) -> PipelineError {
    PipelineError::Repository {
        doing: "reading the snapshot's tree".to_owned(),
        class: error.class(),
        source: Box::new(error),
    }
}
