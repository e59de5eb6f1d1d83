//! The same work through the whole pipeline: a repository with one file-system region, a backup, a restore.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use breakwater_core::{Attempt, JobId, SourceUid};
use breakwater_crypto::Suite;
use breakwater_engine::{BackupRequest, BaseFacts};
use breakwater_pipeline::Progress;
use breakwater_pipeline::backup::{BackupJob, BackupOutcome, run_backup};
use breakwater_pipeline::restore::{Onto, OwnerBy, RestoreJob, run_restore};
use breakwater_repository::format::manifest::{Manifest, ManifestSource, SnapshotSession};
use breakwater_repository::regions::{RegionOptions, RegionSet, Role};
use breakwater_repository::session::{RegionWriter, SessionIntent};
use breakwater_repository::{Access, BackupSession, CreateOptions, Place, Repository};
use breakwater_runtime::{ByteBudget, SystemClock, SystemEntropy};
use breakwater_storage::Storage;
use tokio_util::sync::CancellationToken;

use crate::source::Directory;
use crate::wiring;

/// The budget that an agent has.
const BUDGET: u64 = 192 << 20;

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// In extents, as files of a database, each of them whole.
    Extents,
    /// As the files engine does: cut where the content says, and what its stamp says is unchanged is not read.
    Tree,
    /// The same, but each file is read again.
    WholeTree,
}

/// A repository in one directory, opened by a writer and by a recipient.
#[derive(Debug)]
pub struct Ours {
    writer: Repository,
    recipient: Repository,
    set: RegionSet,
    source: SourceUid,
}

impl Ours {
    /// Makes a repository in `directory`, which must not exist.
    pub async fn create(directory: &Path, suite: Suite) -> Result<Ours> {
        Ours::with_extents(directory, suite, CreateOptions::default().extent_size).await
    }

    /// The same with extents of this size.
    pub async fn with_extents(directory: &Path, suite: Suite, extent_size: u32) -> Result<Ours> {
        let places = vec![Place::new("local", Role::Sync, Storage::file_system(directory)?)];
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let options = CreateOptions { suite, extent_size, ..CreateOptions::default() };
        let created = Repository::create(places.clone(), options, clock.clone(), entropy.clone()).await?;
        let writer = Repository::open(places, Access::Writer(created.writer_key), clock, entropy).await?;
        let options = RegionOptions { repository: Some(writer.id()), ..RegionOptions::default() };
        let set = RegionSet::with_options(writer.handles(), 1, options)?;
        Ok(Ours { writer, recipient: created.repository, set, source: SourceUid::from_bytes([1; 16]) })
    }

    /// Backs up the files of `input`, compared with `base`.
    pub async fn backup(
        &self,
        input: &Path,
        reads: Reads,
        base: Option<&Manifest>,
        threads: usize,
    ) -> Result<BackupOutcome> {
        let engine = match reads {
            Reads::Extents => Box::new(Directory::open(input).context("opening the input")?),
            Reads::Tree | Reads::WholeTree => {
                // With the facts of no engine that it knows it believes none of the base's stamps.
                let facts = |base: &Manifest| match reads {
                    Reads::WholeTree => serde_json::Value::Null,
                    Reads::Extents | Reads::Tree => base.facts.clone(),
                };
                let facts = |base: &Manifest| BaseFacts { facts: facts(base), start: None, end: None };
                let request = BackupRequest {
                    label: "bench".to_owned(),
                    fast: true,
                    extent_size: self.writer.descriptor().extent_size,
                    base: base.map(facts),
                };
                wiring::files(input, &std::env::temp_dir())?.begin_backup(request).await?
            }
        };
        self.backup_of(engine, base, threads).await
    }

    /// Backs up what `engine` reads, compared with `base`.
    pub async fn backup_of(
        &self,
        engine: Box<dyn breakwater_engine::BackupSession>,
        base: Option<&Manifest>,
        threads: usize,
    ) -> Result<BackupOutcome> {
        let writer = RegionWriter::new(self.set.clone(), Duration::from_secs(120));
        let intent = SessionIntent {
            snapshot: self.writer.new_snapshot(),
            job: JobId::from_bytes([2; 16]),
            attempt: Attempt(1),
            bases: base
                .map(|base| SnapshotSession { snapshot: base.snapshot, session: base.session })
                .into_iter()
                .collect(),
            adopts: Vec::new(),
            leans: Vec::new(),
        };
        let session = BackupSession::begin(&self.writer, &writer, self.source, intent).await?;
        let job = BackupJob {
            engine,
            session: Arc::new(session),
            writer,
            source: ManifestSource { uid: self.source, name: "bench".to_owned(), engine: "bench".to_owned() },
            scheduled: None,
            base: base.cloned(),
            verified: Vec::new(),
            budget: ByteBudget::new(BUDGET),
            compression: breakwater_repository::format::codec::Compression::default(),
            uploads: 0,
            threads,
            read_rate: None,
            scratch: std::env::temp_dir(),
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
            log_gate: None,
        };
        Ok(run_backup(job).await?)
    }

    /// Restores into `target`, which must not exist.
    pub async fn restore(&self, manifest: &Manifest, target: &Path) -> Result<()> {
        let job = RestoreJob {
            repository: self.recipient.clone(),
            order: self.recipient.read_order(),
            manifest: manifest.clone(),
            target: target.to_owned(),
            onto: Onto::Nothing,
            only: Vec::new(),
            owner: OwnerBy::default(),
            budget: ByteBudget::new(BUDGET),
            parallel: 0,
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
        };
        run_restore(job).await?;
        Ok(())
    }
}
