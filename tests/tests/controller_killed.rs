//! A controller that is killed in mid-backup costs nothing: the agent goes on, and the job ends once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::etcd::Etcd;
use breakwater_testkit::ledger::{Ledger, Moment, now};
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::wait;
use breakwater_tests::brctl::{number, rows, text};
use breakwater_tests::fleet::{Builder, only_job};
use breakwater_tests::load::fill;
use breakwater_tests::{Fleet, restored};

const BULK_MIB: u64 = 192;
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn the_embedded_store_remembers() -> Result<()> {
    killed_in_mid_backup(Fleet::builder()).await
}

#[tokio::test]
async fn etcd_remembers() -> Result<()> {
    let etcd = Etcd::start().await?;
    killed_in_mid_backup(Fleet::builder().etcd(etcd.endpoint())).await
}

async fn killed_in_mid_backup(fleet: Builder) -> Result<()> {
    let cluster = Cluster::builder(Version::V15).start().await?;
    fill(&cluster, BULK_MIB).await?;
    let mut fleet = fleet.start().await?;
    fleet.protect("app", &cluster).await?;
    let mut ledger = Ledger::start(&cluster, 2, Duration::from_millis(10)).await?;
    ledger.wait_for_more(20).await;

    let mut backup = fleet.brctl().start(&["backup", "run", "app-plan", "--wait", "-o", "json"])?;
    let content = |fleet: &Fleet| fleet.region("east").names("/pack/").keys().any(|name| name.starts_with("data/"));
    wait::until_true("the first pack of the backup", PATIENCE, async || content(&fleet)).await;
    fleet.controller.kill9().await?;
    let committed_before = !fleet.region("east").names("/snap/").is_empty();
    ensure!(!committed_before, "the controller dies in mid-backup");

    // Nobody tells the agent anything any more.
    let committed = async || !fleet.region("east").names("/snap/").is_empty();
    wait::until_true("the agent to commit without a controller", PATIENCE, committed).await;
    ensure!(backup.exited()?.is_none(), "whoever waits goes on waiting: {}", backup.stderr());
    ledger.wait_for_more(50).await;

    fleet.controller.start()?;
    let status = backup.wait(PATIENCE).await?;
    ensure!(status.success(), "the wait that began before ends well: {status}");
    let job = only_job(&serde_json::from_str(&backup.stdout()).context("the answer of the backup")?)?;
    ensure!(number(&job, "attempt")? == 1, "the first attempt did it: {job:#}");
    let jobs = fleet.brctl().json(&["job", "list", "--source", "app"]).await?;
    ensure!(rows(&jobs, "jobs")?.len() == 1, "there is one job: {jobs:#}");
    let same = fleet.brctl().json(&["job", "show", text(&job, "id")?]).await?;
    ensure!(text(&only_job(&same)?, "state")? == "succeeded", "{same:#}");
    for region in fleet.regions() {
        ensure!(region.names("/snap/").len() == 1, "one register: {:?}", region.names("/snap/"));
    }

    ledger.stop().await?;
    let moment = now();
    fleet.recoverable_until("app", "west", moment).await;
    let target = fleet.target("latest");
    fleet.restore("app", &["--latest"], &target).await?;
    let verdict = restored::check(Version::V15, &target, &ledger, Moment::at_least(moment)).await?;
    ensure!(verdict.required >= 70, "{verdict:?}");

    // A tidy stop and start loses as little.
    fleet.controller.stop().await?;
    fleet.controller.start()?;
    fleet.controller_is_ready().await;
    let again = fleet.brctl().json(&["job", "show", text(&job, "id")?]).await?;
    ensure!(text(&only_job(&again)?, "state")? == "succeeded", "{again:#}");
    Ok(())
}
