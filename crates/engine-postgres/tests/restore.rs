//! Restores of real clusters to chosen moments, by the real server programs.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

#[path = "kit/archive.rs"]
mod archive;
#[path = "kit/lay.rs"]
mod lay;

use std::path::{Path, PathBuf};
use std::time::Duration;

use breakwater_core::{LogPosition, Timestamp};
use breakwater_engine::{
    BackupEnd, Engine as _, EngineErrorKind, LogStart, RecoveryRequest, RecoveryTarget, Restorer as _, TransactionKind,
};
use breakwater_engine_postgres::{Facts, PostgresRestorer};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::postgres::{Cluster, Stop, Version};
use tempfile::TempDir;

use archive::{Archive, act_as_client, fetch_program};
use lay::{back_up, engine};

const QUIET: fn(usize) -> std::future::Ready<()> = |_| std::future::ready(());

#[test]
#[ignore = "a part of the other tests: the program that a recovering server calls"]
fn client_of_the_recovering_server() {
    act_as_client();
}

/// A cluster whose log is received from the first moment on, and one backup of it.
struct Story {
    version: Version,
    cluster: Cluster,
    archive: Archive,
    dir: TempDir,
    end: BackupEnd,
}

impl Story {
    async fn begin(version: Version) -> Story {
        let cluster =
            Cluster::builder(version).wal_segment_size(1).setting("max_connections", "77").start().await.unwrap();
        let log = engine(&cluster).log_source().unwrap();
        let archive = Archive::start(log, LogStart::Oldest).await;
        cluster.psql("create table ledger(n int primary key, at timestamptz default clock_timestamp())").await.unwrap();
        cluster.psql("insert into ledger select g from generate_series(1, 100) g").await.unwrap();
        cluster.psql("create database second").await.unwrap();
        let dir = temp_dir("story").unwrap();
        let end = back_up(&engine(&cluster), &dir.path().join("base"), QUIET).await.unwrap().end;
        Story { version, cluster, archive, dir, end }
    }

    /// Everything that is committed now is in the archive; answers its end.
    async fn settle(&self) -> LogPosition {
        let end = engine(&self.cluster).log_source().unwrap().nudge().await.unwrap();
        self.archive.reach(end).await;
        end
    }

    async fn insert(&self, n: u32) {
        self.cluster.psql(&format!("insert into ledger values ({n})")).await.unwrap();
    }

    async fn now(&self) -> Timestamp {
        let text = self.cluster.psql("select clock_timestamp()").await.unwrap();
        Timestamp::parse(&text).unwrap()
    }

    /// A fresh copy of the laid files.
    fn lay(&self, name: &str) -> PathBuf {
        let target = self.dir.path().join(name);
        let copied = std::process::Command::new("cp").arg("-a").arg(self.dir.path().join("base")).arg(&target).status();
        assert!(copied.unwrap().success());
        target
    }

    fn request(&self, target: &Path, stop: RecoveryTarget, end: LogPosition) -> RecoveryRequest {
        RecoveryRequest {
            target: target.to_owned(),
            facts: self.end.facts.clone(),
            consistent_at: self.end.range.map(|range| range.end),
            branch: end.branch,
            stop,
            end: Some(end),
            fetcher: Some(self.archive.fetcher(end, None)),
            fetch_program: Some(fetch_program(self.dir.path(), "client_of_the_recovering_server")),
            program_directory: Some(self.version.bin_dir().unwrap()),
        }
    }

    /// The rows of a restored ledger beyond the first hundred.
    async fn rows(&self, target: &Path) -> String {
        let restored = Cluster::open(self.version, target).start().await.unwrap();
        let rows = restored
            .psql("select coalesce(string_agg(n::text, ',' order by n), '') from ledger where n > 100")
            .await
            .unwrap();
        assert_eq!(restored.psql("select count(*) from ledger where n <= 100").await.unwrap(), "100");
        assert_eq!(restored.psql("show max_connections").await.unwrap(), "77");
        restored.pg_amcheck().await.unwrap();
        restored.stop(Stop::Fast).await.unwrap();
        rows
    }
}

