//! The kit's PostgreSQL clusters, on every version.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::time::Duration;

use breakwater_testkit::postgres::{Cluster, Stop, Version};
use breakwater_testkit::wait;

async fn lives_through_everything(version: Version) -> anyhow::Result<()> {
    let cluster = Cluster::builder(version).setting("cluster_name", "it's quoted").wal_segment_size(1).start().await?;
    assert_eq!(cluster.psql("show cluster_name").await?, "it's quoted");
    assert_eq!(cluster.psql("show wal_segment_size").await?, "1MB");
    assert!(cluster.psql("show server_version").await?.starts_with(&version.major().to_string()));
    assert!(cluster.psql("select 1/0").await.unwrap_err().to_string().contains("division by zero"));
    let (_, connection) = tokio_postgres::connect(&cluster.conninfo(), tokio_postgres::NoTls).await?;
    drop(connection);

    cluster.pgbench_init(1).await?;
    let mut load = cluster.pgbench(&["-c", "2", "-T", "300"])?;
    let moved = "select xact_commit > 200 from pg_stat_database where datname = 'postgres'";
    wait::until_true("pgbench to commit", Duration::from_secs(60), async || cluster.psql(moved).await.unwrap() == "t")
        .await;
    assert!(load.is_running()?);
    load.stop()?;

    let standby = cluster.standby().await?;
    cluster.psql("create table after_basebackup as select 42 as n").await?;
    let arrived = async || standby.psql("select n from after_basebackup").await.is_ok_and(|n| n == "42");
    wait::until_true("the row on the standby", Duration::from_secs(60), arrived).await;
    standby.promote().await?;
    standby.psql("insert into after_basebackup values (43)").await?;

    cluster.kill9().await?;
    assert_eq!(cluster.pid(), None);
    cluster.start().await?;
    assert!(cluster.log().contains("database system was not properly shut down"));
    cluster.stop(Stop::Immediate).await?;
    cluster.start().await?;
    cluster.pg_amcheck().await?;
    cluster.stop(Stop::Fast).await?;
    cluster.pg_checksums_check().await?;
    assert_eq!(cluster.control_data("Database cluster state").await?, "shut down");

    // Another server on the same files, as a test does with a restored directory.
    let opened = Cluster::open(version, cluster.data_dir()).setting("cluster_name", "opened").start().await?;
    assert_eq!(opened.psql("select n from after_basebackup").await?, "42");
    assert_eq!(opened.psql("show cluster_name").await?, "opened");
    assert_ne!(opened.port(), cluster.port());
    let pid = opened.pid().unwrap();
    drop(opened);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "dropping a cluster ends its server");
    Ok(())
}

#[tokio::test]
async fn postgres_15() -> anyhow::Result<()> {
    lives_through_everything(Version::V15).await
}

#[tokio::test]
async fn postgres_17() -> anyhow::Result<()> {
    lives_through_everything(Version::V17).await
}

#[tokio::test]
async fn damage_is_found() -> anyhow::Result<()> {
    let cluster = Cluster::builder(Version::V15).start().await?;
    cluster.psql("create table t as select g as n from generate_series(1, 5000) g").await?;
    let path = cluster.data_dir().join(cluster.psql("select pg_relation_filepath('t')").await?);
    cluster.stop(Stop::Fast).await?;
    cluster.pg_checksums_check().await?;

    let mut bytes = std::fs::read(&path)?;
    bytes[8192 + 4000] ^= 0x10;
    std::fs::write(&path, bytes)?;
    assert!(cluster.pg_checksums_check().await.is_err(), "one flipped bit must be found");
    cluster.start().await?;
    assert!(cluster.pg_amcheck().await.is_err(), "one flipped bit must be found");
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let failed = Cluster::builder(Version::V15).setting("shared_buffers", "lots").start().await;
    let message = format!("{:#}", failed.unwrap_err());
    assert!(message.contains("shared_buffers"), "{message}");
}

#[tokio::test]
async fn rules_for_others_do_not_lock_the_kit_out() -> anyhow::Result<()> {
    let cluster = Cluster::builder(Version::V15).hba("host all all 127.0.0.1/32 reject").start().await?;
    assert_eq!(cluster.psql("select 1").await?, "1");
    assert!(tokio_postgres::connect(&cluster.conninfo(), tokio_postgres::NoTls).await.is_err());
    Ok(())
}
