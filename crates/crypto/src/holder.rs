//! Where a recipient's private key is, as the repository says it: in a file that only its owner has, or wrapped in the
//! repository, so that a passphrase or a key service opens it.
//!
//! Invariant: nothing in here is a secret. What is wrapped cannot be opened with what stands here alone.

use breakwater_core::{Entropy, RepositoryId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::derive::PREFIX;
use crate::passphrase::{Cost, PassphraseError, PassphraseLock};
use crate::{Fingerprint, RecipientId, RecipientKey, RecipientSecret, Secret};

/// Where a recipient's private key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Holder {
    /// In a key file, or in shares of one; the repository does not have it.
    File,
    /// In the repository, locked with a passphrase.
    Passphrase(PassphraseLock),
    /// In the repository, wrapped by a key service.
    Service(ServiceLock),
}

/// A private key that a key service has wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLock {
    /// Which service and which key of it, as the operator names them: `aws-kms:alias/backup`. Never holds a credential.
    pub service: String,
    /// What the service made of the private key.
    #[serde(with = "hex::serde")]
    pub wrapped: Vec<u8>,
}

impl Holder {
    /// The word for people.
    pub fn word(&self) -> &str {
        match self {
            Holder::File => "file",
            Holder::Passphrase(_) => "passphrase",
            Holder::Service(lock) => lock.service.split(':').next().unwrap_or("service"),
        }
    }
}

/// What is locked or wrapped: the private key, and the descriptor's fingerprint, so that the one who opens it knows which
/// repository is meant although there is no key file that pins it.
pub fn payload(key: &RecipientKey) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(key.secret.secret().expose().to_vec());
    bytes.extend_from_slice(&key.fingerprint.0);
    bytes
}

/// The key in an opened payload; `None` when the payload is not one, or for another recipient or descriptor.
pub fn read_payload(
    payload: &[u8],
    repository: RepositoryId,
    fingerprint: Fingerprint,
    recipient: RecipientId,
    name: &str,
) -> Option<RecipientKey> {
    let (secret, pinned) = payload.split_first_chunk::<32>()?;
    let secret = RecipientSecret::from_secret(Secret::from_bytes(*secret));
    let fits = pinned == fingerprint.0 && secret.id() == recipient;
    fits.then(|| RecipientKey { repository, fingerprint, name: name.to_owned(), secret })
}

/// What a passphrase's lock is bound to.
pub fn context(repository: RepositoryId, recipient: RecipientId) -> Vec<u8> {
    let mut context = PREFIX.to_vec();
    context.extend_from_slice(b"holder\0");
    context.extend_from_slice(repository.as_bytes());
    context.extend_from_slice(recipient.0.as_bytes());
    context
}

impl Holder {
    /// Locks `key` with a passphrase.
    pub fn locked(
        key: &RecipientKey,
        passphrase: &str,
        cost: Cost,
        entropy: &dyn Entropy,
    ) -> Result<Holder, PassphraseError> {
        let context = context(key.repository, key.id());
        Ok(Holder::Passphrase(PassphraseLock::new(passphrase, cost, &context, &payload(key), entropy)?))
    }
}
