//! Reading from whichever region delivers, in order of preference.
//!
//! Invariant: "not found" is said only when every region has answered so, and a place counts as having answered only while
//! it says that it is the region that was joined: an empty mount holds nothing of anything.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use breakwater_core::{Chain, ErrorClass, RegionId};
use breakwater_storage::{Storage, StorageError, StorageErrorKind};
use bytes::Bytes;

use super::error::{Failure, RegionError, RegionFailure};
use super::merge::Merge;
use super::region::{Region, Role};
use super::{RegionSet, Set};

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
        self.read(name, |storage, name| async move { storage.get(&name).await }).await
    }

    /// What `decode` makes of the object in the first region where it makes anything of it: damage in one region is no
    /// answer while another one has the object whole. Where none can be decoded, the first error of `decode`.
    pub async fn get_with<T, E>(
        &self,
        name: &str,
        decode: impl Fn(&[u8]) -> Result<T, E>,
    ) -> Result<Result<T, E>, RegionError> {
        let first = match decode(&self.get(name).await?) {
            Ok(value) => return Ok(Ok(value)),
            Err(error) => error,
        };
        for handle in self.handles() {
            if let Ok(bytes) = handle.storage.get(name).await
                && let Ok(value) = decode(&bytes)
            {
                tracing::warn!(object = name, region = %handle.name, "damaged in another region, taken from this one");
                return Ok(Ok(value));
            }
        }
        Ok(Err(first))
    }

    /// Exactly the bytes of `range`.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, RegionError> {
        self.read(name, |storage, name| {
            let range = range.clone();
            async move { storage.get_range(&name, range).await }
        })
        .await
    }

    /// The last `length` bytes, or all when there are fewer, and the size of the object.
    pub async fn get_tail(&self, name: &str, length: u64) -> Result<(Bytes, u64), RegionError> {
        self.read(name, |storage, name| async move { storage.get_tail(&name, length).await }).await
    }

    /// What the regions hold below `prefix`. An error when none answers; regions that do not answer are named.
    pub async fn list(&self, prefix: &str) -> Result<Listing, RegionError> {
        let unsure = self.set.regions.iter().enumerate().filter(|(_, region)| !region.health().verified);
        let mut silent = self.not_there(unsure.map(|(index, _)| index).collect()).await;
        let away = silent.iter().map(|(index, _)| *index).collect::<BTreeSet<_>>();
        let asked = self.handles().enumerate().filter(|(index, _)| !away.contains(index));
        let mut merge =
            Merge::new(asked.map(|(index, handle)| (index, handle.storage.list(prefix))).collect(), LIST_PATIENCE);
        let mut objects = Vec::new();
        let mut gave = BTreeSet::new();
        let ids = self.handles().map(|handle| handle.id).collect::<Vec<_>>();
        while let Some(row) = merge.next().await {
            let regions = row.holders.iter().filter_map(|(index, _)| ids.get(*index).copied()).collect();
            gave.extend(row.holders.iter().map(|(index, _)| *index));
            objects.push(Listed { size: row.size(), regions, name: row.name });
        }
        silent.extend(merge.broken());
        let known = silent.iter().map(|(index, _)| *index).collect::<BTreeSet<_>>();
        let empty = (0..ids.len()).filter(|index| !known.contains(index) && !gave.contains(index)).collect();
        silent.extend(self.not_there(empty).await);
        silent.sort_by_key(|(index, _)| *index);
        let silent = self.named(silent);
        if silent.len() == ids.len() {
            return Err(RegionError::Unreadable { name: prefix.to_owned(), failures: silent });
        }
        Ok(Listing { objects, silent })
    }

    /// Those of `regions` that do not say now that they are the ones that were joined.
    async fn not_there(&self, regions: Vec<usize>) -> Vec<(usize, Failure)> {
        let asked = regions.into_iter().map(|index| async move { (index, self.set.confirm(index).await) });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().filter_map(|(index, answer)| Some((index, answer.err()?))).collect()
    }

    pub(super) fn named(&self, failures: Vec<(usize, Failure)>) -> Vec<RegionFailure> {
        let name = |(index, failure): (usize, Failure)| {
            let region = self.set.regions.get(index).map(|region| region.handle.name.clone()).unwrap_or_default();
            RegionFailure { region, failure }
        };
        failures.into_iter().map(name).collect()
    }

    async fn read<T, F>(&self, name: &str, call: impl Fn(Storage, String) -> F) -> Result<T, RegionError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        // Those known to be away are asked last, archives after all others.
        let mut order = self.set.regions.iter().enumerate().collect::<Vec<_>>();
        let away = |region: &Region| region.health().is_away();
        order.sort_by_key(|(_, region)| (away(region), region.handle.role == Role::Archive));
        let mut failures = Vec::new();
        let mut missing = 0;
        for (at, (index, region)) in order.iter().enumerate() {
            let others = order.iter().skip(at + 1).any(|(_, other)| !away(other));
            let answer = tokio::select! {
                biased;
                answer = call(region.handle.storage.clone(), name.to_owned()) => Ok(answer),
                failure = self.set.given_up(region, others) => Err(failure),
            };
            let failure = match answer {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if error.kind() == StorageErrorKind::NotFound => match self.set.confirm(*index).await {
                    Ok(()) => {
                        missing += 1;
                        Failure::new(error.class(), Chain(&error).to_string())
                    }
                    Err(failure) => failure,
                },
                Ok(Err(error)) => Failure::new(error.class(), Chain(&error).to_string()),
                Err(failure) => failure,
            };
            failures.push(RegionFailure { region: region.handle.name.clone(), failure });
        }
        if missing == self.set.regions.len() {
            return Err(RegionError::NotFound { name: name.to_owned() });
        }
        Err(RegionError::Unreadable { name: name.to_owned(), failures })
    }
}

impl Set {
    /// Waits until it makes no sense to wait for `region` any longer: it turns out to be away, and there are `others` to ask. One that is
    /// known to be away has as long as a probe, in case that it came back.
    async fn given_up(&self, region: &Region, others: bool) -> Failure {
        if region.health().is_away() {
            tokio::time::sleep(self.options.probe_timeout).await;
        } else if others {
            region.gone_away().await;
        } else {
            std::future::pending::<()>().await;
        }
        Failure::new(ErrorClass::Unavailable, "no answer to a get")
    }
}
