//! The one history of the file: transactions append revisions, reads look at any of them that is kept.
//!
//! The newest and the oldest revision, every row and every lease change in the same file transaction, so a crash cannot
//! separate them. There is one writer at a time; readers see what was confirmed when they began.

use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, WriteTransaction};

use super::tables::{
    FORMAT, LEASE_KEYS, LEASES, LOG, META, META_FORMAT, META_LAST_LEASE, META_LOG_BYTES, META_OLDEST, META_REVISION,
    Stored, VERSIONS, error_of, key_from, meta, read,
};
use crate::error::StateError;
use crate::store::{Entry, Event, LeaseId, Range, Revision, WatchBatch};
use crate::txn::{Op, Txn, TxnOutcome};

/// The most bytes of values read at once, so that one page or one step of a watch stays small.
const PAGE_BYTES: usize = 4 << 20;

/// The most revisions that one step of a watch looks at.
const WATCH_REVISIONS: u64 = 1000;

/// How much history is kept; what is over either bound is forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) revisions: u64,
    pub(super) bytes: u64,
}

/// The file, or its like in memory.
pub(super) struct History {
    name: String,
    database: Database,
    keep: Keep,
}

/// A change that a transaction decided on.
enum Change<'a> {
    Put { key: &'a str, value: &'a [u8], lease: i64 },
    Delete { key: &'a str },
}

impl History {
    pub(super) fn open(name: String, database: Database, keep: Keep) -> Result<Self, StateError> {
        let history = History { name, database, keep };
        let format = history.write(|write| {
            write.open_table(VERSIONS)?;
            write.open_table(LOG)?;
            write.open_table(LEASES)?;
            write.open_table(LEASE_KEYS)?;
            let mut counters = write.open_table(META)?;
            let format = meta(&counters, META_FORMAT)?;
            if format != 0 {
                return Ok((Some(format), false));
            }
            counters.insert(META_FORMAT, FORMAT)?;
            counters.insert(META_REVISION, Revision::FIRST.0)?;
            counters.insert(META_OLDEST, Revision::FIRST.0)?;
            Ok((None, true))
        })?;
        match format {
            Some(format) if format != FORMAT => Err(StateError::invalid(format!(
                "{} has format {format}, this program reads format {FORMAT}; hint: use the version that wrote it",
                history.name
            ))),
            _ => Ok(history),
        }
    }

    pub(super) fn revision(&self) -> Result<Revision, StateError> {
        self.read(|view| Ok(Revision(meta(&view.open_table(META)?, META_REVISION)?)))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        self.read(|view| Ok(read(&view.open_table(VERSIONS)?, key, u64::MAX)?.map(|stored| stored.entry)))
    }

    pub(super) fn range(
        &self,
        prefix: &str,
        at: Option<Revision>,
        limit: usize,
        start_after: Option<&str>,
    ) -> Result<Range, StateError> {
        let (newest, oldest, range) = self.read(|view| {
            let counters = view.open_table(META)?;
            let newest = Revision(meta(&counters, META_REVISION)?);
            let oldest = Revision(meta(&counters, META_OLDEST)?);
            let at = at.unwrap_or(newest);
            let mut range = Range { entries: Vec::new(), revision: at, more: false };
            if at < oldest || at > newest {
                return Ok((newest, oldest, range));
            }
            let versions = view.open_table(VERSIONS)?;
            let after = start_after.map(|key| format!("{key}\0")).filter(|after| after.as_str() > prefix);
            let mut from = after.unwrap_or_else(|| prefix.to_owned());
            let mut bytes = 0;
            while let Some(key) = key_from(&versions, &from)?.filter(|key| key.starts_with(prefix)) {
                if let Some(Stored { entry, .. }) = read(&versions, &key, at.0)? {
                    bytes += entry.value.len();
                    if range.entries.len() == limit || (bytes > PAGE_BYTES && !range.entries.is_empty()) {
                        range.more = true;
                        break;
                    }
                    range.entries.push(entry);
                }
                from = key + "\0";
            }
            Ok((newest, oldest, range))
        })?;
        if range.revision < oldest {
            return Err(StateError::Compacted { oldest });
        }
        if range.revision > newest {
            return Err(StateError::invalid(format!(
                "revision {} lies in the future: the newest is {newest}",
                range.revision
            )));
        }
        Ok(range)
    }

