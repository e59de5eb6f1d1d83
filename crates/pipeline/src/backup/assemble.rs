//! Makes leaves and tree entries of extents that come in order.
//!
//! Invariant: the same files give the same leaves as long as they do not change: a large file has leaves of its own, and
//! where small files that share a leaf are parted depends on their names alone. So an unchanged leaf has the id it had, and
//! is referred to instead of written.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use breakwater_core::{SessionId, Xattrs};
use breakwater_engine::{Chunking, Unreadable};
use breakwater_repository::format::leaf::{self, Extent};
use breakwater_repository::format::tree::{LeafRef, TreeEntry, TreeKind};
use breakwater_repository::format::{Class, FrameLocation};

use super::sequence::Sink;
use super::spool::{Spool, Spooled};
use super::work::{Large, Meta, MetaKind, Run};
use crate::PipelineError;
use crate::progress::Progress;

/// A file of so many extents does not share leaves.
const OWN_LEAF: usize = 64;

/// One in so many small files begins a new shared leaf.
const PARTING: u64 = 64;

/// Entries that may wait for a leaf.
const PENDING_MAX: usize = 4096;

/// Damaged pages named; more are only counted.
const DAMAGE_NAMED: usize = 100;

/// Files named that changed whenever they were read.
const CHANGED_NAMED: usize = 20;

/// What a thread has made of its claim.
#[derive(Debug)]
pub(crate) enum Done {
    /// Whole entries.
    Batch(Vec<FileDone>),
    /// A large file begins.
    Begin(Meta, Arc<Large>),
    /// Some of its extents.
    Extents(ExtentsDone),
}

/// One entry, read as a whole.
#[derive(Debug)]
pub(crate) struct FileDone {
    pub(crate) meta: Meta,
    pub(crate) reading: Reading,
}

/// The extended attributes that the reader of a file brought, if it brought any, or why it could not.
pub(crate) type ReadXattrs = Result<Option<Xattrs>, String>;

/// What reading an entry gave.
#[derive(Debug)]
pub(crate) enum Reading {
    /// It has no content.
    Nothing,
    Content(ContentDone),
    /// It is left out.
    Failed(String),
}

/// The content of a file.
#[derive(Debug)]
pub(crate) struct ContentDone {
    pub(crate) extents: Vec<Extent>,
    /// Bytes of every extent but the last; 0 where the content decides.
    pub(crate) extent_size: u32,
    /// Leaves of the base that held it.
    pub(crate) base_leaves: Vec<FrameLocation>,
    pub(crate) damaged: Vec<u64>,
    /// It changed whenever it was read.
    pub(crate) changed: bool,
    pub(crate) attributes: ReadXattrs,
}

/// Extents of the large file begun last, stored or known.
#[derive(Debug)]
pub(crate) struct ExtentsDone {
    pub(crate) run: Arc<Run>,
    pub(crate) extents: Vec<Extent>,
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
    /// No later round reads a changed file again.
    last_round: bool,
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
    pub(crate) unreadable: Unreadable,
    /// Files that changed whenever they were read: the first ones, and how many.
    pub(crate) changed: (Vec<Vec<u8>>, u64),
    /// Large files that changed while they were read, to be read again.
    pub(crate) again: Vec<(Meta, Arc<Large>)>,
    /// Paths of files that are left out: further names of them are too.
    pub(crate) left_out: HashSet<Vec<u8>>,
}

struct Pending {
    meta: Meta,
    size: u64,
    extent_size: u32,
    leaves: Vec<LeafRef>,
    /// Where its part of the leaf being filled begins.
    part: Option<usize>,
    /// The file has ended before its listed end.
    ended: bool,
    changed: bool,
    failed: Option<String>,
    large: Option<Arc<Large>>,
    /// Its neighbours do not share its leaves.
    has_own_leaves: bool,
}

