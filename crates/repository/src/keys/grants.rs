//! Granting one snapshot to somebody who has no key of the repository.

use std::collections::BTreeMap;

use breakwater_core::{SessionId, SourceUid};
use breakwater_crypto::{Grant, GrantSecrets, Purpose, ReaperKey, RecipientId, Secret};

use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::frames::FrameReader;
use crate::repository::Repository;
use crate::snapshots::SnapshotSummary;

/// A grant, opened with the identity that it is for.
#[derive(Clone, Debug)]
pub struct OpenedGrant {
    /// The grant.
    pub grant: Grant,
    /// What was in it.
    pub secrets: GrantSecrets,
}

impl Repository {
    /// A grant of `snapshot` to the identity with this public key: the secrets of the sessions that hold its content, and
    /// the structure key of its source.
    pub async fn grant(
        &self,
        order: &ReadOrder,
        snapshot: &SnapshotSummary,
        public: &[u8; 32],
    ) -> Result<Grant, RepositoryError> {
        self.opener("granting a snapshot")?;
        let source: SourceUid = snapshot.source.uid;
        let manifest = self.manifest(order, source, snapshot.id, snapshot.session).await?;
        let frames = FrameReader::new(self, source, order.clone());
        frames.lean_on(&manifest.leans);
        let mut sessions: BTreeMap<SessionId, Secret> = BTreeMap::new();
        for session in &manifest.sessions {
            sessions.insert(*session, frames.session_secret(*session).await?);
        }
        let secrets =
            GrantSecrets { id_key: self.id_key_of(source).clone(), structure: self.structure_key(source), sessions };
        let purpose = Purpose::Grant { repository: self.id(), source, snapshot: snapshot.id };
        let seal = secrets.seal(public, &purpose, self.entropy().as_ref());
        let seal =
            seal.map_err(|source| RepositoryError::Key { what: "the grant cannot be sealed".to_owned(), source })?;
        Ok(Grant {
            repository: self.id(),
            fingerprint: self.fingerprint(),
            source,
            domain: self.domain_of(source).clone(),
            snapshot: snapshot.id,
            created: self.now(),
            identity: RecipientId::of(public),
            seal,
        })
    }

    /// What a worker needs that lists, deletes and collects, in all domains that this handle opens.
    pub fn reaper_key(&self) -> Result<ReaperKey, RepositoryError> {
        self.opener("making a reaper key")?;
        let domains = self.ring().domains().iter();
        Ok(ReaperKey {
            repository: self.id(),
            fingerprint: self.fingerprint(),
            domains: domains.map(|domain| (domain.name.clone(), domain.keys.structure_root.clone())).collect(),
        })
    }
}
