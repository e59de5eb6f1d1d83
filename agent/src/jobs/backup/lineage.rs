//! What this agent committed last of each source, kept on disk: the next backup asks for it by name, and lists nothing.
//!
//! Invariant: where a source has a note, the last session that this agent opened over it has committed the noted snapshot. So it left
//! nothing unfinished behind, and a note is taken away before a session opens. No note is made while something of the source is on record
//! as lost.

use std::path::{Path, PathBuf};

use breakwater_core::{Chain, RepositoryId, SourceUid};
use breakwater_repository::format::manifest::SnapshotSession;

use crate::durable::{self, blocking};
use crate::error::AgentError;

/// The notes of one agent.
#[derive(Clone, Debug)]
pub struct Lineage {
    directory: PathBuf,
}

impl Lineage {
    /// The notes in `directory`.
    pub fn open(directory: &Path) -> Result<Lineage, AgentError> {
        durable::make_private_directory(directory)?;
        Ok(Lineage { directory: directory.to_owned() })
    }

    /// Takes the note of `source` away. Without one, readable and gone from the disk, the regions have to be asked.
    pub(super) async fn take(&self, repository: RepositoryId, source: SourceUid) -> Option<SnapshotSession> {
        let path = self.path(repository, source);
        let taken = move || {
            let note = durable::read(&path)?;
            durable::remove(&path)?;
            Ok(note)
        };
        match blocking(taken).await {
            Ok(note) => serde_json::from_slice(&note?).ok(),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "what was backed up last is not known");
                None
            }
        }
    }

    /// Notes that `committed` is what the last session over `source` came to. Not having it costs lists and nothing else.
    pub(super) async fn note(&self, repository: RepositoryId, source: SourceUid, committed: SnapshotSession) {
        let path = self.path(repository, source);
        let noted = move || durable::replace(&path, &serde_json::to_vec(&committed).unwrap_or_default());
        if let Err(error) = blocking(noted).await {
            tracing::warn!(error = %Chain(&error), "what was backed up last is not noted");
        }
    }

    fn path(&self, repository: RepositoryId, source: SourceUid) -> PathBuf {
        self.directory.join(format!("{repository}.{source}.json"))
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::{SessionId, SnapshotId};

    use super::*;

    #[tokio::test]
    async fn a_note_is_found_once_and_only_for_its_source() {
        let directory = tempfile::tempdir().unwrap();
        let (repository, source) = (RepositoryId::from_bytes([1; 16]), SourceUid::from_bytes([2; 16]));
        let committed =
            SnapshotSession { snapshot: SnapshotId::from_bytes([3; 16]), session: SessionId::from_bytes([4; 16]) };
        Lineage::open(directory.path()).unwrap().note(repository, source, committed).await;
        let lineage = Lineage::open(directory.path()).unwrap();
        assert_eq!(lineage.take(repository, SourceUid::from_bytes([5; 16])).await, None);
        assert_eq!(lineage.take(RepositoryId::from_bytes([5; 16]), source).await, None);
        assert_eq!(lineage.take(repository, source).await, Some(committed));
        assert_eq!(lineage.take(repository, source).await, None);
    }

    #[tokio::test]
    async fn a_damaged_note_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let (repository, source) = (RepositoryId::from_bytes([1; 16]), SourceUid::from_bytes([2; 16]));
        let lineage = Lineage::open(directory.path()).unwrap();
        std::fs::write(lineage.path(repository, source), b"{\"snapshot\":").unwrap();
        assert_eq!(lineage.take(repository, source).await, None);
        assert!(!lineage.path(repository, source).exists());
    }
}
