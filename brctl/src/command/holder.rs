//! Keys that lie in the repository itself: locked with a passphrase, or wrapped by a key service.
//!
//! Invariant: what a service has wrapped is unwrapped once and compared before anybody relies on it, so that a service that
//! takes keys and does not give them back is found out before it is the only one that has one.

use std::path::Path;

use breakwater_core::{Entropy, ErrorClass, RepositoryId};
use breakwater_crypto::holder::payload;
use breakwater_crypto::{Cost, Fingerprint, Holder, RecipientKey, RecipientSecret, ServiceLock};
use breakwater_kms::{KeyContext, ServiceError};
use breakwater_repository::{KeyChange, Repository};
use breakwater_runtime::SystemEntropy;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::offline::passphrase;
use crate::wiring::key_services;

/// A holder that locks `key` with a passphrase.
pub(super) async fn by_passphrase(key: &RecipientKey, words: Zeroizing<String>) -> Result<Holder, Failure> {
    let locked = key.clone();
    let made = tokio::task::spawn_blocking(move || Holder::locked(&locked, &words, Cost::default(), &SystemEntropy));
    let made = made.await.map_err(|_| Failure::internal("locking ended early"))?;
    made.map_err(|error| Failure::of(error.class(), &error))
}

/// A holder whose key the service at `url` has wrapped, and given back once.
pub(super) async fn by_service(key: &RecipientKey, url: &str) -> Result<Holder, Failure> {
    let failed = |error: ServiceError| Failure::of(error.class(), &error).doing(format!("--kms {url}"));
    let service = key_services().open(url).map_err(failed)?;
    let (plain, context) = (payload(key), KeyContext { repository: key.repository, recipient: key.id() });
    let wrapped = service.wrap(&plain, &context).await.map_err(failed)?;
    let given_back = service.unwrap(&wrapped, &context).await.map_err(failed)?;
    if *given_back != *plain {
        return Err(Failure::new(ErrorClass::Corrupt, "the key service gave back another key than it was given")
            .doing(format!("--kms {url}")));
    }
    Ok(Holder::Service(ServiceLock { service: url.to_owned(), wrapped }))
}

/// What `repository create` is to add to the key files, tried before there is a repository.
#[derive(Debug)]
pub(super) struct Further {
    services: Vec<String>,
    passphrase: Option<Zeroizing<String>>,
}

impl Further {
    /// Reads the passphrase, and has each service wrap and unwrap a key that is for nothing.
    pub(super) async fn tried(services: Vec<String>, passphrase_file: Option<&Path>) -> Result<Self, Failure> {
        for (index, url) in services.iter().enumerate() {
            if services.iter().skip(index + 1).any(|other| other == url) {
                return Err(Failure::usage(format!("--kms {url} was given twice")));
            }
        }
        let passphrase = passphrase_file.map(|file| passphrase(Some(file), "")).transpose()?;
        if passphrase.as_ref().is_some_and(|words| words.is_empty()) {
            return Err(Failure::usage("the passphrase's file is empty: --passphrase-file"));
        }
        let mut random = [0; 16];
        SystemEntropy.fill(&mut random);
        let trial = new_key(RepositoryId::from_bytes(random), Fingerprint([0; 32]), "trial");
        for url in &services {
            by_service(&trial, url).await?;
        }
        Ok(Further { services, passphrase })
    }

    /// Adds them to a repository that was just made. Gives it as it is then, and the names of the new recipients.
    pub(super) async fn add(self, mut repository: Repository) -> Result<(Repository, Vec<String>), Failure> {
        let mut names = Vec::new();
        for (index, url) in self.services.iter().enumerate() {
            let name = if index == 0 { "kms".to_owned() } else { format!("kms-{}", index + 1) };
            let key = new_key(repository.id(), repository.fingerprint(), &name);
            let holder = by_service(&key, url).await?;
            repository = added(&repository, &key, holder).await?;
            names.push(name);
        }
        if let Some(words) = self.passphrase {
            let key = new_key(repository.id(), repository.fingerprint(), "passphrase");
            let holder = by_passphrase(&key, words).await?;
            repository = added(&repository, &key, holder).await?;
            names.push(key.name);
        }
        Ok((repository, names))
    }
}

async fn added(repository: &Repository, key: &RecipientKey, holder: Holder) -> Result<Repository, Failure> {
    let changed = repository.change_keys(KeyChange::Add(key.recipient(), holder)).await?;
    match changed.behind.first() {
        None => Ok(changed.repository),
        Some(cause) => Err(Failure::new(
            ErrorClass::Unavailable,
            format!("recipient `{}` is not in every region: {}: {}", key.name, cause.region, cause.trouble),
        )),
    }
}

/// A new recipient of a repository.
pub(super) fn new_key(repository: RepositoryId, fingerprint: Fingerprint, name: &str) -> RecipientKey {
    RecipientKey { repository, fingerprint, name: name.to_owned(), secret: RecipientSecret::generate(&SystemEntropy) }
}
