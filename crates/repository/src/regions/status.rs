//! What is known about each region, for people and metrics.

use std::time::Duration;

use breakwater_core::{RegionId, Timestamp};

use super::RegionSet;
use super::error::Failure;
use super::region::Role;

/// One region at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: RegionId,
    /// Its role.
    pub role: Role,
    /// Whether it answers and takes what it is given; none while nothing is known yet.
    pub reachable: Option<bool>,
    /// The last error, also after it passed, with the time it was seen.
    pub last_error: Option<(Failure, Timestamp)>,
    /// When it last answered.
    pub last_success: Option<Timestamp>,
    /// Objects that it misses.
    pub owed_objects: u64,
    /// Their bytes.
    pub owed_bytes: u64,
    /// Since when it misses the oldest of them.
    pub oldest_owed_since: Option<Timestamp>,
    /// Bytes written since the set was made.
    pub bytes_written: u64,
    /// How long the debt will take at the speed of recent writes; none when that is unknown or it does not answer.
    pub drain_estimate: Option<Duration>,
}

impl RegionSet {
    /// The status of every region, in the order of the set.
    pub fn statuses(&self) -> Vec<RegionStatus> {
        let status = |region: &super::region::Region| {
            let owed = region.lane().owed();
            let health = region.health();
            let reachable = health.probed.then(|| health.is_reachable());
            RegionStatus {
                name: region.handle.name.clone(),
                id: region.handle.id,
                role: region.handle.role,
                reachable,
                last_error: health.last_error.clone(),
                last_success: health.last_success,
                owed_objects: owed.objects,
                owed_bytes: owed.bytes,
                oldest_owed_since: owed.oldest,
                bytes_written: health.bytes_written,
                drain_estimate: if reachable == Some(true) { health.drain_estimate(owed.bytes) } else { None },
            }
        };
        self.set.regions.iter().map(status).collect()
    }
}
