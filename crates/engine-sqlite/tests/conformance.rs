//! The contract's own suite, on a database in each journal mode.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::sync::Arc;

use breakwater_engine::conformance;
use breakwater_engine_sqlite::{SqliteEngine, SqliteSettings};
use breakwater_runtime::SystemClock;
use rusqlite::Connection;

async fn conforms(journal_mode: &str, page_size: u32) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(&format!("pragma page_size = {page_size}")).unwrap();
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", journal_mode, |row| row.get(0)).unwrap();
    assert_eq!(mode, journal_mode);
    connection
        .execute_batch(
            "create table t(n integer primary key, b blob);
             with recursive s(n) as (select 1 union all select n + 1 from s where n < 500)
             insert into t select n, randomblob(1000) from s",
        )
        .unwrap();
    let scratch = dir.path().join("scratch");
    let engine = SqliteEngine::new(SqliteSettings::new(&path, &scratch), Arc::new(SystemClock));
    conformance::run(&engine).await;
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "no copy is left");
    drop(connection);
}

#[tokio::test]
async fn a_database_in_wal_mode() {
    conforms("wal", 4096).await;
}

#[tokio::test]
async fn a_database_with_a_rollback_journal() {
    conforms("delete", 1024).await;
}
