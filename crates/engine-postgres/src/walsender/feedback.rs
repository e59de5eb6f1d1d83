//! What the server is told about our progress, from a task of its own.
//!
//! Invariants: `flush` is never more than the caller released, and that never more than the caller was given; the
//! server hears from us at least once an interval however long the consumer stalls, so that it neither gives the
//! connection up nor stops waiting for us at its shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use breakwater_core::{Lsn, Timestamp};
use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::error::WalSenderError;
use super::frame::FrameWriter;
use crate::wal::event::timestamp_to_postgres;

/// How far the consumer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Up to where the consumer has taken the log over; reported as *write*.
    pub received: Lsn,
    /// Up to where the server may forget the log; reported as *flush*.
    pub released: Lsn,
}

/// The consumer's side: says how far it is. Clones speak for the same stream.
#[derive(Clone, Debug)]
pub struct AckHandle {
    values: Arc<watch::Sender<Acknowledged>>,
    vitals: Arc<Vitals>,
}

impl AckHandle {
    pub(super) fn new(start: Acknowledged, vitals: Arc<Vitals>) -> Self {
        AckHandle { values: Arc::new(watch::Sender::new(start)), vitals }
    }

    /// Everything before `lsn` was taken over. Told to the server with the next feedback. Never goes back.
    pub fn received(&self, lsn: Lsn) {
        let lsn = lsn.min(self.vitals.delivered());
        self.values.send_if_modified(|values| {
            values.received = values.received.max(lsn);
            false
        });
    }

    /// Everything before `lsn` is safe elsewhere: the server may forget it, and commits that wait for it may return. Told
    /// to the server at once. Never goes back; what was not delivered yet cannot be released.
    pub fn released(&self, lsn: Lsn) {
        let lsn = lsn.min(self.vitals.delivered());
        self.values.send_if_modified(|values| {
            values.received = values.received.max(lsn);
            let advanced = lsn > values.released;
            values.released = values.released.max(lsn);
            advanced
        });
    }

    /// What the server is told at present.
    pub fn current(&self) -> Acknowledged {
        *self.values.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Acknowledged> {
        self.values.subscribe()
    }
}

/// What the tasks of a stream know of each other.
#[derive(Debug)]
pub(super) struct Vitals {
    /// The end of what the consumer was given.
    delivered: AtomicU64,
    started: Instant,
    /// Milliseconds from `started` to when the reader began to wait for the server; `NOT_WAITING` when it waits for the
    /// consumer.
    waiting_since: AtomicU64,
}

const NOT_WAITING: u64 = u64::MAX;

impl Vitals {
    pub(super) fn new(delivered: Lsn) -> Self {
        Vitals {
            delivered: AtomicU64::new(delivered.0),
            started: Instant::now(),
            waiting_since: AtomicU64::new(NOT_WAITING),
        }
    }

    pub(super) fn delivered(&self) -> Lsn {
        Lsn(self.delivered.load(Ordering::Acquire))
    }

    pub(super) fn set_delivered(&self, end: Lsn) {
        self.delivered.fetch_max(end.0, Ordering::AcqRel);
    }

    pub(super) fn set_waiting(&self, waiting: bool) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NOT_WAITING - 1);
        self.waiting_since.store(if waiting { now } else { NOT_WAITING }, Ordering::Release);
    }

    /// Whether the server has been silent for `limit` though we listened.
    fn is_silent_for(&self, limit: Duration) -> bool {
        let since = self.waiting_since.load(Ordering::Acquire);
        since != NOT_WAITING && self.started.elapsed().saturating_sub(Duration::from_millis(since)) >= limit
    }
}

/// What the other parts of a stream ask of the feedback task.
#[derive(Debug)]
pub(super) enum Request {
    /// The server wants to hear from us now.
    Reply,
    /// The server ended the stream of this timeline; answer likewise and hand the connection back.
    CopyDone,
    /// Say goodbye.
    Terminate,
    /// The reader ended.
    Stop,
}

