//! Where a recipient's private key is, as the repository says it: in a file that only its owner has, or wrapped in the
//! repository, so that a passphrase or a key service opens it.
//!
//! Invariant: nothing in here is a secret. What is wrapped cannot be opened with what stands here alone.

use serde::{Deserialize, Serialize};

use crate::passphrase::PassphraseLock;

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