impl<L: LeafStore> Assembler<L> {
    pub(crate) fn new(extent_size: u32, leaves: L, spool: Spool, progress: Arc<Progress>, last_round: bool) -> Self {
        Assembler {
            extent_size,
            leaves,
            spool,
            progress,
            last_round,
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

    fn begin(&mut self, pending: Pending, extents: usize) -> Result<(), PipelineError> {
        let large = pending.large.is_some() || extents >= OWN_LEAF;
        let previous_is_large = self.pending.back().is_some_and(|pending| pending.has_own_leaves);
        let does_not_fit = self.extents.len() + extents > leaf::EXTENTS_MAX;
        let parts = large || (extents > 0 && (does_not_fit || path_hash(&pending.meta.path).is_multiple_of(PARTING)));
        if parts || previous_is_large || self.pending.len() >= PENDING_MAX {
            self.cut(false)?;
        }
        let waits = large || extents > 0;
        self.pending.push_back(Pending { has_own_leaves: large, ..pending });
        if self.extents.is_empty() && !waits {
            self.cut(false)?;
        }
        Ok(())
    }

    fn file(&mut self, done: FileDone) -> Result<(), PipelineError> {
        let FileDone { meta, reading } = done;
        let mut pending = Pending::new(meta, self.extent_size);
        match reading {
            Reading::Nothing => self.begin(pending, 0),
            Reading::Failed(reason) => {
                pending.failed = Some(reason);
                self.begin(pending, 0)
            }
            Reading::Content(content) => {
                (pending.extent_size, pending.changed) = (content.extent_size, content.changed);
                self.attributes(&mut pending.meta, content.attributes);
                self.damage(&pending.meta.path, content.damaged);
                self.begin(pending, content.extents.len())?;
                self.extents(content.extents, &content.base_leaves)
            }
        }
    }

    /// Without its attributes a file gets no stamp, so that the next backup tries to read them again.
    fn attributes(&mut self, meta: &mut Meta, read: ReadXattrs) {
        match read {
            Ok(None) => {}
            Ok(Some(xattrs)) => meta.attributes.xattrs = xattrs,
            Err(reason) => {
                meta.stamp = None;
                self.figures.unreadable.note(meta.path.clone(), format!("its attributes: {reason}"));
            }
        }
    }

    fn large(&mut self, meta: Meta, file: Arc<Large>) -> Result<(), PipelineError> {
        let extent_size = if file.chunking == Chunking::ContentDefined { 0 } else { self.extent_size };
        let pending = Pending { large: Some(file), ..Pending::new(meta, extent_size) };
        self.begin(pending, 0)
    }

    fn extents_of_large(&mut self, done: ExtentsDone) -> Result<(), PipelineError> {
        self.damage(&done.run.file.path, done.damaged);
        let Some(file) = self.pending.back_mut() else {
            return Err(PipelineError::Defect("an extent came before its file".to_owned()));
        };
        if file.ended {
            return Ok(());
        }
        file.ended = done.short;
        self.extents(done.extents, &done.run.base_leaves)
    }

    /// Adds extents to the last entry.
    fn extents(&mut self, extents: Vec<Extent>, base_leaves: &[FrameLocation]) -> Result<(), PipelineError> {
        for extent in extents {
            if self.extents.len() >= leaf::EXTENTS_MAX {
                self.cut(true)?;
            }
            let Some(file) = self.pending.back_mut() else {
                return Err(PipelineError::Defect("an extent came before its file".to_owned()));
            };
            file.part.get_or_insert(self.extents.len());
            file.size += u64::from(extent.plain());
            for (_, location) in extent.frames(Class::Extent) {
                self.figures.sessions.insert(location.pack.session);
                self.leaves.needs(location)?;
            }
            self.extents.push(extent);
        }
        for leaf in base_leaves {
            if !self.known.contains(leaf) {
                self.known.push(*leaf);
            }
        }
        Ok(())
    }

    fn damage(&mut self, path: &[u8], pages: Vec<u64>) {
        for page in pages {
            self.figures.damaged_count += 1;
            if self.figures.damaged.len() < DAMAGE_NAMED {
                self.figures.damaged.push(DamagedPage { path: path.to_vec(), page });
            }
        }
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
        let Pending { mut meta, size, extent_size, leaves, mut changed, mut failed, large, .. } = pending;
        if let Some(large) = large {
            failed = large.failure().map(str::to_owned);
            if large.change().is_some() && failed.is_none() {
                if !self.last_round {
                    self.figures.again.push((meta, large));
                    return Ok(());
                }
                changed = true;
            }
            if failed.is_none() {
                self.attributes(&mut meta, large.attributes());
            }
        }
        let Meta { path, mode, uid, gid, mtime, last, attributes, stamp, tolerant, kind } = meta;
        if let MetaKind::Other(TreeKind::Hardlink { target }) = &kind
            && self.figures.left_out.contains(target)
            && tolerant
        {
            failed = Some("the file that it is another name of could not be read".to_owned());
        }
        if let Some(reason) = failed {
            self.figures.left_out.insert(path.clone());
            self.figures.unreadable.note(path, reason);
            return Ok(());
        }
        let is_file = matches!(kind, MetaKind::File);
        let kind = match kind {
            MetaKind::File => TreeKind::File { size, extent: extent_size, leaves },
            MetaKind::Other(kind) => kind,
        };
        self.figures.files += u64::from(is_file);
        self.figures.others += u64::from(!is_file);
        self.figures.bytes += size;
        if changed {
            self.figures.changed.1 += 1;
            if self.figures.changed.0.len() < CHANGED_NAMED {
                self.figures.changed.0.push(path.clone());
            }
        }
        self.progress.entry(is_file);
        // What was read of a changing file is not what its stamp stands for.
        let stamp = stamp.filter(|_| !changed);
        self.spool.push(&TreeEntry { path, kind, mode, uid, gid, mtime, last, attributes, stamp, changed })
    }
}

impl Pending {
    fn new(meta: Meta, extent_size: u32) -> Pending {
        Pending {
            meta,
            size: 0,
            extent_size,
            leaves: Vec::new(),
            part: None,
            ended: false,
            changed: false,
            failed: None,
            large: None,
            has_own_leaves: false,
        }
    }
}

impl<L: LeafStore> Sink<Done> for Assembler<L> {
    type Error = PipelineError;

    fn accept(&mut self, done: Done) -> Result<(), PipelineError> {
        match done {
            Done::Batch(files) => files.into_iter().try_for_each(|file| self.file(file)),
            Done::Begin(meta, file) => self.large(meta, file),
            Done::Extents(extents) => self.extents_of_large(extents),
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
    use breakwater_repository::format::tree::TreeDecoder;
    use breakwater_repository::format::{Codec, PackId};

    use super::super::work::{Content, Mode};
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
        let mut assembler = Assembler::new(EXTENT, Leaves::default(), spool, Arc::default(), true);
        for (path, extents) in files {
            let (path, listed) = (path.as_bytes().to_vec(), extents * u64::from(EXTENT));
            let id = path_hash(&path);
            let meta = Meta {
                path,
                mode: 0,
                uid: 0,
                gid: 0,
                mtime: Timestamp(0),
                last: false,
                attributes: Attributes::default(),
                stamp: None,
                tolerant: false,
                kind: MetaKind::File,
            };
            let extents = (0..*extents).map(|index| Extent::Stored(location(16, id ^ index)));
            if listed <= 1000 {
                let (extents, base_leaves, damaged) = (extents.collect(), Vec::new(), Vec::new());
                let (changed, attributes) = (false, Ok(None));
                let content = ContentDone { extents, extent_size: EXTENT, base_leaves, damaged, changed, attributes };
                let file = FileDone { meta, reading: Reading::Content(content) };
                assembler.accept(Done::Batch(vec![file])).unwrap();
                continue;
            }
            let content = Content {
                reader: Arc::new(NoReader),
                listed,
                chunking: Chunking::Extents,
                sparse: false,
                changed: None,
                kept: false,
                base: Vec::new(),
                base_leaves: Vec::new(),
            };
            let file = Arc::new(Large::new(&meta.path, &content, false, listed / u64::from(EXTENT)));
            let (base, base_leaves, mode) = (Vec::new(), Vec::new(), Mode::Extents);
            let run = Run { file: Arc::clone(&file), first: 0, count: 1, mode, base, base_leaves };
            let run = Arc::new(run);
            assembler.accept(Done::Begin(meta, file)).unwrap();
            for extent in extents {
                let run = Arc::clone(&run);
                let done = ExtentsDone { run, extents: vec![extent], short: false, damaged: Vec::new() };
                assembler.accept(Done::Extents(done)).unwrap();
            }
        }
        let (leaves, mut spooled, _) = assembler.finish().unwrap();
        let mut none = Spool::new(&std::env::temp_dir()).finish().unwrap();
        let mut entries = Vec::new();
        let mut decoder = TreeDecoder::default();
        while let Some(line) = super::super::spool::merged(&mut spooled, &mut none).unwrap() {
            entries.extend(decoder.frame(&line.bytes).unwrap());
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
