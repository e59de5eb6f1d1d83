//! Leaning: a source refers to packs of content of another source of its domain.
//!
//! Invariant: the record is durable before any session that may do so opens, and stays for ever: whoever collects the other
//! source's garbage, or copies this one's snapshots, knows from it whom to look at. It has the same bytes whoever writes it.

use breakwater_core::{RepositoryId, SessionId, SnapshotId, SourceUid};
use breakwater_crypto::{Secret, Suite, derive};
use serde::{Deserialize, Serialize};

use super::record::{RecordKey, RecordKind};
use super::{FormatError, ObjectName};

/// The record that a source leans on another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaning {
    /// Who leans.
    pub source: SourceUid,
    /// On whom.
    pub on: SourceUid,
}

impl Leaning {
    /// The object that holds it.
    pub const fn name(&self) -> ObjectName {
        ObjectName::Leaning(self.source, self.on)
    }

    /// Its bytes. As with tombstones, the salt follows from what is sealed.
    pub fn seal(&self, suite: Suite, repository: RepositoryId, structure: &Secret) -> Result<Vec<u8>, FormatError> {
        let name = self.name();
        let json = serde_json::to_vec(self).map_err(|source| FormatError::Json { what: "leaning", source })?;
        let salt = derive(structure, "leaning", &[&[suite.byte()], name.to_string().as_bytes(), &[0], &json]);
        Ok(RecordKey { repository, structure }.seal_json(suite, RecordKind::Leaning, *salt.expose(), &name, &json))
    }
}

/// A snapshot of another source, whose verified packs a session may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lean {
    /// The other source.
    pub source: SourceUid,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// The session that committed it.
    pub session: SessionId,
}

/// Sessions of another source whose packs a snapshot refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeanedOn {
    /// The other source.
    pub source: SourceUid,
    /// Its sessions, ascending.
    pub sessions: Vec<SessionId>,
}
