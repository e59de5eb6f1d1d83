//! Domains: the unit of keys and erasure. A domain's root is sealed to its recipients and authenticated by the
//! repository's root, because HPKE's base mode does not say who sealed.

use breakwater_core::{DomainName, RepositoryId, SourceUid, Timestamp};
use breakwater_crypto::{Recipient, SealedSecret, Secret, derive, sha256};
use serde::{Deserialize, Serialize};

use super::FormatError;
use super::record::read_json;

const WHAT: &str = "domain record";

/// The body of a domain object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// The domain.
    pub domain: DomainName,
    /// The epoch of its keys.
    pub epoch: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Who may open the domain's sessions.
    pub recipients: Vec<Recipient>,
    /// The domain root, sealed to each of them.
    pub root: Vec<SealedSecret>,
}

/// The object: the body's JSON text as a string, so that there is one reading of what the code authenticates.
#[derive(Serialize, Deserialize)]
struct Signed {
    body: String,
    mac: String,
}

impl DomainRecord {
    /// The bytes of the object, authenticated under the repository root.
    pub fn encode(&self, root: &Secret) -> Vec<u8> {
        let body = serde_json::to_string(self).expect("a domain record has text keys only");
        let mac = hex::encode(mac(root, &body).expose());
        serde_json::to_vec(&Signed { body, mac }).expect("a signed record has text keys only")
    }

    /// Reads the object and checks that the holder of the repository root wrote it.
    pub fn decode(bytes: &[u8], root: &Secret) -> Result<Self, FormatError> {
        let signed: Signed = read_json(WHAT, bytes)?;
        // The code comes in one spelling only, so that not even the case of a digit can change unnoticed.
        let found = Secret::from_hex(&signed.mac).filter(|_| !signed.mac.bytes().any(|byte| byte.is_ascii_uppercase()));
        if found != Some(mac(root, &signed.body)) {
            return Err(FormatError::Unsealed { what: WHAT });
        }
        read_json(WHAT, signed.body.as_bytes())
    }
}

fn mac(root: &Secret, body: &str) -> Secret {
    derive(root, "domain-mac", &[&sha256(body.as_bytes())])
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
            recipients: vec![Recipient::new("primary", [4; 32])],
            root: Vec::new(),
        };
        let root = Secret::from_bytes([1; 32]);
        let bytes = record.encode(&root);
        assert_eq!(DomainRecord::decode(&bytes, &root).unwrap(), record);
        assert!(DomainRecord::decode(&bytes, &Secret::from_bytes([2; 32])).is_err());
        let text = String::from_utf8(bytes).unwrap();
        let forged = text.replace("\\\"epoch\\\":1", "\\\"epoch\\\":2");
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