async fn every_kind_of_moment(version: Version) {
    let story = Story::begin(version).await;
    story.insert(101).await;
    let after_101 = story.now().await;
    story.insert(102).await;
    let text = story.cluster.psql("select pg_current_wal_insert_lsn()").await.unwrap();
    let after_102 = LogPosition::new(1, text.parse::<breakwater_core::Lsn>().unwrap().0);
    let xid = story.cluster.psql("insert into ledger values (103) returning pg_current_xact_id()").await.unwrap();
    story.cluster.psql("select pg_create_restore_point('it''s here')").await.unwrap();
    story.insert(104).await;
    story.insert(105).await;
    let end = story.settle().await;

    let moments = [
        (RecoveryTarget::Consistent, ""),
        (RecoveryTarget::Time(after_101), "101"),
        (RecoveryTarget::Position(after_102), "101,102"),
        (RecoveryTarget::Transaction(xid.parse().unwrap()), "101,102,103"),
        (RecoveryTarget::Name("it's here".to_owned()), "101,102,103"),
        (RecoveryTarget::End, "101,102,103,104,105"),
    ];
    for (number, (stop, rows)) in moments.into_iter().enumerate() {
        let target = story.lay(&format!("restored-{number}"));
        let shown = format!("{stop:?}");
        let outcome = PostgresRestorer::default().recover(story.request(&target, stop, end)).await.unwrap();
        assert_eq!(story.rows(&target).await, rows, "{shown}: {outcome:?}");
        assert!(outcome.reached.unwrap().offset >= story.end.range.unwrap().end.offset);
        assert!(outcome.checks.iter().any(|line| line.contains("postgres, second, template1")), "{:?}", outcome.checks);
        assert!(!target.join("recovery.signal").exists() && !target.join("backup_label").exists());
        let settings = std::fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
        assert!(
            !settings.contains("restore_command"),
            "nothing of the recovery is left in the configuration: {settings}"
        );
        std::fs::remove_dir_all(&target).unwrap();
    }
    let commits = story.archive.transactions();
    assert!(commits.iter().any(|t| t.kind == TransactionKind::Commit && t.xid.to_string() == xid));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_moment_on_15() {
    every_kind_of_moment(Version::V15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_moment_on_17() {
    every_kind_of_moment(Version::V17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_the_log_does_not_reach_is_an_error() {
    let story = Story::begin(Version::V15).await;
    story.insert(101).await;
    let end = story.settle().await;
    let later = story.now().await.plus_micros(3_600_000_000);
    let target = story.lay("restored");
    let request = story.request(&target, RecoveryTarget::Time(later), end);
    let error = PostgresRestorer::default().recover(request).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_fails_never_ends_the_log() {
    let story = Story::begin(Version::V15).await;
    story
        .cluster
        .psql("create table much as select g as n, repeat('x', 500) as fill from generate_series(1, 10000) g")
        .await
        .unwrap();
    story.insert(101).await;
    let end = story.settle().await;
    let target = story.lay("restored");
    let segno = story.end.range.unwrap().end.offset / (1 << 20) + 2;
    let name = format!("{:08X}{:08X}{:08X}", 1, segno / 4096, segno % 4096);
    let request = RecoveryRequest {
        fetcher: Some(story.archive.fetcher(end, Some(&name))),
        ..story.request(&target, RecoveryTarget::End, end)
    };
    let error = PostgresRestorer::default().recover(request).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("region `east` does not answer"), "{error}");
    assert!(target.join("recovery.signal").exists(), "the server was not promoted");

    // With the region back the same directory cannot be taken for a fresh one, and a fresh one is restored.
    let target = story.lay("again");
    PostgresRestorer::default().recover(story.request(&target, RecoveryTarget::End, end)).await.unwrap();
    assert_eq!(story.rows(&target).await, "101");
}

/// The server itself takes what is missing for the end of the log and is content.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_ends_before_the_plan_does_is_an_error() {
    let story = Story::begin(Version::V15).await;
    story.insert(101).await;
    let early = story.settle().await;
    story.insert(102).await;
    let same_segment = story.settle().await;
    assert_eq!(early.offset >> 20, same_segment.offset >> 20, "both lie in one segment");
    story.cluster.psql("select pg_switch_wal()").await.unwrap();
    story.insert(103).await;
    let next_segment = story.settle().await;
    for (number, end) in [same_segment, next_segment].into_iter().enumerate() {
        let target = story.lay(&format!("short-{number}"));
        let request = RecoveryRequest {
            fetcher: Some(story.archive.fetcher(early, None)),
            ..story.request(&target, RecoveryTarget::End, end)
        };
        let error = PostgresRestorer::default().recover(request).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&end.to_string()), "{error}");
    }

    // A plan that ends within a record is reached with the record before.
    let cut = LogPosition::new(same_segment.branch, same_segment.offset - 9);
    let target = story.lay("cut");
    let outcome = PostgresRestorer::default().recover(story.request(&target, RecoveryTarget::End, cut)).await.unwrap();
    assert!(outcome.reached.unwrap().offset < cut.offset, "{outcome:?}");
    assert_eq!(story.rows(&target).await, "101,102");

    // One record of several segments: the last that is whole before lies in an earlier one.
    story
        .cluster
        .psql("select pg_logical_emit_message(false, 'long', repeat('x', 4000000)); insert into ledger values (104)")
        .await
        .unwrap();
    story.settle().await;
    let amid = LogPosition::new(1, (next_segment.offset & !((1 << 20) - 1)) + (2 << 20) + 5000);
    let target = story.lay("amid");
    let outcome = PostgresRestorer::default().recover(story.request(&target, RecoveryTarget::End, amid)).await.unwrap();
    assert!(outcome.reached.unwrap().offset < amid.offset - (1 << 20), "{outcome:?}");
    assert_eq!(story.rows(&target).await, "101,102,103");
    let target = story.lay("amid-short");
    let request = RecoveryRequest {
        fetcher: Some(story.archive.fetcher(same_segment, None)),
        ..story.request(&target, RecoveryTarget::End, amid)
    };
    let error = PostgresRestorer::default().recover(request).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Corrupt, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_is_given_up_leaves_no_server() {
    let story = Story::begin(Version::V15).await;
    let end = story.settle().await;
    let target = story.lay("restored");
    #[derive(Debug)]
    struct Never;
    #[async_trait::async_trait]
    impl breakwater_engine::LogFetcher for Never {
        async fn fetch(
            &self,
            _: &str,
            _: &Path,
        ) -> Result<breakwater_engine::LogFetch, breakwater_engine::EngineError> {
            std::future::pending().await
        }
    }
    let request = || RecoveryRequest {
        fetcher: Some(std::sync::Arc::new(Never)),
        ..story.request(&target, RecoveryTarget::End, end)
    };
    let quick = PostgresRestorer { quiet_timeout: Duration::from_secs(2), ..PostgresRestorer::default() };
    let error = quick.recover(request()).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("nothing for 2 s"), "{error}");
    let gone = async || !target.join("postmaster.pid").exists();
    breakwater_testkit::wait::until_true("the server to be gone", Duration::from_secs(20), gone).await;

    let restorer = PostgresRestorer::default();
    let given_up = tokio::time::timeout(Duration::from_secs(2), restorer.recover(request())).await;
    assert!(given_up.is_err(), "{given_up:?}");
    breakwater_testkit::wait::until_true("the server to be gone", Duration::from_secs(20), gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_follows_the_plans_timeline() {
    let story = Story::begin(Version::V15).await;
    story.insert(101).await;
    let standby = story.cluster.standby().await.unwrap();
    let caught_up = async || standby.psql("select count(*) from ledger").await.unwrap() == "101";
    breakwater_testkit::wait::until_true("the standby to catch up", Duration::from_secs(60), caught_up).await;
    let common = story.settle().await;
    standby.promote().await.unwrap();
    standby.psql("insert into ledger values (202)").await.unwrap();
    let log = engine(&standby).log_source().unwrap();
    let start = LogPosition::new(1, common.lsn().segment_start(1 << 20).0);
    let archive = story.archive.branch_off(log.clone(), start).await;
    // The old primary goes on by itself: a branch that is not on the plan.
    story.insert(102).await;
    let old_end = story.settle().await;

    let new_end = log.nudge().await.unwrap();
    assert_eq!(new_end.branch, 2);
    archive.reach(new_end).await;

    let target = story.lay("new");
    let request = RecoveryRequest {
        fetcher: Some(archive.fetcher(new_end, None)),
        ..story.request(&target, RecoveryTarget::End, new_end)
    };
    let outcome = PostgresRestorer::default().recover(request).await.unwrap();
    assert_eq!(outcome.reached.unwrap().branch, 2);
    assert_eq!(story.rows(&target).await, "101,202");

    let target = story.lay("old");
    PostgresRestorer::default().recover(story.request(&target, RecoveryTarget::End, old_end)).await.unwrap();
    assert_eq!(story.rows(&target).await, "101,102");
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_recoveries_and_foreign_configuration_do_not_disturb() {
    let story = Story::begin(Version::V15).await;
    story.insert(101).await;
    let end = story.settle().await;
    let target = story.lay("restored");
    let append = |name: &str, text: &str| {
        let path = target.join(name);
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, old + text).unwrap();
    };
    append(
        "postgresql.auto.conf",
        "recovery_target_xid = '5'\nrestore_command = 'cp /nowhere/%f %p'\narchive_mode = 'on'\narchive_command = 'false'\n\
         synchronous_standby_names = 'nobody'\nlisten_addresses = '*'\nport = '1'\nssl = 'on'\n",
    );
    // As on Debian: the configuration was somewhere else.
    std::fs::remove_file(target.join("postgresql.conf")).unwrap();
    std::fs::remove_file(target.join("pg_hba.conf")).unwrap();
    let mut facts = Facts::from_json(&story.end.facts).unwrap();
    facts.settings.insert("shared_preload_libraries".to_owned(), "no_such_library, pg_stat_statements".to_owned());
    facts.config_files = vec![breakwater_engine_postgres::facts::ConfigFile {
        path: "/etc/postgresql/15/main/postgresql.conf".to_owned(),
        text: "data_directory = '/var/lib/postgresql/15/main'\n".to_owned(),
    }];
    let request = RecoveryRequest {
        facts: serde_json::to_value(&facts).unwrap(),
        ..story.request(&target, RecoveryTarget::End, end)
    };
    let outcome = PostgresRestorer::default().recover(request).await.unwrap();
    let has =
        |words: &str| assert!(outcome.checks.iter().any(|line| line.contains(words)), "{words}: {:?}", outcome.checks);
    has("no_such_library");
    has("postgresql.conf: was outside");
    has("/etc/postgresql/15/main/postgresql.conf: kept as breakwater_config/etc_postgresql_15_main_postgresql.conf");
    let settings = std::fs::read_to_string(target.join("postgresql.conf")).unwrap();
    assert!(
        settings.starts_with("# written by breakwater restore") && settings.contains("max_connections = '77'"),
        "{settings}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_must_not_be_written_are_refused() {
    let story = Story::begin(Version::V15).await;
    let restorer = PostgresRestorer::default();
    let facts = &story.end.facts;
    let refused = async |target: &Path, word: &str| {
        let error = restorer.check_target(target, facts).await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    restorer.check_target(&story.dir.path().join("new"), facts).await.unwrap();
    refused(story.cluster.data_dir(), "server").await;
    refused(&story.dir.path().join("base"), "not empty").await;
    refused(&story.dir.path().join("no/parent"), "no such directory").await;
    if rustix::process::geteuid().is_root() {
        // Root can write there, the database's user cannot even enter.
        let closed = story.dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        refused(&closed.join("new"), "is closed to it").await;
    }
    let elsewhere = PostgresRestorer { program_directory: Some("/nowhere".into()), ..PostgresRestorer::default() };
    let error = elsewhere.check_target(&story.dir.path().join("new"), facts).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
    let error = restorer.check_target(&story.dir.path().join("new"), &serde_json::json!({"x": 1})).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Corrupt);

    // Half a restore is not recovered: without the label a server would start in the middle of the copy.
    let end = story.settle().await;
    let target = story.lay("half");
    std::fs::remove_file(target.join("backup_label")).unwrap();
    let error = restorer.recover(story.request(&target, RecoveryTarget::End, end)).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Corrupt, "{error}");
    std::fs::remove_file(target.join("global/pg_control")).unwrap();
    assert!(restorer.recover(story.request(&target, RecoveryTarget::End, end)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_directory_waits_for_its_owner_and_is_never_promoted_by_accident() {
    let story = Story::begin(Version::V15).await;
    story.insert(101).await;
    let moment = story.now().await;
    story.insert(102).await;
    let end = story.settle().await;
    let target = story.lay("prepared");
    let request = RecoveryRequest { fetcher: None, ..story.request(&target, RecoveryTarget::Time(moment), end) };
    PostgresRestorer::default().prepare(request).await.unwrap();
    let settings = std::fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains("recovery_target_time = '") && settings.contains("wal-fetch %f %p"), "{settings}");
    assert_eq!(settings.matches("\nrecovery_target_").count(), 4, "{settings}");

    let cluster = Cluster::open(Version::V15, &target).stopped().unwrap();
    let status = cluster.start_until_exit().await.unwrap();
    assert!(!status.success(), "a server without its log must not become a primary");
    assert!(target.join("recovery.signal").exists());
}
