//! The proof that a domain was erased: which keys were destroyed, and what cannot be opened any more.

use std::collections::BTreeSet;

use breakwater_core::{DomainName, RepositoryId, SourceUid, Timestamp};
use breakwater_crypto::{RecipientId, Secret};
use serde::{Deserialize, Serialize};

use super::{FormatError, signed};

const WHAT: &str = "proof of an erasure";
const LABEL: &str = "erasure-mac";

/// The body of `repo/audit/erased/<domain>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// The domain. Its name is not used again.
    pub domain: DomainName,
    /// When.
    pub at: Timestamp,
    /// The recipient whose key was used.
    pub by: RecipientId,
    /// The key objects, as they were before.
    pub destroyed: Vec<Destroyed>,
    /// The sources that belonged to the domain.
    pub sources: BTreeSet<SourceUid>,
    /// How many sessions nobody can open any more.
    pub sessions: u64,
}

/// A key object that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    /// Its name.
    pub name: String,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
}

impl ErasureRecord {
    /// The bytes of the object, authenticated under the repository's root.
    pub fn encode(&self, root: &Secret) -> Vec<u8> {
        signed::encode(LABEL, root, self)
    }

    /// Reads the object and checks that the holder of the repository's root wrote it.
    pub fn decode(bytes: &[u8], root: &Secret) -> Result<Self, FormatError> {
        signed::decode(WHAT, LABEL, root, bytes)
    }
}
