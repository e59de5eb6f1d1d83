//! Deleting, collecting garbage, verifying and checking, by an agent's job and by hand: what was deleted is gone and its space is
//! free, and everything else restores byte for byte.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use breakwater_tests::brctl::{number, rows, text};
use breakwater_tests::source::{plan_yaml, sqlite_yaml};
use breakwater_tests::{Brctl, Fleet, Region};
use serde_json::Value;

/// Bytes of noise in a database, which no codec makes smaller.
const NOISE: usize = 6 << 20;

/// A database whose content is another one for every `seed`.
fn fill(path: &Path, seed: u64) -> Result<()> {
    let mut connection = rusqlite::Connection::open(path)?;
    connection.execute_batch("create table if not exists noise (id integer primary key, bytes blob)")?;
    let change = connection.transaction()?;
    change.execute("delete from noise", [])?;
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for id in 0..NOISE / 4000 {
        let mut bytes = Vec::with_capacity(4000);
        while bytes.len() < 4000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        change.execute("insert into noise (id, bytes) values (?1, ?2)", rusqlite::params![id as i64, bytes])?;
    }
    change.commit().context("fill the database")
}

fn size(region: &Region) -> u64 {
    region.names("/pack/").values().sum()
}

/// A fleet with a SQLite source and two snapshots that have nothing in common.
struct Scene {
    fleet: Fleet,
    database: PathBuf,
    first: String,
    second: String,
    /// The database as the second snapshot restores it.
    before: Vec<u8>,
}

impl Scene {
    async fn new() -> Result<Scene> {
        let fleet = Fleet::builder().commit(2).start().await?;
        let database = fleet.home().join("app.db");
        fill(&database, 1)?;
        fleet.apply(&format!("{}---\n{}", sqlite_yaml("app", &database), plan_yaml("nightly", &["app"]))).await?;
        let first = text(&fleet.backup("app").await?, "snapshot_id")?.to_owned();
        fill(&database, 2)?;
        let second = text(&fleet.backup("app").await?, "snapshot_id")?.to_owned();
        let target = fleet.target("before");
        fleet.restore("app", &["--latest"], &target).await?;
        ensure!(content(&target.join("app.db"))? == content(&database)?, "a restore gives other rows");
        let before = file(&target)?;
        Ok(Scene { fleet, database, first, second, before })
    }

    /// `brctl` on both regions with a key, and nothing else.
    fn by_hand(&self, key: &str) -> Result<Brctl> {
        let regions = self.fleet.regions().iter().map(|region| format!("{}={}", region.name(), region.url()));
        let regions = regions.collect::<Vec<_>>().join(",");
        let key = self.fleet.key(key).display().to_string();
        Ok(Brctl::alone()?.env("BRCTL_REPOSITORY", &regions).env("BRCTL_KEY", &key))
    }

    fn names(&self) -> Vec<Vec<String>> {
        self.fleet.regions().iter().map(|region| region.names("").into_keys().collect()).collect()
    }

    fn sizes(&self) -> Vec<u64> {
        self.fleet.regions().iter().map(size).collect()
    }

    /// A restore of the second snapshot must be, byte for byte, what it was before anything was deleted.
    fn same(&self, target: &Path) -> Result<()> {
        ensure!(file(target)? == self.before, "the restored file is another one than before the deletion");
        Ok(())
    }
}

fn file(target: &Path) -> Result<Vec<u8>> {
    std::fs::read(target.join("app.db")).with_context(|| format!("read what was restored into {}", target.display()))
}

/// What a database holds, in order.
fn content(path: &Path) -> Result<Vec<(i64, Vec<u8>)>> {
    let connection = rusqlite::Connection::open(path)?;
    let mut statement = connection.prepare("select id, bytes from noise order by id")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect::<Result<_, _>>().context("read the rows")
}

/// The summary of the one job of an answer.
fn summary(answer: &Value) -> Result<Value> {
    let job = breakwater_tests::fleet::only_job(answer)?;
    Ok(job["summary"].clone())
}

fn ids(list: &Value) -> Result<Vec<String>> {
    rows(list, "snapshots")?.iter().map(|row| text(row, "id").map(str::to_owned)).collect()
}

/// Bytes of a figure of a collection.
fn bytes(summary: &Value, figure: &str) -> Result<i64> {
    number(&summary[figure], "bytes")
}

