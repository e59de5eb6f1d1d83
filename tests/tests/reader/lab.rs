//! A repository in directories, what writes to it, and the Python program that reads it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use breakwater_core::{Attempt, Clock as _, DomainName, JobId, SessionId, SnapshotId, SourceUid};
use breakwater_crypto::Suite;
use breakwater_pipeline::Progress;
use breakwater_pipeline::backup::{BackupJob, BackupOutcome, run_backup};
use breakwater_repository::format::Compression;
use breakwater_repository::format::manifest::{ManifestSource, SnapshotSession};
use breakwater_repository::format::open::SourceRecord;
use breakwater_repository::regions::{RegionOptions, RegionSet, Role};
use breakwater_repository::verified::VerifiedSet;
use breakwater_repository::{
    Access, BackupSession, CreateOptions, Place, RegionWriter, Repository, Selector, SessionIntent,
};
use breakwater_runtime::{ByteBudget, SystemClock, SystemEntropy};
use breakwater_storage::{Fault, Storage};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::engine::TreeSession;
use crate::tree::Tree;

/// Bytes of an extent: small, so that files have many.
pub(crate) const EXTENT: usize = 4096;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Debian's Python and no other, because the modules are Debian's.
const PYTHON: &str = "/usr/bin/python3";

/// A repository with its keys in files and one source.
pub(crate) struct Lab {
    dir: TempDir,
    fresh: AtomicUsize,
    pub(crate) writer: Repository,
    pub(crate) faults: Vec<Fault>,
    pub(crate) set: RegionSet,
    pub(crate) source: SourceUid,
    compression: Compression,
}

impl Lab {
    pub(crate) async fn new(regions: usize) -> Lab {
        Lab::with(regions, Suite::Standard, Compression::default()).await
    }

    /// A repository of this suite, whose backups are compressed like this.
    pub(crate) async fn with(regions: usize, suite: Suite, compression: Compression) -> Lab {
        Lab::with_options(regions, CreateOptions { suite, ..CreateOptions::default() }, compression).await
    }

    /// A repository made with these options, but for its sizes.
    pub(crate) async fn with_options(regions: usize, options: CreateOptions, compression: Compression) -> Lab {
        assert_python();
        let dir = tempfile::tempdir().unwrap();
        let (mut places, mut faults) = (Vec::new(), Vec::new());
        for number in 0..regions {
            let storage = Storage::file_system(&region_dir(&dir, number)).unwrap();
            let fault = Fault::new(storage.backend());
            places.push(Place::new(&format!("r{number}"), Role::Sync, Storage::new(Arc::new(fault.clone()))));
            faults.push(fault);
        }
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let options = CreateOptions { extent_size: u32::try_from(EXTENT).unwrap(), pack_size: 1 << 20, ..options };
        let created = Repository::create(places.clone(), options, clock.clone(), entropy.clone()).await.unwrap();
        created.key.write_new(&dir.path().join("key")).unwrap();
        created.recovery_key.write_new(&dir.path().join("recovery")).unwrap();
        created.writer_key.write_new(&dir.path().join("writer")).unwrap();
        let writer = Repository::open(places, Access::Writer(created.writer_key), clock, entropy).await.unwrap();
        let set = region_set(&writer);
        let (fresh, source) = (AtomicUsize::new(0), SourceUid::from_bytes([7; 16]));
        let mut lab = Lab { dir, fresh, writer, faults, set, source, compression };
        lab.turn_to(source, "orders").await;
        lab
    }

    /// From now on backups are of this source.
    pub(crate) async fn turn_to(&mut self, source: SourceUid, name: &str) {
        self.source = source;
        let record = SourceRecord {
            uid: source,
            name: name.to_owned(),
            engine: "tree".to_owned(),
            identity: "1".to_owned(),
            domain: DomainName::new("default").unwrap(),
            created: SystemClock.now(),
        };
        self.writer.ensure_source(&self.region_writer(), &record).await.unwrap();
    }

    /// What restorers vouch for of other sources.
    async fn verified(&self) -> Vec<VerifiedSet> {
        let mut verified = self.writer.verified_sets().await.unwrap();
        verified.retain(|set| set.lean.source != self.source);
        verified
    }

    /// As after a restart of the process: what was in memory is gone.
    pub(crate) fn restart(&mut self) {
        self.set = region_set(&self.writer);
    }

    pub(crate) fn region(&self, number: usize) -> PathBuf {
        region_dir(&self.dir, number)
    }

