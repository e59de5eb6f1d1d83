//! A disk that refuses to make things durable: every `fsync` of a deletion and of a collection fails once. What was asked for is
//! not reported as done, nothing that is still needed is lost, and the same command goes through once the disk is well.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use breakwater_testkit::process::{Finished, Program, bin_dir};
use breakwater_testkit::tree::tree_hash;
use breakwater_tests::brctl::text;
use breakwater_tests::fleet::AGENT;
use breakwater_tests::source::plan_yaml;
use breakwater_tests::{Brctl, Fleet};

/// No thread of these commands makes more things durable than that.
const MOST: u32 = 60;

/// Whether programs can be run with faults in their system calls here.
fn strace_works() -> bool {
    let probe = std::process::Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output();
    let works = probe.as_ref().is_ok_and(|output| output.status.success());
    if !works {
        println!("nothing to see: strace is not installed, or may not trace here: {probe:?}");
    }
    works
}

struct Scene {
    fleet: Fleet,
    root: PathBuf,
    first: String,
    second: String,
}

impl Scene {
    async fn new() -> Result<Scene> {
        let mut fleet = Fleet::builder().commit(2).start().await?;
        let root = fleet.home().join("docs");
        std::fs::create_dir(&root)?;
        for n in 0..12 {
            std::fs::write(root.join(format!("f{n:02}")), format!("line {n} of a text\n").repeat(3000 + n))?;
        }
        let declared = format!(
            "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: docs}}\nspec:\n  agent: {AGENT}\n  files: {{paths: [\"{}\"]}}\n---\n{}",
            root.display(),
            plan_yaml("nightly", &["docs"])
        );
        fleet.apply(&declared).await?;
        let first = text(&fleet.backup("nightly").await?, "snapshot_id")?.to_owned();
        for n in 0..9 {
            std::fs::remove_file(root.join(format!("f{n:02}")))?;
        }
        let second = text(&fleet.backup("nightly").await?, "snapshot_id")?.to_owned();
        fleet.agent().stop().await?;
        fleet.controller.stop().await?;
        Ok(Scene { fleet, root, first, second })
    }

    fn environment(&self, key: &str) -> [(&'static str, String); 2] {
        let regions = self.fleet.regions().iter().map(|region| format!("{}={}", region.name(), region.url()));
        let regions = regions.collect::<Vec<_>>().join(",");
        [("BRCTL_REPOSITORY", regions), ("BRCTL_KEY", self.fleet.key(key).display().to_string())]
    }

    fn by_hand(&self, key: &str) -> Result<Brctl> {
        Ok(self.environment(key).iter().fold(Brctl::alone()?, |brctl, (name, value)| brctl.env(name, value)))
    }

    /// `brctl` with the writer key; the `number`-th `fsync` of each of its threads fails with EIO. How it ended, and the
    /// system calls that were made to fail.
    async fn with_a_bad_disk(&self, number: u32, words: &[&str]) -> Result<(Finished, usize)> {
        let log = self.fleet.home().join(format!("strace.{number}"));
        let calls = "fsync,fdatasync,syncfs,sync_file_range";
        let program = Program::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error=EIO:when={number}"), "-o"])
            .arg(&log)
            .arg(bin_dir()?.join("brctl"))
            .args(words);
        let program =
            self.environment("writer").iter().fold(program, |program, (name, value)| program.env(name, value));
        let ended = program.run().await?;
        let failed = std::fs::read_to_string(&log).context("read the trace")?.matches("(INJECTED)").count();
        std::fs::remove_file(&log)?;
        Ok((ended, failed))
    }

    /// The second snapshot is whole, down to its bytes.
    async fn second_is_whole(&self) -> Result<()> {
        let words = ["--offline", "snapshot", "verify", &self.second, "--level", "forensic"];
        let seen = self.by_hand("recovery")?.json(&words).await?;
        ensure!(text(&seen, "verdict")? == "sound", "{seen:#}");
        Ok(())
    }

    /// Runs a command with the first, second, ... `fsync` failing, until none is left to fail; then it must end with one of
    /// `codes`. How often one was made to fail.
    async fn each_fsync_fails(&self, words: &[&str], codes: &[i32]) -> Result<usize> {
        let mut all = 0;
        for number in 1..=MOST {
            let (ended, failed) = self.with_a_bad_disk(number, words).await?;
            if failed == 0 {
                ensure!(codes.contains(&ended.code()?), "nothing failed, and yet: {ended}");
                return Ok(all);
            }
            all += failed;
            ensure!(![0, 1].contains(&ended.code()?), "{failed} failures of fsync are not said: {ended}");
            ensure!(ended.stderr.contains("os error 5"), "the reason is not said: {ended}");
            ensure!(!ended.stderr.contains("panicked"), "{ended}");
            self.second_is_whole().await.with_context(|| format!("after fsync {number} failed: {ended}"))?;
        }
        anyhow::bail!("{words:?} still had something to make durable after {MOST} rounds")
    }
}

fn restored(target: &Path) -> PathBuf {
    target.join("docs")
}

#[tokio::test]
async fn what_the_disk_did_not_make_durable_is_not_reported_as_done() -> Result<()> {
    if !strace_works() {
        return Ok(());
    }
    let scene = Scene::new().await?;
    let yes = format!("--yes={}", scene.first);
    let delete = ["--offline", "snapshot", "delete", &scene.first, &yes];
    // A tombstone that can be seen counts, and a snapshot that is deleted is not there to be deleted again.
    let failed = scene.each_fsync_fails(&delete, &[0, 6]).await?;
    ensure!(failed > 0, "a deletion makes something durable");
    let gc = ["--offline", "repository", "gc", "--all-regions", "--repack-below", "90"];
    let failed = scene.each_fsync_fails(&gc, &[0]).await?;
    ensure!(failed > 0, "a collection makes something durable");

    // The disk is well again: nothing is left to do, each region is whole, and the tree comes back as it was.
    let recovery = scene.by_hand("recovery")?;
    recovery.ok(&["--offline", "repository", "gc", "--all-regions"]).await?;
    recovery.ok(&["--offline", "repository", "check", "--read-data"]).await?;
    recovery.fails(6, &["--offline", "snapshot", "show", &scene.first]).await?;
    for region in ["east", "west"] {
        let target = scene.fleet.target(region);
        let shown = target.display().to_string();
        let url = scene.fleet.region(region).url();
        let alone = scene.by_hand("recovery")?.env("BRCTL_REPOSITORY", &url);
        alone.ok(&["--offline", "restore", "run", "--latest", "--target", &shown]).await?;
        ensure!(tree_hash(&restored(&target))? == tree_hash(&scene.root)?, "{region}: another tree");
    }
    Ok(())
}
