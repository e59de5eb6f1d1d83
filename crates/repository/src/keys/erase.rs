//! Erasing a domain: its keys go, and with them everything that was ever stored in it, in every region and every copy,
//! without touching a pack.
//!
//! Invariants: the proof is durable in every region that answers before the first key is destroyed; a domain of which a
//! proof exists is not opened any more, whatever a region that was away still has.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_core::{DomainName, SourceUid, Timestamp};
use breakwater_crypto::RecipientId;
use breakwater_storage::{Payload, StorageErrorKind};

use super::opening::KeyObjects;
use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::erasure::{Destroyed, ErasureRecord};
use crate::region::{self, CALL_DEADLINE, within};
use crate::repository::Repository;

/// An erasure, as it stands.
#[derive(Debug)]
pub struct Erased {
    /// The proof.
    pub proof: ErasureRecord,
    /// Key objects deleted by this call, in all regions.
    pub deleted: u64,
    /// Key objects of the domain that are still there, with their regions.
    pub remaining: BTreeMap<String, Vec<String>>,
    /// Regions that did not answer: what they hold is not known.
    pub behind: Vec<Cause>,
}

impl Repository {
    /// Destroys the keys of `domain`. `without_silent` goes on although a region does not answer; it must be run again once
    /// that region is back. Needs a recipient's key, which cannot open the domain any more afterwards.
    pub async fn erase_domain(&self, domain: &DomainName, without_silent: bool) -> Result<Erased, RepositoryError> {
        let root = self.opener("erasing a domain")?.root.clone();
        let objects = KeyObjects::look(self.regions()).await;
        if !objects.silent.is_empty() && !without_silent {
            let names: Vec<_> =
                objects.silent.iter().map(|cause| format!("{}: {}", cause.region, cause.trouble)).collect();
            return Err(RepositoryError::Refused(format!(
                "a region that does not answer would keep the keys of domain `{domain}`: {}; nothing was destroyed; hint: \
                 erase when it is back, or say that it is to be done without it, and again later",
                names.join("; ")
            )));
        }
        let name = ObjectName::Erased(domain.clone());
        let proof = match self.erasure(&objects, domain).await? {
            Some(proof) => proof,
            None => {
                if !self.domains().contains(domain) {
                    return Err(RepositoryError::UnknownDomain(domain.clone()));
                }
                if self.domains().len() == 1 {
                    return Err(RepositoryError::Refused(format!(
                        "domain `{domain}` is the only one of the repository; nothing was destroyed; hint: destroy the \
                         repository's places and its keys, since nothing else is in it"
                    )));
                }
                self.erasure_of(domain, &objects).await?
            }
        };
        let bytes = proof.encode(&root);
        let mut behind: Vec<Cause> = Vec::new();
        let mut deleted = 0;
        let epochs = objects.domains.get(domain);
        for region in self.regions() {
            let destroy = async {
                let storage = region.ready().await?;
                match within(CALL_DEADLINE, storage.create(&name.to_string(), Payload::from(bytes.clone()))).await {
                    Ok(()) => {}
                    Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {}
                    Err(trouble) => return Err(trouble),
                }
                let found = region::get(storage, &name).await?;
                ErasureRecord::decode(&found, &root)?;
                let mut gone = 0;
                for (epoch, holders) in epochs.into_iter().flatten() {
                    if holders.iter().any(|held| held.name() == region.name()) {
                        let object = ObjectName::Domain { domain: domain.clone(), epoch: *epoch };
                        within(CALL_DEADLINE, storage.delete(&object.to_string())).await?;
                        gone += 1;
                    }
                }
                Ok(gone)
            };
            match destroy.await {
                Ok(gone) => deleted += gone,
                Err(trouble) => behind.push(region.cause(trouble)),
            }
        }
        let after = KeyObjects::look(self.regions()).await;
        let mut erased = self.what_remains(proof, &after);
        (erased.deleted, erased.behind) = (deleted, merged(behind, erased.behind));
        Ok(erased)
    }

