//! Domains: the unit of keys and erasure. A domain's root, and the private halves of its restore keys, are sealed to the
//! present recipients; the record is authenticated by the repository's root.
//!
//! Invariant: the root is the same in every epoch, and no epoch forgets a restore key of an earlier one, so that whoever
//! opens the newest record opens every session of the domain.

use breakwater_core::{DomainName, RepositoryId, SourceUid, Timestamp};
use breakwater_crypto::{Recipient, SealedSecret, Secret, derive};
use serde::{Deserialize, Serialize};

use super::{FormatError, signed};

const WHAT: &str = "domain record";
const LABEL: &str = "domain-mac";

/// The body of a domain object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// The domain.
    pub domain: DomainName,
    /// The epoch of the record: one more whenever who may open changes. The highest one counts.
    pub epoch: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Which rotation of the repository's keys it has gone through.
    pub rotation: u32,
    /// Who may open the domain's sessions.
    pub recipients: Vec<Recipient>,
    /// The domain root, sealed to each of them.
    pub root: Vec<SealedSecret>,
    /// The restore keys, oldest first; the last one is in use.
    pub restore: Vec<RestoreRecord>,
}

/// A restore key: session secrets are sealed to its public half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// The epoch in which it was made: sessions name their restore key by it.
    pub epoch: u32,
    /// The public half.
    #[serde(with = "hex::serde")]
    pub public: [u8; 32],
    /// The private half, sealed to each recipient.
    pub secret: Vec<SealedSecret>,
}

impl DomainRecord {
    /// The bytes of the object, authenticated under the repository root.
    pub fn encode(&self, root: &Secret) -> Vec<u8> {
        signed::encode(LABEL, root, self)
    }

    /// Reads the object and checks that the holder of the repository root wrote it.
    pub fn decode(bytes: &[u8], root: &Secret) -> Result<Self, FormatError> {
        let record: DomainRecord = signed::decode(WHAT, LABEL, root, bytes)?;
        if record.restore.is_empty() || !record.restore.is_sorted_by(|one, next| one.epoch < next.epoch) {
            return Err(FormatError::damaged(WHAT, "its restore keys are not in order"));
        }
        Ok(record)
    }
}

/// The keys that follow from a domain's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainKeys {
    /// Names chunks.
    pub id_key: Secret,
    /// Where the sources' structure keys come from.
    pub structure_root: Secret,
}

impl DomainKeys {
    /// The keys of the domain with this root.
    pub fn of_root(root: &Secret) -> Self {
        DomainKeys { id_key: derive(root, "chunk-id", &[]), structure_root: derive(root, "structure", &[]) }
    }

    /// The key of everything about `source` that is not content.
    pub fn structure_key(&self, source: SourceUid) -> Secret {
        derive(&self.structure_root, "source", &[source.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_of_the_root_can_write_one() {
        let record = DomainRecord {
            repository: RepositoryId::from_bytes([1; 16]),
            domain: DomainName::new("default").unwrap(),
            epoch: 1,
            created: Timestamp(7),
            rotation: 0,
            recipients: vec![Recipient::new("primary", [4; 32])],
            root: Vec::new(),
            restore: vec![RestoreRecord { epoch: 1, public: [5; 32], secret: Vec::new() }],
        };
        let root = Secret::from_bytes([1; 32]);
        let bytes = record.encode(&root);
        assert_eq!(DomainRecord::decode(&bytes, &root).unwrap(), record);
        assert!(DomainRecord::decode(&bytes, &Secret::from_bytes([2; 32])).is_err());
        let text = String::from_utf8(bytes).unwrap();
        let forged = text.replacen("\\\"epoch\\\":1", "\\\"epoch\\\":2", 1);
        assert_ne!(forged, text);
        assert!(matches!(DomainRecord::decode(forged.as_bytes(), &root), Err(FormatError::Unsealed { .. })));
    }

    #[test]
    fn sources_have_keys_of_their_own() {
        let keys = DomainKeys::of_root(&Secret::from_bytes([1; 32]));
        let [a, b] = [1, 2].map(|n| keys.structure_key(SourceUid::from_bytes([n; 16])));
        assert_ne!(a, b);
        assert_ne!(keys.id_key, keys.structure_root);
    }
}
