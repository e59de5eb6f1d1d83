//! An agent that is killed in mid-backup uploads nothing twice; one that is killed in mid-stream leaves no gap.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::ledger::{Ledger, Moment, now};
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::wait;
use breakwater_tests::brctl::{number, rows, text};
use breakwater_tests::fleet::{AGENT, only_job};
use breakwater_tests::load::{bulk_hash, fill};
use breakwater_tests::{Fleet, restored};

const BULK_MIB: u64 = 320;

/// A frame of a whole extent of random bytes is no shorter than this.
const RANDOM_EXTENT: u32 = 128 * 1024;

#[tokio::test]
async fn the_next_attempt_uploads_nothing_twice() -> Result<()> {
    let cluster = Cluster::builder(Version::V15).start().await?;
    fill(&cluster, BULK_MIB).await?;
    let mut fleet = Fleet::builder().start().await?;
    fleet.protect("app", &cluster).await?;
    let ledger = Ledger::start(&cluster, 1, Duration::from_millis(50)).await?;
    ledger.wait_for_more(5).await;

    let mut backup = fleet.brctl().start(&["backup", "run", "app-plan", "--wait", "-o", "json"])?;
    let packs =
        async || Some(fleet.region("east").names("/pack/")).filter(|packs| packs.keys().any(|name| is_content(name)));
    wait::until("the first pack of the backup", Duration::from_secs(60), packs).await;
    fleet.agent().kill9().await?;
    let uploaded: BTreeSet<String> = fleet.packs().await?.packs;
    ensure!(!uploaded.is_empty(), "the first attempt uploaded something");
    ensure!(fleet.region("east").names("/snap/").is_empty(), "the first attempt committed nothing");

    fleet.agent().start()?;
    let status = backup.wait(Duration::from_secs(120)).await?;
    ensure!(status.success(), "the backup ends well: {status}");
    let job = only_job(&serde_json::from_str(&backup.stdout()).context("the answer of the backup")?)?;
    ensure!(number(&job, "attempt")? == 2, "by its second attempt: {job:#}");

    let after = fleet.packs().await?;
    ensure!(after.packs.is_superset(&uploaded), "what was uploaded stays");
    let extents = usize::try_from(BULK_MIB * 8)?;
    ensure!(
        after.of_length(RANDOM_EXTENT) >= extents * 9 / 10,
        "the table is there: {}",
        after.of_length(RANDOM_EXTENT)
    );
    ensure!(after.stored_twice(RANDOM_EXTENT) == 0, "{} extents are stored twice", after.stored_twice(RANDOM_EXTENT));
    let registers = fleet.region("east").names("/snap/");
    ensure!(registers.len() <= 2, "one attempt committed, the other is fenced or silent: {registers:?}");

    let moment = now();
    fleet.recoverable_until("app", "east", moment).await;
    let target = fleet.target("latest");
    fleet.restore("app", &["--latest"], &target).await?;
    let (restored, _) = restored::open(Version::V15, &target, &ledger, Moment::at_least(moment)).await?;
    ensure!(bulk_hash(&restored).await? == bulk_hash(&cluster).await?, "the random rows came back");
    Ok(())
}

fn is_content(name: &str) -> bool {
    name.starts_with("data/")
}

#[tokio::test]
async fn a_stream_goes_on_without_a_gap() -> Result<()> {
    let cluster = Cluster::builder(Version::V17).start().await?;
    let mut fleet = Fleet::builder().start().await?;
    fleet.protect("app", &cluster).await?;
    let mut ledger = Ledger::start(&cluster, 3, Duration::from_millis(2)).await?;
    fleet.backup("app").await?;

    for round in 0..4 {
        ledger.wait_for_more(150).await;
        if round == 2 {
            // A segment that begins under one agent and ends under the next.
            cluster.psql("select pg_switch_wal()").await?;
        }
        fleet.agent().kill9().await?;
        ledger.wait_for_more(150).await;
        fleet.agent().start()?;
        fleet.agent_is(AGENT, "connected").await;
    }
    let before = now();
    ledger.wait_for_more(100).await;
    ledger.stop().await?;
    let moment = now();
    for region in ["east", "west"] {
        fleet.recoverable_until("app", region, moment).await;
    }

    let windows = fleet.brctl().json(&["recovery", "windows", "--source", "app"]).await?;
    for region in ["east", "west"] {
        let rows = rows(&windows, "windows")?.iter().filter(|row| text(row, "region").is_ok_and(|name| name == region));
        ensure!(rows.count() == 1, "one stretch without a gap in {region}: {windows:#}");
    }
    for (name, region, moment) in [("east", "east", moment), ("west", "west", moment), ("between", "east", before)] {
        let target = fleet.target(name);
        fleet.restore("app", &["--to-time", &moment.to_string(), "--region", region], &target).await?;
        let verdict = restored::check(Version::V17, &target, &ledger, Moment::at(moment)).await.context(name)?;
        ensure!(verdict.required >= 1000, "{verdict:?}");
    }
    let state = fleet.brctl().json(&["status"]).await?;
    let source = rows(&state, "sources")?.first().context("the source is shown")?;
    ensure!(text(source, "protection")? == "protected", "{source:#}");
    Ok(())
}
