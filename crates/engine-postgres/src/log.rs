//! The log of a cluster as a source: the slot that keeps it, where a stream starts, a proof that it flows.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{LogPosition, Lsn, TimelineId};
use breakwater_engine::{EngineError, EngineErrorKind, LogFacts, LogSource, LogStart, LogStream};

use crate::connection::SqlClient;
use crate::failure::{in_time, internal, kind_of, of_sql, of_walsender};
use crate::log_stream::PostgresLogStream;
use crate::server::{Server, connect, parse_lsn};
use crate::settings::PostgresSettings;
use crate::slot::{self, Slot};
use crate::wal::TimelineHistory;
use crate::walsender::{SystemIdentity, WalSender, WalSenderError};
use crate::watermark::flush_position;

/// How long a slot that is still in use is waited for: the server may not have noticed yet that our last stream is gone.
const SLOT_PATIENCE: Duration = Duration::from_secs(5);
const SLOT_RETRY: Duration = Duration::from_millis(250);
/// How long a nudge may take to be flushed.
const NUDGE_PATIENCE: Duration = Duration::from_secs(10);

/// The log of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct PostgresLog {
    settings: Arc<PostgresSettings>,
}

/// Both connections to the server, found to be the same and the right cluster.
struct Open {
    client: SqlClient,
    server: Server,
    walsender: WalSender,
    identity: SystemIdentity,
}

impl PostgresLog {
    pub(crate) fn new(settings: Arc<PostgresSettings>) -> Self {
        PostgresLog { settings }
    }

    /// Bounds questions to the server.
    async fn asking<T>(&self, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
        in_time(self.settings.answer_timeout, "the server does not answer what the stream of the log asks", work).await
    }

    async fn connect(&self) -> Result<Open, EngineError> {
        let (client, server) = connect(&self.settings.connection).await?;
        if let Some(expected) = self.settings.expected_system_id.filter(|expected| *expected != server.system_id) {
            return Err(crate::backup::foreign_system_id(expected, server.system_id));
        }
        if server.in_recovery {
            let what = "the server is a standby, whose log this version does not stream";
            return Err(EngineError::new(EngineErrorKind::Refused, what).hint("name the primary as the source"));
        }
        let connection = self.settings.connection.clone().with_application_name(&self.settings.slot);
        let what = "cannot open a replication connection";
        let mut walsender = WalSender::connect(&connection).await.map_err(|error| of_walsender(what, error))?;
        let identity = walsender.identify_system().await.map_err(|error| of_walsender(what, error))?;
        if identity.system_id != server.system_id {
            let what = format!(
                "SQL and replication reach different clusters: {} and {}",
                server.system_id, identity.system_id
            );
            return Err(EngineError::new(EngineErrorKind::Conflict, what)
                .hint("connect to the server itself, not through a proxy"));
        }
        Ok(Open { client, server, walsender, identity })
    }

    /// Both connections and the slot.
    async fn prepare(&self) -> Result<(Open, Slot), EngineError> {
        let mut open = self.connect().await?;
        let slot = slot::ensure(&open.client, &open.server, &mut open.walsender, &self.settings).await?;
        Ok((open, slot))
    }

    async fn try_open(&self, start: LogStart) -> Result<Box<dyn LogStream>, EngineError> {
        let preparing = async {
            let (mut open, slot) = self.prepare().await?;
            let history = history(&mut open.walsender, open.identity.timeline).await?;
            Ok((open, slot, history))
        };
        let (open, slot, history) = self.asking(preparing).await?;
        let size = open.server.segment_size;
        let start = match start {
            LogStart::Oldest => {
                let oldest = slot
                    .restart
                    .ok_or_else(|| internal("the replication slot keeps nothing although it was made to"))?;
                let at = oldest.segment_start(size.bytes());
                LogPosition::new(history.timeline_at(at).0, at.0)
            }
            LogStart::At(position) => {
                check_start(position, size.bytes(), &history)?;
                position
            }
        };
        let stream = PostgresLogStream::open(Arc::clone(&self.settings), &open.server, open.walsender, start).await?;
        Ok(Box::new(stream))
    }
}

#[async_trait::async_trait]
impl LogSource for PostgresLog {
    async fn identity(&self) -> Result<String, EngineError> {
        Ok(self.connect().await?.server.system_id.to_string())
    }

    async fn facts(&self) -> Result<LogFacts, EngineError> {
        let (open, slot) = self.asking(self.prepare()).await?;
        Ok(LogFacts {
            identity: open.server.system_id.to_string(),
            segment_size: open.server.segment_size.bytes(),
            facts: facts(&open.server, &self.settings.slot, &slot),
        })
    }

    async fn open(&self, start: LogStart) -> Result<Box<dyn LogStream>, EngineError> {
        let deadline = tokio::time::Instant::now() + SLOT_PATIENCE;
        loop {
            match self.try_open(start).await {
                Err(error) if is_in_use(&error) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(SLOT_RETRY).await;
                }
                other => return other,
            }
        }
    }

    async fn nudge(&self) -> Result<LogPosition, EngineError> {
        self.asking(self.write_a_record()).await
    }

    async fn forget(&self) -> Result<(), EngineError> {
        self.asking(self.drop_slot()).await
    }
}