    /// One of the files beside the regions: `key`, `recovery`, `writer`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path that nothing has yet.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}-{}", self.fresh.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn region_writer(&self) -> RegionWriter {
        RegionWriter::new(self.set.clone(), PATIENCE)
    }

    /// The names of all objects in a region, in order.
    pub(crate) fn objects(&self, region: &Path) -> Vec<String> {
        let tree = Tree::read(region);
        let files = tree.0.into_iter().filter(|(_, item)| matches!(item.node, crate::tree::Node::File(_)));
        files.map(|(path, _)| String::from_utf8(path).unwrap()).filter(|name| !name.starts_with(".tmp")).collect()
    }

    // --- writing -----------------------------------------------------------------------------------------------------

    /// A backup compared with the latest snapshot.
    pub(crate) async fn backup(&self, tree: &Tree) -> BackupOutcome {
        self.backup_in(self.begin_session().await, tree).await
    }

    /// A session that began and never went on.
    pub(crate) async fn begin(&self) -> (SnapshotId, SessionId) {
        let session = self.begin_session().await;
        (session.intent().snapshot, session.id())
    }

    pub(crate) async fn begin_session(&self) -> BackupSession {
        let snapshot = self.writer.new_snapshot();
        let bases = self.base().await.into_iter().collect();
        let intent = SessionIntent {
            snapshot,
            job: JobId::from_bytes([1; 16]),
            attempt: Attempt(1),
            bases,
            adopts: Vec::new(),
            leans: self.verified().await.iter().map(|set| set.lean).collect(),
        };
        BackupSession::begin(&self.writer, &self.region_writer(), self.source, intent).await.unwrap()
    }

    pub(crate) async fn backup_in(&self, session: BackupSession, tree: &Tree) -> BackupOutcome {
        let order = self.writer.read_order();
        let base = match session.intent().bases.first() {
            Some(base) => Some(self.writer.manifest(&order, self.source, base.snapshot, base.session).await.unwrap()),
            None => None,
        };
        let job = BackupJob {
            engine: Box::new(TreeSession::new(tree, self.dir.path())),
            session: Arc::new(session),
            writer: self.region_writer(),
            source: ManifestSource { uid: self.source, name: "orders".to_owned(), engine: "tree".to_owned() },
            scheduled: None,
            base,
            verified: self.verified().await,
            budget: ByteBudget::new(48 << 20),
            compression: self.compression,
            uploads: 0,
            threads: 2,
            read_rate: None,
            scratch: self.dir.path().to_owned(),
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
            log_gate: None,
        };
        let outcome = run_backup(job).await.unwrap();
        assert!(self.set.drained(PATIENCE).await, "{:#?}", self.set.statuses());
        outcome
    }

    async fn base(&self) -> Option<SnapshotSession> {
        let found =
            self.writer.find_snapshot(&self.writer.read_order(), Some(self.source), &Selector::Latest).await.ok()?;
        Some(SnapshotSession { snapshot: found.id, session: found.session })
    }

    /// Waits until the regions agree about every register.
    pub(crate) async fn settled(&self) {
        let settled = self.writer.settle_registers(&self.region_writer(), self.source).await.unwrap();
        assert!(settled.open.is_empty() && settled.silent.is_empty(), "{settled:?}");
        assert!(self.set.drained(PATIENCE).await, "{:#?}", self.set.statuses());
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// The lines that the reader prints with a recipient's key, when it must succeed.
    pub(crate) fn read(&self, region: &Path, words: &[&str]) -> Vec<Value> {
        self.read_with("key", region, words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The lines that the reader prints with one of `key`, `recovery`, `writer`, or its complaint.
    pub(crate) fn read_with(&self, key: &str, region: &Path, words: &[&str]) -> Result<Vec<Value>, String> {
        let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/breakwater_reader.py");
        let mut command = Command::new(PYTHON);
        let output = command.arg(reader).arg(region).arg(self.path(key)).args(words).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        Ok(String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Bytes of the source's log as the reader gives them, or its complaint.
    pub(crate) fn log(&self, region: &Path, branch: u32, start: u64, end: u64) -> Result<Vec<u8>, String> {
        let out = self.fresh("log");
        let (source, numbers) = (self.source.to_string(), [u64::from(branch), start, end].map(|n| n.to_string()));
        let [branch, start, end] = &numbers;
        self.read_with("key", region, &["log", &source, branch, start, end, out.to_str().unwrap()])?;
        Ok(std::fs::read(out).unwrap())
    }
}

fn region_dir(dir: &TempDir, number: usize) -> PathBuf {
    dir.path().join(format!("r{number}"))
}

fn region_set(writer: &Repository) -> RegionSet {
    let options = RegionOptions {
        repository: Some(writer.id()),
        backoff: Duration::from_millis(5),
        backoff_cap: Duration::from_millis(50),
        ..RegionOptions::default()
    };
    RegionSet::with_options(writer.handles(), 1, options).unwrap()
}

fn assert_python() {
    let found = Command::new(PYTHON).args(["-c", "import cryptography, zstandard"]).output();
    let trouble = match found {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    panic!("the reader needs {PYTHON} with its modules cryptography and zstandard: {trouble}\nhint: run tests/setup");
}
