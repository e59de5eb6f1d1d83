//! Observations of the server, once a second: its clock, then how far its log is written.
//!
//! Invariant: the clock is read, and its answer received, before the position is asked for, and the position is that of
//! the last record that was begun by then, flushed or not. Everything that was acknowledged up to that clock lies before
//! it, also by a session with `synchronous_commit = off`, whose commits are acknowledged before they are flushed. An
//! observation is only handed out once the server has flushed its log up to there, since before that a crash could still
//! take back what it speaks of.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{LogPosition, Lsn, Watermark};
use breakwater_engine::EngineError;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::connection::SqlClient;
use crate::failure::{in_time, internal, of_connection, of_sql};
use crate::server::{Server, ask_clock, parse_lsn};
use crate::settings::PostgresSettings;
use crate::wal::SegmentSize;
use crate::wal::page::{LONG_HEADER, SHORT_HEADER};

/// Between two observations.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the server may take to answer; one that does not gives no observation.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to flush what it has written. What stays unflushed the longest are the records of a transaction that
/// wrote a little and then idles, which the background writer sees to after 15 s, and commits that nobody waits for under
/// the slowest `wal_writer_delay`, after three times 10 s.
const FLUSH: Duration = Duration::from_secs(45);
/// Between two looks at how far the log is flushed.
const FLUSH_POLL: Duration = Duration::from_millis(100);

/// How the server cuts its log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLayout {
    segment: SegmentSize,
    page: u64,
}

impl LogLayout {
    /// The layout of `server`'s log.
    pub(crate) fn of(server: &Server) -> LogLayout {
        LogLayout { segment: server.segment_size, page: server.log_page_size() }
    }

    /// Where the last record ends when the next one is to begin at `next`. Behind a full page that is after the page's
    /// header, which is written and flushed with the next record only: on an idle server perhaps never.
    fn end_before(self, next: Lsn) -> Lsn {
        let within = next.0 % self.page;
        let header = if self.segment.offset_of(next) < self.page { LONG_HEADER } else { SHORT_HEADER };
        if within == header as u64 { Lsn(next.0 - within) } else { next }
    }
}

/// Takes one observation, which holds from when the server's log is flushed up to it.
async fn observe(client: &SqlClient, layout: LogLayout) -> Result<Watermark, EngineError> {
    let clock = ask_clock(client).await?;
    let next = position(client, "pg_current_wal_insert_lsn").await?;
    Ok(Watermark { clock, position: LogPosition::new(next.branch, layout.end_before(next.lsn()).0) })
}

/// The timeline that the server writes, and how far its log is flushed.
pub(crate) async fn flush_position(client: &SqlClient) -> Result<LogPosition, EngineError> {
    position(client, "pg_current_wal_flush_lsn").await
}

/// What the server answers to `function`, with the timeline that it writes.
async fn position(client: &SqlClient, function: &str) -> Result<LogPosition, EngineError> {
    let what = "cannot ask the server for its position";
    let statement = format!("SELECT lsn::text, left(pg_walfile_name(lsn), 8) FROM {function}() lsn");
    let row = client.query_one(&statement, &[]).await.map_err(|error| of_sql(what, error))?;
    let lsn = parse_lsn(what, row.get(0))?;
    let timeline = u32::from_str_radix(row.get(1), 16).map_err(|error| internal(what).because(error))?;
    Ok(LogPosition::new(timeline, lsn.0))
}

/// Waits until the server has flushed its log up to `position`. Asked again and not for a new position, which a busy server
/// might never be done with.
async fn flushed(client: &SqlClient, position: LogPosition) -> Result<(), EngineError> {
    loop {
        let flushed = flush_position(client).await?;
        if flushed.branch != position.branch {
            return Err(internal("the server changed its timeline during an observation"));
        }
        if flushed.offset >= position.offset {
            return Ok(());
        }
        tokio::time::sleep(FLUSH_POLL).await;
    }
}

/// A task that observes until it is dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    watermarks: mpsc::Receiver<Watermark>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Starts observing, on a session of its own.
    pub(crate) fn start(settings: Arc<PostgresSettings>, layout: LogLayout) -> Observer {
        // One that was not taken yet is as good as its successor, so there is no need to queue.
        let (sender, watermarks) = mpsc::channel(1);
        Observer { watermarks, task: tokio::spawn(run(settings, layout, sender)) }
    }

    /// The next observation. Nothing is lost when the call is given up.
    pub(crate) async fn next(&mut self) -> Result<Watermark, EngineError> {
        self.watermarks.recv().await.ok_or_else(|| internal("the observer of the server has ended"))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(settings: Arc<PostgresSettings>, layout: LogLayout, sender: mpsc::Sender<Watermark>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session: Option<SqlClient> = None;
    loop {
        ticks.tick().await;
        // Room first: what waits for a slow consumer must not be an old observation.
        let Ok(room) = sender.reserve().await else { return };
        let asking = async {
            let client = match session.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => settings.connection.connect_sql().await.map_err(of_connection)?,
            };
            let watermark = observe(&client, layout).await?;
            Ok::<_, EngineError>((client, watermark))
        };
        let observing = async {
            let (client, watermark) = in_time(ANSWER, "the server does not answer", asking).await?;
            let flushing = flushed(&client, watermark.position);
            in_time(FLUSH, "the server does not flush its log", flushing).await?;
            Ok::<_, EngineError>((client, watermark))
        };
        let observed = observing.await;
        match observed {
            Ok((client, watermark)) => {
                room.send(watermark);
                session = Some(client);
            }
            // The lag that grows without observations is what shows; here only why.
            Err(error) => tracing::debug!(%error, "no observation of the server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_ends_before_the_header_of_the_page_behind_it() {
        let layout = LogLayout { segment: SegmentSize::new(1 << 20).unwrap(), page: 8192 };
        let end = |offset| layout.end_before(Lsn(offset)).0;
        assert_eq!(end((5 << 20) + 40), 5 << 20, "a segment's first page has the long header");
        assert_eq!(end((5 << 20) + 24), (5 << 20) + 24);
        assert_eq!(end((5 << 20) + 8192 + 24), (5 << 20) + 8192);
        assert_eq!(end((5 << 20) + 8192 + 40), (5 << 20) + 8192 + 40, "a record of sixteen bytes lies there");
        assert_eq!(end((5 << 20) + 8192 + 32), (5 << 20) + 8192 + 32);
        assert_eq!(end((5 << 20) + 4096 + 24), (5 << 20) + 4096 + 24, "within a page");
    }
}
