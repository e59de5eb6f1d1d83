//! One stream of the log being received: bytes with their transactions, observations, switches of the timeline.
//!
//! Invariants: bytes are contiguous on their timeline; the history of a new timeline is known before its first byte is
//! handed out; giving up a call to `next` loses nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{LogPosition, Lsn, TimelineId};
use breakwater_engine::{EngineError, EngineErrorKind, LogEvent, LogStream, Transaction, TransactionKind};
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::failure::{internal, kind_of, of_connection, of_walsender};
use crate::server::Server;
use crate::settings::PostgresSettings;
use crate::slot::{self, Slot};
use crate::wal::{RecordScanner, SegmentSize, WalEvent};
use crate::walsender::{AckHandle, Message, ReplicationStream, StreamOptions, StreamStart, WalSender, WalSenderError};
use crate::watermark::{LogLayout, Observer};

/// How long the first word of the server is waited for: whether it still has the start is in it. An idle server may say
/// nothing.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// How long finding out why a stream ended may take.
const DIAGNOSIS: Duration = Duration::from_secs(10);

/// A stream in progress.
pub(crate) struct PostgresLogStream {
    settings: Arc<PostgresSettings>,
    segment_size: SegmentSize,
    system_id: u64,
    start: LogPosition,
    timeline: TimelineId,
    state: State,
    acknowledge: AckHandle,
    scanner: RecordScanner,
    observer: Observer,
    /// A message that came before it was asked for.
    first: VecDeque<Message>,
}

enum State {
    Streaming(ReplicationStream),
    /// The change to the next timeline, kept here so that a call that is given up does not lose it.
    Switching(BoxFuture<'static, Result<Switched, EngineError>>),
    Failed,
}

struct Switched {
    stream: ReplicationStream,
    timeline: TimelineId,
    fork: Lsn,
    history: Bytes,
}

impl fmt::Debug for PostgresLogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLogStream")
            .field("start", &self.start)
            .field("timeline", &self.timeline)
            .finish_non_exhaustive()
    }
}

impl PostgresLogStream {
    /// Starts streaming at `start`, a segment's start.
    pub(crate) async fn open(
        settings: Arc<PostgresSettings>,
        server: &Server,
        walsender: WalSender,
        start: LogPosition,
    ) -> Result<Self, EngineError> {
        let timeline = TimelineId(start.branch);
        // Where an earlier stream was released we do not know: the slot does, and it never goes back.
        let mut stream = start_replication(&settings, walsender, timeline, start.lsn(), Lsn(0)).await?;
        let mut first = VecDeque::new();
        match tokio::time::timeout(FIRST_WORD, stream.next()).await {
            Ok(Ok(message)) => first.push_back(message),
            Ok(Err(error)) => return Err(diagnose(&settings, error).await),
            Err(_) => {}
        }
        let segment_size = server.segment_size;
        Ok(PostgresLogStream {
            observer: Observer::start(Arc::clone(&settings), LogLayout::of(server)),
            settings,
            segment_size,
            system_id: server.system_id,
            start,
            timeline,
            acknowledge: stream.acknowledge(),
            state: State::Streaming(stream),
            scanner: scanner(start.lsn(), segment_size, server.system_id),
            first,
        })
    }

