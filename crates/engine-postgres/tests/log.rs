//! The log as a source: what a stream delivers, how it starts again, and when it says that there is a gap.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "kit/lay.rs"]
mod lay;

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{LogPosition, Watermark};
use breakwater_engine::{
    Engine as _, EngineError, EngineErrorKind, LogEvent, LogSource, LogStart, LogStream, Transaction, TransactionKind,
};
use breakwater_engine_postgres::{PostgresEngine, PostgresSettings};
use breakwater_testkit::postgres::{Cluster, Stop, Version};
use breakwater_testkit::wait;

const PATIENCE: Duration = Duration::from_secs(60);

fn source(settings: PostgresSettings) -> Arc<dyn LogSource> {
    PostgresEngine::new(settings).log_source().unwrap()
}

/// What came of a stream up to a position.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    transactions: Vec<Transaction>,
    watermarks: Vec<Watermark>,
    branches: Vec<(LogPosition, u32, String)>,
}

async fn receive(stream: &mut dyn LogStream, until: LogPosition) -> Result<Received, EngineError> {
    let mut received = Received::default();
    let mut next = None;
    let receiving = async {
        loop {
            match stream.next().await? {
                LogEvent::Data { start, bytes, transactions } => {
                    if let Some(next) = next {
                        assert_eq!(start, next, "bytes are contiguous");
                    }
                    let end = LogPosition::new(start.branch, start.offset + bytes.len() as u64);
                    for transaction in &transactions {
                        assert!(transaction.end > start.offset && transaction.end <= end.offset);
                        assert!(transaction.start < transaction.end);
                    }
                    next = Some(end);
                    received.bytes.extend_from_slice(&bytes);
                    received.transactions.extend(transactions);
                    if end.branch == until.branch && end.offset >= until.offset {
                        return Ok::<_, EngineError>(());
                    }
                }
                LogEvent::Watermark(watermark) => received.watermarks.push(watermark),
                LogEvent::EndOfBranch { at, next: branch, history } => {
                    received.branches.push((at, branch, String::from_utf8(history.to_vec()).unwrap()));
                    next = None;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, receiving).await.expect("the stream goes on")?;
    Ok(received)
}

async fn delivers_everything(version: Version) {
    let cluster = Cluster::builder(version).wal_segment_size(1).start().await.unwrap();
    let log = source(lay::settings(&cluster));
    let facts = log.facts().await.unwrap();
    assert_eq!(facts.identity, cluster.control_data("Database system identifier").await.unwrap());
    assert_eq!(facts.segment_size, 1 << 20);
    assert_eq!(facts.facts["wal_status"], "reserved");

    cluster.psql("create table t(n int)").await.unwrap();
    let xid = cluster.psql("insert into t values (1) returning pg_current_xact_id()").await.unwrap();
    cluster.psql("select pg_create_restore_point('before the storm')").await.unwrap();
    cluster.psql("insert into t select g from generate_series(1, 100000) g").await.unwrap();
    let end = log.nudge().await.unwrap();

    let mut stream = log.open(LogStart::Oldest).await.unwrap();
    let start = stream.start();
    assert_eq!(start.offset % (1 << 20), 0);
    let received = receive(stream.as_mut(), end).await.unwrap();
    let commit = |t: &Transaction| t.kind == TransactionKind::Commit && t.xid.to_string() == xid;
    assert_eq!(received.transactions.iter().filter(|t| commit(t)).count(), 1);
    let point = received.transactions.iter().find(|t| t.kind == TransactionKind::RestorePoint).unwrap();
    assert_eq!(point.name.as_deref(), Some("before the storm"));

    // The bytes are those of the server's own files.
    let name = cluster.psql(&format!("select pg_walfile_name('{}'::pg_lsn + 1)", start.lsn())).await.unwrap();
    let on_disk = std::fs::read(cluster.data_dir().join("pg_wal").join(name)).unwrap();
    assert!(received.bytes.len() > 1 << 20);
    assert_eq!(&received.bytes[..1 << 20], on_disk);

    // An idle server is observed, too.
    let watermark = tokio::time::timeout(PATIENCE, async {
        loop {
            if let LogEvent::Watermark(watermark) = stream.next().await.unwrap() {
                break watermark;
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(watermark.position.branch, 1);
    assert!(watermark.position.offset >= end.offset);

    // What is released lets the slot advance, and nothing else does.
    let restart = async || cluster.psql("select restart_lsn from pg_replication_slots").await.unwrap();
    let before: breakwater_core::Lsn = restart().await.parse().unwrap();
    assert!(before.0 < end.offset);
    stream.released(end);
    let advanced = async || restart().await.parse::<breakwater_core::Lsn>().unwrap().0 >= end.offset;
    wait::until_true("the slot to advance", PATIENCE, advanced).await;

    let second = log.open(LogStart::Oldest).await.err().unwrap();
    assert_eq!(second.kind, EngineErrorKind::Conflict, "{second}");
    assert_eq!(log.forget().await.unwrap_err().kind, EngineErrorKind::Conflict, "a slot in use is not dropped");
    drop(stream);
    wait::until_true("the slot to be free", PATIENCE, async || log.forget().await.is_ok()).await;
    assert_eq!(cluster.psql("select count(*) from pg_replication_slots").await.unwrap(), "0");
    log.forget().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_delivers_everything_on_15() {
    delivers_everything(Version::V15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_delivers_everything_on_17() {
    delivers_everything(Version::V17).await;
}

/// Takes observations for as long as `wanted` says so.
async fn observe(stream: &mut dyn LogStream, mut wanted: impl FnMut(Watermark) -> bool) {
    let observing = async {
        loop {
            if let LogEvent::Watermark(watermark) = stream.next().await.unwrap()
                && !wanted(watermark)
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, observing).await.expect("the server is observed");
}

/// Acknowledged commits that are not flushed yet are what tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_watermark_lies_before_it_without_synchronous_commit() {
    let cluster = Cluster::builder(Version::V15)
        .wal_segment_size(1)
        .setting("synchronous_commit", "off")
        .setting("wal_writer_delay", "4s")
        .start()
        .await
        .unwrap();
    cluster.psql("create table t(n int)").await.unwrap();
    let log = source(lay::settings(&cluster));
    let mut stream = log.open(LogStart::Oldest).await.unwrap();
    let session = cluster.connect().await.unwrap();
    let committed = std::sync::Mutex::new(Vec::new());
    let committing = async {
        loop {
            session.batch_execute("insert into t values (1)").await.unwrap();
            let row = session
                .query_one(
                    "select (extract(epoch from clock_timestamp()) * 1000000)::int8, \
                     (pg_current_wal_insert_lsn() - '0/0')::int8, (pg_current_wal_flush_lsn() - '0/0')::int8",
                    &[],
                )
                .await
                .unwrap();
            let [clock, inserted, flushed] = [0, 1, 2].map(|at| row.get::<_, i64>(at));
            committed.lock().unwrap().push((clock, inserted.cast_unsigned(), flushed.cast_unsigned()));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let mut seen = Vec::new();
    let observing = observe(stream.as_mut(), |watermark| {
        seen.push(watermark);
        seen.len() < 4
    });
    tokio::select! {
        () = committing => {}
        () = observing => {}
    }
    let committed = committed.into_inner().unwrap();
    assert!(committed.iter().any(|(_, inserted, flushed)| flushed < inserted), "commits are not waited for");
    let mut compared = 0;
    for watermark in &seen {
        // An observation may have been under way before the first commit.
        let before = committed.iter().rfind(|(clock, ..)| *clock < watermark.clock.as_micros());
        let Some((_, inserted, _)) = before else { continue };
        compared += 1;
        // Behind a full page the next record begins after a header of up to 40 bytes.
        assert!(*inserted <= watermark.position.offset + 40, "{inserted:X} was acknowledged before {watermark:?}");
    }
    assert!(compared >= 2, "commits lie before most observations: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_is_observed_every_second_also_behind_a_full_page() {
    let cluster =
        Cluster::builder(Version::V15).wal_segment_size(1).setting("synchronous_commit", "off").start().await.unwrap();
    let log = source(lay::settings(&cluster));
    let mut stream = log.open(LogStart::Oldest).await.unwrap();
    cluster.psql("create table t as select 1 as n").await.unwrap();
    // A checkpoint takes from the background writer what it would write in the next seconds.
    cluster.psql("checkpoint").await.unwrap();
    cluster.psql("select pg_switch_wal()").await.unwrap();
    let mut seen: Vec<Watermark> = Vec::new();
    observe(stream.as_mut(), |watermark| {
        seen.push(watermark);
        seen.len() < 7
    })
    .await;
    let clocks: Vec<i64> = seen.iter().map(|watermark| watermark.clock.as_micros()).collect();
    assert!(clocks.windows(2).all(|pair| pair[1] - pair[0] < 4_000_000), "{seen:?}");
    let behind_a_segment = |watermark: &&Watermark| watermark.position.offset.is_multiple_of(1 << 20);
    assert!(seen.iter().filter(behind_a_segment).count() >= 3, "{seen:?}");
}

/// Else the server, told to stop at that moment, would stop before the copy is consistent, and refuse.
#[tokio::test(flavor = "multi_thread")]
async fn no_commit_in_a_copy_is_later_than_its_moment() {
    let cluster = Cluster::builder(Version::V15).wal_segment_size(1).start().await.unwrap();
    cluster.pgbench_init(1).await.unwrap();
    let log = source(lay::settings(&cluster));
    let mut stream = log.open(LogStart::Oldest).await.unwrap();
    let load = cluster.pgbench(&["-n", "-N", "-c", "4", "-T", "300"]).unwrap();
    let mut ends = Vec::new();
    for _ in 0..5 {
        let session = lay::engine(&cluster).begin_backup(lay::request("moment")).await.unwrap();
        ends.push(session.finish().await.unwrap());
    }
    load.stop().unwrap();
    let last = ends.last().unwrap().range.unwrap().end;
    let transactions = receive(stream.as_mut(), last).await.unwrap().transactions;
    for end in &ends {
        let at = end.range.unwrap().end;
        let inside = transactions.iter().filter(|t| t.kind == TransactionKind::Commit && t.end <= at.offset);
        let newest = inside.map(|t| t.time).max().expect("the load has committed something");
        assert!(newest <= end.consistent_at, "{newest} is in a copy of {} that ends at {at}", end.consistent_at);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_it_was_after_a_crash_of_the_server() {
    let cluster = Cluster::builder(Version::V15).wal_segment_size(1).setting("fsync", "on").start().await.unwrap();
    let log = source(lay::settings(&cluster));
    log.facts().await.unwrap();
    cluster.psql("create table t as select g as n from generate_series(1, 50000) g").await.unwrap();
    let reached = log.nudge().await.unwrap();
    let mut stream = log.open(LogStart::Oldest).await.unwrap();
    receive(stream.as_mut(), reached).await.unwrap();

    cluster.kill9().await.unwrap();
    let error = receive(stream.as_mut(), LogPosition::new(1, u64::MAX)).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
    cluster.start().await.unwrap();
    cluster.psql("insert into t values (0)").await.unwrap();
    let reached_now = log.nudge().await.unwrap();
    let restart = LogPosition::new(1, reached.lsn().segment_start(1 << 20).0);
    let mut stream = log.open(LogStart::At(restart)).await.unwrap();
    assert_eq!(stream.start(), restart);
    receive(stream.as_mut(), reached_now).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_shutdown_is_received_to_its_end() {
    let cluster = Cluster::builder(Version::V15).wal_segment_size(1).start().await.unwrap();
    let log = source(lay::settings(&cluster));
    let mut stream = log.open(LogStart::Oldest).await.unwrap();
    cluster.psql("create table t as select 1 as n").await.unwrap();
    let stopping = cluster.stop(Stop::Fast);
    let receiving = async {
        let mut last = 0;
        loop {
            match stream.next().await {
                Ok(LogEvent::Data { start, bytes, .. }) => {
                    last = start.offset + bytes.len() as u64;
                    stream.released(LogPosition::new(1, last));
                }
                Ok(_) => {}
                Err(error) => break (last, error),
            }
        }
    };
    let (stopped, (last, error)) = tokio::join!(stopping, receiving);
    stopped.unwrap();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
    let checkpoint: breakwater_core::Lsn =
        cluster.control_data("Latest checkpoint location").await.unwrap().parse().unwrap();
    assert!(last > checkpoint.0, "the shutdown checkpoint at {checkpoint} is in what came up to {last:X}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_followed_with_its_history() {
    let cluster = Cluster::builder(Version::V15).wal_segment_size(1).start().await.unwrap();
    cluster.psql("create table t as select g as n from generate_series(1, 1000) g").await.unwrap();
    let standby = cluster.standby().await.unwrap();
    // The slot is on the later primary; while it is a standby nothing can be streamed from it.
    let log = source(lay::settings(&standby));
    assert_eq!(log.facts().await.unwrap_err().kind, EngineErrorKind::Refused);
    let stream_from = {
        let old = source(lay::settings(&cluster));
        let mut stream = old.open(LogStart::Oldest).await.unwrap();
        let reached = old.nudge().await.unwrap();
        receive(stream.as_mut(), reached).await.unwrap();
        LogPosition::new(1, reached.lsn().segment_start(1 << 20).0)
    };
    cluster.psql("insert into t values (0)").await.unwrap();
    let caught_up = async || standby.psql("select count(*) from t").await.unwrap() == "1001";
    wait::until_true("the standby to catch up", PATIENCE, caught_up).await;
    cluster.stop(Stop::Fast).await.unwrap();
    standby.promote().await.unwrap();
    standby.psql("insert into t values (-1)").await.unwrap();
    let reached = log.nudge().await.unwrap();
    assert_eq!(reached.branch, 2);

    let mut stream = log.open(LogStart::At(stream_from)).await.unwrap();
    let received = receive(stream.as_mut(), reached).await.unwrap();
    assert_eq!(received.branches.len(), 1);
    let (at, next, history) = &received.branches[0];
    assert_eq!((at.branch, *next), (1, 2));
    assert!(history.starts_with(&format!("1\t{}", at.lsn())), "{history}");
    assert!(received.watermarks.iter().all(|watermark| watermark.position.branch == 2));

    let diverged = LogPosition::new(1, (at.offset & !((1 << 20) - 1)) + (4 << 20));
    drop(stream);
    let error = log.open(LogStart::At(diverged)).await.err().unwrap();
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_a_gap_and_says_so() {
    let cluster = Cluster::builder(Version::V15)
        .wal_segment_size(1)
        .setting("max_slot_wal_keep_size", "2MB")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
        .start()
        .await
        .unwrap();
    let bounded = PostgresSettings { allow_unbounded_slot: false, ..lay::settings(&cluster) };
    let log = source(bounded);
    let mut stream = log.open(LogStart::Oldest).await.unwrap();
    let start = stream.start();
    cluster.psql("create table t(n int, fill text)").await.unwrap();
    // Nothing is released, so the server runs past the bound and gives the slot up.
    let lost = async || {
        cluster
            .psql("insert into t select g, repeat('x', 500) from generate_series(1, 4000) g; checkpoint")
            .await
            .unwrap();
        cluster.psql("select wal_status from pg_replication_slots").await.unwrap() == "lost"
    };
    wait::until_true("the slot to be lost", PATIENCE, lost).await;
    let error = receive(stream.as_mut(), LogPosition::new(1, u64::MAX)).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("gap"), "{error}");

    assert_eq!(log.facts().await.unwrap_err().kind, EngineErrorKind::Conflict);
    assert_eq!(log.open(LogStart::Oldest).await.err().unwrap().kind, EngineErrorKind::Conflict);
    log.forget().await.unwrap();
    let error = log.open(LogStart::At(start)).await.err().unwrap();
    assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
    log.open(LogStart::Oldest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbounded_slot_is_only_made_when_it_is_wanted() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    let careful = PostgresSettings { allow_unbounded_slot: false, ..lay::settings(&cluster) };
    let error = source(careful.clone()).facts().await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("max_slot_wal_keep_size"), "{error}");
    assert_eq!(cluster.psql("select count(*) from pg_replication_slots").await.unwrap(), "0");

    cluster.psql("alter system set max_slot_wal_keep_size = '1GB'").await.unwrap();
    cluster.psql("select pg_reload_conf()").await.unwrap();
    let bounded = async || source(careful.clone()).facts().await.is_ok();
    wait::until_true("the bound to be seen", PATIENCE, bounded).await;
    let foreign = PostgresSettings { expected_system_id: Some(7), ..careful };
    assert_eq!(source(foreign).facts().await.unwrap_err().kind, EngineErrorKind::Conflict);
}
