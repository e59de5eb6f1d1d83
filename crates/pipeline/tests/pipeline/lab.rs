//! A repository in memory, with everything that a backup and a restore need.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use breakwater_core::{Attempt, JobId, SessionId, SnapshotId, SourceUid};
use breakwater_engine::{BackupSession as EngineSession, RecoveryRange};
use breakwater_pipeline::backup::{BackupJob, BackupOutcome, LogGate, run_backup};
use breakwater_pipeline::restore::{Onto, OwnerBy, RestoreJob, RestoreReport, run_restore};
use breakwater_pipeline::{PipelineError, Progress};
use breakwater_repository::format::manifest::{Manifest, ManifestSource, SnapshotSession};
use breakwater_repository::regions::{RegionOptions, RegionSet, Role};
use breakwater_repository::session::{RegionWriter, SessionIntent};
use breakwater_repository::{Access, BackupSession, CreateOptions, Place, Repository, RepositoryError, Selector};
use breakwater_runtime::{ByteBudget, SystemClock, SystemEntropy};
use breakwater_storage::{Fault, Storage};
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::tree::Tree;

/// Bytes of an extent in these tests: small, so that files have many.
pub(crate) const EXTENT: usize = 4096;

/// Small extents and packs.
pub(crate) fn options() -> CreateOptions {
    CreateOptions { extent_size: EXTENT as u32, pack_size: 1 << 20, ..CreateOptions::default() }
}

/// A repository with regions in memory, each behind a place to inject faults.
pub(crate) struct Lab {
    pub(crate) recipient: Repository,
    pub(crate) writer: Repository,
    pub(crate) faults: Vec<Fault>,
    pub(crate) storages: Vec<Storage>,
    pub(crate) set: RegionSet,
    pub(crate) source: SourceUid,
    pub(crate) budget: ByteBudget,
    gate_calls: Arc<Mutex<Vec<RecoveryRange>>>,
}

impl Lab {
    pub(crate) async fn new(regions: usize) -> Lab {
        Lab::with(regions, 1, options()).await
    }

    pub(crate) async fn with(regions: usize, commit: usize, options: CreateOptions) -> Lab {
        Lab::made(regions, commit, options, |storage| storage).await
    }

    /// One with something of the test's own around each place.
    pub(crate) async fn decorated(regions: usize, decorate: impl FnMut(Storage) -> Storage) -> Lab {
        Lab::made(regions, 1, options(), decorate).await
    }

    async fn made(
        regions: usize,
        commit: usize,
        options: CreateOptions,
        mut decorate: impl FnMut(Storage) -> Storage,
    ) -> Lab {
        let faults: Vec<Fault> = (0..regions).map(|_| Fault::new(Storage::memory().backend())).collect();
        let storages: Vec<Storage> =
            faults.iter().map(|fault| decorate(Storage::new(Arc::new(fault.clone())))).collect();
        let place =
            |(number, storage): (usize, &Storage)| Place::new(&format!("r{number}"), Role::Sync, storage.clone());
        let places: Vec<Place> = storages.iter().enumerate().map(place).collect();
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let created = Repository::create(places.clone(), options, clock.clone(), entropy.clone()).await.unwrap();
        let access = Access::Writer(created.writer_key);
        let writer = Repository::open(places, access, clock, entropy).await.unwrap();
        let options = RegionOptions {
            repository: Some(writer.id()),
            grace: Duration::from_millis(50),
            backoff: Duration::from_millis(5),
            backoff_cap: Duration::from_millis(50),
            ..RegionOptions::default()
        };
        let set = RegionSet::with_options(writer.handles(), commit, options).unwrap();
        Lab {
            recipient: created.repository,
            writer,
            faults,
            storages,
            set,
            source: SourceUid::from_bytes([7; 16]),
            budget: ByteBudget::new(48 << 20),
            gate_calls: Arc::default(),
        }
    }

    /// A backup compared with the latest snapshot, which must succeed.
    pub(crate) async fn backup(&self, engine: impl EngineSession + 'static) -> BackupOutcome {
        self.try_backup(engine, CancellationToken::new()).await.unwrap()
    }

    /// A backup as an agent takes it: the latest snapshot is the base, dead sessions are adopted.
    pub(crate) async fn try_backup(
        &self,
        engine: impl EngineSession + 'static,
        cancel: CancellationToken,
    ) -> Result<BackupOutcome, PipelineError> {
        let job = self.job(engine, cancel).await.map_err(|error| self.as_pipeline(error))?;
        run_backup(job).await
    }

