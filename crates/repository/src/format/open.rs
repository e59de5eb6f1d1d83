//! What a session and a source say of themselves: source record, session keys, and the open record.

use breakwater_core::{Attempt, DomainName, JobId, SessionId, SnapshotId, SourceUid, Timestamp};
use breakwater_crypto::Seal;
use serde::{Deserialize, Serialize};

use super::leaning::Lean;
use super::manifest::SnapshotSession;

/// A source, as it was when it was first written to the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The source.
    pub uid: SourceUid,
    /// What people call it.
    pub name: String,
    /// The word of its engine.
    pub engine: String,
    /// The database's own identity (PostgreSQL: system id). Another one under the same uid is refused.
    pub identity: String,
    /// The domain it belongs to for ever.
    pub domain: DomainName,
    /// When the record was made.
    pub created: Timestamp,
}

/// The secret of a session, for the holder of the domain's restore key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKeys {
    /// The session.
    pub session: SessionId,
    /// When it began.
    pub created: Timestamp,
    /// The epoch of the restore key that the secret is sealed to.
    pub epoch: u32,
    /// The session secret.
    #[serde(flatten)]
    pub secret: Seal,
}

/// What a session is about to do. While it is open, what it names must not go away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRecord {
    /// The session.
    pub session: SessionId,
    /// The snapshot that it is to commit.
    pub snapshot: SnapshotId,
    /// The job.
    pub job: JobId,
    /// Which try at the job.
    pub attempt: Attempt,
    /// The snapshots whose packs it may refer to.
    pub bases: Vec<SnapshotSession>,
    /// Dead sessions whose packs it may refer to.
    pub adopts: Vec<SessionId>,
    /// Snapshots of other sources whose verified packs it may refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leans: Vec<Lean>,
    /// When it began.
    pub started: Timestamp,
}
