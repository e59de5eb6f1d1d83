//! What a session needs of the regions: that an object becomes durable, and that each region says who was first.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use breakwater_core::RegionId;
use breakwater_storage::Payload;
use bytes::Bytes;

use crate::error::RepositoryError;
use crate::format::ObjectName;
use crate::regions::{Decided, Durability, RegionSet, Role};

/// What one region answered to a create whose first writer decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionAnswer {
    /// It holds the caller's bytes.
    Created,
    /// It holds other bytes; empty when they were too large to be handed over.
    Exists(Bytes),
    /// It lacks something that the object names, and gets the object once it has that.
    Owed,
    /// It did not answer, and why. It may hold the object all the same.
    Unreachable(String),
}

/// A region and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionDecision {
    /// The region.
    pub region: RegionId,
    /// For people.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its answer.
    pub answer: RegionAnswer,
}

/// Writes objects into the regions of a repository.
///
/// Promises: a region never shows a commit register's manifest while it lacks an object of the same source that was
/// given to this writer, or found missing there, before.
#[async_trait]
pub trait ObjectWriter: Send + Sync + Debug {
    /// How many sync regions must hold an object before it counts as durable.
    fn commit(&self) -> usize;

    /// Creates the object in every region; answers once [`commit`](Self::commit) sync regions hold it.
    async fn create_all(&self, name: &ObjectName, payload: Payload) -> Result<Durability, RepositoryError>;

    /// Creates the object in each region where the name is free, and says what each region of the repository answered,
    /// those that are away included.
    async fn create_decided(&self, name: &ObjectName, payload: Payload) -> Vec<RegionDecision>;
}

/// Writes through a [`RegionSet`], with a limit to the waiting.
#[derive(Clone, Debug)]
pub struct RegionWriter {
    set: RegionSet,
    within: Duration,
}

impl RegionWriter {
    /// A writer that gives up on an object after `within`.
    pub const fn new(set: RegionSet, within: Duration) -> Self {
        RegionWriter { set, within }
    }

    /// The regions.
    pub const fn set(&self) -> &RegionSet {
        &self.set
    }
}

#[async_trait]
impl ObjectWriter for RegionWriter {
    fn commit(&self) -> usize {
        self.set.commit()
    }

    async fn create_all(&self, name: &ObjectName, payload: Payload) -> Result<Durability, RepositoryError> {
        self.set.create(&name.to_string(), payload, self.within).await.map_err(RepositoryError::Write)
    }

    async fn create_decided(&self, name: &ObjectName, payload: Payload) -> Vec<RegionDecision> {
        let answers = self.set.create_decided(&name.to_string(), payload, self.within).await;
        let decision = |(region, decided)| {
            let handle = self.set.handles().find(|handle| handle.id == region)?;
            let answer = match decided {
                Decided::Created => RegionAnswer::Created,
                Decided::Exists(bytes) => RegionAnswer::Exists(bytes),
                Decided::Owed => RegionAnswer::Owed,
                Decided::Unreachable(failure) => RegionAnswer::Unreachable(failure.to_string()),
            };
            Some(RegionDecision { region, name: handle.name.clone(), role: handle.role, answer })
        };
        answers.into_iter().filter_map(decision).collect()
    }
}
