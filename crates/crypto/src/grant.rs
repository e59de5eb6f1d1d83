//! Grants: one snapshot for one person. The identity is the person's own key; the grant holds the secrets of the sessions
//! that the snapshot needs, sealed to it.
//!
//! Invariant: what a grant opens is in the grant; nothing else of the repository can be opened with it.

use std::collections::BTreeMap;
use std::path::Path;

use breakwater_core::{DomainName, Entropy, RepositoryId, SessionId, SnapshotId, SourceUid, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::{Zeroize, Zeroizing};

use crate::keyfile::{Fields, write_new};
use crate::{
    Fingerprint, KeyFileError, KeyKind, Purpose, RecipientId, RecipientSecret, Seal, SealError, Secret, sha256,
};

/// Bytes of the checksum in the text of a public key.
const CHECKSUM: usize = 4;

/// The key of somebody who may be granted snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(pub RecipientSecret);

impl Identity {
    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Identity(RecipientSecret::generate(entropy))
    }

    /// Reads an identity's file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fields = Fields::load(path)?;
        fields.expect_kind(KeyKind::Identity)?;
        let identity = Identity(RecipientSecret::from_secret(fields.secret("secret")?));
        if fields.text("public")? != identity.public_text() {
            return Err(fields.bad("secret", "does not belong to the public key that the file names"));
        }
        Ok(identity)
    }

    /// Writes it to a new file that only its owner can read.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let secret = hex::encode(self.0.secret().expose());
        write_new(
            path,
            json!({"kind": "breakwater-identity", "version": 1, "public": self.public_text(), "secret": secret}),
        )
    }

    /// The public key as it is handed over: 72 hex digits, the last 8 of them a checksum.
    pub fn public_text(&self) -> String {
        public_text(&self.0.public())
    }
}

fn public_text(public: &[u8; 32]) -> String {
    let checksum = sha256(public);
    format!("{}{}", hex::encode(public), hex::encode(&checksum[..CHECKSUM]))
}

/// The public key of this text; `None` when a digit is wrong or missing.
pub fn parse_public(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let public = *Secret::from_hex(text.get(..64)?)?.expose();
    (public_text(&public) == text).then_some(public)
}

/// A grant as it lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The repository.
    pub repository: RepositoryId,
    /// Pins its descriptor.
    pub fingerprint: Fingerprint,
    /// The source of the snapshot.
    pub source: SourceUid,
    /// The source's domain.
    pub domain: DomainName,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When it was made.
    pub created: Timestamp,
    /// The identity that it is for.
    pub identity: RecipientId,
    /// The secrets.
    pub seal: Seal,
}

/// What a grant holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantSecrets {
    /// Names the chunks of the domain, so that what is read can be proven.
    pub id_key: Secret,
    /// Opens the structure of the source.
    pub structure: Secret,
    /// Opens content.
    pub sessions: BTreeMap<SessionId, Secret>,
}

#[derive(Serialize, Deserialize)]
struct Plain {
    id_key: String,
    structure: String,
    sessions: BTreeMap<String, String>,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.id_key.zeroize();
        self.structure.zeroize();
        self.sessions.values_mut().for_each(Zeroize::zeroize);
    }
}

impl GrantSecrets {
    /// Seals them to a public key for `purpose`, which is a [`Purpose::Grant`].
    pub fn seal(&self, public: &[u8; 32], purpose: &Purpose<'_>, entropy: &dyn Entropy) -> Result<Seal, SealError> {
        let shown = |secret: &Secret| hex::encode(secret.expose());
        let plain = Plain {
            id_key: shown(&self.id_key),
            structure: shown(&self.structure),
            sessions: self.sessions.iter().map(|(session, secret)| (session.to_string(), shown(secret))).collect(),
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&plain).expect("a JSON value can be written"));
        Seal::to(public, purpose, &bytes, entropy).map_err(|_| SealError::BadRecipient { name: "identity".to_owned() })
    }
}