    /// Checks the proof of an erasure, and what is left of the domain's keys.
    pub async fn verify_erasure(&self, domain: &DomainName) -> Result<Erased, RepositoryError> {
        self.opener("checking an erasure")?;
        let objects = KeyObjects::look(self.regions()).await;
        match self.erasure(&objects, domain).await? {
            Some(proof) => {
                let mut erased = self.what_remains(proof, &objects);
                erased.behind.extend(objects.silent);
                Ok(erased)
            }
            None => Err(RepositoryError::NotFound { name: ObjectName::Erased(domain.clone()).to_string() }),
        }
    }

    fn what_remains(&self, proof: ErasureRecord, objects: &KeyObjects<'_>) -> Erased {
        let mut remaining: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (epoch, holders) in objects.domains.get(&proof.domain).into_iter().flatten() {
            let object = ObjectName::Domain { domain: proof.domain.clone(), epoch: *epoch };
            let regions = holders.iter().map(|region| region.name().to_owned()).collect();
            remaining.insert(object.to_string(), regions);
        }
        Erased { proof, deleted: 0, remaining, behind: Vec::new() }
    }

    /// The authentic proof that a domain was erased, if there is one.
    async fn erasure(
        &self,
        objects: &KeyObjects<'_>,
        domain: &DomainName,
    ) -> Result<Option<ErasureRecord>, RepositoryError> {
        if !objects.erased.contains_key(domain) {
            return Ok(None);
        }
        let root = self.opener("erasing a domain")?.root.clone();
        let name = ObjectName::Erased(domain.clone());
        let decode = |bytes: &[u8]| ErasureRecord::decode(bytes, &root);
        Ok(Some(self.fetch(&self.read_order(), &name, decode).await?.0))
    }

    /// What is about to be destroyed, and what cannot be opened without it.
    async fn erasure_of(
        &self,
        domain: &DomainName,
        objects: &KeyObjects<'_>,
    ) -> Result<ErasureRecord, RepositoryError> {
        let order = self.read_order();
        let mut destroyed = Vec::new();
        for epoch in objects.domains.get(domain).into_iter().flatten().map(|(epoch, _)| *epoch) {
            let name = ObjectName::Domain { domain: domain.clone(), epoch };
            let hash = |bytes: &[u8]| Ok(hex::encode(breakwater_crypto::sha256(bytes)));
            let (sha256, _) = self.fetch(&order, &name, hash).await?;
            destroyed.push(Destroyed { name: name.to_string(), sha256 });
        }
        let mut sources: BTreeSet<SourceUid> = BTreeSet::new();
        let mut sessions = 0;
        for source in self.sources(&order).await?.uids {
            let record = self.source_record(&order, source).await;
            if !record.is_ok_and(|record| record.domain == *domain) && self.domain_of(source) != domain {
                continue;
            }
            sources.insert(source);
            let names = self.names(&order, &ObjectName::meta_prefix(source, "keys")).await?;
            let ids: BTreeSet<_> = names
                .objects
                .keys()
                .filter_map(|name| match ObjectName::parse(name) {
                    Some(ObjectName::SessionKeys(_, session) | ObjectName::ResealedKeys(_, session, _)) => {
                        Some(session)
                    }
                    _ => None,
                })
                .collect();
            sessions += ids.len() as u64;
        }
        let by: RecipientId = self.opener("erasing a domain")?.key.id();
        let at: Timestamp = self.now();
        Ok(ErasureRecord { repository: self.id(), domain: domain.clone(), at, by, destroyed, sources, sessions })
    }
}

/// One cause a region.
fn merged(mut some: Vec<Cause>, more: Vec<Cause>) -> Vec<Cause> {
    for cause in more {
        if !some.iter().any(|one| one.region == cause.region) {
            some.push(cause);
        }
    }
    some
}
