//! The consistent copy of a database that others write to.
//!
//! In WAL mode one read transaction is held for the whole copy: writers go on, the copy sees none of them. With a rollback
//! journal a held read would stop every writer, so pages are copied in short steps; SQLite starts over when somebody wrote
//! in between. After a few such starts the copy holds its read after all, so that it ends also under steady writes.
//!
//! Invariant: what comes out is one committed state of the source, and it passed SQLite's own check.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use breakwater_core::{Clock, Timestamp};
use breakwater_engine::{EngineError, EngineErrorKind};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::look::{Facts, Place, damage, facts};
use crate::open::{explain, private, source};
use crate::scratch::Scratch;
use crate::settings::SqliteSettings;

/// Pages of one step: some megabytes, so that a cancelled backup ends soon.
const STEP: i32 = 1024;
/// How long writers get between two steps.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a copy may start over before it holds its read.
const PATIENCE: u32 = 3;

/// A checked copy. Its bytes are reached through the descriptor alone; its name is gone already.
#[derive(Debug)]
pub(crate) struct Copy {
    pub file: File,
    pub size: u64,
    pub facts: Facts,
    /// Everything committed up to this moment is in the copy.
    pub consistent_at: Timestamp,
}

/// Makes the copy. Blocking; looks at `cancelled` between steps.
pub(crate) fn make(
    settings: &SqliteSettings,
    place: &Place,
    clock: &dyn Clock,
    cancelled: &AtomicBool,
) -> Result<Copy, EngineError> {
    let from = source(&place.canonical, settings.busy_timeout)?;
    let scratch = Scratch::new(&settings.scratch)?;
    let before = facts(&from, place)?;
    scratch.require_room(u64::from(before.page_count).saturating_mul(u64::from(before.page_size)))?;

    let path = scratch.path("copy");
    let consistent_at = clock.now();
    copy_pages(&from, &path, settings, place, before.journal_mode == "wal", cancelled)?;
    drop(from);

    let copy = private(&path)?;
    let found = damage(&copy, "integrity_check", &place.canonical)?;
    if !found.is_empty() {
        let what = format!("the database is damaged: {}: {}", place.canonical.display(), found.join("; "));
        return Err(EngineError::new(EngineErrorKind::Corrupt, what)
            .hint("restore the last good snapshot, or salvage what is left with `sqlite3 FILE .recover`"));
    }
    let mut facts = facts(&copy, place)?;
    // The copy is opened without a journal, so it cannot tell.
    facts.journal_mode = before.journal_mode;
    drop(copy);

    let wrap = |error| EngineError::io(format!("cannot read the private copy of {}", place.canonical.display()), error);
    let file = File::open(&path).map_err(wrap)?;
    let size = file.metadata().map_err(wrap)?.len();
    // The descriptor keeps the bytes; without a name nothing is left behind, however this process ends.
    std::fs::remove_file(&path).map_err(wrap)?;
    Ok(Copy { file, size, facts, consistent_at })
}

fn copy_pages(
    from: &Connection,
    path: &std::path::Path,
    settings: &SqliteSettings,
    place: &Place,
    hold_from_start: bool,
    cancelled: &AtomicBool,
) -> Result<(), EngineError> {
    let fail = |error| explain(&place.canonical, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut to = Connection::open_with_flags(path, flags).map_err(|error| explain(path, error))?;
    // The copy is thrown away if anything goes wrong, so it needs neither journal nor syncs.
    to.execute_batch("pragma journal_mode = off; pragma synchronous = off; pragma locking_mode = exclusive")
        .map_err(fail)?;

    let hold = || from.execute_batch("begin; select count(*) from sqlite_schema");
    let mut held = hold_from_start;
    if held {
        hold().map_err(fail)?;
    }
    let backup = Backup::new(from, &mut to).map_err(fail)?;
    let mut restarts = 0;
    let mut done = 0;
    let mut waiting_since: Option<Instant> = None;
    loop {
        if cancelled.load(Ordering::Relaxed) {
            let what = format!("stopped while copying: {}", place.canonical.display());
            return Err(EngineError::new(EngineErrorKind::Cancelled, what));
        }
        match backup.step(STEP).map_err(fail)? {
            StepResult::Done => break,
            StepResult::More => waiting_since = None,
            // Busy or locked, or an answer that a later SQLite may add: all of them mean "again".
            _ => {
                let since = *waiting_since.get_or_insert_with(Instant::now);
                if since.elapsed() > settings.busy_timeout {
                    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                    return Err(fail(rusqlite::Error::SqliteFailure(code, None)));
                }
                std::thread::sleep(PAUSE);
                continue;
            }
        }
        let progress = backup.progress();
        let now_done = progress.pagecount.saturating_sub(progress.remaining);
        if now_done <= done && !held {
            restarts += 1;
            if restarts >= PATIENCE {
                tracing::info!(path = %place.canonical.display(), "steady writes: the copy holds its read until it is done");
                hold().map_err(fail)?;
                held = true;
            }
        }
        done = now_done;
        if !held {
            std::thread::sleep(PAUSE);
        }
    }
    // The last read transaction ends with the connection, which the caller closes.
    drop(backup);
    to.close().map_err(|(_, error)| fail(error))
}
