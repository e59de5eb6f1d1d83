//! The contract of a key service.

use std::fmt::Debug;

use async_trait::async_trait;
use breakwater_core::{ErrorClass, RepositoryId};
use breakwater_crypto::RecipientId;
use zeroize::Zeroizing;

/// What a wrapped key is for. Unwrapping with another context fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyContext {
    /// The repository.
    pub repository: RepositoryId,
    /// The recipient.
    pub recipient: RecipientId,
}

impl KeyContext {
    /// The context as bytes, for services that authenticate some.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"breakwater/v1/key-service\0".to_vec();
        bytes.extend_from_slice(self.repository.as_bytes());
        bytes.extend_from_slice(self.recipient.0.as_bytes());
        bytes
    }
}

/// One key of one service.
#[async_trait]
pub trait KeyService: Send + Sync + Debug {
    /// Wraps at most 128 bytes, bound to `context`.
    async fn wrap(&self, plain: &[u8], context: &KeyContext) -> Result<Vec<u8>, ServiceError>;

    /// Gives back what was wrapped, for the same context only.
    async fn unwrap(&self, wrapped: &[u8], context: &KeyContext) -> Result<Zeroizing<Vec<u8>>, ServiceError>;
}

/// A key service did not do what was asked. Never holds a credential or a key.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address of a key is not one.
    #[error("`{url}` is not the address of a key: {problem}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No credentials, or not enough.
    #[error("key service {service} needs credentials: {problem}")]
    Credentials {
        /// The service.
        service: &'static str,
        /// Which.
        problem: String,
    },
    /// The service said no.
    #[error("key service {service} refused: {problem}")]
    Refused {
        /// The service.
        service: &'static str,
        /// Its words.
        problem: String,
    },
    /// The service is there, the key is not.
    #[error("key service {service} has no such key: {problem}")]
    NoKey {
        /// The service.
        service: &'static str,
        /// Its words.
        problem: String,
    },
    /// The service did not answer, or not with what it should.
    #[error("key service {service} cannot be used: {problem}")]
    Unusable {
        /// The service.
        service: &'static str,
        /// What happened.
        problem: String,
    },
    /// What is wrapped does not belong here.
    #[error("the wrapped key does not open: it was changed, or wrapped for another repository or recipient")]
    DoesNotOpen,
}

impl ServiceError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            ServiceError::Address { .. } => ErrorClass::Invalid,
            ServiceError::Credentials { .. } | ServiceError::Refused { .. } => ErrorClass::Denied,
            ServiceError::NoKey { .. } => ErrorClass::NotFound,
            ServiceError::Unusable { .. } => ErrorClass::Unavailable,
            ServiceError::DoesNotOpen => ErrorClass::Corrupt,
        }
    }
}
