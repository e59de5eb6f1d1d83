//! Telling regions with a fence that their session is committed elsewhere.
//!
//! A fence may stand in one region while another region shows the manifest: the fencer could not reach that one. A manifest
//! in any region counts, so the region with the fence owes it, and the copier cannot repay that: the name is taken there.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{SessionId, SnapshotId, SourceUid};

use super::commit::{RegisterValue, read_register, write_committed};
use super::writer::{ObjectWriter, RegionAnswer};
use crate::error::{Cause, RepositoryError};
use crate::format::ObjectName;
use crate::format::manifest::{Manifest, SnapshotSession};
use crate::repository::Repository;

/// What was settled, and what was not.
#[derive(Debug, Default)]
pub struct Settled {
    /// Sessions that are committed in one region and fenced in another, and are shown by every region now.
    pub settled: Vec<SnapshotSession>,
    /// The same, but some region is behind or away; to be tried again.
    pub open: Vec<SnapshotSession>,
    /// Regions that did not answer, so that what only they hold is not known.
    pub silent: Vec<Cause>,
}

/// The objects of one session's register, by either name: which regions hold them, and their sizes there.
type Registers = BTreeMap<ObjectName, Vec<(String, u64)>>;

impl Repository {
    /// Looks through the commit registers of `source` and settles those about which regions disagree. To be done when a
    /// region is back and its debts are repaid; until then readers that see both regions are right all the same.
    pub async fn settle_registers(
        &self,
        writer: &dyn ObjectWriter,
        source: SourceUid,
    ) -> Result<Settled, RepositoryError> {
        let order = self.read_order();
        let names = self.names(&order, &ObjectName::meta_prefix(source, "snap")).await?;
        let mut settled = Settled { silent: names.silent, ..Settled::default() };
        let mut sizes: BTreeMap<(SnapshotId, SessionId), Registers> = BTreeMap::new();
        for (key, holders) in names.objects {
            if let Some(
                name @ (ObjectName::Register(_, snapshot, session) | ObjectName::Committed(_, snapshot, session)),
            ) = ObjectName::parse(&key)
            {
                sizes.entry((snapshot, session)).or_default().insert(name, holders.regions);
            }
        }
        for ((snapshot, session), names) in sizes {
            let register = ObjectName::Register(source, snapshot, session);
            let second = ObjectName::Committed(source, snapshot, session);
            let holders = names.get(&register).map(Vec::as_slice).unwrap_or_default();
            let shown_second: BTreeSet<&str> =
                names.get(&second).into_iter().flatten().map(|(region, _)| region.as_str()).collect();
            let lengths: BTreeSet<u64> = holders.iter().map(|(_, size)| *size).collect();
            // Registers of one length are one object; a fence beside a manifest has another length.
            let disagree = lengths.len() > 1 || (!shown_second.is_empty() && shown_second.len() < holders.len());
            let lacking = holders.iter().any(|(region, _)| !shown_second.contains(region.as_str()));
            if !disagree || !lacking {
                continue;
            }
            let Some(manifest) = self.manifest_beside_fence(&register, &second, holders).await? else { continue };
            let decisions = write_committed(self, writer, &manifest).await?;
            let done = decisions
                .iter()
                .all(|decision| matches!(decision.answer, RegionAnswer::Created | RegionAnswer::Exists(_)));
            let of = SnapshotSession { snapshot, session };
            if done { settled.settled.push(of) } else { settled.open.push(of) }
        }
        Ok(settled)
    }

    /// The manifest of a session that some region has fenced; none while nobody has committed it.
    async fn manifest_beside_fence(
        &self,
        register: &ObjectName,
        second: &ObjectName,
        holders: &[(String, u64)],
    ) -> Result<Option<Box<Manifest>>, RepositoryError> {
        let (mut manifest, mut fenced) = (None, false);
        for (region, _) in holders {
            let only = self.read_only_from(region)?;
            match self.fetch(&only, register, |bytes| read_register(self, register, bytes)).await {
                Ok((RegisterValue::Manifest(found), _)) => manifest = Some(found),
                Ok((RegisterValue::Fence(_), _)) => fenced = true,
                Err(error) => tracing::warn!(
                    region,
                    object = %register,
                    error = %breakwater_core::Chain(&error),
                    "a commit register cannot be read"
                ),
            }
        }
        if manifest.is_none() && fenced {
            let found = self.fetch(&self.read_order(), second, |bytes| read_register(self, second, bytes)).await;
            if let Ok((RegisterValue::Manifest(found), _)) = found {
                manifest = Some(found);
            }
        }
        Ok(manifest.filter(|_| fenced))
    }
}
