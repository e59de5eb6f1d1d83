//! Writing one object into all regions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use breakwater_core::{ErrorClass, RegionId};
use breakwater_storage::Payload;
use bytes::Bytes;
use tokio::time::Instant;

use super::error::{Failure, RegionError, RegionFailure};
use super::order::{Place, Rank};
use super::region::Role;
use super::shipment::{Outcome, Shipment};
use super::{RegionSet, Set};

/// Where an acknowledged object lies at the moment of the acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durability {
    /// Regions that hold it.
    pub held: Vec<RegionId>,
    /// Regions that will get it.
    pub owed: Vec<RegionId>,
}

/// What one region answered to a create whose first writer decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// The region holds the caller's bytes.
    Created,
    /// The region already holds these other bytes (empty when they are larger than 1 MiB).
    Exists(Bytes),
    /// The region is behind; it gets the object by itself once another region holds it.
    Owed,
    /// The region did not answer, with the last error.
    Unreachable(Failure),
}

/// A shipment whose buffer the writer holds. Dropping it lets go: what some region holds becomes debt elsewhere.
struct Voyage {
    set: Arc<Set>,
    shipment: Arc<Shipment>,
}

impl Drop for Voyage {
    fn drop(&mut self) {
        let now = self.set.options.clock.now();
        let held = |outcome: &Outcome| matches!(outcome, Outcome::Held | Outcome::Differs(_));
        let held_somewhere = self.shipment.outcomes().iter().any(held);
        for region in &self.set.regions {
            region.lane().settle(&self.shipment, held_somewhere, now);
        }
        self.shipment.cancel();
        for region in &self.set.regions {
            region.wake.notify_one();
        }
    }
}

/// How many sync regions stand where.
struct Tally {
    held: usize,
    waiting: usize,
    denied: usize,
    sync: usize,
}

impl RegionSet {
    /// Creates `name` in every region; returns when `commit` sync regions hold it. A region that already holds the same
    /// bytes counts, one that holds other bytes is a [`RegionError::Conflict`]. While too few answer it goes on trying
    /// until `within` has passed.
    ///
    /// Dropping the future gives up: regions that hold the object keep it, and it becomes debt of the others.
    pub async fn create(&self, name: &str, payload: Payload, within: Duration) -> Result<Durability, RegionError> {
        let begun = Instant::now();
        let voyage = self.depart(name, payload);
        let mut urged = false;
        loop {
            if let Some(region) = self.find(&voyage, |outcome| matches!(outcome, Outcome::Differs(_))) {
                return Err(RegionError::Conflict { name: name.to_owned(), region });
            }
            let tally = self.tally(&voyage);
            if tally.held >= self.set.commit {
                break;
            }
            if tally.held + tally.waiting < self.set.commit && !urged {
                self.urge(&voyage);
                urged = true;
            }
            // Waiting does not bring rights; everything else may pass.
            let hopeless = tally.sync - tally.denied < self.set.commit;
            let patience = begun + self.set.options.grace;
            let limit = if urged { begun + within } else { patience.min(begun + within) };
            if !hopeless && tokio::time::timeout_at(limit, voyage.shipment.changed()).await.is_ok() {
                continue;
            }
            if hopeless || urged || begun.elapsed() >= within {
                return Err(self.too_few(&voyage, begun.elapsed()));
            }
            // The regions that were clear take their time: those that are behind may help.
            self.urge(&voyage);
            urged = true;
        }
        let durability = self.durability(&voyage);
        self.linger(voyage);
        Ok(durability)
    }

    /// Creates `name` in every region where no other bytes hold it, and says what each region answered: what registers
    /// and claims are made of. Returns when all have answered, or enough have and the grace is over, or `within` has
    /// passed.
    pub async fn create_decided(&self, name: &str, payload: Payload, within: Duration) -> Vec<(RegionId, Decided)> {
        let begun = Instant::now();
        let voyage = self.depart(name, payload);
        self.urge(&voyage);
        let mut limit = begun + within;
        let mut enough = false;
        loop {
            let outcomes = voyage.shipment.outcomes().clone();
            let decided = |outcome: &Outcome| matches!(outcome, Outcome::Held | Outcome::Differs(_));
            let sync = self.handles().zip(&outcomes).filter(|(handle, _)| handle.role == Role::Sync);
            let settled = sync.filter(|(_, outcome)| decided(outcome)).count();
            if settled >= self.set.commit && !enough {
                enough = true;
                limit = limit.min(Instant::now() + self.set.options.grace);
            }
            let open = |outcome: &Outcome| matches!(outcome, Outcome::Waiting | Outcome::Deferred);
            if outcomes.iter().all(decided) || (enough && !outcomes.iter().any(open)) {
                break;
            }
            if tokio::time::timeout_at(limit, voyage.shipment.changed()).await.is_err() {
                break;
            }
        }
        let outcomes = voyage.shipment.outcomes().clone();
        self.handles()
            .zip(outcomes)
            .map(|(handle, outcome)| (handle.id, self.decided(handle.id, name, outcome)))
            .collect()
    }

