//! Verified packs: what a recipient has read in every region and vouches for, so that other sources of the domain may lean
//! on it, which is to refer to chunks in it instead of storing them again.
//!
//! Invariants: a recipient vouches for a pack only when every frame of it was opened and proven in every region; whoever
//! leans takes only frames that a snapshot without tombstone refers to, out of packs of that snapshot's own source whose
//! footer is the one that was vouched for, and which every region that it writes to has shown both then and now.

mod leaning;
mod vouching;

use std::collections::BTreeMap;

use breakwater_core::{RegionId, SessionId};

use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::FormatError;
use crate::format::ObjectName;
use crate::format::leaning::Lean;
use crate::format::record::RecordKind;
use crate::format::verified::{VerifiedPack, VerifiedPacks, Vouched};
use crate::repository::Repository;

pub use leaning::LeanReader;
pub use vouching::VouchReport;

/// What one run has found of one snapshot, by name only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSet {
    /// The snapshot.
    pub lean: Lean,
    /// The run.
    pub run: SessionId,
    parts: Vec<ObjectName>,
}

impl Repository {
    /// What recipients vouch for in the home domain, newest run first. None where the repository is not made for it.
    pub async fn verified_sets(&self) -> Result<Vec<VerifiedSet>, RepositoryError> {
        if self.descriptor().voucher.is_none() {
            return Ok(Vec::new());
        }
        let names = self.names(&self.read_order(), &ObjectName::verified_prefix(self.domain())).await?;
        let mut sets: BTreeMap<(SessionId, Lean), Vec<ObjectName>> = BTreeMap::new();
        for name in names.objects.keys().filter_map(|key| ObjectName::parse(key)) {
            if let ObjectName::Verified { source, snapshot, session, run, .. } = name {
                sets.entry((run, Lean { source, snapshot, session })).or_default().push(name);
            }
        }
        let set = |((run, lean), parts)| VerifiedSet { lean, run, parts };
        Ok(sets.into_iter().rev().map(set).collect())
    }

    /// The ids of all regions; none where some region was never seen.
    fn region_ids(&self) -> Option<Vec<RegionId>> {
        self.regions().iter().map(|region| region.id()).collect()
    }
}

/// Reads the packs of a set one after the other; of its parts one is in memory.
#[derive(Debug)]
struct SetReader {
    repository: Repository,
    order: ReadOrder,
    /// What somebody must have read for it to count.
    regions: Vec<RegionId>,
    parts: std::vec::IntoIter<ObjectName>,
    packs: std::vec::IntoIter<VerifiedPack>,
}

impl SetReader {
    /// A reader of `set`; none where not every region is known, so that nobody can have vouched for all of them.
    fn new(repository: &Repository, set: &VerifiedSet) -> Option<SetReader> {
        Some(SetReader {
            repository: repository.clone(),
            order: repository.read_order(),
            regions: repository.region_ids()?,
            parts: set.parts.clone().into_iter(),
            packs: Vec::new().into_iter(),
        })
    }

    /// The next pack, ascending. Parts that do not open, or that were not read in all present regions, are passed over: they
    /// cost room in the repository and nothing else.
    async fn next(&mut self) -> Option<VerifiedPack> {
        loop {
            if let Some(pack) = self.packs.next() {
                return Some(pack);
            }
            let name = self.parts.next()?;
            match self.part(&name).await {
                Ok(part) if self.regions.iter().all(|region| part.regions.contains(region)) => {
                    self.packs = part.packs.into_iter();
                }
                Ok(_) => tracing::debug!(object = %name, "it was not read in every region that there is now"),
                Err(error) => {
                    tracing::warn!(object = %name, error = %breakwater_core::Chain(&error), "nobody leans on it");
                }
            }
        }
    }

    async fn part(&self, name: &ObjectName) -> Result<VerifiedPacks, RepositoryError> {
        let repository = &self.repository;
        let decode = |bytes: &[u8]| {
            let source = name.source().ok_or(FormatError::NotThis { what: "verified packs" })?;
            let voucher = repository.descriptor().voucher.ok_or(FormatError::Unsealed { what: "verified packs" })?;
            let vouched: Vouched = repository.open_record(source, RecordKind::Verified, name, bytes)?;
            vouched.open(&voucher, repository.id(), name)
        };
        Ok(repository.fetch(&self.order, name, decode).await?.0)
    }
}
