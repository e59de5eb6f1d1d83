//! Who may open a repository: the present recipients, the root sealed to each, and how each one holds its private key.
//!
//! Invariant: the root that a copy in here gives is the repository's only if the descriptor's commitment fits it, and the
//! rest counts only once the root has authenticated it.

use breakwater_core::{RepositoryId, Timestamp};
use breakwater_crypto::{Holder, Purpose, Recipient, RecipientId, RecipientSecret, SealedSecret, Secret, commitment};
use serde::{Deserialize, Serialize};

use super::{FormatError, signed};

const WHAT: &str = "list of recipients";
const LABEL: &str = "recipients-mac";

/// The body of `repo/recipients/<n>`; the highest number counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientsRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// The number in the object's name.
    pub number: u32,
    /// When it was made.
    pub created: Timestamp,
    /// How often the domains' restore keys were to be replaced by now. A domain whose record says less is not done yet.
    pub rotation: u32,
    /// Who may open everything.
    pub recipients: Vec<Member>,
    /// The repository's root, sealed to each of them.
    pub root: Vec<SealedSecret>,
}

/// A recipient and where its private key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name and public key.
    #[serde(flatten)]
    pub recipient: Recipient,
    /// Where its private key is.
    pub holder: Holder,
}

impl RecipientsRecord {
    /// The bytes of the object, authenticated under the repository's root.
    pub fn encode(&self, root: &Secret) -> Vec<u8> {
        signed::encode(LABEL, root, self)
    }

    /// Reads the object and checks that the holder of the repository's root wrote it.
    pub fn decode(bytes: &[u8], root: &Secret) -> Result<Self, FormatError> {
        signed::decode(WHAT, LABEL, root, bytes)
    }

    /// Reads the object without knowing who wrote it, for the one who looks for a key in it.
    pub fn peek(bytes: &[u8]) -> Result<Self, FormatError> {
        signed::peek(WHAT, bytes)
    }

    /// Opens the repository's root with a recipient's key and authenticates the object under it. `None`: it is not sealed
    /// to this key.
    pub fn open(
        bytes: &[u8],
        repository: RepositoryId,
        root_commitment: &[u8; 32],
        key: &RecipientSecret,
    ) -> Result<Option<(Self, Secret)>, FormatError> {
        let claimed = Self::peek(bytes)?;
        let id = key.id();
        if !claimed.root.iter().any(|sealed| sealed.recipient == id) {
            return Ok(None);
        }
        let root = key
            .open(&Purpose::RepositoryRoot(repository), &claimed.root)
            .map_err(|_| FormatError::Unsealed { what: WHAT })?;
        if commitment(&root) != *root_commitment {
            return Err(FormatError::Unsealed { what: WHAT });
        }
        let record = Self::decode(bytes, &root)?;
        if record.repository != repository {
            return Err(FormatError::damaged(WHAT, "it is that of another repository"));
        }
        Ok(Some((record, root)))
    }

    /// The recipients without their holders.
    pub fn public(&self) -> Vec<Recipient> {
        self.recipients.iter().map(|member| member.recipient.clone()).collect()
    }

    /// Whether this key is one of them.
    pub fn has(&self, id: RecipientId) -> bool {
        self.recipients.iter().any(|member| member.recipient.id == id)
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::Entropy;
    use breakwater_crypto::seal_for_all;

    use super::*;

    #[derive(Debug)]
    struct Ones;
    impl Entropy for Ones {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(1);
        }
    }

    #[test]
    fn only_the_repositorys_root_counts() {
        let repository = RepositoryId::from_bytes([1; 16]);
        let key = RecipientSecret::generate(&Ones);
        let stranger = RecipientSecret::from_secret(Secret::from_bytes([9; 32]));
        let root = Secret::from_bytes([7; 32]);
        let recipient = Recipient::new("primary", key.public());
        let make = |root: &Secret| RecipientsRecord {
            repository,
            number: 1,
            created: Timestamp(7),
            rotation: 0,
            recipients: vec![Member { recipient: recipient.clone(), holder: Holder::File }],
            root: seal_for_all(std::slice::from_ref(&recipient), &Purpose::RepositoryRoot(repository), root, &Ones)
                .unwrap(),
        };
        let bytes = make(&root).encode(&root);
        let pinned = commitment(&root);
        let (record, found) = RecipientsRecord::open(&bytes, repository, &pinned, &key).unwrap().unwrap();
        assert_eq!((record, found), (make(&root), root.clone()));
        assert_eq!(RecipientsRecord::open(&bytes, repository, &pinned, &stranger).unwrap(), None);
        // Whoever can write to a bucket can make a root of its own, seal it to everybody and sign with it.
        let other = Secret::from_bytes([8; 32]);
        let forged = make(&other).encode(&other);
        assert!(RecipientsRecord::open(&forged, repository, &pinned, &key).is_err());
        let text = String::from_utf8(bytes).unwrap();
        let renamed = text.replace("primary", "primarz");
        assert_ne!(renamed, text);
        assert!(RecipientsRecord::open(renamed.as_bytes(), repository, &pinned, &key).is_err());
    }
}
