//! What the server's WAL summaries say has changed, held against the bytes of real clusters.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "kit/lay.rs"]
mod lay;

use std::collections::BTreeMap;

use breakwater_engine::{BackupEnd, BackupRequest, BaseFacts, ChangedPages, Engine as _, EntryKind};
use breakwater_engine_postgres::PostgresEngine;
use breakwater_testkit::postgres::{Cluster, Version};

use lay::{engine, request};

const PAGE: usize = 8192;

/// One file of a backup: its bytes, and what was said to have changed.
struct File {
    bytes: Vec<u8>,
    changed: Option<ChangedPages>,
}

type Files = BTreeMap<String, File>;

async fn read(engine: &PostgresEngine, base: Option<&BackupEnd>) -> (Files, BackupEnd) {
    let base = base.map(|end| BaseFacts {
        facts: end.facts.clone(),
        start: end.range.map(|range| range.start),
        end: end.range.map(|range| range.end),
    });
    let mut session = engine.begin_backup(BackupRequest { base, ..request("changes") }).await.unwrap();
    let mut files = Files::new();
    loop {
        let batch = session.next_entries(100).await.unwrap();
        if batch.is_empty() {
            break;
        }
        for entry in batch {
            let EntryKind::File { size, reader, changed, .. } = entry.kind else { continue };
            let reading = move || {
                let mut bytes = vec![0; usize::try_from(size).unwrap()];
                let read = reader.read_at(0, &mut bytes).unwrap();
                bytes.truncate(read.length);
                bytes
            };
            let bytes = tokio::task::spawn_blocking(reading).await.unwrap();
            files.insert(String::from_utf8(entry.path).unwrap(), File { bytes, changed });
        }
    }
    (files, session.finish().await.unwrap())
}

/// Checks that no page differs that was not named; answers pages named and pages not named in files that were judged.
fn compare(before: &Files, after: &Files) -> (u64, u64) {
    let (mut named, mut spared) = (0, 0);
    for (path, file) in after {
        let Some(changed) = &file.changed else { continue };
        assert_eq!(changed.page_size as usize, PAGE);
        let old = before.get(path).map(|old| old.bytes.as_slice()).unwrap_or_default();
        for (number, page) in (0..).zip(file.bytes.chunks(PAGE)) {
            if changed.ranges.iter().any(|range| range.contains(&number)) {
                named += 1;
                continue;
            }
            spared += 1;
            let at = usize::try_from(number).unwrap() * PAGE;
            assert!(old.get(at..at + PAGE) == Some(page), "page {number} of {path} differs, and was not named");
        }
    }
    (named, spared)
}

async fn summarising() -> Cluster {
    let cluster = Cluster::builder(Version::V17).setting("summarize_wal", "on").setting("autovacuum", "off");
    let cluster = cluster.start().await.unwrap();
    cluster.pgbench_init(5).await.unwrap();
    cluster
        .psql("create table kept as select g as n, repeat('x', 500) as t from generate_series(1, 20000) g")
        .await
        .unwrap();
    cluster.psql("create table cut as select * from kept; create table dropped as select * from kept").await.unwrap();
    cluster.psql("checkpoint").await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_not_named_has_not_changed() {
    let cluster = summarising().await;
    let engine = engine(&cluster);
    let (first, end) = read(&engine, None).await;
    assert!(first.values().all(|file| file.changed.is_none()), "without a base nothing is known");
    for statement in [
        "update kept set t = repeat('y', 500) where n % 4000 = 0",
        "delete from cut where n > 9000",
        "vacuum (truncate true) cut",
        "drop table dropped",
        "create table born as select g as n from generate_series(1, 50000) g",
        "create index on kept (n)",
        "create database copied template template0 strategy file_copy",
        "insert into cut select g, 'again' from generate_series(1, 30000) g",
        "vacuum full pgbench_tellers",
        "truncate pgbench_history",
        "select count(*) from kept",
    ] {
        cluster.psql(statement).await.unwrap();
    }
    let (second, end) = read(&engine, Some(&end)).await;
    let (named, spared) = compare(&first, &second);
    assert!(spared > 5 * 1600, "most of the accounts did not change: {named} named, {spared} spared");
    let kept = cluster.psql("select pg_relation_filepath('kept')").await.unwrap();
    let changed = second[&kept].changed.as_ref().unwrap();
    let pages: u64 = changed.ranges.iter().map(|range| range.end - range.start).sum();
    assert!((1..100).contains(&pages), "{changed:?}");
    let copied = cluster.psql("select oid from pg_database where datname = 'copied'").await.unwrap();
    let of_copy = |path: &&String| path.starts_with(&format!("base/{copied}/"));
    assert!(second.iter().filter(|(path, _)| of_copy(path)).all(|(_, file)| file.changed.is_none()));

    let (third, _) = read(&engine, Some(&end)).await;
    let (named, _) = compare(&second, &third);
    assert!(named < 100, "an idle cluster names next to nothing: {named}");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_too() {
    let cluster = summarising().await;
    let engine = engine(&cluster);
    let load = cluster.pgbench(&["-c", "2", "-T", "300"]).unwrap();
    let (first, end) = read(&engine, None).await;
    load.stop().unwrap();
    let (second, _) = read(&engine, Some(&end)).await;
    let (named, spared) = compare(&first, &second);
    assert!(named > 0 && spared > 1000, "{named} named, {spared} spared");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_be_promised_nothing_is_said() {
    let nothing = |files: &Files| files.values().all(|file| file.changed.is_none());
    let cluster = summarising().await;
    let engine = engine(&cluster);
    let (_, end) = read(&engine, None).await;
    // A gap: what was written meanwhile is in no summary.
    cluster.psql("alter system set summarize_wal = off").await.unwrap();
    cluster.psql("select pg_reload_conf()").await.unwrap();
    cluster.psql("update kept set t = 'z'").await.unwrap();
    let (files, _) = read(&engine, Some(&end)).await;
    assert!(nothing(&files), "summarize_wal is off");
    let foreign =
        BackupEnd { facts: serde_json::json!({ "other": 1 }), entries: Vec::new(), warnings: Vec::new(), ..end };
    let (files, _) = read(&engine, Some(&foreign)).await;
    assert!(nothing(&files), "facts of something else");
}
