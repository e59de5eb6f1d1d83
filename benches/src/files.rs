//! The files engine and the pipeline on a repository that outlives the process, so that each step is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use breakwater_core::{Attempt, JobId, SourceUid};
use breakwater_crypto::{RecipientKey, WriterKey};
use breakwater_engine::{BackupRequest, BaseFacts};
use breakwater_pipeline::Progress;
use breakwater_pipeline::backup::{BackupJob, run_backup};
use breakwater_pipeline::restore::{Onto, OwnerBy, RestoreJob, run_restore};
use breakwater_repository::check::{CheckOptions, Verdict};
use breakwater_repository::format::codec::Compression;
use breakwater_repository::format::manifest::{Manifest, ManifestSource, SnapshotSession};
use breakwater_repository::regions::{RegionOptions, RegionSet, Role};
use breakwater_repository::session::{RegionWriter, SessionIntent};
use breakwater_repository::{Access, BackupSession, CreateOptions, Place, Repository, Selector};
use breakwater_runtime::{ByteBudget, SystemClock, SystemEntropy};
use breakwater_storage::Storage;
use tokio_util::sync::CancellationToken;

/// The budget that an agent has.
const BUDGET: u64 = 192 << 20;

const SOURCE: SourceUid = SourceUid::from_bytes([1; 16]);

/// A repository in one directory, with its keys beside it.
#[derive(Clone, Debug)]
pub struct Files {
    home: PathBuf,
}

impl Files {
    /// The repository in `home`.
    pub fn new(home: &Path) -> Files {
        Files { home: home.to_owned() }
    }

    fn places(&self) -> Result<Vec<Place>> {
        Ok(vec![Place::new("local", Role::Sync, Storage::file_system(&self.home.join("region"))?)])
    }

    /// Makes it.
    pub async fn create(&self) -> Result<()> {
        std::fs::create_dir_all(&self.home)?;
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let created = Repository::create(self.places()?, CreateOptions::default(), clock, entropy).await?;
        created.writer_key.write_new(&self.home.join("writer.key"))?;
        created.key.write_new(&self.home.join("recipient.key"))?;
        Ok(())
    }

    async fn open(&self, access: Access) -> Result<Repository> {
        Ok(Repository::open(self.places()?, access, Arc::new(SystemClock), Arc::new(SystemEntropy)).await?)
    }

    async fn newest(repository: &Repository) -> Result<Option<Manifest>> {
        let order = repository.read_order();
        match repository.find_snapshot(&order, Some(SOURCE), &Selector::Latest).await {
            Ok(found) => Ok(Some(repository.manifest(&order, SOURCE, found.id, found.session).await?)),
            Err(error) if error.class() == breakwater_core::ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Backs up `tree`, compared with the newest snapshot there is.
    pub async fn backup(&self, tree: &Path) -> Result<()> {
        let writer_key = WriterKey::read(&self.home.join("writer.key"))?;
        let repository = self.open(Access::Writer(writer_key)).await?;
        let options = RegionOptions { repository: Some(repository.id()), ..RegionOptions::default() };
        let set = RegionSet::with_options(repository.handles(), 1, options)?;
        let writer = RegionWriter::new(set, Duration::from_secs(120));
        let base = Files::newest(&repository).await?;
        let intent = SessionIntent {
            snapshot: repository.new_snapshot(),
            job: JobId::from_bytes([2; 16]),
            attempt: Attempt(1),
            bases: base.iter().map(|base| SnapshotSession { snapshot: base.snapshot, session: base.session }).collect(),
            adopts: Vec::new(),
            leans: Vec::new(),
        };
        let session = BackupSession::begin(&repository, &writer, SOURCE, intent).await?;
        let scratch = self.home.join("scratch");
        std::fs::create_dir_all(&scratch)?;
        let engine = crate::wiring::files(tree, &scratch)?;
        let request = BackupRequest {
            label: "bench".to_owned(),
            fast: true,
            extent_size: repository.descriptor().extent_size,
            base: base.as_ref().map(|base| BaseFacts { facts: base.facts.clone(), start: base.start, end: base.end }),
        };
        let job = BackupJob {
            engine: engine.begin_backup(request).await?,
            session: Arc::new(session),
            writer,
            source: ManifestSource { uid: SOURCE, name: "bench".to_owned(), engine: "files".to_owned() },
            scheduled: None,
            base,
            verified: Vec::new(),
            budget: ByteBudget::new(BUDGET),
            compression: Compression::default(),
            uploads: 0,
            threads: 0,
            read_rate: None,
            scratch,
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
            log_gate: None,
        };
        let outcome = run_backup(job).await?;
        anyhow::ensure!(outcome.manifest.unreadable.is_none(), "files could not be read");
        eprintln!("        {:?}", outcome.totals);
        Ok(())
    }

    async fn open_all(&self) -> Result<Repository> {
        self.open(Access::Recipient(RecipientKey::read(&self.home.join("recipient.key"))?)).await
    }

    /// Restores the newest snapshot into `target`.
    pub async fn restore(&self, target: &Path) -> Result<()> {
        let repository = self.open_all().await?;
        let manifest = Files::newest(&repository).await?.context("there is no snapshot")?;
        let job = RestoreJob {
            order: repository.read_order(),
            repository,
            manifest,
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

    /// Checks what all snapshots need.
    pub async fn check(&self) -> Result<()> {
        let report = self.open_all().await?.check(&CheckOptions::default()).await?;
        anyhow::ensure!(report.verdict() == Verdict::Sound, "the check found something: {report:?}");
        Ok(())
    }
}
