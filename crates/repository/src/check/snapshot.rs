//! Following a manifest: everything that it names must be in the same region, and be what it is said to be.

use std::collections::{HashMap, HashSet, VecDeque};

use breakwater_core::SourceUid;
use breakwater_crypto::ChunkId;

use super::{RegionReport, SourceObjects};
use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::manifest::Manifest;
use crate::format::tree::{LeafRef, TreeEntry, TreeKind};
use crate::format::{Class, FormatError, FrameLocation, ObjectName, PackId};
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots::{TreeReader, leaf_extents};

/// Footers kept in memory.
const FOOTERS_MAX: usize = 128;

/// Follows every manifest of `source` in the one region of `order`.
pub(super) async fn check_manifests(
    repository: &Repository,
    source: SourceUid,
    objects: &SourceObjects,
    order: &ReadOrder,
    report: &mut RegionReport,
) {
    let mut walk = Walk {
        repository,
        order,
        objects,
        frames: objects.frames.clone(),
        packs: PackTables::default(),
        leaves: HashSet::new(),
    };
    for manifest in &objects.manifests {
        let name = ObjectName::Register(source, manifest.snapshot, manifest.session);
        report.snapshots += 1;
        for session in &manifest.sessions {
            if !objects.keys.contains(session) {
                report.find(&name, format!("it needs the keys of session {session}, which are missing or damaged"));
            }
        }
        walk.follow(&name, manifest, report).await;
    }
}

struct Walk<'a> {
    repository: &'a Repository,
    order: &'a ReadOrder,
    objects: &'a SourceObjects,
    frames: FrameReader,
    packs: PackTables,
    /// Leaves that were followed for an earlier manifest or file.
    leaves: HashSet<(ChunkId, PackId, u32)>,
}

impl Walk<'_> {
    async fn follow(&mut self, name: &ObjectName, manifest: &Manifest, report: &mut RegionReport) {
        let mut tree = TreeReader::with_frames(self.frames.clone(), manifest);
        loop {
            match tree.next().await {
                Ok(Some(entries)) => {
                    for entry in entries {
                        self.follow_entry(name, manifest, &entry, report).await;
                    }
                }
                Ok(None) => return,
                Err(error) => return report.note(name, &error),
            }
        }
    }

    async fn follow_entry(
        &mut self,
        name: &ObjectName,
        manifest: &Manifest,
        entry: &TreeEntry,
        report: &mut RegionReport,
    ) {
        let TreeKind::File { size, leaves, .. } = &entry.kind else { return };
        let mut total = 0;
        for leaf in leaves {
            match self.follow_leaf(manifest, leaf).await {
                Ok(bytes) => total += bytes,
                Err(Problem::Text(problem)) => return report.find(name, problem),
                Err(Problem::Error(error)) => return report.note(name, &error),
            }
        }
        if total != *size {
            let path = crate::format::path::escape(&entry.path);
            report.find(name, format!("the extents of `{path}` have {total} bytes, but the file has {size}"));
        }
    }

    /// Answers how many bytes of the file the leaf lists.
    async fn follow_leaf(&mut self, manifest: &Manifest, leaf: &LeafRef) -> Result<u64, Problem> {
        let extents = leaf_extents(&self.frames, leaf).await.map_err(Problem::Error)?;
        let total = extents.iter().map(|extent| u64::from(extent.plain())).sum();
        if !self.leaves.insert((leaf.leaf.id, leaf.leaf.pack, leaf.first)) {
            return Ok(total);
        }
        for extent in &extents {
            for (_, location) in extent.frames(Class::Extent) {
                if !manifest.sessions.contains(&location.pack.session) {
                    let session = location.pack.session;
                    return Err(Problem::Text(format!("a leaf names session {session}, which the manifest does not")));
                }
                self.find_frame(location).await?;
            }
        }
        Ok(total)
    }

    /// The frame must be in the footer of its pack, in this region.
    async fn find_frame(&mut self, location: &FrameLocation) -> Result<(), Problem> {
        let pack = location.pack;
        if !self.packs.tables.contains_key(&pack) {
            let name = ObjectName::ContentPack(self.frames.source(), pack);
            if !self.objects.packs.contains(&name.to_string()) {
                return Err(Problem::Text(format!("it needs `{name}`, which is missing")));
            }
            let footer = self.repository.fetch_footer(self.order, &name).await.map_err(Problem::Error)?.0;
            let table = footer.frames.iter().map(|frame| (frame.offset, frame.location(pack))).collect();
            self.packs.insert(pack, table);
        }
        let found = self.packs.tables.get(&pack).and_then(|table| table.get(&location.offset));
        if found != Some(location) {
            let name = ObjectName::ContentPack(self.frames.source(), pack);
            let detail = format!("chunk {} is not at offset {} of `{name}`", location.id, location.offset);
            return Err(Problem::Error(RepositoryError::format("a leaf", FormatError::damaged("leaf", detail))));
        }
        Ok(())
    }
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
    Error(RepositoryError),
}