impl PostgresLog {
    async fn write_a_record(&self) -> Result<LogPosition, EngineError> {
        let what = "cannot write a record into the log";
        let (client, _) = connect(&self.settings.connection).await?;
        // A committed transaction of one message: every role may write it, no table sees it, and its commit is flushed.
        // Waiting for synchronous standbys is not wanted: one of them may be ourselves.
        client.batch_execute("SET synchronous_commit = local").await.map_err(|error| of_sql(what, error))?;
        let row = client
            .query_one("SELECT pg_logical_emit_message(true, 'breakwater', 'nudge')::text", &[])
            .await
            .map_err(|error| of_sql(what, error))?;
        let written = parse_lsn(what, row.get(0))?;
        let deadline = tokio::time::Instant::now() + NUDGE_PATIENCE;
        loop {
            let flushed = flush_position(&client).await?;
            if flushed.lsn() > written {
                return Ok(flushed);
            }
            if tokio::time::Instant::now() >= deadline {
                let what =
                    format!("the server does not flush its log: {written} was written, {} is flushed", flushed.lsn());
                return Err(EngineError::new(EngineErrorKind::Unreachable, what));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn drop_slot(&self) -> Result<(), EngineError> {
        let mut open = self.connect().await?;
        let name = &self.settings.slot;
        match Slot::look_up(&open.client, name).await? {
            None => return Ok(()),
            Some(slot) if !slot.physical => {
                let what = format!("the replication slot {name} is a logical one, of somebody else: it stays");
                return Err(EngineError::new(EngineErrorKind::Refused, what));
            }
            Some(_) => {}
        }
        let what = format!("cannot drop the replication slot {name}");
        match open.walsender.drop_slot(name).await {
            Err(error) if kind_of(error.class()) == EngineErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| {
                of_walsender(&what, error).hint(format!("SELECT pg_drop_replication_slot('{name}');"))
            }),
        }
    }
}

/// Whether another stream holds the slot, as opposed to a conflict that waiting does not mend.
fn is_in_use(error: &EngineError) -> bool {
    let source = error.source.as_ref().and_then(|source| source.downcast_ref::<WalSenderError>());
    // object_in_use
    source.and_then(WalSenderError::server_error).is_some_and(|error| error.sqlstate == "55006")
}

fn facts(server: &Server, name: &str, slot: &Slot) -> serde_json::Value {
    serde_json::json!({
        "system_id": server.system_id.to_string(),
        "version": server.version(),
        "major": server.major(),
        "segment_size": server.segment_size.bytes(),
        "slot": name,
        "wal_status": slot.wal_status,
        "safe_wal_size": slot.safe_wal_size,
    })
}

/// The history that leads to the server's timeline.
async fn history(walsender: &mut WalSender, timeline: TimelineId) -> Result<TimelineHistory, EngineError> {
    if timeline == TimelineId(1) {
        return Ok(TimelineHistory::root());
    }
    let what = format!("cannot read the history of timeline {timeline}");
    let file = walsender.timeline_history(timeline).await.map_err(|error| of_walsender(&what, error))?;
    TimelineHistory::parse(timeline, &file.content).map_err(|error| {
        let class = error.class();
        EngineError::new(kind_of(class), what).because(error)
    })
}

/// A start must be a segment's, and lie on the way that led to the server's present timeline.
fn check_start(position: LogPosition, segment_size: u64, history: &TimelineHistory) -> Result<(), EngineError> {
    if position.lsn() != position.lsn().segment_start(segment_size) {
        let what = format!("a stream starts at a segment's start, which {position} is not");
        return Err(EngineError::new(EngineErrorKind::Invalid, what));
    }
    if history.is_ancestor(TimelineId(position.branch), Lsn(position.offset)) {
        return Ok(());
    }
    // The first segment of a timeline begins on its parent, and is stored under the timeline's own number.
    let is_first = history.timeline() == TimelineId(position.branch)
        || history.spans().any(|span| {
            span.timeline == TimelineId(position.branch) && span.start.segment_start(segment_size) == position.lsn()
        });
    if is_first {
        return Ok(());
    }
    let what =
        format!("history diverged: {position} does not lie on the way to the server's timeline {}", history.timeline());
    Err(EngineError::new(EngineErrorKind::Conflict, what).hint(
        "the server was restored or promoted elsewhere meanwhile: start a new stretch of the log with a new backup",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_lies_on_the_servers_way() {
        let history = TimelineHistory::parse(TimelineId(3), "1\t0/3500000\tx\n2\t0/7200000\tx\n").unwrap();
        let check = |branch, offset| check_start(LogPosition::new(branch, offset), 1 << 20, &history);
        check(1, 0x0300_0000).unwrap();
        check(2, 0x0350_0000).unwrap();
        check(3, 0x0720_0000).unwrap();
        check(3, 0x0800_0000).unwrap();
        for diverged in [(1, 0x0400_0000), (2, 0x0730_0000), (4, 0x0800_0000), (2, 0x0200_0000)] {
            assert_eq!(check(diverged.0, diverged.1).unwrap_err().kind, EngineErrorKind::Conflict, "{diverged:?}");
        }
        assert_eq!(check(1, 0x0300_0001).unwrap_err().kind, EngineErrorKind::Invalid);
    }
}
