//! Tombstones: the end of one session and of what it alone holds.
//!
//! Invariant: a session's tombstone has the same bytes whoever writes it and wherever, so that two who delete the same
//! never contradict each other. It stays for ever: it hides what a delayed write may still bring.

use breakwater_core::{RepositoryId, SessionId, SnapshotId, SourceUid};
use breakwater_crypto::{Secret, Suite, derive};
use serde::{Deserialize, Serialize};

use super::record::{RecordKey, RecordKind};
use super::{FormatError, ObjectName};

/// Says that a session and the snapshot that it committed are not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The session.
    pub session: SessionId,
    /// What the session was before.
    pub was: Was,
}

/// What a session was before its tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Was {
    /// It had committed its snapshot.
    Committed,
    /// It was fenced in every region, and so never committed anything.
    Fenced,
}

impl Tombstone {
    /// The object that holds it.
    pub const fn name(&self, source: SourceUid) -> ObjectName {
        ObjectName::Tombstone(source, self.snapshot, self.session)
    }

    /// Its bytes. The salt follows from what is sealed: so equal tombstones are equal bytes, and no key seals two texts.
    pub fn seal(
        &self,
        suite: Suite,
        repository: RepositoryId,
        structure: &Secret,
        source: SourceUid,
    ) -> Result<Vec<u8>, FormatError> {
        let name = self.name(source);
        let json = serde_json::to_vec(self).map_err(|source| FormatError::Json { what: "tombstone", source })?;
        let salt = derive(structure, "tombstone", &[&[suite.byte()], name.to_string().as_bytes(), &[0], &json]);
        let key = RecordKey { repository, structure };
        Ok(key.seal_json(suite, RecordKind::Tombstone, *salt.expose(), &name, &json))
    }

    /// Reads the tombstone `name`; refuses one that speaks of another session.
    pub fn open(key: &RecordKey<'_>, name: &ObjectName, bytes: &[u8]) -> Result<Tombstone, FormatError> {
        let found: Tombstone = key.open(RecordKind::Tombstone, name, bytes)?;
        match name {
            ObjectName::Tombstone(_, snapshot, session) if (found.snapshot, found.session) == (*snapshot, *session) => {
                Ok(found)
            }
            _ => Err(FormatError::damaged("tombstone", "it speaks of another session than its name")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_deletes_the_same_writes_the_same() {
        let (source, structure) = (SourceUid::from_bytes([1; 16]), Secret::from_bytes([2; 32]));
        let repository = RepositoryId::from_bytes([3; 16]);
        let (snapshot, session) = (SnapshotId::from_bytes([4; 16]), SessionId::from_bytes([5; 16]));
        let tombstone = Tombstone { snapshot, session, was: Was::Committed };
        let seal = |tombstone: &Tombstone| tombstone.seal(Suite::Standard, repository, &structure, source).unwrap();
        let bytes = seal(&tombstone);
        assert_eq!(bytes, seal(&tombstone));
        let fenced = seal(&Tombstone { was: Was::Fenced, ..tombstone });
        assert_ne!(bytes[8..40], fenced[8..40], "another text has another key");
        let key = RecordKey { repository, structure: &structure };
        assert_eq!(Tombstone::open(&key, &tombstone.name(source), &bytes).unwrap(), tombstone);
        let other = ObjectName::Tombstone(source, snapshot, SessionId::from_bytes([6; 16]));
        assert!(Tombstone::open(&key, &other, &bytes).is_err());
    }
}