    fn decided(&self, id: RegionId, name: &str, outcome: Outcome) -> Decided {
        match outcome {
            Outcome::Held => Decided::Created,
            Outcome::Differs(bytes) => Decided::Exists(bytes),
            Outcome::Closed(failure) | Outcome::Failed(failure) => Decided::Unreachable(failure),
            Outcome::Waiting | Outcome::Deferred => {
                let index = self.handles().position(|handle| handle.id == id);
                let region = index.and_then(|index| self.set.regions.get(index));
                let closed = region.and_then(super::region::Region::closed_because);
                match closed.or_else(|| self.not_compared(index?, name)) {
                    Some(failure) => Decided::Unreachable(failure),
                    None => Decided::Owed,
                }
            }
        }
    }

    /// Why a manifest is held back from region number `index` although it answers; none when it is not.
    fn not_compared(&self, index: usize, name: &str) -> Option<Failure> {
        let place = Place::of(name);
        if place.rank != Rank::Commit || self.set.gate(index).is_open(place.scope) {
            return None;
        }
        let text = "has not been compared with the other regions yet, so what it misses is not known; hint: can they all \
                    be listed?";
        Some(Failure::new(ErrorClass::Unavailable, text))
    }

    /// `names` lie within `covering`, which is durable: each region deletes them once it holds `covering`, and those it
    /// misses leave its debt.
    pub fn supersede(&self, covering: &str, names: &[String]) {
        for region in &self.set.regions {
            region.lane().supersede(covering, names);
            region.wake.notify_one();
        }
    }

