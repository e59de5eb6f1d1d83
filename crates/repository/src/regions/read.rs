//! Reading from whichever region delivers, in order of preference.
//!
//! Invariant: "not found" is said only when every region has answered so.

use std::ops::Range;
use std::time::Duration;

use breakwater_core::{Chain, ErrorClass, RegionId};
use breakwater_storage::{Storage, StorageError, StorageErrorKind};
use bytes::Bytes;

use super::RegionSet;
use super::error::{Failure, RegionError, RegionFailure};
use super::merge::Merge;
use super::region::{Region, Role};

/// How long a listing may stay silent before it counts as broken off.
const LIST_PATIENCE: Duration = Duration::from_secs(20);

/// One name found by a listing over all regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The object.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The regions that hold it.
    pub regions: Vec<RegionId>,
}

/// What the regions that answered hold below a prefix, in byte order.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The names.
    pub objects: Vec<Listed>,
    /// The regions whose listing failed or broke off.
    pub silent: Vec<RegionFailure>,
}

impl RegionSet {
    /// The whole object from the first region that delivers it.
    pub async fn get(&self, name: &str) -> Result<Bytes, RegionError> {
        self.read(name, 0, |storage, name| async move { storage.get(&name).await }).await
    }

    /// Exactly the bytes of `range`.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, RegionError> {
        let length = range.end.saturating_sub(range.start);
        self.read(name, length, |storage, name| {
            let range = range.clone();
            async move { storage.get_range(&name, range).await }
        })
        .await
    }

    /// The last `length` bytes, or all when there are fewer, and the size of the object.
    pub async fn get_tail(&self, name: &str, length: u64) -> Result<(Bytes, u64), RegionError> {
        self.read(name, length, |storage, name| async move { storage.get_tail(&name, length).await }).await
    }

    /// What the regions hold below `prefix`. An error when none answers; regions that do not answer are named.
    pub async fn list(&self, prefix: &str) -> Result<Listing, RegionError> {
        let listings = self.handles().enumerate().map(|(index, handle)| (index, handle.storage.list(prefix))).collect();
        let mut merge = Merge::new(listings, LIST_PATIENCE);
        let mut objects = Vec::new();
        let ids = self.handles().map(|handle| handle.id).collect::<Vec<_>>();
        while let Some(row) = merge.next().await {
            let regions = row.holders.iter().filter_map(|(index, _)| ids.get(*index).copied()).collect();
            objects.push(Listed { size: row.size(), regions, name: row.name });
        }
        let silent = self.named(merge.broken());
        if silent.len() == ids.len() {
            return Err(RegionError::Unreadable { name: prefix.to_owned(), failures: silent });
        }
        Ok(Listing { objects, silent })
    }

    pub(super) fn named(&self, failures: Vec<(usize, Failure)>) -> Vec<RegionFailure> {
        let name = |(index, failure): (usize, Failure)| {
            let region = self.set.regions.get(index).map(|region| region.handle.name.clone()).unwrap_or_default();
            RegionFailure { region, failure }
        };
        failures.into_iter().map(name).collect()
    }

    async fn read<T, F>(&self, name: &str, size: u64, call: impl Fn(Storage, String) -> F) -> Result<T, RegionError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let limit = self.set.options.put_timeout + Duration::from_secs(size / self.set.options.slowest.max(1));
        // Those known to be away are asked last, archives after all others.
        let mut order = self.set.regions.iter().collect::<Vec<_>>();
        let away = |region: &Region| {
            let health = region.health();
            health.probed && !health.verified
        };
        order.sort_by_key(|region| (away(region), region.handle.role == Role::Archive));
        let mut failures = Vec::new();
        let mut missing = 0;
        for region in order {
            let limit = if away(region) { self.set.options.call_timeout } else { limit };
            let failure = match tokio::time::timeout(limit, call(region.handle.storage.clone(), name.to_owned())).await
            {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    missing += usize::from(error.kind() == StorageErrorKind::NotFound);
                    Failure::new(error.class(), Chain(&error).to_string())
                }
                Err(_) => Failure::new(ErrorClass::Unavailable, "no answer to a get"),
            };
            failures.push(RegionFailure { region: region.handle.name.clone(), failure });
        }
        if missing == self.set.regions.len() {
            return Err(RegionError::NotFound { name: name.to_owned() });
        }
        Err(RegionError::Unreadable { name: name.to_owned(), failures })
    }
}
