//! A region that goes away shows within seconds, holds nobody up, and is repaid when it is back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use breakwater_testkit::ledger::{Ledger, Moment, now};
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::wait;
use breakwater_tests::brctl::{number, seconds, text};
use breakwater_tests::{Fleet, Region, restored};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// What the issue of a region that is away allows until it shows.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);

fn state(rows: &BTreeMap<String, Value>, region: &str) -> Result<String> {
    Ok(text(rows.get(region).with_context(|| format!("no row of {region}"))?, "state")?.to_owned())
}

fn figure(rows: &BTreeMap<String, Value>, region: &str, field: &str) -> Result<i64> {
    number(rows.get(region).with_context(|| format!("no row of {region}"))?, field)
}

fn exposure(rows: &BTreeMap<String, Value>, region: &str) -> Result<f64> {
    seconds(rows.get(region).with_context(|| format!("no row of {region}"))?, "exposure_seconds")
}

/// Everything but the region's own id card and the tails, which come and go.
fn lasting(region: &Region) -> Result<BTreeMap<String, (u64, String)>> {
    let mut objects = region.objects()?;
    objects.retain(|name, _| name != "repo/region" && !name.contains("/tail/"));
    Ok(objects)
}

#[tokio::test]
async fn a_region_is_away_and_comes_back() -> Result<()> {
    let cluster = Cluster::builder(Version::V15).start().await?;
    cluster.pgbench_init(2).await?;
    let mut fleet = Fleet::builder().start().await?;
    fleet.protect("app", &cluster).await?;
    let mut ledger = Ledger::start(&cluster, 3, Duration::from_millis(5)).await?;
    let bench = cluster.pgbench(&["-c", "2", "-T", "600", "-R", "100"])?;
    fleet.backup("app-plan").await?;
    let healthy = async || fleet.lag("app").await.is_ok_and(|rows| all_ok(&rows));
    wait::until_true("both regions to be ok", PATIENCE, healthy).await;

    let gone = Instant::now();
    fleet.region("east").take_away()?;
    let shown = wait::until("the lag to show that east is away", SHOWN_WITHIN, async || {
        let rows = fleet.lag("app").await.ok()?;
        ["unreachable", "behind"].contains(&state(&rows, "east").ok()?.as_str()).then_some(rows)
    })
    .await;
    ensure!(gone.elapsed() <= SHOWN_WITHIN, "it showed after {:?}", gone.elapsed());
    ensure!(state(&shown, "west")? == "ok", "west is not blamed: {shown:#?}");

    // Exposure grows with the clock in the one and stays small in the other.
    let start = exposure(&shown, "east")?;
    let later = wait::until("the exposure of east to grow", PATIENCE, async || {
        let rows = fleet.lag("app").await.ok()?;
        (exposure(&rows, "east").ok()? > start + 5.0).then_some(rows)
    })
    .await;
    ensure!(state(&later, "west")? == "ok" && exposure(&later, "west")? < 10.0, "{later:#?}");
    wait::until_true("east to owe something", PATIENCE, async || {
        let Ok(rows) = fleet.lag("app").await else { return false };
        figure(&rows, "east", "pending_bytes").is_ok_and(|bytes| bytes > 0)
            && state(&rows, "east").is_ok_and(|s| s != "ok")
    })
    .await;

    // One sync region is enough for a backup, and nothing is written where the region was.
    fleet.backup("app-plan").await.context("a backup while a region is away")?;
    ensure!(!fleet.region("east").dir().exists(), "nobody may make the place of a region that is away");
    let status = fleet.brctl().ok(&["status"]).await?;
    ensure!(status.contains("east"), "the status names the region: {status}");
    ledger.wait_for_more(200).await;
    let during = now();
    ledger.wait_for_more(100).await;

    fleet.region("east").give_back()?;
    bench.stop()?;
    ledger.stop().await?;
    let moment = now();
    fleet.recoverable_until("app", "east", moment).await;
    wait::until_true("the debt of east to be repaid", PATIENCE, async || {
        fleet.lag("app").await.is_ok_and(|rows| all_ok(&rows) && figure(&rows, "east", "pending_items").ok() == Some(0))
    })
    .await;
    let regions = fleet.regions();
    wait::until_true("both regions to hold the same names", PATIENCE, async || {
        let names =
            |region: &Region| region.names("").into_keys().filter(|name| !name.contains("/tail/")).collect::<Vec<_>>();
        names(&regions[0]) == names(&regions[1])
    })
    .await;
    ensure!(lasting(&regions[0])? == lasting(&regions[1])?, "and the same bytes");

    // The one that was away is as good as the other.
    fleet.region("west").take_away()?;
    for (name, moment) in [("during", during), ("after", moment)] {
        let target = fleet.target(name);
        fleet.restore("app", &["--to-time", &moment.to_string(), "--region", "east"], &target).await?;
        let verdict = restored::check(Version::V15, &target, &ledger, Moment::at(moment)).await.context(name)?;
        ensure!(verdict.required >= 200, "{verdict:?}");
    }
    fleet.agent().stop().await
}

fn all_ok(rows: &BTreeMap<String, Value>) -> bool {
    rows.len() == 2 && rows.keys().all(|region| state(rows, region).is_ok_and(|word| word == "ok"))
}
