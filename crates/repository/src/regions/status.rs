//! What is known about each region, for people and metrics.

use std::time::Duration;

use breakwater_core::{RegionId, SourceUid, Timestamp};

use super::RegionSet;
use super::error::Failure;
use super::order::Rank;
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
    /// Whether all that it missed before this set was made is known. While it is not, it may miss more than it owes; it
    /// stays unknown when nobody had everything compared (see [`RegionSet::keep_compared`]).
    pub compared: bool,
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

/// What one region misses of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceDebt {
    /// Objects that it misses.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since when it misses the oldest of them.
    pub oldest: Option<Timestamp>,
    /// Those of them that are no pieces of the log: manifests, and what manifests lean on.
    pub snapshot_objects: u64,
    /// Since when it misses the oldest of those. For a debt that an audit found this is the moment of the audit.
    pub commit_debt_since: Option<Timestamp>,
}

impl RegionSet {
    /// The status of every region, in the order of the set.
    pub fn statuses(&self) -> Vec<RegionStatus> {
        let status = |(index, region): (usize, &super::region::Region)| {
            let compared = self.set.is_compared_over(index, None);
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
                compared,
                owed_objects: owed.objects,
                owed_bytes: owed.bytes,
                oldest_owed_since: owed.oldest,
                bytes_written: health.bytes_written,
                drain_estimate: if reachable == Some(true) { health.drain_estimate(owed.bytes) } else { None },
            }
        };
        self.set.regions.iter().enumerate().map(status).collect()
    }

    /// What the region with this id is known to miss of one source; nothing when there is no such region. It may miss more
    /// until it [is compared](RegionSet::is_compared).
    pub fn owed_of(&self, region: RegionId, source: SourceUid) -> SourceDebt {
        let Some(region) = self.set.regions.iter().find(|item| item.handle.id == region) else {
            return SourceDebt::default();
        };
        let scope = source.to_string();
        let lane = region.lane();
        let all = lane.owed_where(|place| place.scope == scope);
        let snapshots = lane.owed_where(|place| place.scope == scope && place.rank != Rank::Log);
        SourceDebt {
            objects: all.objects,
            bytes: all.bytes,
            oldest: all.oldest,
            snapshot_objects: snapshots.objects,
            commit_debt_since: snapshots.oldest,
        }
    }
}
