//! Makes leaves and tree entries of extents that come in order.
//!
//! Invariant: the same files give the same leaves as long as they do not change: a large file has leaves of its own, and
//! where small files that share a leaf are parted depends on their names alone. So an unchanged leaf has the id it had, and
//! is referred to instead of written.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use breakwater_core::SessionId;
use breakwater_repository::format::leaf::{self, Extent};
use breakwater_repository::format::tree::{LeafRef, TreeEntry, TreeKind};
use breakwater_repository::format::{Class, FrameLocation};

use super::sequence::Sink;
use super::spool::{Spool, Spooled};
use super::work::{Meta, MetaKind, Run};
use crate::PipelineError;
use crate::progress::Progress;

/// A file of so many extents does not share leaves.
const OWN_LEAF: u64 = 64;

/// One in so many small files begins a new shared leaf.
const PARTING: u64 = 64;

/// Entries that may wait for a leaf.
const PENDING_MAX: usize = 4096;

/// Damaged pages named; more are only counted.
const DAMAGE_NAMED: usize = 100;

/// What a thread has made of its claim.
#[derive(Debug)]
pub(crate) enum Done {
    Begin(Meta),
    Extent(ExtentDone),
}

/// One extent, stored or known.
#[derive(Debug)]
pub(crate) struct ExtentDone {
    pub(crate) run: Arc<Run>,
    /// `None` when nothing was left to read.
    pub(crate) extent: Option<Extent>,
    /// Fewer bytes were there than the listing promised: the file ends here.
    pub(crate) short: bool,
    pub(crate) damaged: Vec<u64>,
}

/// Stores leaves, or finds them stored.
pub(crate) trait LeafStore {
    /// Where the leaf with these bytes lies; `known` are leaves of the base that it may be equal to.
    fn store(&mut self, leaf: &[u8], known: &[FrameLocation]) -> Result<FrameLocation, PipelineError>;

    /// Notes that the snapshot needs this frame of content.
    fn needs(&mut self, content: &FrameLocation) -> Result<(), PipelineError>;
}

/// A page that the source's own checksum says is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPage {
    /// The file, as bytes of its path.
    pub path: Vec<u8>,
    /// The page's number within the file.
    pub page: u64,
}

/// Puts extents together.
pub(crate) struct Assembler<L> {
    extent_size: u32,
    leaves: L,
    spool: Spool,
    progress: Arc<Progress>,
    /// The leaf being filled.
    extents: Vec<Extent>,
    /// Leaves of the base that the one being filled may be equal to.
    known: Vec<FrameLocation>,
    /// Entries whose leaves are not all stored yet, and, after them, entries that wait for their turn.
    pending: VecDeque<Pending>,
    figures: Figures,
}

/// What was put together.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) files: u64,
    pub(crate) others: u64,
    pub(crate) bytes: u64,
    /// Sessions whose packs are referred to.
    pub(crate) sessions: BTreeSet<SessionId>,
    pub(crate) damaged: Vec<DamagedPage>,
    pub(crate) damaged_count: u64,
}

struct Pending {
    meta: Meta,
    size: u64,
    leaves: Vec<LeafRef>,
    /// Where its part of the leaf being filled begins.
    part: Option<usize>,
    ended: bool,
}

impl<L: LeafStore> Assembler<L> {
    pub(crate) fn new(extent_size: u32, leaves: L, spool: Spool, progress: Arc<Progress>) -> Self {
        Assembler {
            extent_size,
            leaves,
            spool,
            progress,
            extents: Vec::new(),
            known: Vec::new(),
            pending: VecDeque::new(),
            figures: Figures::default(),
        }
    }

    /// Ends the last leaf and hands everything back.
    pub(crate) fn finish(mut self) -> Result<(L, Spooled, Figures), PipelineError> {
        self.cut(false)?;
        Ok((self.leaves, self.spool.finish()?, self.figures))
    }

