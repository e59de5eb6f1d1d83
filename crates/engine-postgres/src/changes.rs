//! Which pages may differ from those of an earlier backup, as the server's own WAL summaries say (PostgreSQL 17 and newer).
//!
//! Invariant: a page that is not named has not changed since the earlier backup started. Where that cannot be promised, for
//! the whole cluster or for one file, nothing is said and the pipeline reads all of it: summaries with a gap, another
//! timeline, no page checksums (then hint bits change pages without a trace in the log), free space and visibility maps,
//! whatever is not a relation, and databases copied as files.
//!
//! Source: `pg_available_wal_summaries`, `pg_wal_summary_contents` (PostgreSQL documentation, 9.28.6); the rules of
//! `src/backend/backup/basebackup_incremental.c`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use breakwater_core::Lsn;
use breakwater_engine::{ChangedPages, EngineError};
use futures::TryStreamExt as _;
use tokio_postgres::types::ToSql;

use crate::connection::SqlClient;
use crate::facts::Facts;
use crate::failure::of_sql;
use crate::layout::{RelationSegment, main_fork};
use crate::server::{Server, parse_lsn};

/// The first version that summarises its log.
const SUMMARISES: u32 = 17;

/// How long the summariser may take to reach the start of the backup: on an idle server it looks every 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often its progress is asked for.
const LOOK: Duration = Duration::from_millis(200);

/// Pages remembered one by one in all: 24 MiB or so. Segments that come after are read whole.
const PAGES_MAX: usize = 1 << 20;

/// What has changed since an earlier backup.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    page_size: u64,
    segment_pages: u64,
    relations: HashMap<(u32, u32), Relation>,
    /// Copied as files, so that none of their pages is in the log.
    copied_databases: HashSet<u32>,
    remembered: usize,
}

/// One relation's main fork.
#[derive(Debug, Default)]
struct Relation {
    /// It was cut to so many pages, or made with none: every page from here on is another one.
    limit: Option<u64>,
    pages: BTreeSet<u64>,
    /// Segments with more changes than are remembered.
    whole: HashSet<u64>,
}

/// One line of a summary.
#[derive(Clone, Copy, Debug)]
struct Change {
    database: u32,
    node: u32,
    fork: i16,
    page: u64,
    is_limit: bool,
}

/// Asks what has changed between the start of the backup with `base`'s facts and `start`. `Err` in the inner result is the
/// reason, for people, why it cannot be said.
pub(crate) async fn since(
    client: &SqlClient,
    server: &Server,
    base: &Facts,
    now: (u32, Lsn),
    sizes: (u64, u64),
) -> Result<Result<Changes, String>, EngineError> {
    let (timeline, start) = now;
    let cannot = |why: &str| Ok(Err(why.to_owned()));
    if server.major() < SUMMARISES || server.setting("summarize_wal") != Some("on") {
        return cannot("summarize_wal is off");
    }
    if base.system_id != server.system_id.to_string() || base.timeline != timeline || base.start > start {
        return cannot("the last snapshot lies on another timeline");
    }
    if !base.data_checksums {
        return cannot("data checksums are off, so hint bits change pages without a trace in the log");
    }
    let Some(summaries) = summaries(client, timeline, base.start, start).await? else {
        return cannot("the summaries of the log have a gap, or do not reach the start of this backup in time");
    };
    let mut changes = Changes { page_size: sizes.0, segment_pages: sizes.1, ..Changes::default() };
    for (from, to) in summaries {
        changes.read(client, timeline, from, to).await?;
    }
    Ok(Ok(changes))
}

