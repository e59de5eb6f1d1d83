//! Until when the objects of one snapshot are locked: asked of the place, object by object.
//!
//! Invariant: what is said of a region is true of every object that a restore of the snapshot from it needs, `repo/` apart; one
//! that is not locked makes the whole not locked.

use breakwater_core::{SessionId, SnapshotId, SourceUid, Timestamp};
use breakwater_storage::{LockMode, Protection};
use futures::{StreamExt, TryStreamExt};

use crate::error::{RepositoryError, Trouble};
use crate::region::{CALL_DEADLINE, Region, within};
use crate::repository::Repository;

/// Questions on their way at once to one region.
const AT_ONCE: usize = 32;

/// The locks of a snapshot in one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotLocks {
    /// The region.
    pub region: String,
    /// Objects of the snapshot that were found there.
    pub objects: u64,
    /// Those without a lock that binds now.
    pub unlocked: u64,
    /// Those that are held.
    pub held: u64,
    /// When the first of the locks ends; none where not all are locked.
    pub until: Option<Timestamp>,
    /// The mode that all locks have at least; none where not all are locked.
    pub weakest: Option<&'static str>,
    /// Why it is not known.
    pub trouble: Option<String>,
}

impl Repository {
    /// The locks of `snapshot`, which `session` committed, in the named regions, or in all. One call an object.
    pub async fn snapshot_locks(
        &self,
        source: SourceUid,
        snapshot: (SnapshotId, SessionId),
        regions: &[String],
    ) -> Result<Vec<SnapshotLocks>, RepositoryError> {
        for name in regions {
            self.region(name)?;
        }
        let needed: Vec<String> = self.needed_by(source, snapshot).await?.iter().map(ToString::to_string).collect();
        let mut all = Vec::new();
        for region in self.regions() {
            if regions.is_empty() || regions.iter().any(|name| name == region.name()) {
                let looked = look(region, &needed, self.now()).await;
                let failed =
                    |trouble: Trouble| SnapshotLocks { trouble: Some(trouble.to_string()), ..Default::default() };
                all.push(SnapshotLocks { region: region.name().to_owned(), ..looked.unwrap_or_else(failed) });
            }
        }
        Ok(all)
    }
}

async fn look(region: &Region, needed: &[String], now: Timestamp) -> Result<SnapshotLocks, Trouble> {
    let (storage, features) = (region.ready().await?, region.features().await?);
    let mut locks = SnapshotLocks::default();
    if !features.locks && !features.holds {
        return Ok(locks);
    }
    let asks = needed.iter().map(|key| async move {
        match within(CALL_DEADLINE, storage.protection(key)).await {
            Ok(protection) => Ok(Some(protection)),
            Err(trouble) if trouble.is_not_found() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    });
    // Collected: a stream over the closure would keep the compiler from seeing that callers can be spawned.
    let asks: Vec<_> = asks.collect();
    let mut asks = futures::stream::iter(asks).buffer_unordered(AT_ONCE);
    let mut weakest: Option<(LockMode, Timestamp)> = None;
    while let Some(answer) = asks.try_next().await? {
        let Some(Protection { retention, held }) = answer else { continue };
        locks.objects += 1;
        locks.held += u64::from(held);
        match retention.filter(|retention| now < retention.until) {
            None => locks.unlocked += 1,
            Some(found) => {
                let (mode, until) = weakest.unwrap_or((found.mode, found.until));
                weakest = Some((mode.min(found.mode), until.min(found.until)));
            }
        }
    }
    if let Some((mode, until)) = weakest.filter(|_| locks.unlocked == 0) {
        (locks.weakest, locks.until) = (Some(mode.as_str()), Some(until));
    }
    Ok(locks)
}
