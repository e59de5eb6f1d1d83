//! With the controller's and the agent's whole state gone, and one region too, a region and the recovery key are enough.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::ledger::{Ledger, Moment, now};
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_tests::brctl::{rows, text};
use breakwater_tests::{Brctl, Fleet, restored};

/// `brctl` on one region with one key, and nothing else.
fn offline(fleet: &Fleet, region: &str, key: &str) -> Result<Brctl> {
    let key = fleet.key(key).display().to_string();
    Ok(Brctl::alone()?.env("BRCTL_REPOSITORY", &fleet.region(region).url()).env("BRCTL_KEY", &key))
}

#[tokio::test]
async fn one_region_and_the_recovery_key_are_enough() -> Result<()> {
    let cluster = Cluster::builder(Version::V17).start().await?;
    let mut fleet = Fleet::builder().start().await?;
    fleet.protect("app", &cluster).await?;
    let mut ledger = Ledger::start(&cluster, 3, Duration::from_millis(5)).await?;
    ledger.wait_for_more(100).await;
    let job = fleet.backup("app-plan").await?;
    ledger.wait_for_more(100).await;
    let moment = now();
    ledger.wait_for_more(100).await;
    ledger.stop().await?;
    let end = now();
    fleet.recoverable_until("app", "west", end).await;

    fleet.agent().stop().await?;
    fleet.controller.stop().await?;
    std::fs::remove_dir_all(fleet.controller_dir()).context("delete the controller's state")?;
    std::fs::remove_dir_all(fleet.agent_dir("db-1")).context("delete the agent's state")?;
    fleet.region("east").take_away()?;
    drop(cluster);

    let brctl = offline(&fleet, "west", "recovery")?;
    let snapshots = brctl.json(&["--offline", "snapshot", "list"]).await?;
    let snapshots = rows(&snapshots, "snapshots")?;
    ensure!(snapshots.len() == 1, "{snapshots:#?}");
    ensure!(text(&snapshots[0], "snapshot").or_else(|_| text(&snapshots[0], "id"))? == text(&job, "snapshot_id")?);
    brctl.ok(&["--offline", "repository", "check", "--read-data"]).await?;

    for (name, words, moment) in [
        ("to-time", vec!["--to-time".to_owned(), moment.to_string()], Moment::at(moment)),
        ("latest", vec!["--latest".to_owned()], Moment::at_least(end)),
    ] {
        let target = fleet.target(name);
        restore(&brctl, &words, &target).await.with_context(|| format!("restore {words:?}"))?;
        let verdict = restored::check(Version::V17, &target, &ledger, moment).await.context(name)?;
        ensure!(verdict.required >= 200, "{verdict:?}");
    }

    // The key of a writer opens no content, and the check that was clean can fail.
    let writer = offline(&fleet, "west", "writer")?;
    let target = fleet.target("writer").display().to_string();
    let said = writer.run(&["--offline", "restore", "run", "--latest", "--target", &target]).await?;
    ensure!([3, 4].contains(&said.code()?), "a writer key restores nothing: {said}");
    let pack = fleet.region("west").names("/pack/").into_keys().find(|name| name.starts_with("data/"));
    let pack = fleet.region("west").dir().join(pack.context("there is a pack of content")?);
    flip(&pack)?;
    let said = brctl.fails(9, &["--offline", "repository", "check", "--read-data"]).await?;
    let name = pack.file_name().context("a pack has a name")?.to_string_lossy().into_owned();
    ensure!(said.contains(&name), "the damaged object is named: {said}");
    Ok(())
}

async fn restore(brctl: &Brctl, moment: &[String], target: &Path) -> Result<()> {
    let target = target.display().to_string();
    let programs = Version::V17.bin_dir()?.display().to_string();
    let mut words = vec!["--offline", "restore", "run", "--target", &target, "--program-directory", &programs];
    words.extend(moment.iter().map(String::as_str));
    brctl.ok(&words).await.map(drop)
}

/// Turns one bit in the middle of a file.
fn flip(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path).context("read an object")?;
    // Behind the header of the pack and of its first frame.
    bytes[200] ^= 1;
    std::fs::write(path, bytes).context("damage an object")
}
