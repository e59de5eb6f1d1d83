//! A stream of log bytes from a walsender.
//!
//! Invariants: bytes are delivered in sequence without a gap, or not at all; a consumer that stalls is given time (the
//! reader stops at the buffer's limit, feedback goes on); a server that says nothing for `dead_after`, although it was
//! asked, ends the stream with an error.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Lsn, TimelineId, Timestamp};
use bytes::{Buf, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::WalSender;
use super::error::{ServerError, WalSenderError};
use super::feedback::{AckHandle, Acknowledged, Request, Vitals, send_feedback};
use super::frame::{Frame, FrameReader, FrameWriter};
use super::reply::{Reply, ResultSet, read_reply};
use crate::wal::event::timestamp_from_postgres;

/// How many messages are buffered, whatever their size.
const QUEUE: usize = 4096;
/// How long the reader still listens for the server's last words once nothing can be sent to it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// What to stream.
#[derive(Clone, Debug)]
pub struct StreamStart {
    /// The physical slot that holds the log for us.
    pub slot: Option<String>,
    /// The first byte wanted; a segment's start, so that whole segments arrive.
    pub position: Lsn,
    /// The timeline of that byte.
    pub timeline: TimelineId,
    /// Up to where an earlier stream was released; zero when unknown. Told to the server as flushed from the start.
    pub released: Lsn,
}

/// How to stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The longest time between two feedbacks.
    pub feedback_interval: Duration,
    /// After how much silence the server is taken for dead.
    pub dead_after: Duration,
    /// How many bytes of log are buffered for a consumer that stalls.
    pub buffer_bytes: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            feedback_interval: Duration::from_secs(1),
            dead_after: Duration::from_secs(30),
            buffer_bytes: 32 << 20,
        }
    }
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes of the log.
    WalData {
        /// The position of the first of them.
        start: Lsn,
        /// How far the server's log was flushed when it sent them.
        server_end: Lsn,
        /// The server's clock then.
        server_time: Timestamp,
        /// The bytes, never empty.
        data: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server has sent its log, or flushed it when it has sent all.
        server_end: Lsn,
        /// The server's clock.
        server_time: Timestamp,
        /// Whether it asked for feedback, which it has been given.
        reply_requested: bool,
    },
    /// The timeline ended; the last message. [`ReplicationStream::into_walsender`] gives the connection back.
    EndOfTimeline {
        /// The timeline that follows, which need not be the next number.
        next_timeline: TimelineId,
        /// Where it forked; what was received past it belongs to a branch.
        next_start: Lsn,
    },
    /// The server was shut down in order and has sent all of its log; the last message.
    ServerStopped,
}

/// A stream in progress. Dropping it closes the connection; [`close`](Self::close) also says goodbye.
#[derive(Debug)]
pub struct ReplicationStream {
    messages: mpsc::Receiver<Result<Queued, WalSenderError>>,
    requests: mpsc::Sender<Request>,
    acknowledge: AckHandle,
    vitals: Arc<Vitals>,
    reader: JoinHandle<Option<FrameReader>>,
    writer: JoinHandle<Option<FrameWriter>>,
    server_version: String,
    ended: bool,
}

#[derive(Debug)]
struct Queued {
    message: Message,
    /// Room in the buffer, given back when the consumer takes the message.
    _room: Option<OwnedSemaphorePermit>,
}

impl ReplicationStream {
    /// The stream of a connection that has just turned into one.
    pub(super) fn running(walsender: WalSender, start: &StreamStart, options: &StreamOptions) -> Self {
        let (sender, messages) = mpsc::channel(QUEUE);
        let (requests, asked) = mpsc::channel(8);
        let (acknowledge, vitals) = acknowledgements(start);
        let buffer = options.buffer_bytes.clamp(1, Semaphore::MAX_PERMITS.min(1 << 30));
        let reader = Reader {
            frames: walsender.reader,
            messages: sender,
            requests: requests.clone(),
            vitals: Arc::clone(&vitals),
            room: Arc::new(Semaphore::new(buffer)),
            buffer,
            timeline: start.timeline,
            expected: start.position,
            dead_after: options.dead_after,
        };
        let writer = tokio::spawn(send_feedback(
            walsender.writer,
            acknowledge.subscribe(),
            asked,
            Arc::clone(&vitals),
            options.feedback_interval,
            options.dead_after,
        ));
        ReplicationStream {
            messages,
            requests,
            acknowledge,
            vitals,
            reader: tokio::spawn(reader.run()),
            writer,
            server_version: walsender.server_version,
            ended: false,
        }
    }