/// Sends feedback until it is asked to end; gives the sending side back after `CopyDone`.
pub(super) async fn send_feedback(
    mut writer: FrameWriter,
    mut values: watch::Receiver<Acknowledged>,
    mut requests: mpsc::Receiver<Request>,
    vitals: Arc<Vitals>,
    interval: Duration,
    dead_after: Duration,
) -> Option<FrameWriter> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut handles_live = true;
    loop {
        let request = tokio::select! {
            request = requests.recv() => Some(request.unwrap_or(Request::Stop)),
            changed = values.changed(), if handles_live => {
                handles_live = changed.is_ok();
                None
            }
            _ = ticks.tick() => None,
        };
        if matches!(request, Some(Request::Stop)) {
            return None;
        }
        // A server that hears from us regularly has no reason to speak, so we ask it to when it has been quiet.
        let ask = vitals.is_silent_for(dead_after / 3);
        let mut bytes = status(*values.borrow_and_update(), ask);
        match request {
            Some(Request::CopyDone) => frontend::copy_done(&mut bytes),
            Some(Request::Terminate) => frontend::terminate(&mut bytes),
            _ => {}
        }
        match tokio::time::timeout(dead_after, writer.send(&bytes)).await {
            Ok(Ok(())) => {}
            // The reader notices that this task is gone, and whatever the server had to say about it.
            Ok(Err(error)) => {
                tracing::debug!(error = %breakwater_core::Chain(&error), "feedback cannot be sent");
                return None;
            }
            Err(_) => {
                tracing::debug!("the server takes no feedback");
                return None;
            }
        }
        match request {
            Some(Request::CopyDone) => return Some(writer),
            Some(Request::Terminate) => {
                end_sending(writer).await;
                return None;
            }
            _ => ticks.reset(),
        }
    }
}

async fn end_sending(mut writer: FrameWriter) {
    if let Err(error) = writer.shutdown().await {
        let error: WalSenderError = error;
        tracing::debug!(error = %breakwater_core::Chain(&error), "the connection was already closed");
    }
}

/// A standby status update.
fn status(values: Acknowledged, ask_for_reply: bool) -> BytesMut {
    const BODY: u32 = 34;
    let mut bytes = BytesMut::with_capacity(64);
    bytes.put_u8(b'd');
    bytes.put_u32(4 + BODY);
    bytes.put_u8(b'r');
    bytes.put_u64(values.received.0);
    bytes.put_u64(values.released.0);
    // Nothing is applied here; zero keeps the server from counting us as a standby that replays.
    bytes.put_u64(0);
    bytes.put_i64(timestamp_to_postgres(wall_clock()));
    bytes.put_u8(u8::from(ask_for_reply));
    bytes
}

/// The clock of this machine; the server uses it for its lag statistics only, nothing is decided by it.
fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_delivered_can_be_released_and_nothing_goes_back() {
        let vitals = Arc::new(Vitals::new(Lsn(100)));
        let handle = AckHandle::new(Acknowledged::default(), Arc::clone(&vitals));
        handle.released(Lsn(500));
        assert_eq!(handle.current(), Acknowledged { received: Lsn(100), released: Lsn(100) });
        vitals.set_delivered(Lsn(1000));
        handle.received(Lsn(900));
        handle.released(Lsn(500));
        handle.released(Lsn(400));
        assert_eq!(handle.current(), Acknowledged { received: Lsn(900), released: Lsn(500) });
    }

    #[test]
    fn a_status_update_is_laid_out_as_documented() {
        let bytes = status(Acknowledged { received: Lsn(7), released: Lsn(5) }, true);
        assert_eq!(bytes.len(), 1 + 4 + 34);
        assert_eq!(&bytes[..6], b"d\0\0\0\x26r");
        assert_eq!(&bytes[6..30], [[0, 0, 0, 0, 0, 0, 0, 7], [0, 0, 0, 0, 0, 0, 0, 5], [0; 8]].concat());
        assert_eq!(bytes[38], 1);
    }
}