#[tokio::test]
async fn a_deleted_snapshot_is_gone_its_space_is_free_and_the_other_one_restores() -> Result<()> {
    let scene = Scene::new().await?;
    let (fleet, first, second) = (&scene.fleet, scene.first.as_str(), scene.second.as_str());
    let brctl = fleet.brctl();

    // Nobody deletes by mistake.
    let before = scene.names();
    let said = brctl.fails(4, &["snapshot", "delete", first]).await?;
    ensure!(said.contains(&format!("--yes={first}")), "{said}");
    brctl.fails(4, &["snapshot", "delete", first, &format!("--yes={second}")]).await?;
    brctl.fails(6, &["snapshot", "delete", "ffffffff", "--yes=ffffffff"]).await?;
    brctl.fails(2, &["repository", "gc", "main", "--repack-below", "200"]).await?;
    brctl.fails(6, &["repository", "gc", "elsewhere"]).await?;
    ensure!(scene.names() == before, "what was refused changed nothing");

    // Deleted once, however often it is asked for.
    let words = ["snapshot", "delete", first, &format!("--yes={first}"), "--request-id", "once", "--wait"];
    let done = summary(&brctl.json(&words).await?)?;
    ensure!(text(&done, "snapshot")? == first && text(&done, "source")? == "app", "{done:#}");
    let again = breakwater_tests::fleet::only_job(&brctl.json(&words).await?)?;
    brctl.ok(&["snapshot", "delete", first, &format!("--yes={first}"), "--wait"]).await?;
    let jobs = brctl.json(&["job", "list", "--kind", "delete"]).await?;
    ensure!(rows(&jobs, "jobs")?.len() == 2, "the request id starts one job: {jobs:#}");
    ensure!(text(&again, "snapshot_id")? == first && text(&again, "outcome")? == "complete", "{again:#}");
    ensure!(ids(&brctl.json(&["snapshot", "list"]).await?)? == [second]);
    ensure!(ids(&brctl.json(&["snapshot", "list", "--status", "deleted"]).await?)? == [first]);
    brctl.fails(6, &["snapshot", "show", first]).await?;

    // A dry run says what would go, and nothing goes.
    let before = scene.names();
    let dry = summary(&brctl.json(&["repository", "gc", "main", "--dry-run", "--wait"]).await?)?;
    ensure!(number(&dry, "freed_bytes")? > NOISE as i64 / 2, "{dry:#}");
    ensure!(scene.names() == before, "a dry run changed something");

    let sizes = scene.sizes();
    let done = summary(&brctl.json(&["repository", "gc", "main", "--wait"]).await?)?;
    ensure!(bytes(&done, "deleted")? + bytes(&done, "repacked")? > NOISE as i64 / 2, "{done:#}");
    for (before, after) in sizes.into_iter().zip(scene.sizes()) {
        ensure!(after + NOISE as u64 / 2 < before, "{before} bytes in packs before, {after} after: {done:#}");
    }
    let nothing = summary(&brctl.json(&["repository", "gc", "main", "--wait"]).await?)?;
    ensure!(bytes(&nothing, "deleted")? == 0 && bytes(&nothing, "repacked")? == 0, "{nothing:#}");

    // What is left is whole, in all depths, and restores.
    for level in ["basic", "standard", "thorough", "forensic"] {
        let seen = summary(&brctl.json(&["snapshot", "verify", second, "--level", level, "--wait"]).await?)?;
        ensure!(text(&seen, "verdict")? == "sound" && text(&seen, "level")? == level, "{seen:#}");
    }
    brctl.ok(&["repository", "check", "main", "--read-data", "--wait"]).await?;
    let target = fleet.target("second");
    fleet.restore("app", &["--latest"], &target).await?;
    scene.same(&target)?;
    fleet.restore_fails(6, "app", &["--snapshot", first], &fleet.target("first")).await?;
    Ok(())
}

#[tokio::test]
async fn a_backup_goes_on_while_garbage_is_collected() -> Result<()> {
    let scene = Scene::new().await?;
    let fleet = &scene.fleet;
    let brctl = fleet.brctl();
    brctl.ok(&["snapshot", "delete", &scene.first, &format!("--yes={}", scene.first), "--wait"]).await?;
    fill(&scene.database, 3)?;
    let (backup, gc) = tokio::join!(
        brctl.json(&["backup", "run", "app", "--compression", "lz4", "--wait"]),
        brctl.json(&["repository", "gc", "main", "--wait"]),
    );
    let (backup, gc) = (summary(&backup?)?, summary(&gc?)?);
    ensure!(text(&backup, "outcome")? == "committed" && text(&backup, "compression")? == "lz4:1", "{backup:#}");
    ensure!(rows(&gc, "sources")?.len() == 1, "{gc:#}");
    // Once more with the backup done, so that nothing is pinned.
    let rest = summary(&brctl.json(&["repository", "gc", "main", "--wait"]).await?)?;
    ensure!(number(&rest, "pins")? == 0, "{rest:#}");
    brctl.ok(&["repository", "check", "main", "--read-data", "--wait"]).await?;
    let target = fleet.target("latest");
    fleet.restore("app", &["--latest"], &target).await?;
    ensure!(content(&target.join("app.db"))? == content(&scene.database)?, "a restore gives other rows");
    let target = fleet.target("second");
    fleet.restore("app", &["--snapshot", &scene.second], &target).await?;
    scene.same(&target)
}