    /// Runs a transaction that was checked. `is_alive` is asked about leases while nothing else can write.
    pub(super) fn txn(&self, txn: &Txn, is_alive: impl Fn(LeaseId) -> bool) -> Result<TxnOutcome, StateError> {
        self.write(|write| {
            let versions = write.open_table(VERSIONS)?;
            let newest = meta(&write.open_table(META)?, META_REVISION)?;
            let mut succeeded = true;
            for condition in &txn.conditions {
                let stored = read(&versions, condition.key(), u64::MAX)?;
                succeeded &= condition.holds(stored.as_ref().map(|stored| &stored.entry));
            }
            drop(versions);
            let steps = if succeeded { &txn.then } else { &txn.otherwise };
            let mut appender = Appender::new(write, newest);
            let mut entries = Vec::new();
            for step in steps {
                match step {
                    Op::Put { key, value, lease } => {
                        if let Some(lease) = lease.filter(|lease| !is_alive(*lease)) {
                            return Ok((Err(StateError::LeaseGone { lease }), false));
                        }
                        let lease = lease.map_or(0, |lease| lease.0);
                        appender.append(&Change::Put { key, value, lease })?;
                    }
                    Op::Delete { key } => appender.append(&Change::Delete { key })?,
                    Op::Get { key } => {
                        entries.push(read(&write.open_table(VERSIONS)?, key, u64::MAX)?.map(|stored| stored.entry));
                    }
                }
            }
            let (revision, changed) = appender.finish(self.keep)?;
            Ok((Ok(TxnOutcome { succeeded, revision, entries }), changed))
        })?
    }

    /// The changes under `prefix` from revision `from` on, as many as fit one step, and where the next step begins.
    pub(super) fn changes(&self, prefix: &str, from: u64) -> Result<(Vec<WatchBatch>, u64), StateError> {
        self.read(|view| {
            let counters = view.open_table(META)?;
            let newest = meta(&counters, META_REVISION)?;
            let oldest = meta(&counters, META_OLDEST)?;
            if from < oldest {
                return Ok(Err(StateError::Compacted { oldest: Revision(oldest) }));
            }
            let log = view.open_table(LOG)?;
            let versions = view.open_table(VERSIONS)?;
            let last = newest.min(from.saturating_add(WATCH_REVISIONS));
            let mut batches: Vec<WatchBatch> = Vec::new();
            let mut bytes = 0;
            for row in log.range((from, 0)..=(last, u32::MAX))? {
                let row = row?;
                let (at, _) = row.0.value();
                let (is_put, key, _) = row.1.value();
                if !key.starts_with(prefix) {
                    continue;
                }
                let revision = Revision(at);
                let event = if is_put {
                    match read(&versions, key, at)? {
                        Some(stored) => Event::Put(stored.entry),
                        None => return Ok(Err(self.corrupt(format!("revision {at} of `{key}` has no value")))),
                    }
                } else {
                    Event::Delete { key: key.to_owned(), revision }
                };
                match batches.last_mut().filter(|batch| batch.revision == revision) {
                    Some(batch) => batch.events.push(event),
                    // A revision is never split: stop before the first that does not fit.
                    None if bytes > PAGE_BYTES => return Ok(Ok((batches, at))),
                    None => batches.push(WatchBatch { revision, events: vec![event] }),
                }
                if let Some(Event::Put(entry)) = batches.last().and_then(|batch| batch.events.last()) {
                    bytes += entry.value.len();
                }
            }
            Ok(Ok((batches, last + 1)))
        })?
    }

