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
use breakwater_repository::format::tree::{self, LeafRef, TreeDecoder, TreeEntry, TreeKind};
use breakwater_repository::format::{Class, FormatError, FrameLocation};
use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::PipelineError;

/// Frames of a tree that are read before they are needed.
const FRAMES_AHEAD: usize = 2;

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

/// The entries of a snapshot in path order, a few frames in memory at a time.
pub(crate) struct TreeReader {
    frames: Arc<dyn Frames>,
    tree: VecDeque<FrameLocation>,
    ahead: VecDeque<AbortOnDropHandle<Result<Vec<TreeEntry>, PipelineError>>>,
    decoder: TreeDecoder,
    ready: VecDeque<TreeEntry>,
}

impl TreeReader {
    pub(crate) fn new(frames: Arc<dyn Frames>, tree: &[FrameLocation]) -> TreeReader {
        let tree = tree.iter().copied().collect();
        TreeReader { frames, tree, ahead: VecDeque::new(), decoder: TreeDecoder::default(), ready: VecDeque::new() }
    }

    /// A reader of the same tree, all of whose entries are at hand.
    pub(crate) fn with_all(self, entries: VecDeque<TreeEntry>) -> TreeReader {
        TreeReader { tree: VecDeque::new(), ready: entries, ..self }
    }

