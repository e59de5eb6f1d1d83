//! From a recipient's key to the keys of every domain.
//!
//! Invariant: nothing is believed that the repository's root does not authenticate, and the root is believed because the
//! descriptor, which the key file pins, commits to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use breakwater_core::DomainName;
use breakwater_crypto::{Purpose, RecipientKey, RecipientSecret, Secret};
use bytes::Bytes;

use super::ring::{DomainRing, OpenedDomain, Opener, RestoreKey, Ring};
use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::descriptor::Descriptor;
use crate::format::domain::{DomainKeys, DomainRecord};
use crate::format::erasure::ErasureRecord;
use crate::format::recipients::RecipientsRecord;
use crate::format::{FormatError, ObjectName};
use crate::region::{self, Region};

/// The key objects that the regions have.
pub(crate) struct KeyObjects<'a> {
    /// The lists of recipients, by number.
    pub(crate) recipients: BTreeMap<u32, Vec<&'a Arc<Region>>>,
    /// The records of each domain, by epoch.
    pub(crate) domains: BTreeMap<DomainName, BTreeMap<u32, Vec<&'a Arc<Region>>>>,
    /// Proofs that a domain was erased; not authenticated yet.
    pub(crate) erased: BTreeMap<DomainName, Vec<&'a Arc<Region>>>,
    /// Regions that did not answer.
    pub(crate) silent: Vec<Cause>,
}

impl<'a> KeyObjects<'a> {
    /// Asks all regions.
    pub(crate) async fn look(regions: &'a [Arc<Region>]) -> Self {
        let mut found = KeyObjects {
            recipients: BTreeMap::new(),
            domains: BTreeMap::new(),
            erased: BTreeMap::new(),
            silent: Vec::new(),
        };
        let lists = regions.iter().map(|region| async move { (region, region.names("repo/").await) });
        for (region, listed) in futures::future::join_all(lists).await {
            let names = match listed {
                Ok(names) => names,
                Err(trouble) => {
                    found.silent.push(region.cause(trouble));
                    continue;
                }
            };
            for (name, _) in names {
                match ObjectName::parse(&name) {
                    Some(ObjectName::Recipients(number)) => found.recipients.entry(number).or_default().push(region),
                    Some(ObjectName::Domain { domain, epoch }) => {
                        found.domains.entry(domain).or_default().entry(epoch).or_default().push(region);
                    }
                    Some(ObjectName::Erased(domain)) => found.erased.entry(domain).or_default().push(region),
                    _ => {}
                }
            }
        }
        found
    }

    /// The regions that hold a key object.
    pub(crate) fn holders(&self, name: &ObjectName) -> &[&'a Arc<Region>] {
        let held = match name {
            ObjectName::Recipients(number) => self.recipients.get(number),
            ObjectName::Domain { domain, epoch } => self.domains.get(domain).and_then(|epochs| epochs.get(epoch)),
            ObjectName::Erased(domain) => self.erased.get(domain),
            _ => None,
        };
        held.map_or(&[], Vec::as_slice)
    }

    /// What a region still holds that the objects in `present` have replaced.
    pub(crate) fn replaced_by(&self, present: &[ObjectName], region: &str) -> Vec<ObjectName> {
        let mut replaced = Vec::new();
        for name in present {
            match name {
                ObjectName::Recipients(number) => {
                    replaced.extend(self.recipients.range(..number).map(|(older, _)| ObjectName::Recipients(*older)));
                }
                ObjectName::Domain { domain, epoch } => {
                    let older = self.domains.get(domain).into_iter().flat_map(|epochs| epochs.range(..epoch));
                    replaced
                        .extend(older.map(|(epoch, _)| ObjectName::Domain { domain: domain.clone(), epoch: *epoch }));
                }
                _ => {}
            }
        }
        replaced.retain(|name| self.holders(name).iter().any(|held| held.name() == region));
        replaced
    }
}

impl Ring {
    /// Opens what `key` opens.
    pub(crate) async fn open(
        key: RecipientKey,
        descriptor: &Descriptor,
        regions: &[Arc<Region>],
    ) -> Result<Self, RepositoryError> {
        let objects = KeyObjects::look(regions).await;
        let opener = open_recipients(key, descriptor, &objects).await?;
        let mut domains = Vec::new();
        let mut causes = Vec::new();
        let mut erased = BTreeMap::new();
        for (name, holders) in &objects.erased {
            match read_erasure(&opener, name, holders).await {
                Some(record) => drop(erased.insert(name.clone(), record.sources)),
                None => tracing::warn!(domain = %name, "a proof of an erasure is not authentic, or cannot be read"),
            }
        }
        for (name, epochs) in objects.domains.iter().filter(|(name, _)| !erased.contains_key(*name)) {
            match open_domain(&opener, name, epochs, &mut causes).await? {
                Some(domain) => domains.push(domain),
                None => tracing::warn!(domain = %name, "the domain cannot be opened"),
            }
        }
        if domains.is_empty() {
            causes.extend(objects.silent);
            return Err(RepositoryError::Unreadable { name: "repo/domain/".to_owned(), causes });
        }
        Ok(Ring::of_recipient(opener, domains, erased))
    }
}

