//! Backups of databases that real programs write to, and their way back.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use breakwater_core::Clock as _;
use breakwater_engine::{
    BackupEnd, BackupRequest, Engine, EngineError, EngineErrorKind, Entry, EntryKind, RecoveryRequest, RecoveryTarget,
    Restorer, Severity,
};
use breakwater_engine_sqlite::{SqliteEngine, SqliteRestorer, SqliteSettings};
use breakwater_runtime::SystemClock;
use rusqlite::Connection;
use tempfile::TempDir;

struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Fixture { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn engine(&self) -> SqliteEngine {
        let settings = SqliteSettings {
            busy_timeout: Duration::from_millis(300),
            ..SqliteSettings::new(self.path(), self.dir.path().join("scratch"))
        };
        SqliteEngine::new(settings, Arc::new(SystemClock))
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
    }

    /// A ledger whose rows always sum up to zero and whose numbers have no holes, with some weight to it.
    fn ledger(&self, journal_mode: &str, weight: u32) -> Connection {
        let connection = self.connect();
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", journal_mode, |row| row.get(0)).unwrap();
        assert_eq!(mode, journal_mode);
        connection
            .execute_batch(&format!(
                "pragma synchronous = off;
                 create table ledger(n integer primary key, amount integer not null);
                 create table weight(n integer primary key, b blob);
                 with recursive s(n) as (select 1 union all select n + 1 from s where n < {weight})
                 insert into weight select n, randomblob(4000) from s"
            ))
            .unwrap();
        connection
    }
}

fn request() -> BackupRequest {
    BackupRequest { label: "test".to_owned(), fast: true, extent_size: 64 * 1024, base: None }
}

async fn back_up(engine: &SqliteEngine, into: &Path) -> Result<BackupEnd, EngineError> {
    let mut session = engine.begin_backup(request()).await?;
    let entries = session.next_entries(10).await?;
    assert_eq!(entries.len(), 1, "one file and never its side files");
    lay(&entries[0], into);
    assert!(session.next_entries(10).await?.is_empty());
    session.finish().await
}

fn lay(entry: &Entry, into: &Path) {
    let EntryKind::File { size, reader, .. } = &entry.kind else { panic!("not a file: {entry:?}") };
    let mut bytes = vec![0; usize::try_from(*size).unwrap()];
    let answer = reader.read_at(0, &mut bytes).unwrap();
    assert_eq!(answer.length, bytes.len());
    assert_eq!(reader.read_at(*size, &mut [0; 10]).unwrap().length, 0, "nothing lies behind the listed size");
    std::fs::create_dir_all(into).unwrap();
    std::fs::write(into.join(std::str::from_utf8(&entry.path).unwrap()), bytes).unwrap();
}

fn recovery(target: &Path, facts: serde_json::Value) -> RecoveryRequest {
    RecoveryRequest {
        target: target.to_owned(),
        facts,
        consistent_at: None,
        branch: 0,
        stop: RecoveryTarget::End,
        end: None,
        fetcher: None,
        fetch_program: None,
        program_directory: None,
    }
}

/// The number of transactions in a ledger that holds whole transactions only.
fn transactions(connection: &Connection) -> u64 {
    let (rows, sum, last): (u64, i64, u64) = {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, i64>(2)?));
        let (rows, sum, last) = connection
            .query_row("select count(*), coalesce(sum(amount), 0), coalesce(max(n), 0) from ledger", [], row)
            .unwrap();
        (u64::try_from(rows).unwrap(), sum, u64::try_from(last).unwrap())
    };
    assert_eq!(sum, 0, "half a transaction is in the copy");
    assert_eq!(rows, last, "the copy has a hole");
    assert_eq!(rows % 2, 0);
    rows / 2
}

