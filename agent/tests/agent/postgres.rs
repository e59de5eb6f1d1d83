//! A PostgreSQL cluster: streamed, backed up, restored to the end and to a moment in between.

use breakwater_core::{ErrorClass, Timestamp};
use breakwater_proto::v1;
use breakwater_proto::v1::restore_point::Point;
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::wait::until;

use crate::lab::{Lab, PATIENCE, summary};

async fn cluster() -> Cluster {
    Cluster::builder(Version::V15).setting("max_slot_wal_keep_size", "1GB").start().await.expect("a cluster starts")
}

async fn stream_state(lab: &Lab) -> String {
    let status = lab.desk().await.status(v1::StatusRequest::default()).await.unwrap().into_inner();
    status.sources.first().map(|source| source.stream_state.clone()).unwrap_or_default()
}

/// The server's clock as RFC 3339.
async fn now(cluster: &Cluster) -> String {
    let clock = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    cluster.psql(clock).await.unwrap().trim().to_owned()
}

async fn rows(cluster: &Cluster) -> String {
    cluster.psql("SELECT count(*) FROM t").await.unwrap().trim().to_owned()
}

async fn restored(cluster: &Cluster, target: &std::path::Path) -> String {
    let opened = Cluster::open(cluster.version(), target).start().await.expect("the restored cluster starts");
    let rows = rows(&opened).await;
    opened.pg_amcheck().await.expect("the restored cluster is sound");
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_streamed_backed_up_and_restored_to_a_moment() {
    let lab = Lab::new().await;
    let cluster = cluster().await;
    cluster.psql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)").await.unwrap();
    let connection = cluster.socket_conninfo();
    lab.declare(&format!("postgres: {{connection: '{connection}'}}")).await;
    until("the log is streamed", PATIENCE, async || (stream_state(&lab).await == "streaming").then_some(())).await;

    let job = lab.backup().await;
    let said = summary(&job);
    assert_eq!(said["outcome"], "committed", "{said}");
    assert!(said["start"]["offset"].as_u64() < said["end"]["offset"].as_u64(), "{said}");

    cluster.psql("INSERT INTO t SELECT generate_series(1, 500)").await.unwrap();
    let moment = Timestamp::parse(&now(&cluster).await).unwrap();
    cluster.psql("INSERT INTO t SELECT generate_series(1, 77)").await.unwrap();
    assert_eq!(rows(&cluster).await, "1577");

    let latest = lab.path("latest");
    let job = lab.start_restore(Point::Latest(true), &latest).await;
    let said = summary(&lab.succeeded(&job.id).await);
    assert!(said["recovered"].as_bool().unwrap() && said["log_bytes"].as_u64().unwrap() > 0, "{said}");
    assert_eq!(
        restored(&cluster, &latest).await,
        "1577",
        "what was committed before the restore was asked for is in it"
    );

    let between = lab.path("between");
    let job = lab.start_restore(Point::Time(moment.as_micros()), &between).await;
    lab.succeeded(&job.id).await;
    assert_eq!(restored(&cluster, &between).await, "1500");

    let early = lab.start_restore(Point::Time(1_000_000), &lab.path("early")).await;
    let ended = lab.ended(&early.id).await;
    assert_eq!(ErrorClass::from_word(&ended.failure.unwrap().class), ErrorClass::Refused);
    assert!(!lab.path("early").exists());

    let request = v1::PointsRequest { source: "app".to_owned(), ..Default::default() };
    let points = Lab::answer(lab.desk().await.points(request).await.unwrap().into_inner()).await;
    assert_eq!(points["regions"].as_array().unwrap().len(), 2, "{points}");
    assert!(points["regions"][0]["intervals"][0]["restorable"].as_bool().unwrap(), "{points}");

    // Deleting the source drops its slot; nothing else does.
    let slots = async || cluster.psql("SELECT count(*) FROM pg_replication_slots").await.unwrap().trim().to_owned();
    assert_eq!(slots().await, "1");
    for (kind, name) in [("plan", "nightly"), ("source", "app")] {
        let request = v1::DeleteRequest { kind: kind.to_owned(), name: name.to_owned(), ..Default::default() };
        lab.desk().await.delete(request).await.unwrap();
    }
    until("the slot is dropped", PATIENCE, async || (slots().await == "0").then_some(())).await;
}

/// What controllers know of one region's share of the source: the state and the recoverable point.
async fn share(lab: &Lab, region: &str) -> Option<(String, i64)> {
    let lag = lab.desk().await.lag(v1::LagRequest::default()).await.unwrap().into_inner();
    let row = lag.rows.into_iter().find(|row| row.region == region)?;
    Some((row.state, row.recoverable))
}

async fn wait_share(lab: &Lab, region: &str, state: &str, newer_than: i64) {
    let what = format!("region {region} is {state}");
    until(&what, PATIENCE, async || {
        share(lab, region).await.filter(|(found, recoverable)| found == state && *recoverable > newer_than)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_that_go_away_come_back_whole_and_nothing_committed_is_lost() {
    let mut lab = Lab::new().await;
    let cluster = cluster().await;
    cluster.psql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 100)").await.unwrap();
    lab.declare(&format!("postgres: {{connection: '{}'}}", cluster.socket_conninfo())).await;
    until("the log is streamed", PATIENCE, async || (stream_state(&lab).await == "streaming").then_some(())).await;
    lab.backup().await;
    let away = |region: &str| std::fs::rename(lab.path(region), lab.path(&format!("{region}-away"))).unwrap();

    away("east");
    wait_share(&lab, "east", "unreachable", 0).await;
    let before = Timestamp::parse(&now(&cluster).await).unwrap().as_micros();
    cluster.psql("INSERT INTO t SELECT generate_series(1, 200)").await.unwrap();
    wait_share(&lab, "west", "ok", before).await;
    let (_, stuck) = share(&lab, "east").await.unwrap();
    assert!(stuck < before, "what is away does not get newer");

    // Now no region answers: the spool takes the log.
    away("west");
    wait_share(&lab, "west", "unreachable", 0).await;
    cluster.psql("INSERT INTO t SELECT generate_series(1, 20000)").await.unwrap();
    let after = Timestamp::parse(&now(&cluster).await).unwrap().as_micros();
    // Also an agent that ends now forgets nothing.
    lab.stop_agent().await;
    lab.start_agent().await;
    lab.wait_connected().await;
    wait_share(&lab, "west", "unreachable", 0).await;
    let back = |region: &str| std::fs::rename(lab.path(&format!("{region}-away")), lab.path(region)).unwrap();
    back("west");
    back("east");
    for region in ["east", "west"] {
        wait_share(&lab, region, "ok", after).await;
    }
    assert_eq!(stream_state(&lab).await, "streaming", "no gap");

    // Each region alone has everything.
    for region in ["east", "west"] {
        let target = lab.path(&format!("from-{region}"));
        let restore = v1::RestoreSpec {
            point: Some(v1::RestorePoint { point: Some(Point::Latest(true)) }),
            target: target.display().to_string(),
            recover: true,
            region: region.to_owned(),
            ..Default::default()
        };
        let request = v1::RunRestoreRequest { source: "app".to_owned(), restore: Some(restore), ..Default::default() };
        let job = lab.desk().await.run_restore(request).await.unwrap().into_inner().jobs.remove(0);
        let said = summary(&lab.succeeded(&job.id).await);
        assert_eq!(said["region_bytes"].as_object().unwrap().keys().collect::<Vec<_>>(), [region], "{said}");
        assert_eq!(restored(&cluster, &target).await, "20300");
    }
}