    /// Waits until no region has anything queued; false when `within` has passed before.
    pub async fn drained(&self, within: Duration) -> bool {
        let limit = Instant::now() + within;
        while self.set.regions.iter().any(|region| !region.lane().is_idle()) {
            if Instant::now() >= limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Makes `name`, of `size` bytes, a debt of the region with this id: it was found missing there.
    pub fn owe(&self, id: RegionId, name: &str, size: u64) {
        if let Some(region) = self.set.regions.iter().find(|region| region.handle.id == id) {
            region.lane().owe(name, size, self.set.options.clock.now());
            region.wake.notify_one();
        }
    }

    /// Whether the region with this id has `name` still to get.
    pub fn misses(&self, id: RegionId, name: &str) -> bool {
        self.set.regions.iter().any(|region| region.handle.id == id && region.lane().contains(name))
    }

    /// Queues the object in every region.
    fn depart(&self, name: &str, payload: Payload) -> Voyage {
        let set = &self.set;
        set.comparison.note_leaning(name);
        let clear = set.regions.iter().map(super::region::Region::is_clear).collect::<Vec<_>>();
        let is_sync = |index: usize| set.regions.get(index).is_some_and(|region| region.handle.role == Role::Sync);
        let clear_sync = clear.iter().enumerate().filter(|(index, clear)| **clear && is_sync(*index)).count();
        let enough = clear_sync >= set.commit;
        let outcome = |(region, clear): (&super::region::Region, &bool)| match region.closed_because() {
            Some(failure) => Outcome::Closed(failure),
            None if *clear || !enough => Outcome::Waiting,
            None => Outcome::Deferred,
        };
        let outcomes = set.regions.iter().zip(&clear).map(outcome).collect();
        let shipment = Arc::new(Shipment::new(name, payload, outcomes));
        for (region, clear) in set.regions.iter().zip(&clear) {
            region.lane().enqueue(&shipment, *clear || !enough);
            region.wake.notify_one();
        }
        Voyage { set: Arc::clone(set), shipment }
    }

    /// Lets regions that owe older names be served from the buffer too.
    fn urge(&self, voyage: &Voyage) {
        for outcome in voyage.shipment.outcomes().iter_mut().filter(|outcome| matches!(outcome, Outcome::Deferred)) {
            *outcome = Outcome::Waiting;
        }
        for region in &self.set.regions {
            region.lane().urge(&voyage.shipment);
            region.wake.notify_one();
        }
    }

    fn tally(&self, voyage: &Voyage) -> Tally {
        let mut tally = Tally { held: 0, waiting: 0, denied: 0, sync: 0 };
        for (handle, outcome) in self.handles().zip(voyage.shipment.outcomes().iter()) {
            if handle.role != Role::Sync {
                continue;
            }
            tally.sync += 1;
            match outcome {
                Outcome::Held => tally.held += 1,
                Outcome::Waiting => tally.waiting += 1,
                Outcome::Failed(failure) if failure.class == ErrorClass::Denied => tally.denied += 1,
                Outcome::Closed(_) | Outcome::Failed(_) | Outcome::Deferred | Outcome::Differs(_) => {}
            }
        }
        tally
    }

    fn find(&self, voyage: &Voyage, wanted: impl Fn(&Outcome) -> bool) -> Option<String> {
        let outcomes = voyage.shipment.outcomes();
        self.handles().zip(outcomes.iter()).find(|(_, outcome)| wanted(outcome)).map(|(handle, _)| handle.name.clone())
    }

    fn too_few(&self, voyage: &Voyage, waited: Duration) -> RegionError {
        let held = self.tally(voyage).held;
        let outcomes = voyage.shipment.outcomes().clone();
        let mut failures = Vec::new();
        for (index, (region, outcome)) in self.set.regions.iter().zip(outcomes).enumerate() {
            let failure = match outcome {
                Outcome::Held | Outcome::Differs(_) => continue,
                Outcome::Closed(failure) | Outcome::Failed(failure) => failure,
                Outcome::Waiting | Outcome::Deferred => {
                    let owed = region.lane().owed().objects;
                    let waits = region.is_open() && owed > 0;
                    let text = if waits {
                        format!("waits for {owed} older objects that no reachable region could deliver yet")
                    } else {
                        "did not answer in time".to_owned()
                    };
                    let known = region.closed_because().or_else(|| self.not_compared(index, &voyage.shipment.name));
                    known.unwrap_or_else(|| Failure::new(ErrorClass::Unavailable, text))
                }
            };
            if region.handle.role == Role::Sync {
                failures.push(RegionFailure { region: region.handle.name.clone(), failure });
            }
        }
        RegionError::TooFew { name: voyage.shipment.name.clone(), needed: self.set.commit, held, waited, failures }
    }

    fn durability(&self, voyage: &Voyage) -> Durability {
        let mut durability = Durability { held: Vec::new(), owed: Vec::new() };
        for (handle, outcome) in self.handles().zip(voyage.shipment.outcomes().iter()) {
            let list = match outcome {
                Outcome::Held => &mut durability.held,
                _ => &mut durability.owed,
            };
            list.push(handle.id);
        }
        durability
    }

    /// Keeps the buffer for the grace where a region is still at it and there is room; otherwise lets go now.
    fn linger(&self, voyage: Voyage) {
        let waits = |voyage: &Voyage| voyage.shipment.outcomes().iter().any(|item| matches!(item, Outcome::Waiting));
        if !waits(&voyage) {
            return;
        }
        let size = voyage.shipment.size;
        let kept = self.set.grace_bytes.fetch_add(size, Ordering::Relaxed);
        let lease = GraceLease { set: Arc::clone(&self.set), size };
        if kept.saturating_add(size) > self.set.options.grace_bytes {
            return;
        }
        let limit = Instant::now() + self.set.options.grace;
        // Ends with the grace at the latest.
        tokio::spawn(async move {
            let _lease = lease;
            while waits(&voyage) {
                if tokio::time::timeout_at(limit, voyage.shipment.changed()).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// Bytes counted against the grace while it lives.
struct GraceLease {
    set: Arc<Set>,
    size: u64,
}

impl Drop for GraceLease {
    fn drop(&mut self) {
        self.set.grace_bytes.fetch_sub(self.size, Ordering::Relaxed);
    }
}