async fn copies_are_whole_under_writers(journal_mode: &str, weight: u32) {
    let fixture = Fixture::new();
    drop(fixture.ledger(journal_mode, weight));
    let stop = Arc::new(AtomicBool::new(false));
    let committed = Arc::new(AtomicU64::new(0));
    let begun = Arc::new(AtomicU64::new(0));
    let writer = {
        let (connection, stop) = (fixture.connect(), Arc::clone(&stop));
        let (committed, begun) = (Arc::clone(&committed), Arc::clone(&begun));
        connection.execute_batch("pragma synchronous = off").unwrap();
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let n = begun.fetch_add(1, Ordering::SeqCst);
                let (a, b) = (n * 2 + 1, n * 2 + 2);
                let weight = n % 50 + 1;
                connection
                    .execute_batch(&format!(
                        "begin immediate; insert into ledger values ({a}, {b}); insert into ledger values ({b}, -{b});
                         update weight set b = randomblob(4000) where n = {weight}; commit"
                    ))
                    .unwrap();
                committed.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let engine = fixture.engine();
    let mut last = 0;
    for round in 0..4 {
        let target = fixture.dir.path().join(format!("restored-{round}"));
        let before = committed.load(Ordering::SeqCst);
        let clock_before = SystemClock.now();
        let end = back_up(&engine, &target).await.unwrap();
        let after = begun.load(Ordering::SeqCst);
        assert!(end.consistent_at >= clock_before && end.consistent_at <= SystemClock.now());

        let outcome = SqliteRestorer.recover(recovery(&target, end.facts)).await.unwrap();
        assert!(outcome.checks.iter().any(|line| line == "integrity_check: ok"), "{:?}", outcome.checks);
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1, "the check leaves no side files");
        let restored = Connection::open(target.join("app.db")).unwrap();
        let there = transactions(&restored);
        assert!(there >= before, "{there} transactions restored, {before} were committed before the backup began");
        assert!(there <= after, "{there} transactions restored, {after} were begun when the backup ended");
        assert!(there >= last);
        last = there;
        let mode: String = restored.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, journal_mode, "the restored database keeps its journal mode");
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    assert!(committed.load(Ordering::SeqCst) > 0, "the writer was never let through");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_whole_under_writers_in_wal_mode() {
    copies_are_whole_under_writers("wal", 3000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_whole_under_writers_with_a_rollback_journal() {
    copies_are_whole_under_writers("delete", 3000).await;
}

#[tokio::test]
async fn a_commit_that_is_only_in_the_wal_is_in_the_copy() {
    let fixture = Fixture::new();
    let connection = fixture.ledger("wal", 10);
    connection.execute_batch("pragma wal_checkpoint(truncate); insert into ledger values (1, 5), (2, -5)").unwrap();
    let wal = std::fs::read(fixture.dir.path().join("app.db-wal")).unwrap();
    assert!(!wal.is_empty());
    let target = fixture.dir.path().join("restored");
    back_up(&fixture.engine(), &target).await.unwrap();
    assert_eq!(transactions(&Connection::open(target.join("app.db")).unwrap()), 1);
    let wal_after = std::fs::read(fixture.dir.path().join("app.db-wal")).unwrap();
    assert_eq!(wal, wal_after, "the source's log is neither checkpointed nor removed");
}

#[tokio::test]
async fn the_log_of_a_program_that_died_survives_a_backup() {
    let fixture = Fixture::new();
    let connection = fixture.ledger("wal", 10);
    connection.execute_batch("pragma wal_checkpoint(truncate); insert into ledger values (1, 5), (2, -5)").unwrap();
    // What a killed program leaves: the files as they are now, nobody has them open.
    let dead = Fixture::new();
    for suffix in ["", "-wal"] {
        std::fs::copy(
            fixture.dir.path().join(format!("app.db{suffix}")),
            dead.dir.path().join(format!("app.db{suffix}")),
        )
        .unwrap();
    }
    let wal = std::fs::read(dead.dir.path().join("app.db-wal")).unwrap();
    let target = dead.dir.path().join("restored");
    back_up(&dead.engine(), &target).await.unwrap();
    assert_eq!(transactions(&Connection::open(target.join("app.db")).unwrap()), 1);
    assert_eq!(std::fs::read(dead.dir.path().join("app.db-wal")).unwrap(), wal);
}

#[tokio::test]
async fn a_hot_journal_is_rolled_back_as_any_reader_would() {
    let fixture = Fixture::new();
    let connection = fixture.ledger("delete", 200);
    connection.execute_batch("insert into ledger values (1, 5), (2, -5)").unwrap();
    // A small cache makes the open transaction spill into the file, so that the journal is needed.
    connection
        .execute_batch(
            "pragma cache_size = 2; begin; update weight set b = zeroblob(4000); insert into ledger values (3, 9)",
        )
        .unwrap();
    let dead = Fixture::new();
    for suffix in ["", "-journal"] {
        std::fs::copy(
            fixture.dir.path().join(format!("app.db{suffix}")),
            dead.dir.path().join(format!("app.db{suffix}")),
        )
        .unwrap();
    }
    let target = dead.dir.path().join("restored");
    back_up(&dead.engine(), &target).await.unwrap();
    assert_eq!(transactions(&Connection::open(target.join("app.db")).unwrap()), 1);
}

#[tokio::test]
async fn a_writer_that_keeps_the_lock_is_named() {
    let fixture = Fixture::new();
    let connection = fixture.ledger("delete", 10);
    connection.execute_batch("begin exclusive").unwrap();
    let error = back_up(&fixture.engine(), &fixture.dir.path().join("restored")).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("locked") && error.to_string().contains("app.db"), "{error}");
    connection.execute_batch("rollback").unwrap();
    back_up(&fixture.engine(), &fixture.dir.path().join("restored")).await.unwrap();
}

#[tokio::test]
async fn damage_is_found_before_anything_is_stored() {
    let fixture = Fixture::new();
    drop(fixture.ledger("delete", 500));
    let mut bytes = std::fs::read(fixture.path()).unwrap();
    for page in [20, 21, 22, 100] {
        bytes[page * 4096..page * 4096 + 64].fill(0xA5);
    }
    std::fs::write(fixture.path(), bytes).unwrap();
    let Err(error) = fixture.engine().begin_backup(request()).await else { panic!("damage went unnoticed") };
    assert_eq!(error.kind, EngineErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("app.db"), "{error}");
    let probe = fixture.engine().probe().await.unwrap();
    assert!(!probe.is_ready());
    assert!(probe.findings[0].what.contains("damaged"), "{:?}", probe.findings);
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path(), "select 1;\n".repeat(1000)).unwrap();
    let Err(error) = fixture.engine().begin_backup(request()).await else { panic!("a text file was backed up") };
    assert_eq!(error.kind, EngineErrorKind::Invalid, "{error}");
    let probe = fixture.engine().probe().await.unwrap();
    assert_eq!(probe.findings[0].severity, Severity::Blocking);

    std::fs::remove_file(fixture.path()).unwrap();
    assert_eq!(fixture.engine().probe().await.unwrap_err().kind, EngineErrorKind::NotFound);
}

#[tokio::test]
async fn a_restore_never_meets_another_database() {
    let fixture = Fixture::new();
    drop(fixture.ledger("wal", 10));
    let target = fixture.dir.path().join("restored");
    let facts = back_up(&fixture.engine(), &target).await.unwrap().facts;
    let check = async |target: PathBuf| SqliteRestorer.check_target(&target, &facts).await;

    assert_eq!(check(target.clone()).await.unwrap_err().kind, EngineErrorKind::Refused);
    check(fixture.dir.path().join("new")).await.unwrap();
    assert!(!fixture.dir.path().join("new").exists(), "the check changes nothing");
    assert!(check(fixture.dir.path().join("no/such/parent")).await.is_err());
    assert!(check(fixture.path()).await.unwrap_err().to_string().contains("not a directory"));
    for side in ["app.db-wal", "app.db-shm", "app.db-journal"] {
        let other = fixture.dir.path().join(format!("with-{side}"));
        std::fs::create_dir(&other).unwrap();
        check(other.clone()).await.unwrap();
        std::fs::write(other.join(side), "old").unwrap();
        let error = check(other).await.unwrap_err();
        assert!(error.to_string().contains(side), "{error}");
    }
}

#[tokio::test]
async fn a_restored_file_that_was_changed_on_its_way_is_not_called_good() {
    let fixture = Fixture::new();
    drop(fixture.ledger("delete", 200));
    let target = fixture.dir.path().join("restored");
    let facts = back_up(&fixture.engine(), &target).await.unwrap().facts;
    let bytes = std::fs::read(target.join("app.db")).unwrap();
    std::fs::write(target.join("app.db"), &bytes[..bytes.len() - 8192]).unwrap();
    let error = SqliteRestorer.recover(recovery(&target, facts.clone())).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Corrupt, "{error}");

    let moment = RecoveryRequest { stop: RecoveryTarget::Time(SystemClock.now()), ..recovery(&target, facts) };
    assert_eq!(SqliteRestorer.recover(moment).await.unwrap_err().kind, EngineErrorKind::Refused);
}
