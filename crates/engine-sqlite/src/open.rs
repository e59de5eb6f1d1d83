//! Connections to databases, and what SQLite's errors mean to the one who has to act.
//!
//! Invariant: a connection to a source never checkpoints it and never removes its write-ahead log.

use std::path::Path;
use std::time::Duration;

use breakwater_engine::{EngineError, EngineErrorKind};
use rusqlite::config::DbConfig;
use rusqlite::ffi::{self, ErrorCode};
use rusqlite::{Connection, OpenFlags};

/// Opens the source for reading and takes a first look, so that a file that is no database is told apart here.
pub(crate) fn source(path: &Path, busy_timeout: Duration) -> Result<Connection, EngineError> {
    match open_and_look(path, OpenFlags::SQLITE_OPEN_READ_ONLY, busy_timeout) {
        // A program died in mid-transaction and left its journal. Whoever reads next has to roll it back, so we ask for
        // what any other reader would do.
        Err(error) if needs_recovery(&error) => {
            open_and_look(path, OpenFlags::SQLITE_OPEN_READ_WRITE, busy_timeout).map_err(|error| explain(path, error))
        }
        other => other.map_err(|error| explain(path, error)),
    }
}

fn open_and_look(path: &Path, mode: OpenFlags, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(busy_timeout)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // The first read decides whether this is a database at all.
    connection.query_row("select count(*) from sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

fn needs_recovery(error: &rusqlite::Error) -> bool {
    let Some(cause) = error.sqlite_error() else { return false };
    [ffi::SQLITE_READONLY_RECOVERY, ffi::SQLITE_READONLY_ROLLBACK, ffi::SQLITE_READONLY_CANTINIT]
        .contains(&cause.extended_code)
}

/// Opens a file that nobody else uses, without locks and without making side files.
pub(crate) fn private(path: &Path) -> Result<Connection, EngineError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(immutable_uri(path), flags).map_err(|error| explain(path, error))
}

fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(char::from(*byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// What a failure of SQLite on the database at `path` means.
pub(crate) fn explain(path: &Path, error: rusqlite::Error) -> EngineError {
    let shown = path.display();
    let (kind, what, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => (
            EngineErrorKind::Invalid,
            format!("not a SQLite database: {shown}"),
            Some("the file is something else, is encrypted, or its header is damaged; check the path"),
        ),
        Some(ErrorCode::DatabaseCorrupt) => (
            EngineErrorKind::Corrupt,
            format!("the database is damaged: {shown}"),
            Some("restore the last good snapshot, or salvage what is left with `sqlite3 FILE .recover`"),
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            EngineErrorKind::Unreachable,
            format!("another program keeps the database locked: {shown}"),
            Some(
                "the lock was waited for; end the long transaction, or switch the database to WAL mode, where readers do not wait",
            ),
        ),
        Some(ErrorCode::CannotOpen) if !path.exists() => {
            (EngineErrorKind::NotFound, format!("no such database file: {shown}"), Some("check the path of the source"))
        }
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::AuthorizationForStatementDenied,
        ) => (
            EngineErrorKind::Denied,
            format!("the database cannot be opened: {shown}"),
            Some(
                "the agent's user needs read access to the file, and write access to its directory while it is in WAL mode",
            ),
        ),
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => (
            EngineErrorKind::Unreachable,
            format!("the disk failed or is full while reading or copying: {shown}"),
            None,
        ),
        Some(ErrorCode::OutOfMemory) => (EngineErrorKind::Unreachable, format!("no memory for reading: {shown}"), None),
        Some(ErrorCode::OperationInterrupted) => {
            (EngineErrorKind::Cancelled, format!("stopped while reading: {shown}"), None)
        }
        _ => (EngineErrorKind::Internal, format!("SQLite refused to read: {shown}"), None),
    };
    let explained = EngineError::new(kind, what).because(error);
    match hint {
        Some(hint) => explained.hint(hint),
        None => explained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_hold_any_path() {
        assert_eq!(immutable_uri(Path::new("/a b/50%?#ä.db")), "file:/a%20b/50%25%3F%23%C3%A4.db?immutable=1");
    }

    #[test]
    fn a_strange_path_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("50% of? #ä.db");
        Connection::open(&path).unwrap().execute_batch("create table t(n); insert into t values (7)").unwrap();
        let n: i64 = private(&path).unwrap().query_row("select n from t", [], |row| row.get(0)).unwrap();
        assert_eq!(n, 7);
        assert_eq!(
            source(&path, Duration::ZERO)
                .unwrap()
                .query_row("select n from t", [], |row| row.get::<_, i64>(0))
                .unwrap(),
            7
        );
    }

    #[test]
    fn what_is_not_there_or_not_a_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = source(&dir.path().join("missing.db"), Duration::ZERO).unwrap_err();
        assert_eq!(missing.kind, EngineErrorKind::NotFound, "{missing}");
        let text = dir.path().join("notes.db");
        std::fs::write(&text, "these are notes, not a database\n".repeat(100)).unwrap();
        let refused = source(&text, Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind, EngineErrorKind::Invalid, "{refused}");
        assert!(refused.to_string().contains("notes.db"));
    }
}
