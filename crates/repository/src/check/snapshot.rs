//! Following a manifest: everything that it names must be in the same region, and be what it is said to be.
//!
//! Invariant: memory does not grow with the number of packs or files; footers and followed leaves are kept up to a bound.

use std::collections::{BTreeSet, HashMap, VecDeque};

use breakwater_core::{SessionId, SnapshotId, SourceUid};
use breakwater_crypto::ChunkId;

use super::report::{CheckError, RegionReport};
use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::manifest::Manifest;
use crate::format::pack::KeyKind;
use crate::format::references::PackRanges;
use crate::format::tree::{LeafRef, TreeEntry, TreeKind};
use crate::format::{Class, FormatError, FrameLocation, ObjectName, PackId};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots::{Leaves, ReferenceReader, TreeReader};

/// Footers kept in memory.
const FOOTERS_MAX: usize = 128;
/// Frames of references, of at most 1 MiB each, that are compared with what the tree needs; more are only read.
const REFERENCES_MAX: usize = 64;
/// Followed leaves that are remembered.
const LEAVES_MAX: usize = 1 << 17;

/// Follows the manifests of one source in one region.
pub(super) struct Walk {
    repository: Repository,
    source: SourceUid,
    order: ReadOrder,
    frames: FrameReader,
    /// Sessions whose key record is whole in this region.
    pub(super) keys: BTreeSet<SessionId>,
    packs: PackTables,
    /// Leaves that were followed for an earlier manifest or file, with the damaged packs that they need.
    leaves: HashMap<(ChunkId, PackId, u32), Vec<PackId>>,
    reading: Leaves,
    /// What the manifest at hand lists as needed.
    needs: Option<Needs>,
}

/// What is needed of packs, by kind and pack.
type Needs = HashMap<(KeyKind, PackId), PackRanges>;

impl Walk {
    pub(super) fn new(repository: &Repository, source: SourceUid, order: &ReadOrder, frames: FrameReader) -> Self {
        Walk {
            repository: repository.clone(),
            source,
            order: order.clone(),
            frames,
            keys: BTreeSet::new(),
            packs: PackTables::default(),
            leaves: HashMap::new(),
            reading: Leaves::default(),
            needs: None,
        }
    }

    pub(super) const fn source(&self) -> SourceUid {
        self.source
    }

    pub(super) const fn frames(&self) -> &FrameReader {
        &self.frames
    }

