//! One object on its way into all regions.
//!
//! Invariant: the buffer lives as long as somebody holds the shipment. Lanes hold it weakly, so that a region that is
//! behind never keeps bytes in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use breakwater_storage::Payload;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tracing::Span;

use super::error::Failure;

/// How far one region has come with a shipment.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The put has not been answered yet.
    Waiting,
    /// Not tried from the buffer: the region owes older names, and enough others are clear.
    Deferred,
    /// The region holds these bytes.
    Held,
    /// The region holds other bytes under the name; given for small objects, empty for large ones.
    Differs(Bytes),
    /// Not tried: the region is away, or waits after a failure with another object.
    Closed(Failure),
    /// The last try failed.
    Failed(Failure),
}

/// An object, its bytes, and what the regions said.
#[derive(Debug)]
pub(super) struct Shipment {
    pub(super) name: String,
    pub(super) payload: Payload,
    pub(super) size: u64,
    /// Of whoever writes the object: its puts belong to that trace.
    pub(super) span: Span,
    outcomes: Mutex<Vec<Outcome>>,
    changed: Notify,
    cancelled: watch::Sender<bool>,
}

impl Shipment {
    pub(super) fn new(name: &str, payload: Payload, outcomes: Vec<Outcome>) -> Shipment {
        let size = payload.len();
        let (cancelled, _) = watch::channel(false);
        Shipment {
            name: name.to_owned(),
            payload,
            size,
            span: Span::current(),
            outcomes: Mutex::new(outcomes),
            changed: Notify::new(),
            cancelled,
        }
    }

    /// What each region said, in the order of the set.
    pub(super) fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what region number `region` said and wakes the one who waits.
    pub(super) fn note(&self, region: usize, outcome: Outcome) {
        if let Some(slot) = self.outcomes().get_mut(region) {
            *slot = outcome;
        }
        self.changed.notify_one();
    }

    /// Waits until an outcome changed since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes puts in progress stop.
    pub(super) fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Returns once [`cancel`](Self::cancel) was called.
    pub(super) async fn cancelled(&self) {
        // The sender lives in `self`, so waiting can end in no other way.
        let mut receiver = self.cancelled.subscribe();
        let _ = receiver.wait_for(|cancelled| *cancelled).await.map(|_| ());
    }
}
