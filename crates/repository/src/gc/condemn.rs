//! Sessions that will never commit: they are fenced in every region, then get a tombstone, so that what they left behind
//! goes like what a deleted snapshot left behind.
//!
//! Invariant: without a fence in every region nobody is condemned.

use async_trait::async_trait;
use breakwater_core::SessionId;
use breakwater_storage::Payload;

use super::GcOptions;
use super::census::{Pins, Standing};
use super::everywhere::{Everywhere, Stop};
use crate::error::RepositoryError;
use crate::format::ObjectName;
use crate::format::tombstone::{Tombstone, Was};
use crate::regions::Durability;
use crate::session::{FenceOutcome, ObjectWriter, RegionDecision};

/// What a run says when it fences.
const REASON: &str = "taken for dead by a run of the garbage collection";

impl Everywhere<'_> {
    /// Fences the sessions that `options` says are dead, and condemns those that are fenced in every region. Answers the
    /// ones that this round fenced.
    pub(super) async fn condemn(&self, options: &GcOptions) -> Result<Vec<SessionId>, Stop> {
        let census = self.look().await?;
        let (mut fenced, mut fence_now, mut pins) = (Vec::new(), Vec::new(), Pins::default());
        for session in census.opens.iter().filter(|session| !census.tombs.contains_key(session)) {
            self.go_on()?;
            let standing = match census.registers.get(session) {
                Some(register) => self.standing(*session, register).await?,
                None => Standing::Undecided,
            };
            match standing {
                Standing::Committed(..) => {}
                Standing::Fenced => fenced.push(self.open_record(*session).await?),
                Standing::Undecided => {
                    let record = self.open_record(*session).await?;
                    let old = options.fence_begun_before.is_some_and(|moment| record.started < moment);
                    if old || options.dead.contains(session) {
                        fence_now.push(record);
                    } else {
                        pins.add(&record);
                    }
                }
            }
        }
        let mut new = Vec::new();
        for record in fence_now {
            let register = (record.snapshot, record.session);
            match self.repository.fence(&Nobody, self.source, register, REASON).await? {
                FenceOutcome::Established => {
                    new.push(record.session);
                    fenced.push(record);
                }
                FenceOutcome::Committed(_) => {}
                FenceOutcome::Open(causes) => return Err(Stop::Away(causes)),
            }
        }
        for record in fenced {
            // Whoever adopts it would find the tombstone and upload all of it again; it can wait.
            if pins.sessions.contains(&record.session) {
                continue;
            }
            let tombstone = Tombstone { snapshot: record.snapshot, session: record.session, was: Was::Fenced };
            let owed = self.repository.bury(self.source, &tombstone).await?;
            if !owed.is_empty() {
                return Err(Stop::Away(owed));
            }
        }
        Ok(new)
    }
}

/// Writes nothing: that a session is committed after all is told to the regions by who settles registers.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl ObjectWriter for Nobody {
    fn commit(&self) -> usize {
        0
    }

    async fn create_all(&self, name: &ObjectName, _: Payload) -> Result<Durability, RepositoryError> {
        Err(RepositoryError::Invalid(format!("the garbage collection does not write `{name}`")))
    }

    async fn create_decided(&self, _: &ObjectName, _: Payload) -> Vec<RegionDecision> {
        Vec::new()
    }
}
