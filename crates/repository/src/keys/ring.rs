//! The keys that an opened handle holds, by domain, and which domain each source belongs to.
//!
//! Invariant: a source's domain is known by what opens with it, never by what somebody says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::{DomainName, SourceUid};
use breakwater_crypto::{RecipientKey, RecipientSecret, Secret, WriterKey};

use crate::error::RepositoryError;
use crate::format::descriptor::Descriptor;
use crate::format::domain::{DomainKeys, DomainRecord};
use crate::format::recipients::RecipientsRecord;

/// The keys that the caller's key gives.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    /// Never empty.
    domains: Vec<DomainRing>,
    /// The domain of sources that nothing is known of yet: where this handle writes.
    home: usize,
    pub(crate) opener: Option<Opener>,
    sources: Arc<Mutex<HashMap<SourceUid, usize>>>,
}

/// The keys of one domain.
#[derive(Clone, Debug)]
pub(crate) struct DomainRing {
    pub(crate) name: DomainName,
    pub(crate) keys: DomainKeys,
    /// Oldest first, never empty; session secrets are sealed to the last one.
    pub(crate) restore: Vec<RestoreKey>,
    /// Only recipients have it.
    pub(crate) opened: Option<OpenedDomain>,
}

/// What a recipient knows of a domain beyond its keys.
#[derive(Clone, Debug)]
pub(crate) struct OpenedDomain {
    pub(crate) record: DomainRecord,
    pub(crate) root: Secret,
}

/// A domain's restore key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreKey {
    /// The epoch that it was made in.
    pub epoch: u32,
    /// Session secrets are sealed to it.
    pub public: [u8; 32],
    /// Opens them; only recipients have it.
    pub(crate) secret: Option<RecipientSecret>,
}

/// What makes a handle one that opens content.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    pub(crate) key: RecipientKey,
    /// The repository's root.
    pub(crate) root: Secret,
    pub(crate) recipients: RecipientsRecord,
}

impl Ring {
    pub(crate) fn of_writer(key: WriterKey, descriptor: &Descriptor) -> Result<Self, RepositoryError> {
        if key.suite != descriptor.suite {
            return Err(RepositoryError::Invalid(format!(
                "the writer key is for suite `{}`, but the repository uses `{}`",
                key.suite, descriptor.suite
            )));
        }
        let domain = DomainRing {
            name: key.domain,
            keys: DomainKeys { id_key: key.id_key, structure_root: key.structure_root },
            restore: vec![RestoreKey { epoch: key.epoch, public: key.restore, secret: None }],
            opened: None,
        };
        Ok(Ring { domains: vec![domain], home: 0, opener: None, sources: Arc::default() })
    }

    /// The keys of several domains, of which there is at least one. At home in `default`, or else in the first.
    pub(crate) fn of_recipient(opener: Opener, domains: Vec<DomainRing>) -> Self {
        let home = domains.iter().position(|domain| domain.name.as_str() == "default").unwrap_or(0);
        Ring { domains, home, opener: Some(opener), sources: Arc::default() }
    }

    /// The same keys, at home in another domain.
    pub(crate) fn at_home_in(&self, name: &DomainName) -> Option<Self> {
        let home = self.domains.iter().position(|domain| domain.name == *name)?;
        Some(Ring { home, ..self.clone() })
    }

    pub(crate) fn domains(&self) -> &[DomainRing] {
        &self.domains
    }

    pub(crate) fn home(&self) -> &DomainRing {
        self.domains.get(self.home).expect("a ring has its home domain")
    }

    /// The domain of `source`: the one that opened something of it, or the home of what is not there yet.
    pub(crate) fn domain_of(&self, source: SourceUid) -> &DomainRing {
        let known = if self.domains.len() > 1 { self.known().get(&source).copied() } else { None };
        known.and_then(|at| self.domains.get(at)).unwrap_or_else(|| self.home())
    }

    /// Tries `open` with the structure key of each domain that `source` may belong to, and remembers which one fitted.
    /// The last error is that of the home domain when nothing fits.
    pub(crate) fn try_domains<T, E>(&self, source: SourceUid, open: impl Fn(&Secret) -> Result<T, E>) -> Result<T, E> {
        let first = open(&self.domain_of(source).keys.structure_key(source));
        if first.is_ok() || self.domains.len() == 1 || self.known().contains_key(&source) {
            if first.is_ok() && self.domains.len() > 1 {
                self.known().entry(source).or_insert(self.home);
            }
            return first;
        }
        for (at, domain) in self.domains.iter().enumerate().filter(|(at, _)| *at != self.home) {
            if let Ok(opened) = open(&domain.keys.structure_key(source)) {
                self.known().insert(source, at);
                return Ok(opened);
            }
        }
        first
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<SourceUid, usize>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DomainRing {
    /// The restore key that session secrets are sealed to.
    pub(crate) fn present(&self) -> &RestoreKey {
        self.restore.last().expect("a domain has a restore key")
    }
}
