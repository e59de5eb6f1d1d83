//! What a source in daily use costs its regions: a stream and a backup of a source that the agent knows list nothing.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::gcs::{BucketSettings, Gcs, Grant};
use breakwater_testkit::ledger::now;
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_tests::Fleet;
use breakwater_tests::brctl::text;

const BUCKET: &str = "acme-backup";

#[tokio::test]
async fn a_source_in_daily_use_lists_nothing() -> Result<()> {
    let google = Gcs::start().await?;
    google.set_bucket(BUCKET, BucketSettings::default());
    let secrets = temp_dir("secrets")?;
    let key = secrets.path().join("google.json");
    std::fs::write(&key, google.service_account("backup@acme.iam.gserviceaccount.com", &[Grant::all()])?)?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let url =
        |region: &str| format!("gs://{BUCKET}/{region}?endpoint={}&credentials={}", google.endpoint(), key.display());
    let fleet = Fleet::builder().remote("east", &url("east")).remote("west", &url("west")).start().await?;
    let cluster = Cluster::builder(Version::V15).start().await?;
    cluster.pgbench_init(1).await?;
    fleet.protect("app", &cluster).await?;
    fleet.backup("app-plan").await?;
    let day = async || -> Result<(String, Vec<&'static str>)> {
        google.requests();
        cluster
            .psql("update pgbench_accounts set abalance = abalance + 1 where aid % 7 = 0; select pg_switch_wal()")
            .await?;
        let job = fleet.backup("app-plan").await?;
        cluster.psql("update pgbench_accounts set abalance = abalance + 1 where aid % 5 = 0").await?;
        let moment = now();
        for region in fleet.regions() {
            fleet.recoverable_until("app", region.name(), moment).await;
        }
        Ok((text(&job, "snapshot_id")?.to_owned(), google.requests()))
    };

    // The first day after the agent came up, it compares the regions with each other.
    day().await?;
    let (deleted, asked) = day().await?;
    ensure!(
        asked.iter().filter(|kind| **kind == "insert").count() >= 8,
        "a backup and a stream store something: {asked:?}"
    );
    ensure!(!asked.contains(&"list"), "nothing is listed: {asked:?}");

    // What is remembered is not believed blindly: of what was deleted since nothing is used, and the day after is as usual.
    fleet.brctl().ok(&["snapshot", "delete", &deleted, &format!("--yes={deleted}"), "--wait"]).await?;
    let (_, asked) = day().await?;
    ensure!(asked.contains(&"list"), "it looks for another snapshot to compare with: {asked:?}");
    let (_, asked) = day().await?;
    ensure!(!asked.contains(&"list"), "nothing is listed again: {asked:?}");
    let target = fleet.target("latest");
    fleet.restore("app", &["--latest"], &target).await?;
    ensure!(target.join("PG_VERSION").exists(), "it comes back");
    Ok(())
}