    /// The stream of a timeline that ends where it was to start.
    pub(super) fn at_end(
        walsender: WalSender,
        start: &StreamStart,
        options: &StreamOptions,
        table: &ResultSet,
    ) -> Result<Self, WalSenderError> {
        let end = end_of_timeline(table, start.timeline, start.position)?;
        let (sender, messages) = mpsc::channel(1);
        let (requests, _) = mpsc::channel(1);
        let (acknowledge, vitals) = acknowledgements(start);
        let (reader, writer) = (walsender.reader, walsender.writer);
        let queue_room = options.dead_after;
        Ok(ReplicationStream {
            messages,
            requests,
            acknowledge,
            vitals,
            reader: tokio::spawn(async move {
                let queued = Ok(Queued { message: end, _room: None });
                // The queue is empty and has room for one, so this does not wait.
                let sent = sender.send_timeout(queued, queue_room).await;
                sent.is_ok().then_some(reader)
            }),
            writer: tokio::spawn(async move { Some(writer) }),
            server_version: walsender.server_version,
            ended: false,
        })
    }

    /// The next message. Nothing is lost when the call is given up.
    ///
    /// # Errors
    /// `Unavailable` when the server went away or is silent; `Corrupt` when the stream has a gap; what the server
    /// reported. After an error, as after a last message, there is nothing more.
    pub async fn next(&mut self) -> Result<Message, WalSenderError> {
        if self.ended {
            return Err(WalSenderError::Ended);
        }
        let message = match self.messages.recv().await {
            Some(Ok(queued)) => queued.message,
            Some(Err(error)) => {
                self.ended = true;
                return Err(error);
            }
            None => {
                self.ended = true;
                return Err(WalSenderError::Closed);
            }
        };
        match &message {
            Message::WalData { start, data, .. } => self.vitals.set_delivered(Lsn(start.0 + data.len() as u64)),
            Message::Keepalive { .. } => {}
            Message::EndOfTimeline { .. } | Message::ServerStopped => self.ended = true,
        }
        Ok(message)
    }

    /// The handle to say how far the consumer is.
    pub fn acknowledge(&self) -> AckHandle {
        self.acknowledge.clone()
    }

    /// The connection for further commands, after [`Message::EndOfTimeline`] was taken.
    ///
    /// # Errors
    /// [`WalSenderError::OutOfStep`] at any other time.
    pub async fn into_walsender(mut self) -> Result<WalSender, WalSenderError> {
        if !self.ended {
            return Err(WalSenderError::OutOfStep);
        }
        let reader = (&mut self.reader).await.ok().flatten();
        // Only a reader that saw the end of the timeline has asked the writer to end as well.
        let Some(reader) = reader else {
            return Err(WalSenderError::OutOfStep);
        };
        let writer = (&mut self.writer).await.ok().flatten().ok_or(WalSenderError::OutOfStep)?;
        let server_version = std::mem::take(&mut self.server_version);
        Ok(WalSender { reader, writer, server_version, in_command: false })
    }

    /// Sends a last feedback and says goodbye, for at most a few seconds.
    pub async fn close(mut self) {
        let goodbye = async {
            if self.requests.send(Request::Terminate).await.is_ok() {
                // Whether the task ended well does not matter: the connection is given up either way.
                drop((&mut self.writer).await);
            }
        };
        if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
            tracing::debug!("the server did not take our goodbye in time");
        }
    }
}

impl Drop for ReplicationStream {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

fn acknowledgements(start: &StreamStart) -> (AckHandle, Arc<Vitals>) {
    let vitals = Arc::new(Vitals::new(start.position.max(start.released)));
    let first = Acknowledged { received: start.released, released: start.released };
    (AckHandle::new(first, Arc::clone(&vitals)), vitals)
}

/// Checks what the server says about the end of `timeline`.
fn end_of_timeline(table: &ResultSet, timeline: TimelineId, received: Lsn) -> Result<Message, WalSenderError> {
    if table.is_empty() {
        return Err(WalSenderError::Protocol(format!("timeline {timeline} ended without a next one")));
    }
    let (next, at) = table.next_timeline()?;
    if next <= timeline || at > received {
        return Err(WalSenderError::BadSwitch { timeline, next, at, received });
    }
    Ok(Message::EndOfTimeline { next_timeline: next, next_start: at })
}

/// The task that reads from the server.
struct Reader {
    frames: FrameReader,
    messages: mpsc::Sender<Result<Queued, WalSenderError>>,
    requests: mpsc::Sender<Request>,
    vitals: Arc<Vitals>,
    room: Arc<Semaphore>,
    buffer: usize,
    timeline: TimelineId,
    expected: Lsn,
    dead_after: Duration,
}

impl Reader {
    /// Reads to the end of the stream; gives the receiving side back when the connection can go on.
    async fn run(mut self) -> Option<FrameReader> {
        let last = self.read_messages().await;
        let goes_on = matches!(last, Ok(Some(Message::EndOfTimeline { .. })));
        // The receiver is gone when the stream was dropped; then there is nobody to tell.
        let told = match last {
            Ok(Some(message)) => self.messages.send(Ok(Queued { message, _room: None })).await.is_ok(),
            Ok(None) => false,
            Err(error) => self.messages.send(Err(error)).await.is_ok(),
        };
        if goes_on && told {
            return Some(self.frames);
        }
        // A feedback task that is already gone needs no stopping.
        self.requests.send(Request::Stop).await.ok();
        None
    }

