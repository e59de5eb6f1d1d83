//! The keys that an opened handle holds, by domain, and which domain each source belongs to.
//!
//! Invariant: a source's domain is known by what opens with it, never by what somebody says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::{DomainName, Entropy, SourceUid};
use breakwater_crypto::{ReaperKey, RecipientKey, RecipientSecret, Secret, WriterKey, derive};

use super::grants::OpenedGrant;

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
    /// What the caller was granted, where that is all.
    pub(crate) grant: Option<OpenedGrant>,
    /// Whether chunks can be named, and so proven by their names.
    pub(crate) names_chunks: bool,
    /// Domains that were erased, and the sources that were in them.
    pub(crate) erased: BTreeMap<DomainName, BTreeSet<SourceUid>>,
    sources: Arc<Mutex<HashMap<SourceUid, usize>>>,
}

/// The keys of one domain.
#[derive(Clone, Debug)]
pub(crate) struct DomainRing {
    pub(crate) name: DomainName,
    pub(crate) keys: DomainKeys,
    /// Oldest first; session secrets are sealed to the last one.
    pub(crate) restore: Vec<RestoreKey>,
    /// Only recipients have it.
    pub(crate) opened: Option<OpenedDomain>,
    /// The structure key of the one source that was granted.
    pub(crate) granted: Option<(SourceUid, Secret)>,
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
            granted: None,
        };
        Ok(Ring { domains: vec![domain], ..Ring::empty() })
    }

    /// A reaper's keys: structure, and nothing that opens or names content.
    pub(crate) fn of_reaper(key: ReaperKey, entropy: &dyn Entropy) -> Self {
        let domain = |(name, structure_root)| DomainRing {
            name,
            // A key of nobody: what it names is nothing of the repository.
            keys: DomainKeys { id_key: Secret::generate(entropy), structure_root },
            restore: Vec::new(),
            opened: None,
            granted: None,
        };
        Ring { domains: key.domains.into_iter().map(domain).collect(), names_chunks: false, ..Ring::empty() }
    }

    /// The keys in a grant: the structure of one source, and some of its sessions.
    pub(crate) fn of_grant(grant: OpenedGrant, entropy: &dyn Entropy) -> Self {
        let domain = DomainRing {
            name: grant.grant.domain.clone(),
            keys: DomainKeys { id_key: grant.secrets.id_key.clone(), structure_root: Secret::generate(entropy) },
            restore: Vec::new(),
            opened: None,
            granted: Some((grant.grant.source, grant.secrets.structure.clone())),
        };
        Ring { domains: vec![domain], grant: Some(grant), ..Ring::empty() }
    }

    fn empty() -> Self {
        Ring {
            domains: Vec::new(),
            home: 0,
            opener: None,
            grant: None,
            names_chunks: true,
            erased: BTreeMap::new(),
            sources: Arc::default(),
        }
    }

    /// The keys of several domains, of which there is at least one. At home in `default`, or else in the first.
    pub(crate) fn of_recipient(
        opener: Opener,
        domains: Vec<DomainRing>,
        erased: BTreeMap<DomainName, BTreeSet<SourceUid>>,
    ) -> Self {
        let home = domains.iter().position(|domain| domain.name.as_str() == "default").unwrap_or(0);
        Ring { domains, home, opener: Some(opener), erased, ..Ring::empty() }
    }

    /// Whether anything of `source` can be opened: it was not erased, and is not beside what was granted.
    pub(crate) fn covers(&self, source: SourceUid) -> bool {
        let erased = self.erased.values().any(|sources| sources.contains(&source));
        !erased && self.grant.as_ref().is_none_or(|grant| grant.grant.source == source)
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
        let first = open(&self.domain_of(source).structure_key(source));
        if first.is_ok() || self.domains.len() == 1 || self.known().contains_key(&source) {
            if first.is_ok() && self.domains.len() > 1 {
                self.known().entry(source).or_insert(self.home);
            }
            return first;
        }
        for (at, domain) in self.domains.iter().enumerate().filter(|(at, _)| *at != self.home) {
            if let Ok(opened) = open(&domain.structure_key(source)) {
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
    /// The restore key that session secrets are sealed to. A handle that seals none has one that nothing can be sealed to.
    pub(crate) fn present(&self) -> RestoreKey {
        self.restore.last().cloned().unwrap_or(RestoreKey { epoch: 0, public: [0; 32], secret: None })
    }

    /// The key of everything about `source` that is not content; of another source than the granted one, a key that opens
    /// nothing.
    pub(crate) fn structure_key(&self, source: SourceUid) -> Secret {
        match &self.granted {
            None => self.keys.structure_key(source),
            Some((granted, key)) if *granted == source => key.clone(),
            Some((_, key)) => derive(key, "not-granted", &[source.as_bytes()]),
        }
    }
}
