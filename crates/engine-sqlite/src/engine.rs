//! The engine: one database file, read through a checked private copy.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use breakwater_core::{Attributes, Clock, Timestamp};
use breakwater_engine::{
    BackupEnd, BackupRequest, BackupSession, Capabilities, Engine, EngineError, EngineErrorKind, Entry, EntryKind,
    ExtentReader, Finding, LogSource, Probe, ReadExtent, Severity, Unreadable,
};

use crate::copy::{self, Copy};
use crate::look::{self, Facts, Place};
use crate::open::source;
use crate::settings::SqliteSettings;

/// A probe checks databases up to this size whole; for larger ones the check would read for too long.
const CHECK_LIMIT: u64 = 256 << 20;

/// One SQLite database.
#[derive(Clone, Debug)]
pub struct SqliteEngine {
    settings: SqliteSettings,
    clock: Arc<dyn Clock>,
}

impl SqliteEngine {
    /// The engine for the database that `settings` name; `clock` stamps the copies.
    pub fn new(settings: SqliteSettings, clock: Arc<dyn Clock>) -> Self {
        SqliteEngine { settings, clock }
    }
}

#[async_trait::async_trait]
impl Engine for SqliteEngine {
    fn kind(&self) -> &'static str {
        crate::KIND
    }

    async fn probe(&self) -> Result<Probe, EngineError> {
        let settings = self.settings.clone();
        blocking(move || probe(&settings)).await
    }

    async fn begin_backup(&self, _request: BackupRequest) -> Result<Box<dyn BackupSession>, EngineError> {
        let cancel = CancelOnDrop::default();
        let (engine, cancelled) = (self.clone(), Arc::clone(&cancel.flag));
        let session = blocking(move || {
            let place = Place::find(&engine.settings.path)?;
            if let Some(finding) = look::file_system(&place.canonical)?.filter(|f| f.severity == Severity::Blocking) {
                return Err(EngineError::new(EngineErrorKind::Refused, finding.what).hint(finding.next_step));
            }
            let copy = copy::make(&engine.settings, &place, engine.clock.as_ref(), &cancelled)?;
            Ok(SqliteSession::new(&place, copy))
        })
        .await?;
        Ok(Box::new(session))
    }

    fn log_source(&self) -> Option<Arc<dyn LogSource>> {
        None
    }
}

/// Tells the copying thread to stop when the backup that asked for it is given up.
#[derive(Debug, Default)]
struct CancelOnDrop {
    flag: Arc<AtomicBool>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => {
            Err(EngineError::new(EngineErrorKind::Internal, "work on a SQLite database ended early").because(error))
        }
    }
}

fn probe(settings: &SqliteSettings) -> Result<Probe, EngineError> {
    let place = Place::find(&settings.path)?;
    let mut findings: Vec<Finding> = look::file_system(&place.canonical)?.into_iter().collect();
    let mut page_size = 4096;
    let blocking = |error: EngineError| Finding {
        severity: Severity::Blocking,
        what: error.what,
        next_step: error.hint.unwrap_or_default(),
        lines: Vec::new(),
    };
    // SQLite must not touch files on a network file system: its locks there may hurt the programs that use them.
    if findings.is_empty() || findings.iter().all(|finding| finding.severity != Severity::Blocking) {
        match source(&place.canonical, settings.busy_timeout) {
            Ok(connection) => {
                let facts = look::facts(&connection, &place)?;
                page_size = facts.page_size;
                findings.extend(journal_finding(&facts, &place));
                findings.extend(check_finding(&connection, &place)?);
            }
            Err(error) if error.kind == EngineErrorKind::Unreachable => return Err(error),
            Err(error) => findings.push(blocking(error)),
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    let directory = place.canonical.parent().unwrap_or(&place.canonical);
    Ok(Probe {
        identity: place.canonical.to_string_lossy().into_owned(),
        version: format!("SQLite {}", rusqlite::version()),
        data_directory: directory.to_string_lossy().into_owned(),
        size_bytes: place.metadata.len(),
        capabilities: Capabilities { stream: false, parallel: true, page_size, needs_recovery: false },
        findings,
    })
}

fn journal_finding(facts: &Facts, place: &Place) -> Option<Finding> {
    (facts.journal_mode != "wal").then(|| Finding {
        severity: Severity::Info,
        what: format!("the journal mode is {}: writers may have to wait for a backup", facts.journal_mode),
        next_step: "in WAL mode they never do; switch when the programs that use the database allow it".to_owned(),
        lines: vec![format!("sqlite3 '{}' 'PRAGMA journal_mode = WAL'", place.canonical.display())],
    })
}

fn check_finding(connection: &rusqlite::Connection, place: &Place) -> Result<Option<Finding>, EngineError> {
    if place.metadata.len() > CHECK_LIMIT {
        return Ok(Some(Finding {
            severity: Severity::Info,
            what: format!("not checked for damage now: the database has {} bytes", place.metadata.len()),
            next_step: "every backup checks its copy".to_owned(),
            lines: Vec::new(),
        }));
    }
    let found = look::damage(connection, "quick_check", &place.canonical)?;
    Ok((!found.is_empty()).then(|| Finding {
        severity: Severity::Blocking,
        what: format!("the database is damaged: {}: {}", place.canonical.display(), found.join("; ")),
        next_step: "restore a good snapshot, or salvage what is left".to_owned(),
        lines: vec![format!("sqlite3 '{}' .recover", place.canonical.display())],
    }))
}

/// A backup: the copy is complete before the session exists.
#[derive(Debug)]
struct SqliteSession {
    entry: Option<Entry>,
    facts: Facts,
    consistent_at: Timestamp,
}

impl SqliteSession {
    fn new(place: &Place, copy: Copy) -> Self {
        let Copy { file, size, facts, consistent_at } = copy;
        let metadata = &place.metadata;
        let micros = metadata.mtime().saturating_mul(1_000_000).saturating_add(metadata.mtime_nsec() / 1000);
        let entry = Entry {
            path: facts.file_name.clone().into_bytes(),
            kind: EntryKind::file(size, Arc::new(CopyReader { file, path: place.canonical.display().to_string() })),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: Timestamp::from_micros(micros),
            last: false,
            attributes: Attributes::default(),
            stamp: None,
            tolerant: false,
        };
        SqliteSession { entry: Some(entry), facts, consistent_at }
    }
}

#[async_trait::async_trait]
impl BackupSession for SqliteSession {
    async fn next_entries(&mut self, limit: usize) -> Result<Vec<Entry>, EngineError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        Ok(self.entry.take().into_iter().collect())
    }

    async fn finish(self: Box<Self>) -> Result<BackupEnd, EngineError> {
        let facts = serde_json::to_value(&self.facts)
            .map_err(|error| EngineError::new(EngineErrorKind::Internal, "facts do not become JSON").because(error))?;
        Ok(BackupEnd {
            entries: Vec::new(),
            range: None,
            consistent_at: self.consistent_at,
            facts,
            warnings: Vec::new(),
            unreadable: Unreadable::default(),
        })
    }
}

/// Reads the private copy, whose name is gone already.
#[derive(Debug)]
struct CopyReader {
    file: File,
    path: String,
}

impl ExtentReader for CopyReader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        let mut length = 0;
        while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(EngineError::io(format!("cannot read the private copy of {}", self.path), error));
                }
            }
        }
        Ok(ReadExtent { length, damaged_pages: Vec::new() })
    }
}
