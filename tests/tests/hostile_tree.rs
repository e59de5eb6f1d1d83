//! A snapshot that a thief of the writer key sealed: its tree is well signed and hostile. `brctl` refuses to restore it, by name
//! and with the exit code for damage, and touches nothing, neither in the target nor outside of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_core::{Attempt, JobId};
use breakwater_crypto::WriterKey;
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::regions::{RegionSet, Role};
use breakwater_repository::{
    Access, BackupSession, Class, Codec, CommitOutcome, ObjectWriter, Place, RegionWriter, Repository, Selector,
    SessionIntent,
};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::Places;
use breakwater_testkit::tree::tree_hash;
use breakwater_tests::fleet::AGENT;
use breakwater_tests::source::plan_yaml;
use breakwater_tests::{Brctl, Fleet};

/// What the thief has: the writer key and the credentials of a region.
struct Thief {
    repository: Repository,
    writer: RegionWriter,
    /// A snapshot of the source, whose manifest serves as a pattern.
    pattern: Manifest,
}

impl Thief {
    async fn new(fleet: &Fleet) -> Result<Thief> {
        let storage = Places::local().open_existing(&fleet.region("east").url()).await.context("open the region")?;
        let places = vec![Place::new("east", Role::Sync, storage)];
        let access = Access::Writer(WriterKey::read(&fleet.key("writer")).context("read the writer key")?);
        let repository = Repository::open(places, access, Arc::new(SystemClock), Arc::new(SystemEntropy)).await?;
        let writer = RegionWriter::new(RegionSet::new(repository.handles(), 1)?, Duration::from_secs(30));
        let order = repository.read_order();
        let found = repository.find_snapshot(&order, None, &Selector::Latest).await?;
        let pattern = repository.manifest(&order, found.source.uid, found.id, found.session).await?;
        Ok(Thief { repository, writer, pattern })
    }

    /// Commits a snapshot whose tree has these lines. Its id.
    async fn commit(&self, lines: &[String]) -> Result<String> {
        let (repository, source) = (&self.repository, self.pattern.source.uid);
        let intent = SessionIntent {
            snapshot: repository.new_snapshot(),
            job: JobId::from_bytes([1; 16]),
            attempt: Attempt(1),
            bases: Vec::new(),
            adopts: Vec::new(),
            leans: Vec::new(),
        };
        let session = BackupSession::begin(repository, &self.writer, source, intent).await?;
        let plain: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
        let id = repository.suite().chunk_id(repository.id_key(), Class::Tree.byte(), &plain);
        let mut packs = session.structure_packs();
        let length = u32::try_from(plain.len()).context("a short tree")?;
        let mut manifest = self.pattern.clone();
        manifest.tree = vec![packs.push(id, Class::Tree, Codec::None, length, &plain)?];
        for pack in packs.finish()? {
            self.writer.create_all(&pack.name, pack.payload).await?;
        }
        (manifest.snapshot, manifest.session) = (session.intent().snapshot, session.id());
        manifest.sessions = vec![session.id()];
        (manifest.references, manifest.bases) = (Vec::new(), Vec::new());
        let outcome = session.commit(&self.writer, &manifest).await?;
        ensure!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
        Ok(manifest.snapshot.to_string())
    }
}

fn line(path: &str, rest: &str) -> String {
    format!("{{\"path\":\"{path}\",\"mode\":448,\"uid\":0,\"gid\":0,\"mtime\":0,{rest}}}")
}

fn hostile(outside: &Path) -> Vec<(&'static str, Vec<String>)> {
    let dir = "\"type\":\"dir\"";
    let link = format!("\"type\":\"symlink\",\"target\":\"{}\"", outside.display());
    let hard = |target: &str| format!("\"type\":\"hardlink\",\"target\":\"{target}\"");
    let empty = "\"type\":\"file\",\"size\":0,\"extent\":0,\"leaves\":[]";
    vec![
        ("a path above the target", vec![line("..", dir), line("../planted", empty)]),
        ("`..` in escaped form", vec![line("%2e%2e", dir), line("%2e%2e/planted", empty)]),
        ("`..` behind a good start", vec![line("a", dir), line("a/../../planted", empty)]),
        ("an absolute path", vec![line(&format!("{}/planted", outside.display()), empty)]),
        ("NUL in a name", vec![line("a%00b", empty)]),
        ("an entry below a symbolic link", vec![line("a", &link), line("a/planted", empty)]),
        (
            "a link that takes the place of a directory",
            vec![line("a", dir), line("a", &link), line("a/planted", empty)],
        ),
        ("a hard link that leads out", vec![line("a", &hard("../outside/precious"))]),
        ("a hard link to an absolute path", vec![line("a", &hard(&format!("{}/precious", outside.display())))]),
        ("a hard link through a symbolic link", vec![line("a", &link), line("b", &hard("a/precious"))]),
        ("one path twice", vec![line("a", empty), line("a", empty)]),
    ]
}

#[tokio::test]
async fn a_hostile_tree_is_refused_and_nothing_is_touched() -> Result<()> {
    let mut fleet = Fleet::builder().regions(&["east"]).start().await?;
    let root = fleet.home().join("docs");
    std::fs::create_dir(&root)?;
    std::fs::write(root.join("a"), "content")?;
    let declared = format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: docs}}\nspec:\n  agent: {AGENT}\n  files: {{paths: [\"{}\"]}}\n---\n{}",
        root.display(),
        plan_yaml("nightly", &["docs"])
    );
    fleet.apply(&declared).await?;
    fleet.backup("nightly").await?;
    fleet.agent().stop().await?;
    let thief = Thief::new(&fleet).await?;

    // Everything that a restore could reach by going wrong lies below one directory.
    let reach = fleet.home().join("reach");
    let outside = reach.join("outside");
    std::fs::create_dir_all(&outside)?;
    std::fs::write(outside.join("precious"), "data")?;
    let brctl = Brctl::alone()?
        .env("BRCTL_REPOSITORY", &fleet.region("east").url())
        .env("BRCTL_KEY", &fleet.key("recovery").display().to_string());
    let restore = async |snapshot: &str, target: &Path| {
        let target = target.display().to_string();
        brctl.run(&["--offline", "restore", "run", "--snapshot", snapshot, "--target", &target]).await
    };

    // The thief's way of sealing is a good one: what is not hostile restores.
    let harmless = thief.commit(&[line("a", "\"type\":\"dir\"")]).await?;
    let target = fleet.target("harmless");
    restore(&harmless, &target).await?.success()?;
    ensure!(target.join("a").is_dir());

    for (what, lines) in hostile(&outside) {
        let snapshot = thief.commit(&lines).await.context(what)?;
        for (kind, target) in [("new", reach.join("new")), ("empty", reach.join("empty"))] {
            if kind == "empty" {
                std::fs::create_dir(&target)?;
            }
            let before = tree_hash(&reach)?;
            let ended = restore(&snapshot, &target).await?;
            ensure!(ended.code()? == 9, "{what}, {kind} target: {ended}");
            ensure!(!ended.stderr.contains("panicked"), "{what}: {ended}");
            ensure!(tree_hash(&reach)? == before, "{what}, {kind} target: something was written: {ended}");
            if kind == "empty" {
                std::fs::remove_dir(&target).with_context(|| format!("{what}: the target is still empty"))?;
            }
        }
    }
    Ok(())
}