    fn begin(&mut self, meta: Meta) -> Result<(), PipelineError> {
        let extents = match meta.kind {
            MetaKind::File { listed } => listed.div_ceil(u64::from(self.extent_size.max(1))),
            MetaKind::Other(_) => 0,
        };
        let previous_is_large =
            self.pending.back().is_some_and(|pending| pending.extents(self.extent_size) >= OWN_LEAF);
        let does_not_fit = self.extents.len() as u64 + extents > leaf::EXTENTS_MAX as u64;
        let parts =
            extents > 0 && (extents >= OWN_LEAF || does_not_fit || path_hash(&meta.path).is_multiple_of(PARTING));
        if parts || previous_is_large || self.pending.len() >= PENDING_MAX {
            self.cut(false)?;
        }
        self.pending.push_back(Pending { meta, size: 0, leaves: Vec::new(), part: None, ended: false });
        if self.extents.is_empty() && extents == 0 {
            self.cut(false)?;
        }
        Ok(())
    }

    fn extent(&mut self, done: ExtentDone) -> Result<(), PipelineError> {
        for page in done.damaged {
            self.figures.damaged_count += 1;
            if self.figures.damaged.len() < DAMAGE_NAMED {
                self.figures.damaged.push(DamagedPage { path: done.run.path.to_vec(), page });
            }
        }
        if self.extents.len() >= leaf::EXTENTS_MAX {
            self.cut(true)?;
        }
        let Some(file) = self.pending.back_mut() else {
            return Err(PipelineError::Defect("an extent came before its file".to_owned()));
        };
        if file.ended {
            return Ok(());
        }
        file.ended = done.short;
        let Some(extent) = done.extent else { return Ok(()) };
        file.part.get_or_insert(self.extents.len());
        file.size += u64::from(extent.plain());
        for (_, location) in extent.frames(Class::Extent) {
            self.figures.sessions.insert(location.pack.session);
            self.leaves.needs(location)?;
        }
        self.extents.push(extent);
        for leaf in &done.run.base_leaves {
            if !self.known.contains(leaf) {
                self.known.push(*leaf);
            }
        }
        Ok(())
    }

    /// Ends the leaf being filled, and lets go of every entry that needs no further leaf. With `keep_last` the last one
    /// is in the middle of its extents.
    fn cut(&mut self, keep_last: bool) -> Result<(), PipelineError> {
        if !self.extents.is_empty() {
            let defect = |source: breakwater_repository::format::FormatError| PipelineError::Defect(source.to_string());
            let bytes = leaf::encode(&self.extents).map_err(defect)?;
            let leaf = self.leaves.store(&bytes, &self.known)?;
            self.figures.sessions.insert(leaf.pack.session);
            let mut end = self.extents.len();
            for pending in self.pending.iter_mut().rev() {
                let Some(first) = pending.part.take() else { continue };
                let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
                pending.leaves.push(LeafRef { leaf, first: number(first), count: number(end - first) });
                end = first;
            }
            self.extents.clear();
            self.known.clear();
        }
        while self.pending.len() > usize::from(keep_last) {
            let Some(pending) = self.pending.pop_front() else { break };
            self.emit(pending)?;
        }
        Ok(())
    }

    fn emit(&mut self, pending: Pending) -> Result<(), PipelineError> {
        let Meta { path, mode, uid, gid, mtime, last, attributes, stamp, kind } = pending.meta;
        let kind = match kind {
            MetaKind::File { .. } => {
                TreeKind::File { size: pending.size, extent: self.extent_size, leaves: pending.leaves }
            }
            MetaKind::Other(kind) => kind,
        };
        let is_file = matches!(kind, TreeKind::File { .. });
        self.figures.files += u64::from(is_file);
        self.figures.others += u64::from(!is_file);
        self.figures.bytes += pending.size;
        self.progress.entry(is_file);
        let changed = false;
        self.spool.push(&TreeEntry { path, kind, mode, uid, gid, mtime, last, attributes, stamp, changed })
    }
}

impl Pending {
    fn extents(&self, extent_size: u32) -> u64 {
        match self.meta.kind {
            MetaKind::File { listed } => listed.div_ceil(u64::from(extent_size.max(1))),
            MetaKind::Other(_) => 0,
        }
    }
}

impl<L: LeafStore> Sink<Done> for Assembler<L> {
    type Error = PipelineError;

    fn accept(&mut self, done: Done) -> Result<(), PipelineError> {
        match done {
            Done::Begin(meta) => self.begin(meta),
            Done::Extent(extent) => self.extent(extent),
        }
    }
}