    /// Follows one manifest; what is wrong goes into the report.
    pub(super) async fn follow(&mut self, manifest: &Manifest, report: &mut RegionReport) {
        let name = ObjectName::Register(self.source, manifest.snapshot, manifest.session);
        report.snapshots += 1;
        self.frames.lean_on(&manifest.leans);
        for session in &manifest.sessions {
            if !self.has_keys(*session).await {
                report.find(&name, format!("it needs the keys of session {session}, which are missing or damaged"));
                let keys = ObjectName::SessionKeys(self.frames.home_of(*session), *session).to_string();
                report.affects(&keys, manifest.snapshot, None);
            }
        }
        self.needs = self.references(&name, manifest, report).await;
        let mut tree = TreeReader::with_frames(self.frames.clone(), manifest);
        for location in &manifest.tree {
            self.expect_listed(&name, KeyKind::Structure, location, report);
            self.blame_structure(manifest.snapshot, location.pack, None, report);
        }
        loop {
            match tree.next().await {
                Ok(Some(entries)) => {
                    for entry in entries {
                        self.follow_entry(&name, manifest, &entry, report).await;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    report.affects(&name.to_string(), manifest.snapshot, None);
                    return report.note(&name, &error.into());
                }
            }
        }
    }

    /// Whether the keys of the session are whole in this region. Those of another source are looked at now.
    async fn has_keys(&mut self, session: SessionId) -> bool {
        let home = self.frames.home_of(session);
        if home == self.source || self.keys.contains(&session) {
            return self.keys.contains(&session);
        }
        for name in self.repository.session_key_names(home, session) {
            let decode = |bytes: &[u8]| self.repository.decode_session_keys(home, session, &name, bytes);
            if self.repository.fetch(&self.order, &name, decode).await.is_ok() {
                self.keys.insert(session);
                return true;
            }
        }
        false
    }

    /// What the manifest's references list; none when that is more than is kept in memory, or cannot be read.
    async fn references(&self, name: &ObjectName, manifest: &Manifest, report: &mut RegionReport) -> Option<Needs> {
        let mut reader = ReferenceReader::new(self.frames.clone(), manifest);
        let mut needs = Needs::new();
        loop {
            match reader.next().await {
                Ok(Some(packs)) if manifest.references.len() <= REFERENCES_MAX => {
                    needs.extend(packs.into_iter().map(|pack| (pack.key(), pack)));
                }
                Ok(Some(_)) => {}
                Ok(None) => return (1..=REFERENCES_MAX).contains(&manifest.references.len()).then_some(needs),
                Err(error) => {
                    report.affects(&name.to_string(), manifest.snapshot, None);
                    report.note(name, &error.into());
                    return None;
                }
            }
        }
    }

    /// What a snapshot needs and does not list, the garbage collection does not know of.
    fn expect_listed(&self, name: &ObjectName, kind: KeyKind, location: &FrameLocation, report: &mut RegionReport) {
        let Some(needs) = &self.needs else { return };
        if !needs.get(&(kind, location.pack)).is_some_and(|pack| pack.covers(location)) {
            let pack = self.frames.pack_name(kind, location.pack);
            let problem = format!(
                "its references do not list all that it needs of `{pack}`, so the garbage collection may take that; hint: back \
                 up again and delete this snapshot before the next collection"
            );
            report.find(name, problem);
        }
    }

    fn blame_structure(&self, snapshot: SnapshotId, pack: PackId, path: Option<&[u8]>, report: &mut RegionReport) {
        let pack = ObjectName::StructurePack(self.source, pack).to_string();
        if report.is_found(&pack) {
            report.affects(&pack, snapshot, path);
        }
    }

    async fn follow_entry(
        &mut self,
        name: &ObjectName,
        manifest: &Manifest,
        entry: &TreeEntry,
        report: &mut RegionReport,
    ) {
        let TreeKind::File { size, leaves, extent } = &entry.kind else { return };
        let whole = whole_class(*extent);
        let mut total = 0;
        let mut followed = true;
        let mut blamed = BTreeSet::new();
        for leaf in leaves {
            self.expect_listed(name, KeyKind::Structure, &leaf.leaf, report);
            self.blame_structure(manifest.snapshot, leaf.leaf.pack, Some(&entry.path), report);
            match self.follow_leaf(name, manifest, leaf, whole, report, &mut blamed).await {
                Ok(bytes) => total += bytes,
                Err(problem) => {
                    followed = false;
                    report.affects(&name.to_string(), manifest.snapshot, Some(&entry.path));
                    match problem {
                        Problem::Text(problem) => report.find(name, problem),
                        Problem::Error(error) => report.note(name, &error),
                    }
                }
            }
        }
        for pack in blamed {
            let pack = self.frames.pack_name(KeyKind::Content, pack).to_string();
            report.affects(&pack, manifest.snapshot, Some(&entry.path));
        }
        if followed && total != *size {
            let path = crate::format::path::escape(&entry.path);
            report.find(name, format!("the extents of `{path}` have {total} bytes, but the file has {size}"));
        }
    }

    /// Answers how many bytes of the file the leaf lists.
    async fn follow_leaf(
        &mut self,
        name: &ObjectName,
        manifest: &Manifest,
        leaf: &LeafRef,
        whole: Class,
        report: &mut RegionReport,
        blamed: &mut BTreeSet<PackId>,
    ) -> Result<u64, Problem> {
        let extents = self.reading.extents(&self.frames, leaf).await?;
        let total = extents.iter().map(|extent| u64::from(extent.plain())).sum();
        for (_, location) in extents.iter().flat_map(|extent| extent.frames(whole)) {
            self.expect_listed(name, KeyKind::Content, location, report);
        }
        let key = (leaf.leaf.id, leaf.leaf.pack, leaf.first);
        if let Some(damaged) = self.leaves.get(&key) {
            blamed.extend(damaged);
            return Ok(total);
        }
        let mut damaged = BTreeSet::new();
        for extent in &extents {
            for (class, location) in extent.frames(whole) {
                if !manifest.sessions.contains(&location.pack.session) {
                    let session = location.pack.session;
                    return Err(Problem::Text(format!("a leaf names session {session}, which the manifest does not")));
                }
                if report.is_found(&self.frames.pack_name(KeyKind::Content, location.pack).to_string()) {
                    damaged.insert(location.pack);
                }
                self.find_frame(class, location).await?;
            }
        }
        blamed.extend(&damaged);
        if self.leaves.len() >= LEAVES_MAX {
            self.leaves.clear();
        }
        self.leaves.insert(key, damaged.into_iter().collect());
        Ok(total)
    }

    /// The frame must be in the footer of its pack, in this region, or of one that it has moved to.
    async fn find_frame(&mut self, class: Class, location: &FrameLocation) -> Result<(), Problem> {
        let Err(problem) = self.find_in_place(location).await else { return Ok(()) };
        match self.frames.relocated(KeyKind::Content, location.pack, &[(class, location.id)]).await {
            Ok(found) if found.iter().all(Option::is_some) => Ok(()),
            _ => Err(problem),
        }
    }

    async fn find_in_place(&mut self, location: &FrameLocation) -> Result<(), Problem> {
        let pack = location.pack;
        let name = self.frames.pack_name(KeyKind::Content, pack);
        if !self.packs.tables.contains_key(&pack) {
            let footer = match self.repository.fetch_footer(&self.order, &name).await {
                Ok((footer, _)) => footer,
                Err(RepositoryError::NotFound { .. }) => {
                    return Err(Problem::Text(format!("it needs `{name}`, which is missing")));
                }
                Err(error) => return Err(error.into()),
            };
            let table = footer.frames.iter().map(|frame| (frame.offset, frame.location(pack))).collect();
            self.packs.insert(pack, table);
        }
        let found = self.packs.tables.get(&pack).and_then(|table| table.get(&location.offset));
        if found != Some(location) {
            let detail = format!("chunk {} is not at offset {} of `{name}`", location.id, location.offset);
            return Err(Problem::Error(FormatError::damaged("leaf", detail).into()));
        }
        Ok(())
    }
}

/// The class of the whole chunks of a file: those of fixed size, or those whose ends the content decides.
pub(crate) const fn whole_class(extent: u32) -> Class {
    if extent == 0 { Class::Chunk } else { Class::Extent }
}

/// The frames of recently used packs by offset.
#[derive(Default)]
struct PackTables {
    tables: HashMap<PackId, HashMap<u32, FrameLocation>>,
    age: VecDeque<PackId>,
}

impl PackTables {
    fn insert(&mut self, pack: PackId, table: HashMap<u32, FrameLocation>) {
        if self.age.len() >= FOOTERS_MAX
            && let Some(oldest) = self.age.pop_front()
        {
            self.tables.remove(&oldest);
        }
        self.age.push_back(pack);
        self.tables.insert(pack, table);
    }
}

enum Problem {
    Text(String),
    Error(CheckError),
}

impl From<RepositoryError> for Problem {
    fn from(error: RepositoryError) -> Self {
        Problem::Error(error.into())
    }
}