    /// Forgets what lies before `oldest`.
    pub(super) fn compact(&self, oldest: Revision) -> Result<(), StateError> {
        let newest = self.write(|write| {
            let newest = meta(&write.open_table(META)?, META_REVISION)?;
            if oldest.0 > newest {
                return Ok((Some(newest), false));
            }
            Ok((None, forget(write, oldest.0)?))
        })?;
        match newest {
            Some(newest) => Err(StateError::invalid(format!(
                "revision {oldest} lies in the future and cannot be compacted: the newest is {newest}"
            ))),
            None => Ok(()),
        }
    }

    /// Remembers a new lease.
    pub(super) fn grant(&self, seconds: i64) -> Result<LeaseId, StateError> {
        self.write(|write| {
            let mut counters = write.open_table(META)?;
            let last = meta(&counters, META_LAST_LEASE)? + 1;
            counters.insert(META_LAST_LEASE, last)?;
            let lease = i64::try_from(last).unwrap_or(i64::MAX);
            write.open_table(LEASES)?.insert(lease, seconds)?;
            Ok((LeaseId(lease), true))
        })
    }

    /// Every lease and its seconds to live.
    pub(super) fn leases(&self) -> Result<Vec<(LeaseId, i64)>, StateError> {
        self.read(|view| {
            let mut leases = Vec::new();
            for row in view.open_table(LEASES)?.iter()? {
                let (lease, seconds) = row?;
                leases.push((LeaseId(lease.value()), seconds.value()));
            }
            Ok(leases)
        })
    }

    /// Deletes the lease and its keys in one revision. `begin` is called once nothing else can write; unless it says
    /// yes, nothing happens, and the answer is none.
    pub(super) fn end_lease(
        &self,
        lease: LeaseId,
        begin: impl FnOnce() -> bool,
    ) -> Result<Option<Revision>, StateError> {
        self.write(|write| {
            let newest = meta(&write.open_table(META)?, META_REVISION)?;
            if !begin() {
                return Ok((None, false));
            }
            let mut keys = Vec::new();
            for row in write.open_table(LEASE_KEYS)?.range((lease.0, "")..)? {
                let (row, _) = row?;
                let (holder, key) = row.value();
                if holder != lease.0 {
                    break;
                }
                keys.push(key.to_owned());
            }
            let mut appender = Appender::new(write, newest);
            for key in &keys {
                appender.append(&Change::Delete { key })?;
            }
            write.open_table(LEASES)?.remove(lease.0)?;
            let (revision, _) = appender.finish(self.keep)?;
            Ok((Some(revision), true))
        })
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StateError> {
        let result = self.database.begin_read().map_err(redb::Error::from).and_then(|view| work(&view));
        result.map_err(|error| error_of(&self.name, "reading it", error))
    }

    /// Runs `work` alone, and confirms what it wrote on disk if it says so.
    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(T, bool), redb::Error>,
    ) -> Result<T, StateError> {
        let run = || -> Result<T, redb::Error> {
            let write = self.database.begin_write()?;
            let (result, confirm) = work(&write)?;
            if confirm {
                write.commit()?;
            } else {
                write.abort()?;
            }
            Ok(result)
        };
        run().map_err(|error| error_of(&self.name, "writing it", error))
    }

    fn corrupt(&self, what: String) -> StateError {
        StateError::Corrupt { store: self.name.clone(), what, cause: None }
    }
}

/// Appends the changes of one revision.
struct Appender<'a> {
    write: &'a WriteTransaction,
    newest: u64,
    changes: u32,
    bytes: u64,
}

impl<'a> Appender<'a> {
    fn new(write: &'a WriteTransaction, newest: u64) -> Self {
        Appender { write, newest, changes: 0, bytes: 0 }
    }

