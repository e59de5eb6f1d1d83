//! What locks and holds keep: it waits, and goes with a later round.
//!
//! Invariant: an object that any region keeps is deleted in none. Where regions differ, the one that has it would give it
//! back to the others, and with it a new lock, for ever.

use std::collections::BTreeSet;

use breakwater_core::Timestamp;
use breakwater_storage::StorageErrorKind;

use super::Figure;
use super::census::Census;
use super::everywhere::{Everywhere, Stop};
use crate::error::Trouble;
use crate::format::ObjectName;
use crate::format::manifest::SnapshotSession;
use crate::region::{READ_DEADLINE, Region, within};

/// Objects that could go but for locks and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many, and their bytes in one region.
    pub figure: Figure,
    /// How many of them are held, and so wait for somebody to lift that.
    pub held: u64,
    /// When the last of their locks that are known ends.
    pub until: Option<Timestamp>,
}

impl Waiting {
    pub(super) fn add(&mut self, bytes: u64, kept: Kept) {
        self.figure.add(bytes);
        self.held += u64::from(kept.held);
        self.until = self.until.max(kept.until);
    }
}

/// What keeps an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    held: bool,
    until: Option<Timestamp>,
}

impl Everywhere<'_> {
    /// Deletes `name` in every region, unless one of them keeps it.
    pub(super) async fn release(&self, name: &ObjectName) -> Result<Option<Kept>, Stop> {
        if let Some(kept) = self.kept(name).await? {
            return Ok(Some(kept));
        }
        match self.delete(name).await {
            Ok(()) => Ok(None),
            // A lock that is younger than the question, or of a place that does not say that it has any.
            Err(Stop::Away(causes)) if causes.iter().all(|cause| is_locked(&cause.trouble)) => {
                Ok(Some(Kept::default()))
            }
            Err(stop) => Err(stop),
        }
    }

    /// What keeps `name` in any region.
    pub(super) async fn kept(&self, name: &ObjectName) -> Result<Option<Kept>, Stop> {
        let (key, now) = (name.to_string(), self.repository.now());
        let asked = self.repository.regions().iter().map(|region| {
            let key = &key;
            async move { kept_in(region, key, now).await.map_err(|trouble| region.cause(trouble)) }
        });
        let (mut kept, mut silent) = (None::<Kept>, Vec::new());
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok(None) => {}
                Ok(Some(more)) => {
                    let so_far = kept.unwrap_or_default();
                    kept = Some(Kept { held: so_far.held || more.held, until: so_far.until.max(more.until) });
                }
                Err(cause) => silent.push(cause),
            }
        }
        if silent.is_empty() { Ok(kept) } else { Err(Stop::Away(silent)) }
    }

    /// The sessions of snapshots that are held.
    pub(super) async fn held(&self, census: &Census) -> Result<BTreeSet<SnapshotSession>, Stop> {
        let names = self.names(&ObjectName::meta_prefix(self.source, "hold")).await?;
        let snapshot = |key: &String| match ObjectName::parse(key) {
            Some(ObjectName::Hold { snapshot, .. }) => Some(snapshot),
            _ => None,
        };
        let held: BTreeSet<_> = names.objects.keys().filter_map(snapshot).collect();
        let of_held = census.registers.iter().filter(|(_, register)| held.contains(&register.snapshot));
        Ok(of_held
            .map(|(session, register)| SnapshotSession { snapshot: register.snapshot, session: *session })
            .collect())
    }
}

async fn kept_in(region: &Region, key: &str, now: Timestamp) -> Result<Option<Kept>, Trouble> {
    let features = region.features().await?;
    if !features.locks && !features.holds {
        return Ok(None);
    }
    match within(READ_DEADLINE, region.ready().await?.protection(key)).await {
        Ok(protection) if protection.binds(now) => {
            let until = protection.retention.map(|retention| retention.until).filter(|until| now < *until);
            Ok(Some(Kept { held: protection.held, until }))
        }
        Ok(_) => Ok(None),
        Err(trouble) if trouble.is_not_found() => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

fn is_locked(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Storage(error) if error.kind == StorageErrorKind::Locked)
}