/// A number that depends on the path alone, the same in every version (FNV-1a, folded).
fn path_hash(path: &[u8]) -> u64 {
    let hash = path
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use breakwater_core::{Attributes, Timestamp};
    use breakwater_crypto::ChunkId;
    use breakwater_engine::{EngineError, ExtentReader, ReadExtent};
    use breakwater_repository::format::{Codec, PackId};

    use super::*;

    const EXTENT: u32 = 100;

    #[derive(Debug)]
    struct NoReader;

    impl ExtentReader for NoReader {
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<ReadExtent, EngineError> {
            Ok(ReadExtent::default())
        }
    }

    /// Numbers leaves by their content.
    #[derive(Default)]
    struct Leaves(BTreeMap<Vec<u8>, u32>);

    impl LeafStore for Leaves {
        fn store(&mut self, leaf: &[u8], _: &[FrameLocation]) -> Result<FrameLocation, PipelineError> {
            let number = u32::try_from(self.0.len()).unwrap();
            Ok(location(*self.0.entry(leaf.to_vec()).or_insert(number), 9))
        }

        fn needs(&mut self, _: &FrameLocation) -> Result<(), PipelineError> {
            Ok(())
        }
    }

    fn location(offset: u32, id: u64) -> FrameLocation {
        let pack = PackId { session: SessionId::from_bytes([1; 16]), number: 0 };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        FrameLocation { pack, offset, stored: 50, plain: EXTENT, codec: Codec::None, id: ChunkId(bytes) }
    }

    /// Feeds files of so many extents; the content of an extent is its file's path.
    fn assemble(files: &[(String, u64)]) -> (Leaves, Vec<TreeEntry>) {
        let spool = Spool::new(&std::env::temp_dir());
        let mut assembler = Assembler::new(EXTENT, Leaves::default(), spool, Arc::default());
        for (path, extents) in files {
            let (path, listed) = (path.as_bytes().to_vec(), extents * u64::from(EXTENT));
            let id = path_hash(&path);
            let run = Run {
                path: path.as_slice().into(),
                reader: Arc::new(NoReader),
                first: 0,
                count: *extents,
                listed,
                base: Vec::new(),
                base_leaves: Vec::new(),
            };
            let (run, kind) = (Arc::new(run), MetaKind::File { listed });
            let meta = Meta {
                path,
                mode: 0,
                uid: 0,
                gid: 0,
                mtime: Timestamp(0),
                last: false,
                attributes: Attributes::default(),
                stamp: None,
                kind,
            };
            assembler.accept(Done::Begin(meta)).unwrap();
            for index in 0..*extents {
                let extent = Some(Extent::Stored(location(16, id ^ index)));
                let done = ExtentDone { run: Arc::clone(&run), extent, short: false, damaged: Vec::new() };
                assembler.accept(Done::Extent(done)).unwrap();
            }
        }
        let (leaves, mut spooled, _) = assembler.finish().unwrap();
        let mut none = Spool::new(&std::env::temp_dir()).finish().unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = super::super::spool::merged(&mut spooled, &mut none).unwrap() {
            entries.push(entry);
        }
        (leaves, entries)
    }

    fn many(count: u64) -> Vec<(String, u64)> {
        (0..count).map(|n| (format!("f{n:06}"), if n % 500 == 7 { 2500 } else { n % 9 })).collect()
    }

    #[test]
    fn every_entry_comes_out_in_order_with_all_its_extents() {
        let files = many(3000);
        let (leaves, entries) = assemble(&files);
        assert_eq!(entries.len(), files.len());
        for ((path, extents), entry) in files.iter().zip(&entries) {
            let TreeKind::File { size, leaves, .. } = &entry.kind else { panic!("a file") };
            assert_eq!((&entry.path[..], *size), (path.as_bytes(), extents * u64::from(EXTENT)));
            assert_eq!(leaves.iter().map(|part| u64::from(part.count)).sum::<u64>(), *extents);
        }
        assert!(leaves.0.keys().all(|leaf| leaf::decode(leaf).unwrap().len() <= leaf::EXTENTS_MAX));
        assert!(leaves.0.len() < 200, "small files share leaves: {}", leaves.0.len());
    }

    #[test]
    fn a_new_file_changes_the_leaves_around_it_and_no_others() {
        let files = many(3000);
        let (before, _) = assemble(&files);
        let mut changed = files.clone();
        changed.insert(1234, ("f001233-new".to_owned(), 3));
        let (after, _) = assemble(&changed);
        let new = after.0.keys().filter(|leaf| !before.0.contains_key(*leaf)).count();
        assert!(new <= 2, "{new} of {} leaves are new", after.0.len());
    }
}
