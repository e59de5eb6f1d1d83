//! Repositories whose regions lock, under a clock that tests turn on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use breakwater_core::{Clock, Timestamp};
use breakwater_repository::regions::Role;
use breakwater_repository::{CreateOptions, LockPolicy, Place, RegionPolicy, Repository};
use breakwater_storage::fault::Fault;
use breakwater_storage::{Backend, LockMode, Memory};

use crate::lab::{Lab, Spot, entropy};
use crate::world::World;

pub(crate) const DAY: i64 = 24 * 3600 * 1_000_000;

/// A clock that goes on by a millisecond whenever it is read, and by days when a test says so.
#[derive(Debug)]
pub(crate) struct Calendar(AtomicI64);

impl Calendar {
    pub(crate) fn pass(&self, days: i64) {
        self.0.fetch_add(days * DAY, Ordering::Relaxed);
    }
}

impl Clock for Calendar {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1000, Ordering::Relaxed))
    }
}

pub(crate) fn locked(days: u32) -> RegionPolicy {
    RegionPolicy { lock: Some(LockPolicy { mode: LockMode::Compliance, days }), ..RegionPolicy::default() }
}

/// A world with one region for each policy.
pub(crate) async fn world(policies: Vec<RegionPolicy>) -> (World, Arc<Calendar>) {
    let calendar = Arc::new(Calendar(AtomicI64::new(1_795_179_038_000_000)));
    let clock: Arc<dyn Clock> = Arc::<Calendar>::clone(&calendar);
    let spot = |_: &RegionPolicy| {
        let memory = Arc::new(Memory::with_clock(Arc::clone(&clock)));
        Spot { fault: Arc::new(Fault::new(Arc::clone(&memory) as Arc<dyn Backend>)), memory }
    };
    let spots: Vec<Spot> = policies.iter().map(spot).collect();
    let places = spots.iter().zip(policies).enumerate().map(|(at, (spot, policy))| {
        Place::new(&format!("r{at}"), Role::Sync, spot.storage()).kept(policy, Arc::clone(&clock))
    });
    let options = CreateOptions { extent_size: 4096, pack_size: 1 << 20, ..CreateOptions::default() };
    let created = Repository::create(places.collect(), options, clock.clone(), entropy()).await.unwrap();
    let repository = created.repository.clone();
    (World::of(Lab { spots, created, repository }), calendar)
}