    /// The next entry without taking it.
    pub(crate) async fn peek(&mut self) -> Result<Option<&TreeEntry>, PipelineError> {
        while self.ready.is_empty() {
            self.read_ahead();
            let Some(next) = self.ahead.pop_front() else { break };
            let read = next.await;
            let entries = read.map_err(|error| PipelineError::Defect(format!("reading a tree: {error}")))??;
            self.decoder.follow(&entries).map_err(bad)?;
            self.ready.extend(entries);
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

    /// Begins to read the next frames, side by side.
    fn read_ahead(&mut self) {
        while self.ahead.len() < FRAMES_AHEAD
            && let Some(location) = self.tree.pop_front()
        {
            let reading = read_frame(Arc::clone(&self.frames), location).in_current_span();
            self.ahead.push_back(AbortOnDropHandle::new(tokio::spawn(reading)));
        }
    }
}

async fn read_frame(frames: Arc<dyn Frames>, location: FrameLocation) -> Result<Vec<TreeEntry>, PipelineError> {
    let content = frames.frames(Class::Tree, &[location]).await?;
    content.first().map_or(Ok(Vec::new()), |content| tree::decode_frame(content).map_err(bad))
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
        match self.read(&together).await {
            Err(_) if together.len() > 1 => self.read(&[*location]).await?,
            read => read?,
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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use breakwater_core::SessionId;
    use breakwater_repository::format::{Codec, PackId};

    use super::*;

    /// Frames by number, which is the first byte of their ids; those that are missing cannot be read.
    #[derive(Default)]
    struct Stored {
        frames: HashMap<u8, Vec<u8>>,
        asked: Mutex<Vec<Vec<u8>>>,
    }

    #[async_trait::async_trait]
    impl Frames for Stored {
        async fn frames(&self, _: Class, locations: &[FrameLocation]) -> Result<Vec<Bytes>, PipelineError> {
            let numbers: Vec<u8> = locations.iter().map(|location| location.id.0[0]).collect();
            self.asked.lock().unwrap().push(numbers.clone());
            let frame = |number| self.frames.get(number).cloned().map(Bytes::from);
            let found: Option<Vec<Bytes>> = numbers.iter().map(frame).collect();
            found.ok_or_else(|| PipelineError::Defect("gone".to_owned()))
        }
    }

    impl Stored {
        fn asked(&self) -> Vec<Vec<u8>> {
            std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    fn location(number: u8, pack: u32, plain: u32) -> FrameLocation {
        let pack = PackId { session: SessionId::from_bytes([1; 16]), number: pack };
        let mut id = [0; 32];
        id[0] = number;
        FrameLocation { pack, offset: 128, stored: 10, plain, codec: Codec::None, id: ChunkId(id) }
    }

    fn part(number: u8, pack: u32, plain: u32) -> LeafRef {
        LeafRef { leaf: location(number, pack, plain), first: 0, count: 1 }
    }

    /// A leaf with one extent, whose length is the number.
    fn leaf_of(number: u8) -> Vec<u8> {
        leaf::encode(&[Extent::Zeros { id: ChunkId([0; 32]), plain: number.into() }]).unwrap()
    }

    async fn length(leaves: &mut LeafReader, part: &LeafRef, next: &[LeafRef]) -> Result<u32, PipelineError> {
        leaves.extents(part, next.iter()).await.map(|extents| extents[0].plain())
    }

    #[tokio::test]
    async fn leaves_of_one_pack_that_come_soon_are_read_together() {
        let frames = (1..=4).map(|number| (number, leaf_of(number))).collect();
        let stored = Arc::new(Stored { frames, ..Stored::default() });
        let mut leaves = LeafReader::new(stored.clone());
        let parts = [part(1, 0, 100), part(1, 0, 100), part(2, 7, 100), part(3, 0, 100), part(4, 0, 2 << 20)];
        for (number, part) in parts.iter().enumerate() {
            let next = parts.get(number + 1..).unwrap_or_default();
            assert_eq!(length(&mut leaves, part, next).await.unwrap(), u32::from(part.leaf.id.0[0]));
        }
        assert_eq!(stored.asked(), [vec![1, 3], vec![2], vec![4]], "another pack, and one too large to read ahead");
        assert!(leaves.at_hand.len() <= 2, "what is not needed any more is let go");
    }

    #[tokio::test]
    async fn a_leaf_that_is_gone_fails_only_whoever_needs_it() {
        let stored = Arc::new(Stored { frames: HashMap::from([(1, leaf_of(1))]), ..Stored::default() });
        let mut leaves = LeafReader::new(stored.clone());
        let gone = part(2, 0, 100);
        assert_eq!(length(&mut leaves, &part(1, 0, 100), &[gone]).await.unwrap(), 1);
        assert_eq!(stored.asked(), [vec![1, 2], vec![1]]);
        length(&mut leaves, &gone, &[]).await.unwrap_err();
        assert_eq!(stored.asked(), [[2]], "alone it is not asked for twice");
    }

    /// A frame with directories of these names.
    fn frame(names: &[&str]) -> Vec<u8> {
        let line =
            |name| format!("{{\"path\":\"{name}\",\"type\":\"dir\",\"mode\":493,\"uid\":0,\"gid\":0,\"mtime\":0}}\n");
        names.iter().map(line).collect::<String>().into_bytes()
    }

    #[tokio::test]
    async fn a_tree_is_read_ahead_and_an_error_waits_for_its_turn() {
        let frames = HashMap::from([(1, frame(&["a", "b"])), (2, frame(&["c"]))]);
        let stored = Arc::new(Stored { frames, ..Stored::default() });
        let tree: Vec<FrameLocation> = (1..=9).map(|number| location(number, 0, 100)).collect();
        let mut reader = TreeReader::new(stored.clone(), &tree);
        let mut names = Vec::new();
        for _ in 0..3 {
            names.push(reader.next().await.unwrap().unwrap().path);
            tokio::task::yield_now().await;
        }
        assert_eq!(names, [b"a", b"b", b"c"]);
        assert_eq!(stored.asked(), [[1], [2], [3], [4]], "not more than two ahead");
        reader.next().await.unwrap_err();
    }

    #[tokio::test]
    async fn frames_out_of_order_are_refused() {
        let frames = HashMap::from([(1, frame(&["b"])), (2, frame(&["a"]))]);
        let mut reader = TreeReader::new(
            Arc::new(Stored { frames, ..Stored::default() }),
            &[location(1, 0, 100), location(2, 0, 100)],
        );
        reader.next().await.unwrap().unwrap();
        reader.next().await.unwrap_err();
    }
}