    fn append(&mut self, change: &Change<'_>) -> Result<(), redb::Error> {
        let revision = self.newest + 1;
        let mut versions = self.write.open_table(VERSIONS)?;
        let mut lease_keys = self.write.open_table(LEASE_KEYS)?;
        let (key, is_put, size) = match change {
            Change::Put { key, value, .. } => (*key, true, key.len() + value.len()),
            Change::Delete { key } => (*key, false, key.len()),
        };
        let before = read(&versions, key, u64::MAX)?;
        if let Some(stored) = &before {
            lease_keys.remove((stored.lease, key))?;
        }
        match (change, &before) {
            (Change::Delete { .. }, None) => return Ok(()),
            (Change::Delete { .. }, Some(_)) => {
                versions.insert((key, revision), (0, 0, 0, None))?;
            }
            (Change::Put { value, lease, .. }, before) => {
                let (created, version) =
                    before.as_ref().map_or((revision, 1), |old| (old.entry.created.0, old.entry.version + 1));
                versions.insert((key, revision), (created, version, *lease, Some(*value)))?;
                if *lease != 0 {
                    lease_keys.insert((*lease, key), ())?;
                }
            }
        }
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        self.write.open_table(LOG)?.insert((revision, self.changes), (is_put, key, size))?;
        self.changes += 1;
        self.bytes += size;
        Ok(())
    }

    /// The revision after the changes, and whether there were any. Forgets the history that is now too much.
    fn finish(self, keep: Keep) -> Result<(Revision, bool), redb::Error> {
        if self.changes == 0 {
            return Ok((Revision(self.newest), false));
        }
        let revision = self.newest + 1;
        let mut counters = self.write.open_table(META)?;
        let bytes = meta(&counters, META_LOG_BYTES)? + self.bytes;
        counters.insert(META_REVISION, revision)?;
        counters.insert(META_LOG_BYTES, bytes)?;
        drop(counters);
        let mut oldest = revision.saturating_sub(keep.revisions);
        let mut excess = bytes.saturating_sub(keep.bytes);
        if excess > 0 {
            for row in self.write.open_table(LOG)?.range((0, 0)..(revision, 0))? {
                let (place, change) = row?;
                if excess == 0 {
                    break;
                }
                excess = excess.saturating_sub(change.value().2);
                oldest = oldest.max(place.value().0 + 1);
            }
        }
        forget(self.write, oldest)?;
        Ok((Revision(revision), true))
    }
}

/// Forgets what lies before revision `target`: log rows, and of each key all rows but the one that `target` still sees.
/// Whether there was anything to forget.
fn forget(write: &WriteTransaction, target: u64) -> Result<bool, redb::Error> {
    let mut counters = write.open_table(META)?;
    if target <= meta(&counters, META_OLDEST)? {
        return Ok(false);
    }
    let mut log = write.open_table(LOG)?;
    let mut versions = write.open_table(VERSIONS)?;
    let mut passed = Vec::new();
    for row in log.range((0, 0)..=(target, u32::MAX))? {
        let (place, change) = row?;
        let (is_put, key, size) = change.value();
        passed.push((place.value(), is_put, key.to_owned(), size));
    }
    let mut freed = 0;
    for ((revision, position), is_put, key, size) in passed {
        let mut superseded = Vec::new();
        for row in versions.range((key.as_str(), 0)..(key.as_str(), revision))? {
            superseded.push(row?.0.value().1);
        }
        for old in superseded {
            versions.remove((key.as_str(), old))?;
        }
        if !is_put {
            versions.remove((key.as_str(), revision))?;
        }
        // The rows of `target` itself stay: a watch may begin there.
        if revision < target {
            log.remove((revision, position))?;
            freed += size;
        }
    }
    let bytes = meta(&counters, META_LOG_BYTES)?;
    counters.insert(META_LOG_BYTES, bytes.saturating_sub(freed))?;
    counters.insert(META_OLDEST, target)?;
    Ok(true)
}