impl Grant {
    /// Reads a grant's file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fields = Fields::load(path)?;
        fields.expect_kind(KeyKind::Grant)?;
        Ok(Grant {
            repository: fields.parse("repository", "is not an id")?,
            fingerprint: fields.fingerprint()?,
            source: fields.parse("source", "is not an id")?,
            domain: fields.parse("domain", "is not the name of a domain")?,
            snapshot: fields.parse("snapshot", "is not an id")?,
            created: fields.parse("created", "is not a time")?,
            identity: fields.parse("identity", "is not an id")?,
            seal: fields.parse("secrets", "is not a sealed value")?,
        })
    }

    /// Writes the grant to a new file.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyFileError> {
        let value = json!({
            "kind": "breakwater-grant",
            "version": 1,
            "repository": self.repository,
            "fingerprint": self.fingerprint.to_string(),
            "source": self.source,
            "domain": self.domain,
            "snapshot": self.snapshot,
            "created": self.created,
            "identity": self.identity,
            "secrets": self.seal,
        });
        write_new(path, value)
    }

    /// What the seal is bound to.
    pub const fn purpose(&self) -> Purpose<'static> {
        Purpose::Grant { repository: self.repository, source: self.source, snapshot: self.snapshot }
    }

    /// Opens it with the identity that it is for.
    pub fn open(&self, identity: &Identity) -> Result<GrantSecrets, SealError> {
        let id = identity.0.id();
        if id != self.identity {
            return Err(SealError::NotForThisKey { id });
        }
        let bytes = identity.0.open_bytes(&self.purpose(), &self.seal)?;
        let refused = SealError::DoesNotOpen { id };
        let plain: Plain = serde_json::from_slice(&bytes).map_err(|_| refused.clone())?;
        let secret = |text: &String| Secret::from_hex(text).ok_or_else(|| refused.clone());
        let session =
            |(session, text): (&String, &String)| Ok((session.parse().map_err(|_| refused.clone())?, secret(text)?));
        Ok(GrantSecrets {
            id_key: secret(&plain.id_key)?,
            structure: secret(&plain.structure)?,
            sessions: plain.sessions.iter().map(session).collect::<Result<_, SealError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Ones;
    impl Entropy for Ones {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(1);
        }
    }

    #[test]
    fn only_the_identity_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::generate(&Ones);
        let other = Identity(RecipientSecret::from_secret(Secret::from_bytes([9; 32])));
        let path = dir.path().join("identity");
        identity.write_new(&path).unwrap();
        assert_eq!(Identity::read(&path).unwrap(), identity);
        let text = identity.public_text();
        assert_eq!(parse_public(&text), Some(identity.0.public()));
        let slip = if text.ends_with('0') { "1" } else { "0" };
        assert_eq!(parse_public(&format!("{}{slip}", &text[..71])), None);
        assert_eq!(parse_public(&text[..64]), None);

        let secrets = GrantSecrets {
            id_key: Secret::from_bytes([1; 32]),
            structure: Secret::from_bytes([2; 32]),
            sessions: [(SessionId::from_bytes([3; 16]), Secret::from_bytes([4; 32]))].into(),
        };
        let (repository, source, snapshot) =
            (RepositoryId::from_bytes([1; 16]), SourceUid::from_bytes([2; 16]), SnapshotId::from_bytes([3; 16]));
        let purpose = Purpose::Grant { repository, source, snapshot };
        let grant = Grant {
            repository,
            fingerprint: Fingerprint([2; 32]),
            source,
            domain: DomainName::new("default").unwrap(),
            snapshot,
            created: Timestamp(5),
            identity: identity.0.id(),
            seal: secrets.seal(&parse_public(&text).unwrap(), &purpose, &Ones).unwrap(),
        };
        let path = dir.path().join("grant");
        grant.write_new(&path).unwrap();
        assert_eq!(Grant::read(&path).unwrap(), grant);
        assert_eq!(grant.open(&identity).unwrap(), secrets);
        assert!(matches!(grant.open(&other), Err(SealError::NotForThisKey { .. })));
        let mut moved = grant.clone();
        moved.snapshot = SnapshotId::from_bytes([4; 16]);
        assert!(moved.open(&identity).is_err(), "a grant cannot be passed off as one for another snapshot");
        assert!(!format!("{secrets:?}").contains("4, 4"));
    }
}
