//! Asks each place at short intervals whether it is there, and whether it is still the place that was joined.
//!
//! Invariant: a region taken away shows within two intervals, also when nothing is written; an empty or foreign place is
//! never written to.

use std::sync::Arc;

use breakwater_core::{Chain, ErrorClass, RegionId, RepositoryId};
use breakwater_storage::StorageErrorKind;
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior};

use super::Set;
use super::error::Failure;
use super::region::Region;

/// The object that names a place.
const REGION_OBJECT: &str = "repo/region";

/// More than it has.
const REGION_OBJECT_BYTES: u64 = 4096;

/// What `repo/region` says (docs/format.md, section 1).
#[derive(Deserialize)]
struct Identity {
    repository: RepositoryId,
    region: RegionId,
}

/// Probes region number `index` until it is aborted.
pub(super) async fn run(set: Arc<Set>, index: usize) {
    let Some(region) = set.regions.get(index) else { return };
    let mut ticks = tokio::time::interval_at(Instant::now(), set.options.probe_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        note(&set, region, &ask(&set, region).await);
    }
}

/// What a place said of itself.
enum Said {
    /// It is the one that was joined.
    Here,
    /// It is called too often to say more. So it is there, but whether it is the right one is as unknown as before.
    Busy(Failure),
    /// Nothing, or that it is another one.
    Away(Failure),
}

/// Keeps in mind what a region answered.
fn note(set: &Set, region: &Region, said: &Said) {
    let now = set.options.clock.now();
    match said {
        Said::Here => {
            let back = region.health().probe_passed(now);
            if back {
                tracing::info!(region = %region.handle.name, "region answers");
                region.wake.notify_one();
                set.comparison.news.notify_one();
            } else if region.lane().is_idle() {
                // Nothing is left that could show that writes work again; the next one will tell.
                region.health().failing = false;
            }
        }
        Said::Busy(failure) if region.health().verified => {
            region.health().last_error = Some((failure.clone(), now));
        }
        Said::Busy(failure) | Said::Away(failure) => {
            let was_away = region.health().is_away();
            let was_open = region.health().verified;
            region.health().probe_failed(failure.clone(), now);
            region.gone.notify_waiters();
            if !was_away {
                // Nobody waits any more until he was compared with this one.
                set.wake_all();
            }
            if was_open {
                tracing::warn!(region = %region.handle.name, error = %failure, "region does not answer");
            }
        }
    }
}

impl Set {
    /// Asks region number `index` now whether it is there and the one that was joined: what an empty mount says of an
    /// object is no answer.
    pub(super) async fn confirm(&self, index: usize) -> Result<(), Failure> {
        let Some(region) = self.regions.get(index) else { return Ok(()) };
        let said = ask(self, region).await;
        note(self, region, &said);
        match said {
            Said::Here => Ok(()),
            Said::Busy(failure) | Said::Away(failure) => Err(failure),
        }
    }
}

async fn ask(set: &Set, region: &Region) -> Said {
    // Of known and small size, so that it waits for nobody's transfer.
    let call = region.handle.storage.get_tail(REGION_OBJECT, REGION_OBJECT_BYTES);
    let bytes = match tokio::time::timeout(set.options.probe_timeout, call).await {
        Ok(Ok((bytes, _))) => bytes,
        Ok(Err(error)) if error.kind() == StorageErrorKind::NotFound => {
            let text = format!(
                "{} holds no repository; hint: is the place mounted, and is it the one that was joined?",
                region.handle.storage.location()
            );
            return Said::Away(Failure::new(ErrorClass::Unavailable, text));
        }
        Ok(Err(error)) => {
            let failure = Failure::new(error.class(), Chain(&error).to_string());
            let busy = error.kind() == StorageErrorKind::Throttled;
            return if busy { Said::Busy(failure) } else { Said::Away(failure) };
        }
        Err(_) => {
            let text = format!("no answer within {} s", set.options.probe_timeout.as_secs_f32());
            return Said::Away(Failure::new(ErrorClass::Unavailable, text));
        }
    };
    let identity: Identity = match serde_json::from_slice(&bytes) {
        Ok(identity) => identity,
        Err(error) => {
            return Said::Away(Failure::new(ErrorClass::Corrupt, format!("`{REGION_OBJECT}` cannot be read: {error}")));
        }
    };
    let foreign = |what: &str| {
        let text = format!("another {what} lives at {}", region.handle.storage.location());
        Said::Away(Failure::new(ErrorClass::Refused, text))
    };
    if set.options.repository.is_some_and(|expected| expected != identity.repository) {
        return foreign("repository");
    }
    if identity.region != region.handle.id {
        return foreign("region");
    }
    Said::Here
}
