//! A repository beside what it must hold: every snapshot that nobody deleted, byte for byte.

use std::collections::BTreeMap;

use breakwater_core::{SessionId, SnapshotId};
use breakwater_crypto::sha256;
use breakwater_repository::format::leaf::Extent;
use breakwater_repository::format::manifest::SnapshotSession;
use breakwater_repository::format::tree::TreeKind;
use breakwater_repository::gc::{GcOptions, GcReport};
use breakwater_repository::{
    CommitOutcome, ContentReader, FrameLocation, GcOutcome, Repository, RepositoryError, TreeReader,
};

use crate::lab::{EXTENT, Files, Lab, SOURCE, Written, intent, restore, write};

/// Chunks by id.
pub(crate) type Chunks = BTreeMap<[u8; 32], FrameLocation>;

/// A snapshot as it was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) snapshot: SnapshotId,
    pub(crate) session: SessionId,
    pub(crate) files: Files,
}

/// The repository and what should be in it.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) taken: Vec<Taken>,
    next: u8,
}

impl World {
    pub(crate) async fn new(regions: usize) -> World {
        World::of(Lab::new(regions).await)
    }

    pub(crate) fn of(lab: Lab) -> World {
        World { lab, taken: Vec::new(), next: 1 }
    }

    /// A backup of `files` up to its commit, that refers to what `base` has.
    pub(crate) async fn begin(&mut self, files: &Files, base: Option<&Taken>) -> Written {
        let mut intent = intent(self.next, 1);
        self.next = self.next.checked_add(1).expect("a test takes few backups");
        let mut have = Chunks::new();
        if let Some(base) = base {
            intent.bases = vec![SnapshotSession { snapshot: base.snapshot, session: base.session }];
            have = chunks(&self.lab.repository, base).await.unwrap();
        }
        write(&self.lab.repository, &self.lab.writer(1), intent, files, &have).await
    }

    /// Commits it.
    pub(crate) async fn commit(&mut self, written: &Written, files: &Files) -> Taken {
        let outcome = written.session.commit(&self.lab.writer(1), &written.manifest).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        let manifest = &written.manifest;
        let taken = Taken { snapshot: manifest.snapshot, session: manifest.session, files: files.clone() };
        self.taken.push(taken.clone());
        taken
    }

    pub(crate) async fn backup(&mut self, files: &Files, base: Option<&Taken>) -> Taken {
        let written = self.begin(files, base).await;
        self.commit(&written, files).await
    }

    pub(crate) async fn delete(&mut self, taken: &Taken) {
        self.lab.repository.delete_snapshot(SOURCE, taken.snapshot).await.unwrap();
        self.taken.retain(|one| one.session != taken.session);
    }

    pub(crate) async fn gc(&self, options: &GcOptions) -> GcReport {
        let report = self.lab.repository.gc_source(SOURCE, options).await.unwrap();
        assert!(matches!(report.outcome, GcOutcome::Done), "{report:?}");
        report
    }

    /// Every snapshot that was not deleted can be read back from each region alone, and no other is there.
    pub(crate) async fn check(&self) {
        self.check_with(&self.lab.repository).await;
    }

    pub(crate) async fn check_with(&self, repository: &Repository) {
        let order = repository.read_order();
        let list = repository.snapshots(&order, Some(SOURCE)).await.unwrap();
        assert!(list.damaged.is_empty() && list.silent.is_empty(), "{list:?}");
        let mut listed: Vec<SessionId> = list.snapshots.iter().map(|one| one.session).collect();
        let mut expected: Vec<SessionId> = self.taken.iter().map(|one| one.session).collect();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
        for region in repository.regions() {
            let only = repository.read_only_from(region.name()).unwrap();
            for taken in &self.taken {
                let files = restore(repository, &only, taken.snapshot, taken.session).await;
                let files =
                    files.unwrap_or_else(|error| panic!("{}: {}", region.name(), breakwater_core::Chain(&error)));
                assert!(files == taken.files, "snapshot {} is another one in {}", taken.snapshot, region.name());
            }
        }
    }

    /// The names of objects below a folder of the source in the first region.
    pub(crate) async fn names(&self, folder: &str) -> Vec<String> {
        let spot = self.lab.spots.first().unwrap();
        spot.names().await.into_iter().filter(|name| name.contains(&format!("/{folder}/"))).collect()
    }
}

/// The chunks of a snapshot, and where they lie.
pub(crate) async fn chunks(repository: &Repository, of: &Taken) -> Result<Chunks, RepositoryError> {
    let order = repository.read_order();
    let manifest = repository.manifest(&order, SOURCE, of.snapshot, of.session).await?;
    let content = ContentReader::open(repository, SOURCE, &manifest.sessions, order.clone()).await?;
    let mut tree = TreeReader::new(repository, order, &manifest);
    let mut chunks = Chunks::new();
    while let Some(entries) = tree.next().await? {
        for entry in entries {
            let TreeKind::File { leaves, .. } = &entry.kind else { continue };
            for leaf in leaves {
                for extent in content.leaf_extents(leaf).await? {
                    if let Extent::Stored(location) = extent {
                        chunks.insert(location.id.0, location);
                    }
                }
            }
        }
    }
    Ok(chunks)
}

/// One file whose extents are these, each with bytes of its own.
pub(crate) fn files(extents: impl IntoIterator<Item = u64>) -> Files {
    let bytes = extents.into_iter().flat_map(|extent| {
        let mut bytes = Vec::new();
        for at in 0..EXTENT as u64 / 32 {
            bytes.extend(sha256(&(extent << 20 | at).to_be_bytes()));
        }
        bytes
    });
    Files::from([("data".to_owned(), bytes.collect())])
}