    fn as_pipeline(&self, error: RepositoryError) -> PipelineError {
        let class = error.class();
        PipelineError::Repository { doing: "beginning a session".to_owned(), class, source: Box::new(error) }
    }

    /// The job of [`try_backup`](Self::try_backup).
    pub(crate) async fn job(
        &self,
        engine: impl EngineSession + 'static,
        cancel: CancellationToken,
    ) -> Result<BackupJob, RepositoryError> {
        let writer = RegionWriter::new(self.set.clone(), Duration::from_secs(2));
        let base = self.latest().await;
        let bases =
            base.iter().map(|base| SnapshotSession { snapshot: base.snapshot, session: base.session }).collect();
        let mut verified = self.writer.verified_sets().await?;
        verified.retain(|set| set.lean.source != self.source);
        let adopts = self.writer.adoptable(self.source).await?.sessions.iter().map(|dead| dead.open.session).collect();
        let intent = SessionIntent {
            snapshot: self.writer.new_snapshot(),
            job: JobId::from_bytes([1; 16]),
            attempt: Attempt(1),
            bases,
            adopts,
            leans: verified.iter().map(|set| set.lean).collect(),
        };
        let session = Arc::new(BackupSession::begin(&self.writer, &writer, self.source, intent).await?);
        Ok(BackupJob {
            engine: Box::new(engine),
            session,
            writer,
            source: ManifestSource { uid: self.source, name: "fake".to_owned(), engine: "fake".to_owned() },
            scheduled: None,
            base,
            verified,
            budget: self.budget.clone(),
            compression: breakwater_repository::format::codec::Compression::default(),
            uploads: 0,
            threads: 2,
            read_rate: None,
            scratch: std::env::temp_dir(),
            progress: Arc::new(Progress::default()),
            cancel,
            log_gate: Some(self.gate()),
        })
    }

    fn gate(&self) -> LogGate {
        let calls = Arc::clone(&self.gate_calls);
        Box::new(move |range| {
            Box::pin(async move {
                calls.lock().unwrap().push(range);
                Ok(())
            })
        })
    }

    /// The ranges that the log was asked for.
    pub(crate) fn gate_calls(&self) -> Vec<RecoveryRange> {
        self.gate_calls.lock().unwrap().clone()
    }

    /// The manifest of the latest snapshot.
    pub(crate) async fn latest(&self) -> Option<Manifest> {
        let order = self.recipient.read_order();
        let found = self.recipient.find_snapshot(&order, Some(self.source), &Selector::Latest).await.ok()?;
        self.manifest(found.id, found.session).await
    }

    pub(crate) async fn manifest(&self, snapshot: SnapshotId, session: SessionId) -> Option<Manifest> {
        self.recipient.manifest(&self.recipient.read_order(), self.source, snapshot, session).await.ok()
    }

    /// A restore into a fresh directory, which must succeed, and what lies there after it.
    pub(crate) async fn restore(&self, manifest: &Manifest) -> (Tree, RestoreReport) {
        self.restore_only(manifest, &[]).await.unwrap()
    }

    pub(crate) async fn restore_only(
        &self,
        manifest: &Manifest,
        only: &[&str],
    ) -> Result<(Tree, RestoreReport), PipelineError> {
        let directory = tempfile::tempdir().unwrap();
        let mut job = self.restore_job(manifest, directory.path().join("target"));
        job.only = only.iter().map(|&pattern| pattern.to_owned()).collect();
        let report = run_restore(job).await?;
        Ok((Tree::read(&directory.path().join("target")), report))
    }

    pub(crate) fn restore_job(&self, manifest: &Manifest, target: PathBuf) -> RestoreJob {
        RestoreJob {
            repository: self.recipient.clone(),
            order: self.recipient.read_order(),
            manifest: manifest.clone(),
            target,
            onto: Onto::Nothing,
            only: Vec::new(),
            owner: OwnerBy::default(),
            budget: self.budget.clone(),
            parallel: 2,
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
        }
    }

    /// Names and sizes below `prefix` in one region.
    pub(crate) async fn names(&self, region: usize, prefix: &str) -> Vec<(String, u64)> {
        let listing = self.storages[region].list(prefix).map_ok(|object| (object.key, object.size));
        listing.try_collect().await.unwrap()
    }
}