    /// Takes the next step; `None` when it gave nothing to hand out.
    async fn step(&mut self) -> Result<Option<LogEvent>, EngineError> {
        if let State::Switching(switching) = &mut self.state {
            let switched = switching.await?;
            return Ok(Some(self.switched(switched)));
        }
        if let Some(message) = self.first.pop_front() {
            return self.take(message);
        }
        let State::Streaming(stream) = &mut self.state else {
            return Err(internal("a stream of the log was used after it had failed"));
        };
        tokio::select! {
            message = stream.next() => match message {
                Ok(message) => self.take(message),
                Err(error) => Err(diagnose(&self.settings, error).await),
            },
            watermark = self.observer.next() => {
                let watermark = watermark?;
                // One from a timeline that we have not reached yet would be measured on the wrong one.
                Ok((watermark.position.branch == self.timeline.0).then_some(LogEvent::Watermark(watermark)))
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<LogEvent>, EngineError> {
        match message {
            Message::WalData { start, data, .. } => {
                let mut events = Vec::new();
                self.scanner.feed(start, &data, &mut events).map_err(|error| {
                    let what =
                        format!("the log that the server sent is not intact: timeline {}, {start}", self.timeline);
                    EngineError::new(kind_of(error.class()), what).because(error)
                })?;
                let start = LogPosition::new(self.timeline.0, start.0);
                self.acknowledge.received(Lsn(start.offset + data.len() as u64));
                let transactions = events.into_iter().filter_map(transaction).collect();
                Ok(Some(LogEvent::Data { start, bytes: data, transactions }))
            }
            Message::Keepalive { .. } => Ok(None),
            Message::ServerStopped => Err(EngineError::new(EngineErrorKind::Unreachable, "the server was shut down")
                .hint("the stream goes on where it was when the server is back")),
            Message::EndOfTimeline { next_timeline, next_start } => {
                let State::Streaming(stream) = std::mem::replace(&mut self.state, State::Failed) else {
                    return Err(internal("a timeline ended in a stream that was not running"));
                };
                let settings = Arc::clone(&self.settings);
                let (size, released) = (self.segment_size, self.acknowledge.current().released);
                self.state =
                    State::Switching(Box::pin(switch(settings, stream, next_timeline, next_start, size, released)));
                Ok(None)
            }
        }
    }

    fn switched(&mut self, switched: Switched) -> LogEvent {
        let at = LogPosition::new(self.timeline.0, switched.fork.0);
        let restart = switched.fork.segment_start(self.segment_size.bytes());
        self.timeline = switched.timeline;
        self.scanner = scanner(restart, self.segment_size, self.system_id);
        self.acknowledge = switched.stream.acknowledge();
        self.state = State::Streaming(switched.stream);
        LogEvent::EndOfBranch { at, next: switched.timeline.0, history: switched.history }
    }
}

#[async_trait::async_trait]
impl LogStream for PostgresLogStream {
    fn start(&self) -> LogPosition {
        self.start
    }

    async fn next(&mut self) -> Result<LogEvent, EngineError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error);
                }
            }
        }
    }

    fn released(&self, position: LogPosition) {
        // What was released of an earlier timeline says nothing about this one's first segment.
        if position.branch == self.timeline.0 {
            self.acknowledge.released(position.lsn());
        }
    }
}

async fn start_replication(
    settings: &PostgresSettings,
    walsender: WalSender,
    timeline: TimelineId,
    position: Lsn,
    released: Lsn,
) -> Result<ReplicationStream, EngineError> {
    let start = StreamStart { slot: Some(settings.slot.clone()), position, timeline, released };
    match walsender.start_replication(start, StreamOptions::default()).await {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let what = format!("cannot stream the log from {position} on timeline {timeline}");
            Err(of_walsender(&what, error))
        }
    }
}

/// Goes on with the next timeline, its history first.
async fn switch(
    settings: Arc<PostgresSettings>,
    stream: ReplicationStream,
    timeline: TimelineId,
    fork: Lsn,
    size: SegmentSize,
    released: Lsn,
) -> Result<Switched, EngineError> {
    let what = format!("cannot follow the server to timeline {timeline}");
    let fail = |error| of_walsender(&what, error);
    let mut walsender = stream.into_walsender().await.map_err(fail)?;
    let history = walsender.timeline_history(timeline).await.map_err(fail)?;
    let restart = fork.segment_start(size.bytes());
    let stream = start_replication(&settings, walsender, timeline, restart, released).await?;
    Ok(Switched { stream, timeline, fork, history: Bytes::from(history.content.into_bytes()) })
}

fn scanner(start: Lsn, size: SegmentSize, system_id: u64) -> RecordScanner {
    RecordScanner::new(size.segment_of(start), size, Some(system_id))
}

/// Why a stream failed: when the server has given up the slot, that is the reason, whatever it said to the stream.
async fn diagnose(settings: &PostgresSettings, error: WalSenderError) -> EngineError {
    let is_lost = async {
        let client = settings.connection.connect_sql().await.map_err(of_connection)?;
        Ok::<_, EngineError>(Slot::look_up(&client, &settings.slot).await?.is_some_and(|slot| slot.is_lost()))
    };
    match tokio::time::timeout(DIAGNOSIS, is_lost).await {
        Ok(Ok(true)) => slot::lost(&settings.slot).because(error),
        _ => of_walsender("the stream of the log failed", error),
    }
}

/// What the index keeps of an event.
fn transaction(event: WalEvent) -> Option<Transaction> {
    let (kind, xid, time, start, end, name) = match event {
        WalEvent::Commit { xid, time, lsn_start, lsn_end } => {
            (TransactionKind::Commit, xid, time, lsn_start, lsn_end, None)
        }
        WalEvent::Abort { xid, time, lsn_start, lsn_end } => {
            (TransactionKind::Abort, xid, time, lsn_start, lsn_end, None)
        }
        WalEvent::RestorePoint { name, time, lsn_start, lsn_end } => {
            (TransactionKind::RestorePoint, 0, time, lsn_start, lsn_end, Some(name))
        }
        WalEvent::CheckpointShutdown { .. } | WalEvent::EndOfRecovery { .. } => return None,
    };
    Some(Transaction { kind, time, xid: u64::from(xid), start: start.0, end: end.0, name })
}
