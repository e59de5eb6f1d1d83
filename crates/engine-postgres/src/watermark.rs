//! Observations of the server, once a second: its clock, then how far its log is flushed.
//!
//! Invariant: the clock is read, and its answer received, before the position is asked for. Everything that was
//! acknowledged up to that clock is flushed by then, so it lies before the position.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{LogPosition, Watermark};
use breakwater_engine::{EngineError, EngineErrorKind};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::connection::SqlClient;
use crate::failure::{internal, of_connection, of_sql};
use crate::server::{ask_clock, parse_lsn};
use crate::settings::PostgresSettings;

/// Between two observations.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one may take; a server that does not answer gives none.
const DEADLINE: Duration = Duration::from_secs(10);

/// Takes one observation.
pub(crate) async fn observe(client: &SqlClient) -> Result<Watermark, EngineError> {
    let clock = ask_clock(client).await?;
    let position = flush_position(client).await?;
    Ok(Watermark { clock, position })
}

/// The timeline that the server writes, and how far its log is flushed.
pub(crate) async fn flush_position(client: &SqlClient) -> Result<LogPosition, EngineError> {
    let what = "cannot ask the server for its position";
    let row = client
        .query_one("SELECT lsn::text, left(pg_walfile_name(lsn), 8) FROM pg_current_wal_flush_lsn() lsn", &[])
        .await
        .map_err(|error| of_sql(what, error))?;
    let lsn = parse_lsn(what, row.get(0))?;
    let timeline = u32::from_str_radix(row.get(1), 16).map_err(|error| internal(what).because(error))?;
    Ok(LogPosition::new(timeline, lsn.0))
}

/// A task that observes until it is dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    watermarks: mpsc::Receiver<Watermark>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Starts observing, on a session of its own.
    pub(crate) fn start(settings: Arc<PostgresSettings>) -> Observer {
        // One that was not taken yet is as good as its successor, so there is no need to queue.
        let (sender, watermarks) = mpsc::channel(1);
        Observer { watermarks, task: tokio::spawn(run(settings, sender)) }
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

async fn run(settings: Arc<PostgresSettings>, sender: mpsc::Sender<Watermark>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session: Option<SqlClient> = None;
    loop {
        ticks.tick().await;
        // Room first: what waits for a slow consumer must not be an old observation.
        let Ok(room) = sender.reserve().await else { return };
        let observing = async {
            let client = match session.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => settings.connection.connect_sql().await.map_err(of_connection)?,
            };
            let watermark = observe(&client).await?;
            Ok::<_, EngineError>((client, watermark))
        };
        let observed = match tokio::time::timeout(DEADLINE, observing).await {
            Ok(observed) => observed,
            Err(_) => Err(EngineError::new(EngineErrorKind::Unreachable, "the server does not answer")),
        };
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
