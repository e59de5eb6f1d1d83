//! What a collection moved, and who may collect: after a repack every region alone proves and restores what is left, and a key
//! that opens nothing is enough to delete and collect, for an agent and by hand.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use breakwater_testkit::process::Program;
use breakwater_testkit::tree::tree_hash;
use breakwater_tests::brctl::{number, rows, text};
use breakwater_tests::fleet::{AGENT, only_job};
use breakwater_tests::part::Part;
use breakwater_tests::source::plan_yaml;
use breakwater_tests::{Brctl, Fleet};
use serde_json::Value;

/// Files of a tree, and bytes of each, which no codec makes smaller.
const FILES: u64 = 48;
const SIZE: usize = 60_000;

/// The agent that has nothing but a reaper's key.
const REAPER: &str = "reaper-1";

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A tree with two snapshots: the second needs a third of what the packs of the first hold, and has something of its own.
struct Scene {
    fleet: Fleet,
    root: PathBuf,
    first: String,
    second: String,
}

impl Scene {
    async fn new() -> Result<Scene> {
        let fleet = Fleet::builder().commit(2).start().await?;
        let root = fleet.home().join("docs");
        std::fs::create_dir(&root)?;
        for n in 0..FILES {
            std::fs::write(root.join(format!("f{n:02}")), noise(n + 1, SIZE))?;
        }
        let declared = format!(
            "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: docs}}\nspec:\n  agent: {AGENT}\n  files: {{paths: [\"{}\"]}}\n---\n{}",
            root.display(),
            plan_yaml("nightly", &["docs"])
        );
        fleet.apply(&declared).await?;
        let first = text(&fleet.backup("nightly").await?, "snapshot_id")?.to_owned();
        for n in (0..FILES).filter(|n| n % 3 > 0) {
            std::fs::remove_file(root.join(format!("f{n:02}")))?;
        }
        std::fs::write(root.join("new"), noise(1000, SIZE))?;
        let second = text(&fleet.backup("nightly").await?, "snapshot_id")?.to_owned();
        Ok(Scene { fleet, root, first, second })
    }

    /// `brctl` on regions with a key, and nothing else.
    fn by_hand(&self, key: &Path, regions: &[&str]) -> Result<Brctl> {
        let regions = regions.iter().map(|name| format!("{name}={}", self.fleet.region(name).url()));
        let regions = regions.collect::<Vec<_>>().join(",");
        Ok(Brctl::alone()?.env("BRCTL_REPOSITORY", &regions).env("BRCTL_KEY", &key.display().to_string()))
    }

    fn moved(&self, region: &str) -> usize {
        self.fleet.region(region).names("/moved/").len()
    }

    fn packs(&self, region: &str) -> Vec<String> {
        self.fleet.region(region).names("/pack/").into_keys().filter(|name| name.starts_with("data/")).collect()
    }

    /// A reaper's key, made by the holder of the recovery key.
    async fn reaper_key(&self) -> Result<PathBuf> {
        let path = self.fleet.key("reaper");
        let recovery = self.by_hand(&self.fleet.key("recovery"), &["east", "west"])?;
        recovery.ok(&["--offline", "repository", "key", "reaper", "--out", &path.display().to_string()]).await?;
        Ok(path)
    }

    /// Each region, with no other one at hand, proves the snapshot down to its bytes and restores it.
    async fn each_region_alone_is_whole(&self, when: &str) -> Result<()> {
        let expected = tree_hash(&self.root)?;
        for region in ["east", "west"] {
            let context = || format!("{when}, {region} alone");
            let alone = self.by_hand(&self.fleet.key("recovery"), &[region])?;
            let words = ["--offline", "snapshot", "verify", &self.second, "--level", "forensic"];
            let seen = alone.json(&words).await.with_context(context)?;
            ensure!(text(&seen, "verdict")? == "sound", "{}: {seen:#}", context());
            alone.ok(&["--offline", "repository", "check", "--read-data"]).await.with_context(context)?;
            let target = self.fleet.target(&format!("{region}-{}", when.replace(' ', "-")));
            let shown = target.display().to_string();
            let words = ["--offline", "restore", "run", "--snapshot", &self.second, "--target", &shown];
            alone.ok(&words).await.with_context(context)?;
            ensure!(tree_hash(&target.join("docs"))? == expected, "{}: another tree", context());
        }
        Ok(())
    }
}

fn summary(answer: &Value) -> Result<Value> {
    Ok(only_job(answer)?["summary"].clone())
}