#[tokio::test]
async fn everything_can_be_done_by_hand_with_a_key_and_the_regions() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.fleet.agent().stop().await?;
    scene.fleet.controller.stop().await?;
    let (first, second) = (scene.first.clone(), scene.second.clone());
    let (writer, recovery) = (scene.by_hand("writer")?, scene.by_hand("recovery")?);

    let shown = writer.json(&["--offline", "repository", "show"]).await?;
    ensure!(text(&shown, "suite")? == "standard" && number(&shown, "pack_size")? > 0, "{shown:#}");

    let before = scene.names();
    writer.fails(4, &["--offline", "snapshot", "delete", &first]).await?;
    writer.fails(4, &["--offline", "snapshot", "delete", &first, "--yes=other"]).await?;
    writer.fails(2, &["--offline", "repository", "gc", "--dry-run", "--agent", "db-1"]).await?;
    let said = writer.fails(4, &["--offline", "repository", "gc"]).await?;
    ensure!(said.contains("--all-regions"), "{said}");
    writer.fails(3, &["--offline", "snapshot", "verify", &second, "--level", "forensic"]).await?;
    ensure!(scene.names() == before, "what was refused changed nothing");

    let short = &first[..23];
    let done = writer.json(&["--offline", "snapshot", "delete", short, &format!("--yes={short}")]).await?;
    ensure!(text(&done, "snapshot")? == first, "{done:#}");
    ensure!(ids(&writer.json(&["--offline", "snapshot", "list"]).await?)? == [second.as_str()]);

    let before = scene.names();
    let dry = writer.json(&["--offline", "repository", "gc", "--dry-run"]).await?;
    ensure!(number(&dry, "freed_bytes")? > NOISE as i64 / 2 && scene.names() == before, "{dry:#}");
    scene.fleet.region("west").take_away()?;
    writer.fails(8, &["--offline", "repository", "gc", "--all-regions"]).await?;
    scene.fleet.region("west").give_back()?;
    ensure!(scene.names() == before, "nothing goes while a region is away");
    let sizes = scene.sizes();
    writer.ok(&["--offline", "repository", "gc", "--all-regions"]).await?;
    for (before, after) in sizes.into_iter().zip(scene.sizes()) {
        ensure!(after + NOISE as u64 / 2 < before, "{before} bytes in packs before, {after} after");
    }

    writer.ok(&["--offline", "repository", "check"]).await?;
    recovery.ok(&["--offline", "repository", "check", "--read-data-subset", "1/2"]).await?;
    let seen = recovery.json(&["--offline", "snapshot", "verify", &second, "--level", "forensic"]).await?;
    ensure!(text(&seen, "verdict")? == "sound", "{seen:#}");
    let target = scene.fleet.target("by-hand");
    recovery.ok(&["--offline", "restore", "run", "--latest", "--target", &target.display().to_string()]).await?;
    scene.same(&target)?;

    damage(&scene, &recovery, &second).await
}

/// Damage is found as deep as was asked, in its region, and the other one is sound.
async fn damage(scene: &Scene, recovery: &Brctl, snapshot: &str) -> Result<()> {
    let east = scene.fleet.region("east");
    let pack = east.names("/pack/").into_keys().find(|name| name.starts_with("data/")).context("a pack of content")?;
    let path = east.dir().join(&pack);
    let good = std::fs::read(&path).context("read a pack")?;
    let mut bad = good.clone();
    bad[200] ^= 1;
    std::fs::write(&path, bad).context("damage a pack")?;
    let verify = |level: &'static str| ["--offline", "snapshot", "verify", snapshot, "--level", level];
    for level in ["basic", "standard"] {
        recovery.ok(&verify(level)).await.with_context(|| format!("{level} does not read data"))?;
    }
    let said = recovery.fails(9, &verify("forensic")).await?;
    ensure!(said.contains(&pack) && said.contains("east"), "{said}");
    recovery.ok(&[&verify("forensic")[..], &["--region", "west"]].concat()).await?;

    std::fs::remove_file(&path).context("lose a pack")?;
    let said = recovery.fails(9, &verify("basic")).await?;
    ensure!(said.contains(&pack), "{said}");
    std::fs::write(&path, good).context("bring the pack back")?;
    recovery.ok(&verify("forensic")).await.map(drop)
}
