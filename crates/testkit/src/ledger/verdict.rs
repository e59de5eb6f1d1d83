//! The comparison of a restored database with the ledger.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use super::moment::Moment;
use super::writer::Entry;

/// What a sound check saw. A test that needs a check to have teeth asserts that the counts are not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Commits acknowledged before the moment; all of them are there.
    pub required: usize,
    /// Transactions begun after the moment; none of them is there.
    pub forbidden: usize,
    /// Rows that are there.
    pub present: usize,
}

pub(super) async fn check(writers: &[Vec<Entry>], restored: &Client, moment: Moment) -> Result<Verdict> {
    let rows = restored.query("select writer, seq from ledger", &[]).await.context("read the restored ledger")?;
    let present: HashSet<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut faults = Faults::default();
    let (mut required, mut forbidden, mut known) = (0, 0, 0);
    for (writer, entries) in (0..).zip(writers) {
        for (seq, entry) in (0..).zip(entries) {
            let there = present.contains(&(writer, seq));
            known += usize::from(there);
            if entry.acked.is_some_and(|acked| acked < moment.acknowledged_before) {
                required += 1;
                faults
                    .note(!there, || format!("writer {writer} seq {seq}: missing, acknowledged at {:?}", entry.acked));
            }
            if moment.begun_after.is_some_and(|end| entry.begun > end) {
                forbidden += 1;
                faults.note(there, || format!("writer {writer} seq {seq}: present, begun only at {}", entry.begun));
            }
        }
    }
    faults.note(known != present.len(), || format!("{} rows that no writer wrote", present.len() - known));

    let wrong = "select count(*) from ledger where note <> md5(writer::text || ':' || seq::text)";
    let wrong: i64 = restored.query_one(wrong, &[]).await.context("read the restored notes")?.get(0);
    faults.note(wrong != 0, || format!("{wrong} rows whose text is not what was written"));
    let hits = "select coalesce(sum(hits), 0)::bigint from ledger_page";
    let hits: i64 = restored.query_one(hits, &[]).await.context("read the restored pages")?.get(0);
    faults.note(usize::try_from(hits) != Ok(present.len()), || {
        format!("{} rows but {hits} updates: a transaction is there by half", present.len())
    });

    if faults.count > 0 {
        bail!(
            "the restored database breaks {} promises for {moment:?}, among them:\n{}",
            faults.count,
            faults.first.join("\n")
        );
    }
    Ok(Verdict { required, forbidden, present: present.len() })
}

#[derive(Default)]
struct Faults {
    count: usize,
    first: Vec<String>,
}

impl Faults {
    fn note(&mut self, broken: bool, text: impl FnOnce() -> String) {
        if broken {
            self.count += 1;
            if self.first.len() < 10 {
                self.first.push(text());
            }
        }
    }
}

/// A hash over all that the ledger's tables hold, to compare two databases that should be equal.
pub async fn contents_hash(client: &Client) -> Result<String> {
    let sql = "select md5(concat(
        (select string_agg(concat_ws(':', writer, seq, note), ',' order by writer, seq) from ledger), '/',
        (select string_agg(concat_ws(':', id, hits, filler), ',' order by id) from ledger_page)))";
    Ok(client.query_one(sql, &[]).await.context("hash the ledger's tables")?.get(0))
}