/// The summaries that cover the log from `from` to `to` without a gap; `None` when there are none, also after waiting.
async fn summaries(
    client: &SqlClient,
    timeline: u32,
    from: Lsn,
    to: Lsn,
) -> Result<Option<Vec<(Lsn, Lsn)>>, EngineError> {
    let what = "cannot list the summaries of the log";
    let statement = "SELECT start_lsn::text, end_lsn::text FROM pg_available_wal_summaries() \
        WHERE tli = $1 AND end_lsn > $2::text::pg_lsn AND start_lsn < $3::text::pg_lsn ORDER BY start_lsn";
    let (timeline, first, last) = (i64::from(timeline), from.to_string(), to.to_string());
    let parameters: [&(dyn ToSql + Sync); 3] = [&timeline, &first, &last];
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let rows = client.query(statement, &parameters).await.map_err(|error| of_sql(what, error))?;
        let mut listed = Vec::with_capacity(rows.len());
        for row in rows {
            listed.push((parse_lsn(what, row.get(0))?, parse_lsn(what, row.get(1))?));
        }
        match coverage(&listed, from, to) {
            Coverage::Whole => return Ok(Some(listed)),
            Coverage::Gap => return Ok(None),
            Coverage::Behind if tokio::time::Instant::now() >= deadline => return Ok(None),
            Coverage::Behind => tokio::time::sleep(LOOK).await,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Coverage {
    Whole,
    /// The end is not summarised yet.
    Behind,
    /// Something is missing that will not come any more.
    Gap,
}

fn coverage(listed: &[(Lsn, Lsn)], from: Lsn, to: Lsn) -> Coverage {
    let mut reached = from;
    for (start, end) in listed {
        if *start > reached {
            return Coverage::Gap;
        }
        reached = reached.max(*end);
    }
    if reached >= to { Coverage::Whole } else { Coverage::Behind }
}

impl Changes {
    async fn read(&mut self, client: &SqlClient, timeline: u32, from: Lsn, to: Lsn) -> Result<(), EngineError> {
        let what = "cannot read a summary of the log";
        let statement = "SELECT reldatabase, relfilenode, relforknumber, relblocknumber, is_limit_block \
            FROM pg_wal_summary_contents($1, $2::text::pg_lsn, $3::text::pg_lsn)";
        let (timeline, from, to) = (i64::from(timeline), from.to_string(), to.to_string());
        let parameters: [&(dyn ToSql + Sync); 3] = [&timeline, &from, &to];
        let rows = client.query_raw(statement, parameters).await.map_err(|error| of_sql(what, error))?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(|error| of_sql(what, error))? {
            let page = u64::try_from(row.get::<_, i64>(3)).unwrap_or(0);
            self.note(Change { database: row.get(0), node: row.get(1), fork: row.get(2), page, is_limit: row.get(4) });
        }
        Ok(())
    }

    fn note(&mut self, change: Change) {
        const MAIN: i16 = 0;
        if change.node == 0 {
            self.copied_databases.insert(change.database);
            return;
        }
        if change.fork != MAIN {
            return;
        }
        let relation = self.relations.entry((change.database, change.node)).or_default();
        if change.is_limit {
            relation.limit = Some(relation.limit.map_or(change.page, |limit| limit.min(change.page)));
            return;
        }
        let segment = change.page / self.segment_pages.max(1);
        if relation.whole.contains(&segment) {
            return;
        }
        if self.remembered >= PAGES_MAX {
            relation.whole.insert(segment);
        } else if relation.pages.insert(change.page) {
            self.remembered += 1;
        }
    }

    /// The pages of the file at `path`, `size` bytes long, that may have changed; `None` when any may have.
    pub(crate) fn of(&self, path: &[u8], size: u64) -> Option<ChangedPages> {
        let RelationSegment { database, node, segment } = main_fork(path)?;
        if self.copied_databases.contains(&database) || !size.is_multiple_of(self.page_size) {
            return None;
        }
        let page_size = u32::try_from(self.page_size).ok()?;
        let Some(relation) = self.relations.get(&(database, node)) else {
            return Some(ChangedPages { page_size, ranges: Vec::new() });
        };
        if relation.whole.contains(&u64::from(segment)) {
            return None;
        }
        let first = u64::from(segment) * self.segment_pages;
        let end = first + size / self.page_size;
        let limit = relation.limit.unwrap_or(u64::MAX).clamp(first, end);
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        let listed = relation.pages.range(first..limit).copied().map(|page| page..page + 1);
        for range in listed.chain((limit < end).then_some(limit..end)) {
            let range = range.start - first..range.end - first;
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        Some(ChangedPages { page_size, ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsns(pairs: &[(u64, u64)]) -> Vec<(Lsn, Lsn)> {
        pairs.iter().map(|(start, end)| (Lsn(*start), Lsn(*end))).collect()
    }

    fn changes(notes: &[(u32, u32, i16, u64, bool)]) -> Changes {
        let mut changes = Changes { page_size: 8192, segment_pages: 100, ..Changes::default() };
        for (database, node, fork, page, is_limit) in notes.iter().copied() {
            changes.note(Change { database, node, fork, page, is_limit });
        }
        changes
    }

    #[test]
    fn summaries_must_cover_the_log_without_a_gap() {
        assert_eq!(coverage(&lsns(&[(5, 10), (10, 20)]), Lsn(7), Lsn(20)), Coverage::Whole);
        assert_eq!(coverage(&lsns(&[(5, 10), (10, 19)]), Lsn(7), Lsn(20)), Coverage::Behind);
        assert_eq!(coverage(&lsns(&[(8, 20)]), Lsn(7), Lsn(20)), Coverage::Gap);
        assert_eq!(coverage(&lsns(&[(5, 10), (11, 20)]), Lsn(7), Lsn(20)), Coverage::Gap);
        assert_eq!(coverage(&[], Lsn(7), Lsn(7)), Coverage::Whole);
        assert_eq!(coverage(&[], Lsn(7), Lsn(8)), Coverage::Behind);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one range of pages is what is meant")]
    fn pages_are_those_of_the_file() {
        let changes = changes(&[
            (5, 16384, 0, 3, false),
            (5, 16384, 0, 4, false),
            (5, 16384, 0, 99, false),
            (5, 16384, 0, 100, false),
            (5, 16384, 2, 7, false),
            (0, 1262, 0, 0, false),
        ]);
        let ranges = |path: &str, pages: u64| changes.of(path.as_bytes(), pages * 8192).map(|changed| changed.ranges);
        assert_eq!(ranges("base/5/16384", 100), Some([3..5, 99..100].to_vec()));
        assert_eq!(ranges("base/5/16384.1", 10), Some([0..1].to_vec()));
        assert_eq!(ranges("base/5/16385", 10), Some(Vec::new()));
        assert_eq!(ranges("base/6/16384", 10), Some(Vec::new()));
        assert_eq!(ranges("global/1262", 1), Some([0..1].to_vec()));
        for unknown in ["base/5/16384_vm", "base/5/16384_fsm", "base/5/16384_init", "pg_xact/0000", "PG_VERSION"] {
            assert_eq!(ranges(unknown, 10), None, "{unknown}");
        }
        assert!(changes.of(b"base/5/16384", 8193).is_none(), "half a page");
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one range of pages is what is meant")]
    fn what_was_cut_or_made_anew_is_read_from_there_on() {
        let changes = changes(&[
            (5, 1, 0, 150, true),
            (5, 1, 0, 120, true),
            (5, 1, 0, 10, false),
            (5, 1, 0, 170, false),
            (5, 2, 0, 0, true),
            (7, 0, 0, 0, true),
        ]);
        let ranges = |path: &str, pages: u64| changes.of(path.as_bytes(), pages * 8192).map(|changed| changed.ranges);
        assert_eq!(ranges("base/5/1", 100), Some([10..11].to_vec()));
        assert_eq!(ranges("base/5/1.1", 80), Some([20..80].to_vec()));
        assert_eq!(ranges("base/5/1.2", 80), Some([0..80].to_vec()));
        assert_eq!(ranges("base/5/1.1", 15), Some(Vec::new()), "it ends before");
        assert_eq!(ranges("base/5/2", 8), Some([0..8].to_vec()));
        assert_eq!(ranges("base/7/1", 8), None, "its database was copied as files");
    }

    #[test]
    fn memory_is_bounded() {
        let mut changes = changes(&[]);
        changes.segment_pages = 131_072;
        changes.remembered = PAGES_MAX - 1;
        for page in [1, 2, 131_073] {
            changes.note(Change { database: 5, node: 1, fork: 0, page, is_limit: false });
        }
        assert_eq!(changes.of(b"base/5/1", 8192 * 10), None);
        assert_eq!(changes.of(b"base/5/1.1", 8192 * 10), None);
        assert!(changes.of(b"base/5/1.2", 8192 * 10).is_some());
    }
}