    /// Reads up to the last message; none when the consumer is gone.
    async fn read_messages(&mut self) -> Result<Option<Message>, WalSenderError> {
        loop {
            let Frame { tag, body } = self.next_frame().await?;
            match tag {
                b'd' => {
                    let message = self.decode(body)?;
                    let size = match &message {
                        Message::WalData { data, .. } => data.len().clamp(1, self.buffer),
                        _ => 1,
                    };
                    let size = u32::try_from(size).unwrap_or(u32::MAX);
                    let room = Arc::clone(&self.room).acquire_many_owned(size).await.ok();
                    if self.messages.send(Ok(Queued { message, _room: room })).await.is_err() {
                        return Ok(None);
                    }
                }
                b'c' => return self.switch_timeline().await.map(Some),
                // The end of the command without the end of the copy: the server shuts down and we have all.
                b'C' => return Ok(Some(Message::ServerStopped)),
                b'E' => {
                    let command = format!("the server ended the stream at {}", self.expected);
                    return Err(WalSenderError::Server { command, source: Box::new(ServerError::parse(&body)) });
                }
                b'N' | b'S' => {}
                tag => return Err(WalSenderError::Protocol(format!("message `{}` in a stream", char::from(tag)))),
            }
        }
    }

    /// The next frame, or an error once the server has been silent for too long.
    async fn next_frame(&mut self) -> Result<Frame, WalSenderError> {
        self.vitals.set_waiting(true);
        let mut deadline = Instant::now() + self.dead_after;
        let mut feedback_lives = true;
        let frame = loop {
            tokio::select! {
                biased;
                frame = self.frames.next() => break frame,
                () = self.requests.closed(), if feedback_lives => {
                    feedback_lives = false;
                    deadline = deadline.min(Instant::now() + LAST_WORDS);
                }
                () = tokio::time::sleep_until(deadline) => {
                    let silent = WalSenderError::Silent { waited: self.dead_after };
                    break Err(if feedback_lives { silent } else { WalSenderError::Closed });
                }
            }
        };
        self.vitals.set_waiting(false);
        frame
    }

    fn decode(&mut self, mut body: Bytes) -> Result<Message, WalSenderError> {
        let kind = body.try_get_u8().ok();
        let short = |_| WalSenderError::Protocol("a stream message is cut off".to_owned());
        match kind {
            Some(b'w') => {
                let start = Lsn(body.try_get_u64().map_err(short)?);
                let server_end = Lsn(body.try_get_u64().map_err(short)?);
                let server_time = timestamp_from_postgres(body.try_get_i64().map_err(short)?);
                if start != self.expected {
                    return Err(WalSenderError::Gap { expected: self.expected, found: start });
                }
                self.expected = Lsn(start.0.saturating_add(body.len() as u64));
                Ok(Message::WalData { start, server_end, server_time, data: body })
            }
            Some(b'k') => {
                let server_end = Lsn(body.try_get_u64().map_err(short)?);
                let server_time = timestamp_from_postgres(body.try_get_i64().map_err(short)?);
                let reply_requested = body.try_get_u8().map_err(short)? != 0;
                if reply_requested {
                    // When the queue is full a feedback is about to be sent anyway.
                    self.requests.try_send(Request::Reply).ok();
                }
                Ok(Message::Keepalive { server_end, server_time, reply_requested })
            }
            _ => Err(WalSenderError::Protocol("an unknown stream message".to_owned())),
        }
    }

    /// Ends the copy on our side too and reads what follows this timeline.
    async fn switch_timeline(&mut self) -> Result<Message, WalSenderError> {
        if self.requests.send(Request::CopyDone).await.is_err() {
            return Err(WalSenderError::Closed);
        }
        let command = format!("the end of timeline {}", self.timeline);
        let reply = tokio::time::timeout(self.dead_after, read_reply(&mut self.frames, &command)).await;
        match reply.map_err(|_| WalSenderError::Silent { waited: self.dead_after })?? {
            Reply::Table(table) => end_of_timeline(&table, self.timeline, self.expected),
            Reply::CopyBoth => Err(WalSenderError::Protocol("a stream at the end of a timeline".to_owned())),
        }
    }
}