#[tokio::test]
async fn after_a_repack_every_region_alone_proves_and_restores_what_is_left() -> Result<()> {
    let scene = Scene::new().await?;
    let brctl = scene.fleet.brctl();
    let before = ["east", "west"].map(|region| scene.packs(region));
    brctl.ok(&["snapshot", "delete", &scene.first, &format!("--yes={}", scene.first), "--wait"]).await?;

    // The packs of the first are needed in part: a lower bound leaves them, a higher one moves what is needed.
    let left = summary(&brctl.json(&["repository", "gc", "main", "--repack-below", "0", "--wait"]).await?)?;
    ensure!(number(&left["repacked"], "bytes")? == 0 && scene.moved("east") == 0, "{left:#}");
    let done = summary(&brctl.json(&["repository", "gc", "main", "--repack-below", "80", "--wait"]).await?)?;
    ensure!(number(&done["repacked"], "bytes")? > 0, "nothing was moved: {done:#}");
    for (region, before) in ["east", "west"].into_iter().zip(&before) {
        ensure!(scene.moved(region) > 0, "{region} has no record of what was moved");
        let after = scene.packs(region);
        ensure!(before.iter().any(|pack| !after.contains(pack)), "{region}: no pack went: {before:?}, {after:?}");
        ensure!(after.iter().any(|pack| !before.contains(pack)), "{region}: no pack came: {before:?}, {after:?}");
    }

    for level in ["basic", "standard", "thorough", "forensic"] {
        let seen = summary(&brctl.json(&["snapshot", "verify", &scene.second, "--level", level, "--wait"]).await?)?;
        ensure!(text(&seen, "verdict")? == "sound", "{level}: {seen:#}");
    }
    brctl.ok(&["repository", "check", "main", "--read-data", "--wait"]).await?;
    scene.each_region_alone_is_whole("after the repack").await?;

    // What was moved is still compared with: an unchanged tree stores next to nothing, and that snapshot restores too.
    let third = brctl.json(&["backup", "run", "nightly", "--wait"]).await?;
    let third = text(&only_job(&third)?, "snapshot_id")?.to_owned();
    let shown = brctl.json(&["snapshot", "show", &third]).await?;
    ensure!(number(&shown, "new_bytes")? < SIZE as i64, "what was moved is stored again: {shown:#}");
    let target = scene.fleet.target("third");
    scene.fleet.restore("docs", &["--snapshot", &third], &target).await?;
    ensure!(tree_hash(&target.join("docs"))? == tree_hash(&scene.root)?, "the third is another tree");

    // Damage in a moved pack is damage of the snapshot, in that region alone.
    let east = scene.fleet.region("east");
    let pack = scene.packs("east").into_iter().find(|pack| !before[0].contains(pack)).context("a new pack")?;
    let path = east.dir().join(&pack);
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes)?;
    let words = ["--offline", "snapshot", "verify", &scene.second, "--level", "forensic"];
    let recovery = scene.fleet.key("recovery");
    let said = scene.by_hand(&recovery, &["east"])?.fails(9, &words).await?;
    ensure!(said.contains(&pack), "{said}");
    scene.by_hand(&recovery, &["west"])?.ok(&words).await.map(drop)
}

#[tokio::test]
async fn a_reapers_key_deletes_and_collects_and_opens_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let (fleet, brctl) = (&scene.fleet, scene.fleet.brctl());
    let reaper_key = scene.reaper_key().await?;

    // An agent that has this key and no other.
    fleet.enrol(REAPER).await?;
    let keys = fleet.agent_dir(REAPER).join("keys");
    std::fs::create_dir_all(&keys)?;
    std::fs::copy(&reaper_key, keys.join("reaper.json"))?;
    let program = Program::agent()?.args(["run", "--data-dir"]).arg(fleet.agent_dir(REAPER));
    let mut agent = Part::new("the reaper", program);
    agent.start()?;
    fleet.agent_is(REAPER, "connected").await;

    let yes = format!("--yes={}", scene.first);
    let on_it = ["--agent", REAPER, "--wait"];
    let deleted = brctl.json(&[&["snapshot", "delete", &scene.first, &yes], &on_it[..]].concat()).await?;
    let deleted = only_job(&deleted)?;
    ensure!(text(&deleted, "agent")? == REAPER && text(&deleted, "outcome")? == "complete", "{deleted:#}");
    let gc = [&["repository", "gc", "main", "--repack-below", "80"], &on_it[..]].concat();
    let collected = only_job(&brctl.json(&gc).await?)?;
    ensure!(text(&collected, "agent")? == REAPER, "{collected:#}");
    ensure!(number(&collected["summary"]["repacked"], "bytes")? > 0, "it moves what it cannot open: {collected:#}");
    ensure!(scene.moved("east") > 0 && scene.moved("west") > 0);
    let snapshots = brctl.json(&["snapshot", "list"]).await?;
    let ids: Vec<&str> = rows(&snapshots, "snapshots")?.iter().filter_map(|one| one["id"].as_str()).collect();
    ensure!(ids == [scene.second.as_str()], "{ids:?}");
    scene.each_region_alone_is_whole("after the reaper").await?;

    // It proves nothing that takes a look inside.
    let words = [&["snapshot", "verify", &scene.second, "--level", "forensic"], &on_it[..]].concat();
    let said = brctl.fails(3, &words).await?;
    ensure!(said.contains("key"), "{said}");
    agent.stop().await?;

    // By hand with the same key: it lists and refuses what it may not.
    let reaper = scene.by_hand(&reaper_key, &["east", "west"])?;
    let listed = reaper.json(&["--offline", "snapshot", "list"]).await?;
    ensure!(rows(&listed, "snapshots")?.len() == 1, "{listed:#}");
    let target = fleet.target("by-the-reaper");
    let shown = target.display().to_string();
    let said = reaper.fails(3, &["--offline", "restore", "run", "--latest", "--target", &shown]).await?;
    ensure!(said.contains("opens no content") && !target.exists(), "{said}");
    let out = fleet.home().join("stolen.key").display().to_string();
    reaper.fails(3, &["--offline", "repository", "key", "writer", "--out", &out]).await?;
    ensure!(!Path::new(&out).exists(), "a refused key is not written");

    // And deletes and collects the rest, until nothing of the content is left.
    let yes = format!("--yes={}", scene.second);
    reaper.ok(&["--offline", "snapshot", "delete", &scene.second, &yes]).await?;
    reaper.ok(&["--offline", "repository", "gc", "--all-regions"]).await?;
    for region in ["east", "west"] {
        ensure!(scene.packs(region).is_empty(), "{region} still has {:?}", scene.packs(region));
    }
    let recovery = scene.by_hand(&fleet.key("recovery"), &["east", "west"])?;
    let listed = recovery.json(&["--offline", "snapshot", "list"]).await?;
    ensure!(rows(&listed, "snapshots")?.is_empty(), "{listed:#}");
    recovery.ok(&["--offline", "repository", "check", "--read-data"]).await.map(drop)
}
