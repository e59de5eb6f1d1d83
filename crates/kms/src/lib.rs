//! Key services: where a recipient's private key is wrapped by somebody else's key, which never leaves its place.
//!
//! Invariant: what was wrapped for one repository and recipient is not unwrapped for another, whatever the service itself
//! can bind. One call unlocks a repository; nothing is ever wrapped per backup or per pack.
//!
//! AWS is tried against moto and PKCS#11 against SoftHSM; Vault, Google and Azure only against fakes made of their reference
//! documents, in `tests`.
//!
//! Reading order: [`service`] (the contract), [`services`] (which there are), [`envelope`] (for services that bind nothing),
//! then one file a service: [`aws`], [`vault`], [`gcp`], [`azure`], [`pkcs11`].

pub mod aws;
pub mod azure;
pub mod envelope;
pub mod gcp;
pub mod pkcs11;
mod rest;
pub mod service;
pub mod services;
pub mod vault;

pub use service::{KeyContext, KeyService, ServiceError};
pub use services::KeyServices;
