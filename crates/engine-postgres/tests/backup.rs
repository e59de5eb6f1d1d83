//! Backups of real clusters: what is in them, what is found in them, and that they start.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "kit/lay.rs"]
mod lay;

use std::time::Duration;

use breakwater_engine::{Engine as _, EngineErrorKind};
use breakwater_engine_postgres::{Facts, PostgresEngine, PostgresSettings};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::postgres::{Cluster, Stop, Version};

use lay::{back_up, engine, lay_log, request, settings};

const QUIET: fn(usize) -> std::future::Ready<()> = |_| std::future::ready(());

async fn a_copy_under_load_starts(version: Version) {
    let cluster = Cluster::builder(version).wal_segment_size(1).setting("wal_keep_size", "2GB").start().await.unwrap();
    cluster.pgbench_init(5).await.unwrap();
    cluster
        .psql("create table ledger(n int primary key); create unlogged table quick(n int primary key); insert into quick values (1)")
        .await
        .unwrap();
    let load = cluster.pgbench(&["-c", "2", "-T", "300"]).unwrap();
    let dir = temp_dir("copy").unwrap();
    let target = dir.path().join("data");
    let mut last = 0;
    let taken = back_up(&engine(&cluster), &target, async |batch| {
        cluster.psql(&format!("insert into ledger values ({batch})")).await.unwrap();
        last = batch;
    })
    .await
    .unwrap();
    load.stop().unwrap();
    assert!(taken.damaged.is_empty(), "torn pages are not damage: {:?}", taken.damaged);
    let facts = Facts::from_json(&taken.end.facts).unwrap();
    assert_eq!((facts.major, facts.segment_size, facts.data_checksums), (version.major(), 1 << 20, true));
    assert_eq!(facts.settings["max_connections"], "50");
    let range = taken.end.range.unwrap();
    assert_eq!((range.start.lsn(), range.end.lsn()), (facts.start, facts.end));
    assert!(range.start.offset < range.end.offset);
    assert!(taken.entries.iter().all(|entry| !entry.last));
    let late: Vec<_> = taken.end.entries.iter().map(|entry| (entry.path.as_slice(), entry.last)).collect();
    assert_eq!(late, [(b"backup_label".as_slice(), false), (b"global/pg_control".as_slice(), true)]);

    lay_log(&cluster, &target);
    cluster.stop(Stop::Fast).await.unwrap();
    let restored = Cluster::open(version, &target).start().await.unwrap();
    assert_eq!(restored.psql("select count(*), max(n) from ledger").await.unwrap(), format!("{}|{last}", last + 1));
    assert_eq!(restored.psql("select count(*) from quick").await.unwrap(), "0", "unlogged tables come back empty");
    let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
                (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers)";
    assert_eq!(restored.psql(sums).await.unwrap(), "t|t");
    restored.pg_amcheck().await.unwrap();
    restored.stop(Stop::Fast).await.unwrap();
    restored.pg_checksums_check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_load_starts_on_15() {
    a_copy_under_load_starts(Version::V15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_load_starts_on_17() {
    a_copy_under_load_starts(Version::V17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_belongs_into_a_backup_is_in_it() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    cluster
        .psql("create unlogged table quick as select g as n from generate_series(1, 2000) g; create table slow as select 1 as n")
        .await
        .unwrap();
    cluster.psql("vacuum quick").await.unwrap();
    let quick = cluster.psql("select pg_relation_filepath('quick')").await.unwrap();
    let slow = cluster.psql("select pg_relation_filepath('slow')").await.unwrap();
    let session = cluster.connect().await.unwrap();
    session.batch_execute("create temp table brief as select g as n from generate_series(1, 2000) g").await.unwrap();
    let brief: String = session.query_one("select pg_relation_filepath('brief')", &[]).await.unwrap().get(0);
    assert!(cluster.data_dir().join(&brief).exists());
    cluster.psql("select pg_create_physical_replication_slot('somebody', true)").await.unwrap();

    let dir = temp_dir("copy").unwrap();
    let taken = back_up(&engine(&cluster), &dir.path().join("data"), QUIET).await.unwrap();
    let paths = taken.paths();
    let has = |path: &str| paths.iter().any(|known| known == path);
    assert!(has(&slow) && has(&format!("{quick}_init")));
    for left_out in [
        quick.as_str(),
        &format!("{quick}_fsm"),
        &format!("{quick}_vm"),
        &brief,
        "postmaster.pid",
        "postmaster.opts",
        "pg_replslot/somebody",
        "global/pg_internal.init",
        "global/pg_control",
    ] {
        assert!(!has(left_out), "{left_out} is in the backup");
        assert!(
            left_out.ends_with("m") || cluster.data_dir().join(left_out).exists(),
            "{left_out} is not there at all"
        );
    }
    for kept in [
        "PG_VERSION",
        "postgresql.conf",
        "pg_wal",
        "pg_wal/archive_status",
        "pg_replslot",
        "pg_notify",
        "global/pg_filenode.map",
    ] {
        assert!(has(kept), "{kept} is missing");
    }
    assert!(!paths.iter().any(|path| path.starts_with("pg_wal/0")), "log segments come from the stream");
    drop(session);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_dropped_and_cut_during_the_copy_do_not_disturb_it() {
    let cluster =
        Cluster::builder(Version::V15).wal_segment_size(1).setting("wal_keep_size", "1GB").start().await.unwrap();
    for n in 0..40 {
        cluster
            .psql(&format!(
                "create table t{n} as select g as n, repeat('x', 200) as fill from generate_series(1, 3000) g"
            ))
            .await
            .unwrap();
    }
    let dir = temp_dir("copy").unwrap();
    let target = dir.path().join("data");
    let taken = back_up(&engine(&cluster), &target, async |batch| {
        if batch == 1 {
            // Listed files vanish before they are read, others are cut; a checkpoint removes them for good.
            for n in 0..20 {
                cluster.psql(&format!("drop table t{n}")).await.unwrap();
                cluster.psql(&format!("delete from t{} where n > 10", n + 20)).await.unwrap();
                cluster.psql(&format!("vacuum t{}", n + 20)).await.unwrap();
            }
            cluster.psql("checkpoint").await.unwrap();
        }
    })
    .await
    .unwrap();
    assert!(taken.damaged.is_empty());
    lay_log(&cluster, &target);
    let restored = Cluster::open(Version::V15, &target).start().await.unwrap();
    assert_eq!(restored.psql("select count(*) from pg_class where relname ~ '^t[0-9]+$'").await.unwrap(), "20");
    assert_eq!(restored.psql("select count(*) from t39").await.unwrap(), "10");
    restored.pg_amcheck().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_and_named() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    cluster
        .psql("create table t as select g as n, repeat('x', 500) as fill from generate_series(1, 3000) g")
        .await
        .unwrap();
    let path = cluster.psql("select pg_relation_filepath('t')").await.unwrap();
    cluster.stop(Stop::Fast).await.unwrap();
    let file = cluster.data_dir().join(&path);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[3 * 8192 + 5000] ^= 0x40;
    // A page whose position is garbage must not escape its check: it lies far ahead of the server's log.
    bytes[20 * 8192..20 * 8192 + 8].copy_from_slice(&[0xFF; 8]);
    std::fs::write(&file, bytes).unwrap();
    cluster.start().await.unwrap();

    let dir = temp_dir("copy").unwrap();
    let taken = back_up(&engine(&cluster), &dir.path().join("data"), QUIET).await.unwrap();
    assert_eq!(taken.damaged.into_iter().collect::<Vec<_>>(), [(path, vec![3, 20])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_checksums_nothing_is_called_damaged() {
    let cluster = Cluster::builder(Version::V15).data_checksums(false).start().await.unwrap();
    cluster.psql("create table t as select g as n from generate_series(1, 3000) g").await.unwrap();
    let dir = temp_dir("copy").unwrap();
    let taken = back_up(&engine(&cluster), &dir.path().join("data"), QUIET).await.unwrap();
    assert!(taken.damaged.is_empty());
    assert!(!Facts::from_json(&taken.end.facts).unwrap().data_checksums);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_directory_is_refused() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    let other = Cluster::builder(Version::V15).start().await.unwrap();
    let begin = async |directory: &std::path::Path| {
        let settings = PostgresSettings { data_directory: Some(directory.to_owned()), ..settings(&cluster) };
        PostgresEngine::new(settings).begin_backup(request("wrong")).await.err().unwrap()
    };
    let error = begin(other.data_dir()).await;
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("system id") && error.hint.is_some(), "{error}");

    // A standby has the same system identifier, but another port.
    let standby = cluster.standby().await.unwrap();
    let error = begin(standby.data_dir()).await;
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("port"), "{error}");

    // A copy that lies: the port is right, the checkpoint is not.
    standby.stop(Stop::Fast).await.unwrap();
    std::fs::copy(cluster.data_dir().join("postmaster.pid"), standby.data_dir().join("postmaster.pid")).unwrap();
    let error = begin(standby.data_dir()).await;
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("checkpoint"), "{error}");

    let nothing = temp_dir("none").unwrap();
    let error = begin(nothing.path()).await;
    assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_cannot_be_backed_up_are_refused() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    let begin = async |settings: PostgresSettings| PostgresEngine::new(settings).begin_backup(request("x")).await.err();

    let foreign = PostgresSettings { expected_system_id: Some(12345), ..settings(&cluster) };
    let error = begin(foreign).await.unwrap();
    assert_eq!(error.kind, EngineErrorKind::Conflict);
    assert!(error.to_string().contains("12345"), "{error}");

    let standby = cluster.standby().await.unwrap();
    let error = begin(settings(&standby)).await.unwrap();
    assert_eq!(error.kind, EngineErrorKind::Refused);
    assert!(error.to_string().contains("standby"), "{error}");

    let space = temp_dir("space").unwrap();
    cluster.user().own(space.path()).unwrap();
    cluster.psql(&format!("create tablespace fast location '{}'", space.path().display())).await.unwrap();
    let error = begin(settings(&cluster)).await.unwrap();
    assert_eq!(error.kind, EngineErrorKind::Refused);
    assert!(error.to_string().contains("fast"), "{error}");
    cluster.psql("drop tablespace fast").await.unwrap();
    assert!(begin(settings(&cluster)).await.is_none());

    cluster.stop(Stop::Fast).await.unwrap();
    let error = begin(settings(&cluster)).await.unwrap();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_outside_of_the_data_directory_is_kept_as_facts() {
    let etc = temp_dir("etc").unwrap();
    let hba = etc.path().join("pg_hba.conf");
    std::fs::write(&hba, "local all all trust\nhost all all 127.0.0.1/32 trust\nlocal replication all trust\n")
        .unwrap();
    let cluster = Cluster::builder(Version::V15).setting("hba_file", &hba.display().to_string()).start().await.unwrap();
    let dir = temp_dir("copy").unwrap();
    let taken = back_up(&engine(&cluster), &dir.path().join("data"), QUIET).await.unwrap();
    let facts = Facts::from_json(&taken.end.facts).unwrap();
    assert_eq!(facts.config_files.len(), 1, "{:?}", facts.config_files);
    assert_eq!(facts.config_files[0].path, hba.display().to_string());
    assert!(facts.config_files[0].text.contains("local replication all trust"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_connection_is_lost_never_ends_well() {
    let cluster = Cluster::builder(Version::V15).start().await.unwrap();
    let engine = engine(&cluster);
    let mut session = engine.begin_backup(request("lost")).await.unwrap();
    session.next_entries(10).await.unwrap();
    cluster
        .psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'breakwater'")
        .await
        .unwrap();
    let gone = async || {
        cluster.psql("select count(*) from pg_stat_activity where application_name = 'breakwater'").await.unwrap()
            == "0"
    };
    breakwater_testkit::wait::until_true("the session to end", Duration::from_secs(20), gone).await;
    let error = session.finish().await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_disk_of_its_own_comes_back_as_a_plain_directory() {
    let cluster = Cluster::builder(Version::V17).wal_segment_size(1).start().await.unwrap();
    cluster.psql("create table t as select g as n from generate_series(1, 100) g").await.unwrap();
    cluster.stop(Stop::Fast).await.unwrap();
    let disk = temp_dir("disk").unwrap();
    let wal = cluster.data_dir().join("pg_wal");
    let moved = std::process::Command::new("mv").arg(&wal).arg(disk.path().join("wal")).status().unwrap();
    assert!(moved.success());
    std::os::unix::fs::symlink(disk.path().join("wal"), &wal).unwrap();
    cluster.start().await.unwrap();

    let dir = temp_dir("copy").unwrap();
    let target = dir.path().join("data");
    let taken = back_up(&engine(&cluster), &target, QUIET).await.unwrap();
    let paths = taken.paths();
    let of_wal: Vec<_> = paths.iter().filter(|path| path.starts_with("pg_wal")).collect();
    assert_eq!(of_wal, ["pg_wal", "pg_wal/archive_status", "pg_wal/summaries"]);
    assert!(target.join("pg_wal").symlink_metadata().unwrap().is_dir());
    lay_log(&cluster, &target);
    let restored = Cluster::open(Version::V17, &target).start().await.unwrap();
    assert_eq!(restored.psql("select count(*) from t").await.unwrap(), "100");
}