/// The proof that a domain was erased, if the repository's root authenticates it.
async fn read_erasure(opener: &Opener, name: &DomainName, holders: &[&Arc<Region>]) -> Option<ErasureRecord> {
    let object = ObjectName::Erased(name.clone());
    for region in holders {
        let Ok(bytes) = region::get(region.place(), &object).await else { continue };
        match ErasureRecord::decode(&bytes, &opener.root) {
            Ok(record) if record.domain == *name && record.repository == opener.recipients.repository => {
                return Some(record);
            }
            _ => {}
        }
    }
    None
}

/// Finds the newest list of recipients that is authentic and has this key.
async fn open_recipients(
    key: RecipientKey,
    descriptor: &Descriptor,
    objects: &KeyObjects<'_>,
) -> Result<Opener, RepositoryError> {
    let mut causes = Vec::new();
    // Lists without this key: whether they are authentic shows once the root is known.
    let mut without: Vec<Bytes> = Vec::new();
    for (number, holders) in objects.recipients.iter().rev() {
        let name = ObjectName::Recipients(*number);
        for region in holders {
            let opened = async {
                let bytes = region::get(region.place(), &name).await?;
                let opened = RecipientsRecord::open(&bytes, descriptor.repository, &descriptor.root, &key.secret)?;
                if let Some((record, _)) = &opened
                    && record.number != *number
                {
                    return Err(Trouble::Format(FormatError::damaged(
                        "list of recipients",
                        "it lies under another name",
                    )));
                }
                Ok((bytes, opened))
            };
            match opened.await {
                Ok((_, Some((recipients, root)))) => {
                    let later = without.iter().find_map(|bytes| RecipientsRecord::decode(bytes, &root).ok());
                    return match later {
                        None => Ok(Opener { key, root, recipients }),
                        Some(later) => Err(RepositoryError::Removed { name: key.name, since: later.created }),
                    };
                }
                Ok((bytes, None)) => without.push(bytes),
                Err(trouble) => causes.push(region.cause(trouble)),
            }
        }
    }
    if !without.is_empty() && causes.is_empty() {
        return Err(RepositoryError::NotRecipient { name: key.name });
    }
    causes.extend(
        objects
            .silent
            .iter()
            .map(|cause| Cause { region: cause.region.clone(), trouble: Trouble::Unusable(cause.trouble.to_string()) }),
    );
    Err(RepositoryError::Unreadable { name: "repo/recipients/".to_owned(), causes })
}

/// Opens the newest record of a domain that this key opens. `None`: there is none yet, or all that there are are damaged.
async fn open_domain(
    opener: &Opener,
    name: &DomainName,
    epochs: &BTreeMap<u32, Vec<&Arc<Region>>>,
    causes: &mut Vec<Cause>,
) -> Result<Option<DomainRing>, RepositoryError> {
    for (epoch, holders) in epochs.iter().rev() {
        let object = ObjectName::Domain { domain: name.clone(), epoch: *epoch };
        for region in holders {
            let read = async {
                let record = DomainRecord::decode(&region::get(region.place(), &object).await?, &opener.root)?;
                if (&record.domain, record.epoch) != (name, *epoch) {
                    return Err(Trouble::Format(FormatError::damaged("domain record", "it lies under another name")));
                }
                Ok(record)
            };
            match read.await {
                Ok(record) if record.recipients.iter().any(|one| one.id == opener.key.id()) => {
                    return unlock(record, &opener.key).map(Some);
                }
                // A recipient that is not in this record yet: a change of keys was interrupted.
                Ok(_) => {
                    let why = format!(
                        "`{object}` is not sealed to key `{}` yet; hint: a change of keys was interrupted, run it again \
                         with another key",
                        opener.key.name
                    );
                    causes.push(region.cause(Trouble::Unusable(why)));
                }
                Err(trouble) => causes.push(region.cause(trouble)),
            }
        }
    }
    Ok(None)
}

/// Opens everything in a domain's record.
fn unlock(record: DomainRecord, key: &RecipientKey) -> Result<DomainRing, RepositoryError> {
    let failed = |source| RepositoryError::Key {
        what: format!("the keys of domain `{}` cannot be opened with key `{}`", record.domain, key.name),
        source,
    };
    let (repository, domain) = (record.repository, record.domain.as_str());
    let purpose = Purpose::DomainRoot { repository, epoch: record.epoch, domain };
    let root: Secret = key.secret.open(&purpose, &record.root).map_err(failed)?;
    let mut restore = Vec::new();
    for one in &record.restore {
        let purpose = Purpose::RestoreKey { repository, epoch: one.epoch, domain };
        let secret = RecipientSecret::from_secret(key.secret.open(&purpose, &one.secret).map_err(failed)?);
        restore.push(RestoreKey { epoch: one.epoch, public: one.public, secret: Some(secret) });
    }
    let (name, keys) = (record.domain.clone(), DomainKeys::of_root(&root));
    Ok(DomainRing { name, keys, restore, opened: Some(OpenedDomain { record, root }), granted: None })
}
