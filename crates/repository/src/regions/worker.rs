//! What runs one region's queue: puts of buffers, copies from other regions, deletes of superseded tails.
//!
//! Invariant: after a failure nothing is started in the region until its backoff is over; other regions do not notice.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Chain, ErrorClass};
use breakwater_runtime::{RetryPolicy, SystemEntropy};
use breakwater_storage::{Payload, Storage, StorageErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tracing::Instrument;

use super::Set;
use super::copy::{self, Copied};
use super::error::Failure;
use super::lane::{Slots, Work};
use super::order::Place;
use super::region::Region;
use super::shipment::Outcome;

/// Up to this size the bytes of a differing object are handed to the caller, who decides.
const SMALL: u64 = 1 << 20;
/// Compared at once when a name is already taken.
const COMPARE_STEP: u64 = 4 << 20;
/// How long a name that no reachable region holds waits before it is tried again.
const NO_SOURCE_WAIT: Duration = Duration::from_secs(5);

/// What a try at one name came to.
#[derive(Debug)]
pub(super) enum Tried {
    /// The region holds it; the number of bytes that were sent.
    Held(u64),
    /// The region holds other bytes under the name.
    Differs(Bytes),
    /// The region failed.
    Failed(Failure),
    /// The region is well, but no other region could deliver the bytes.
    NoSource(Failure),
    /// No region has it any more.
    Vanished,
    /// The writer let go of the buffer.
    Cancelled,
}

enum Done {
    Tried { work: Work, tried: Tried, took: Duration },
    Deleted { name: String, failure: Option<Failure> },
}

/// Runs the queue of region number `index` until it is aborted.
pub(super) async fn run(set: Arc<Set>, index: usize) {
    let Some(region) = set.regions.get(index) else { return };
    let mut running: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
    loop {
        if region.is_open() {
            let slots = Slots { direct: set.options.puts, copies: set.options.copies };
            let gate = set.gate(index);
            let picked = region.lane().pick(Instant::now(), slots, &gate);
            if region.lane().waiting_commits().iter().any(|scope| !gate.is_open(scope)) {
                set.comparison.wanted.notify_one();
            }
            for work in picked {
                running.push(attempt(&set, index, work).boxed());
            }
            let next_delete = region.lane().next_delete();
            if let Some(name) = next_delete {
                running.push(delete(region, name).boxed());
            }
        }
        tokio::select! {
            Some(done) = running.next(), if !running.is_empty() => match done {
                Done::Tried { work, tried, took } => finish(&set, index, work, tried, took),
                Done::Deleted { name, failure } => {
                    region.lane().delete_ended();
                    if let Some(failure) = failure {
                        // A superseded tail that stays does no harm: readers prefer the segment.
                        tracing::warn!(region = %region.handle.name, object = %name, error = %failure, "superseded tail not deleted");
                    }
                }
            },
            () = region.wake.notified() => {}
            () = due(region) => {}
        }
    }
}

/// Returns when something that waits for its time may start.
async fn due(region: &Region) {
    let next = region.lane().next_start();
    let closed = region.health().not_before.filter(|at| *at > Instant::now());
    match (next, closed) {
        (None, None) => std::future::pending().await,
        (Some(next), Some(closed)) => tokio::time::sleep_until(next.max(closed)).await,
        (Some(at), None) => tokio::time::sleep_until(at.max(Instant::now() + Duration::from_millis(10))).await,
        (None, Some(at)) => tokio::time::sleep_until(at).await,
    }
}

async fn attempt(set: &Set, index: usize, work: Work) -> Done {
    let begun = Instant::now();
    let tried = match (&work.shipment, set.regions.get(index)) {
        (_, None) => Tried::Cancelled,
        (Some(shipment), Some(region)) => {
            let payload = shipment.payload.clone();
            tokio::select! {
                biased;
                () = shipment.cancelled() => Tried::Cancelled,
                tried = put(&region.handle.storage, &work.name, payload).instrument(shipment.span.clone()) => tried,
            }
        }
        (None, Some(_)) => match copy::copy(set, index, &work.name, work.size).await {
            Copied::Put(tried) => tried,
            Copied::Already => Tried::Held(0),
            Copied::NoSource(failure) => Tried::NoSource(failure),
            Copied::Vanished => Tried::Vanished,
        },
    };
    Done::Tried { work, tried, took: begun.elapsed() }
}

async fn delete(region: &Region, name: String) -> Done {
    let failure = match region.handle.storage.delete(&name).await {
        Ok(()) => None,
        Err(error) if error.kind() == StorageErrorKind::NotFound => None,
        Err(error) => Some(Failure::new(error.class(), Chain(&error).to_string())),
    };
    Done::Deleted { name, failure }
}

/// Puts `payload` under `name`; a name that is taken is compared.
pub(super) async fn put(storage: &Storage, name: &str, payload: Payload) -> Tried {
    match storage.create(name, payload.clone()).await {
        Ok(()) => Tried::Held(payload.len()),
        Err(error) if error.kind() == StorageErrorKind::AlreadyExists => compare(storage, name, &payload).await,
        Err(error) => Tried::Failed(Failure::new(error.class(), Chain(&error).to_string())),
    }
}

async fn compare(storage: &Storage, name: &str, payload: &Payload) -> Tried {
    match same_bytes(storage, name, payload).await {
        Ok(None) => Tried::Held(0),
        Ok(Some(other)) => Tried::Differs(other),
        Err(failure) => Tried::Failed(failure),
    }
}

/// None when the stored bytes equal `payload`; otherwise the stored bytes, if they are few.
async fn same_bytes(storage: &Storage, name: &str, payload: &Payload) -> Result<Option<Bytes>, Failure> {
    let failed = |error: breakwater_storage::StorageError| Failure::new(error.class(), Chain(&error).to_string());
    let stored = storage.head(name).await.map_err(failed)?.size;
    if stored <= SMALL {
        let bytes = storage.get(name).await.map_err(failed)?;
        let equal = bytes.as_ref() == payload.to_bytes().as_ref();
        return Ok((!equal).then_some(bytes));
    }
    if stored != payload.len() {
        return Ok(Some(Bytes::new()));
    }
    let mine = payload.to_bytes();
    let mut at = 0;
    while at < stored {
        let end = stored.min(at + COMPARE_STEP);
        let piece = storage.get_range(name, at..end).await.map_err(failed)?;
        let (from, to) = (usize::try_from(at).unwrap_or(usize::MAX), usize::try_from(end).unwrap_or(usize::MAX));
        if mine.get(from..to) != Some(piece.as_ref()) {
            return Ok(Some(Bytes::new()));
        }
        at = end;
    }
    Ok(None)
}

fn finish(set: &Set, index: usize, work: Work, tried: Tried, took: Duration) {
    let Some(region) = set.regions.get(index) else { return };
    let now = set.options.clock.now();
    let note = |outcome| {
        if let Some(shipment) = &work.shipment {
            shipment.note(index, outcome);
        }
    };
    match tried {
        Tried::Held(sent) => {
            region.lane().held(work.id);
            region.health().succeeded(now, sent, took);
            note(Outcome::Held);
        }
        Tried::Differs(bytes) => {
            region.lane().drop_entry(work.id);
            region.health().succeeded(now, 0, took);
            if work.shipment.is_none() {
                let text = format!("holds different bytes under the name `{}`", work.name);
                tracing::error!(region = %region.handle.name, object = %work.name, "holds different bytes than another region");
                region.health().last_error = Some((Failure::new(ErrorClass::Conflict, text), now));
            }
            note(Outcome::Differs(bytes));
        }
        Tried::Failed(failure) => {
            tracing::debug!(region = %region.handle.name, object = %work.name, error = %failure, "region failed");
            let policy = RetryPolicy::new(u32::MAX, set.options.backoff, set.options.backoff_cap);
            // Half of the wait is fixed, so that a failing region is never hammered.
            let backoff = |failures| (policy.delay(failures, &SystemEntropy) + ceiling(&policy, failures)) / 2;
            region.health().failed(failure.clone(), now, backoff);
            region.lane().put_back(work.id, now, None);
            note(Outcome::Failed(failure));
        }
        Tried::NoSource(failure) => {
            region.lane().put_back(work.id, now, Some(Instant::now() + NO_SOURCE_WAIT));
            region.health().last_error = Some((failure, now));
        }
        Tried::Vanished => {
            region.lane().drop_entry(work.id);
            // A tail goes when its segment is there; anything else that was acknowledged must not.
            if !Place::is_tail(&work.name) {
                tracing::error!(region = %region.handle.name, object = %work.name, "owed object is in no region any more");
                let text = format!("`{}` was owed here and is in no region any more", work.name);
                region.health().last_error = Some((Failure::new(ErrorClass::NotFound, text), now));
            }
        }
        Tried::Cancelled => region.lane().put_back(work.id, now, None),
    }
}

fn ceiling(policy: &RetryPolicy, failures: u32) -> Duration {
    let factor = 2u32.checked_pow(failures).unwrap_or(u32::MAX);
    policy.base.checked_mul(factor).unwrap_or(policy.cap).min(policy.cap)
}
