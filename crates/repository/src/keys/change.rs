//! Changing who may open: a new list of recipients, and in each domain a record of the next epoch.
//!
//! Invariants: the list is written first, since it says what the domains are brought to, so that a change that was
//! interrupted, or that a region missed, is finished by running any change again; what it replaces is deleted in a region
//! only after the new objects were read back there; no change leaves fewer than two recipients.

use breakwater_core::{DomainName, RegionId};
use breakwater_crypto::{Holder, Purpose, Recipient, RecipientId, RecipientSecret, SealedSecret, Secret, seal_for_all};
use bytes::Bytes;
use std::sync::Arc;

use super::opening::KeyObjects;
use super::ring::{DomainRing, Opener, Ring};
use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::domain::{DomainRecord, RestoreRecord};
use crate::format::recipients::{Member, RecipientsRecord};
use crate::region::{self, CALL_DEADLINE, Region, within};
use crate::repository::Repository;

/// Fewer recipients than this are refused: one lost key must not lose everything.
const FEWEST: usize = 2;

/// What is to change.
#[derive(Clone, Debug)]
pub enum KeyChange {
    /// One more may open everything.
    Add(Recipient, Holder),
    /// This one may no longer. The restore keys are replaced.
    Remove(RecipientId),
    /// The restore keys are replaced; who may open stays.
    Rotate,
    /// A domain with keys of its own.
    Domain(DomainName),
    /// Nothing: what an earlier change left undone is done.
    Finish,
}

/// What a change did.
#[derive(Debug)]
pub struct KeyChanged {
    /// Opened with the keys as they are now.
    pub repository: Repository,
    /// Objects written, in all regions.
    pub written: u64,
    /// Objects deleted, in all regions.
    pub deleted: u64,
    /// Regions where not everything was done. Running a change again finishes it.
    pub behind: Vec<Cause>,
}

impl Repository {
    /// Changes who may open the repository, in every region that answers. Needs a recipient's key.
    pub async fn change_keys(&self, change: KeyChange) -> Result<KeyChanged, RepositoryError> {
        let key = self.opener("changing keys")?.key.clone();
        // What was read when the handle was opened may be old by now.
        let ring = Ring::open(key.clone(), self.descriptor(), self.regions()).await?;
        let Some(opener) = ring.opener.clone() else {
            return Err(RepositoryError::NeedsRecipient { what: "changing keys" });
        };
        let objects = KeyObjects::look(self.regions()).await;
        let mut work = Work::new(self, &objects);
        let recipients = self.changed_list(&opener, &ring, &change, &objects)?;
        if recipients.number > opener.recipients.number {
            let name = ObjectName::Recipients(recipients.number);
            work.create_everywhere(&name, recipients.encode(&opener.root)).await?;
        } else {
            work.copy_everywhere(&ObjectName::Recipients(recipients.number)).await;
        }
        for domain in ring.domains() {
            self.bring_domain(domain, &recipients, &opener.root, &objects, &mut work).await?;
        }
        if let KeyChange::Domain(name) = &change {
            let record = self.new_domain(name, &recipients)?;
            let object = ObjectName::Domain { domain: name.clone(), epoch: 1 };
            work.create_everywhere(&object, record.encode(&opener.root)).await?;
        }
        work.delete_replaced().await;
        let ring = Ring::open(key, self.descriptor(), self.regions()).await?;
        let repository = self.with(ring.at_home_in(self.domain()).unwrap_or(ring), self.regions().to_vec());
        repository.learn_domains().await;
        Ok(KeyChanged { repository, written: work.written, deleted: work.deleted, behind: work.behind })
    }

    /// The list of recipients as it is to be.
    fn changed_list(
        &self,
        opener: &Opener,
        ring: &Ring,
        change: &KeyChange,
        objects: &KeyObjects<'_>,
    ) -> Result<RecipientsRecord, RepositoryError> {
        let mut list = opener.recipients.clone();
        let refused = |text: String| Err(RepositoryError::Refused(text));
        match change {
            KeyChange::Finish => return Ok(list),
            KeyChange::Domain(name) => {
                if ring.domains().iter().any(|domain| domain.name == *name) || objects.domains.contains_key(name) {
                    return refused(format!("there is a domain `{name}` already"));
                }
                if objects.erased.contains_key(name) {
                    return refused(format!("domain `{name}` was erased; hint: a name is used once, take another"));
                }
                return Ok(list);
            }
            KeyChange::Add(recipient, holder) => {
                if list.has(recipient.id) {
                    return refused(format!("key {} is a recipient already", recipient.id));
                }
                if list.recipients.iter().any(|one| one.recipient.name == recipient.name) {
                    return refused(format!(
                        "there is a recipient `{}` already; hint: take another name",
                        recipient.name
                    ));
                }
                list.recipients.push(Member { recipient: recipient.clone(), holder: holder.clone() });
            }
            KeyChange::Remove(id) => {
                if *id == opener.key.id() {
                    return refused(
                        "a key does not remove itself, since it could not finish what it began; hint: use the key of \
                         another recipient"
                            .to_owned(),
                    );
                }
                if !list.has(*id) {
                    return Err(RepositoryError::NotFound { name: format!("recipient {id}") });
                }
                if list.recipients.len() <= FEWEST {
                    return refused(format!(
                        "the repository has {} recipients, and one lost key must not lose everything; hint: add another \
                         recipient first",
                        list.recipients.len()
                    ));
                }
                list.recipients.retain(|one| one.recipient.id != *id);
                list.rotation += 1;
            }
            KeyChange::Rotate => list.rotation += 1,
        }
        list.number = objects.recipients.keys().next_back().copied().unwrap_or_default().max(list.number) + 1;
        list.created = self.now();
        list.root = self.seal_all(&list.public(), Purpose::RepositoryRoot(self.id()), &opener.root)?;
        Ok(list)
    }

    /// Writes the next epoch of a domain that is not as the list of recipients says.
    async fn bring_domain(
        &self,
        domain: &DomainRing,
        list: &RecipientsRecord,
        root: &Secret,
        objects: &KeyObjects<'_>,
        work: &mut Work<'_>,
    ) -> Result<(), RepositoryError> {
        let Some(opened) = &domain.opened else { return Ok(()) };
        let present = list.public();
        let newest = objects.domains.get(&domain.name).and_then(|epochs| epochs.keys().next_back().copied());
        if opened.record.recipients == present
            && opened.record.rotation == list.rotation
            && newest.is_none_or(|newest| newest <= opened.record.epoch)
        {
            let name = ObjectName::Domain { domain: domain.name.clone(), epoch: opened.record.epoch };
            work.copy_everywhere(&name).await;
            return Ok(());
        }
        let epoch = newest.unwrap_or_default().max(opened.record.epoch) + 1;
        let (repository, name) = (self.id(), domain.name.as_str());
        let mut restore = Vec::new();
        for one in &domain.restore {
            let Some(secret) = &one.secret else { continue };
            let purpose = Purpose::RestoreKey { repository, epoch: one.epoch, domain: name };
            let secret = self.seal_all(&present, purpose, secret.secret())?;
            restore.push(RestoreRecord { epoch: one.epoch, public: one.public, secret });
        }
        if opened.record.rotation < list.rotation {
            restore.push(self.new_restore_key(&domain.name, epoch, &present)?);
        }
        let record = DomainRecord {
            repository,
            domain: domain.name.clone(),
            epoch,
            created: self.now(),
            rotation: list.rotation,
            root: self.seal_all(&present, Purpose::DomainRoot { repository, epoch, domain: name }, &opened.root)?,
            recipients: present,
            restore,
        };
        let object = ObjectName::Domain { domain: domain.name.clone(), epoch };
        work.create_everywhere(&object, record.encode(root)).await
    }

    fn new_domain(&self, name: &DomainName, list: &RecipientsRecord) -> Result<DomainRecord, RepositoryError> {
        let (repository, epoch, recipients) = (self.id(), 1, list.public());
        let root = Secret::generate(self.entropy().as_ref());
        let purpose = Purpose::DomainRoot { repository, epoch, domain: name.as_str() };
        Ok(DomainRecord {
            repository,
            domain: name.clone(),
            epoch,
            created: self.now(),
            rotation: list.rotation,
            root: self.seal_all(&recipients, purpose, &root)?,
            restore: vec![self.new_restore_key(name, epoch, &recipients)?],
            recipients,
        })
    }

    fn new_restore_key(
        &self,
        domain: &DomainName,
        epoch: u32,
        recipients: &[Recipient],
    ) -> Result<RestoreRecord, RepositoryError> {
        let restore = RecipientSecret::generate(self.entropy().as_ref());
        let purpose = Purpose::RestoreKey { repository: self.id(), epoch, domain: domain.as_str() };
        let secret = self.seal_all(recipients, purpose, restore.secret())?;
        Ok(RestoreRecord { epoch, public: restore.public(), secret })
    }

    fn seal_all(
        &self,
        recipients: &[Recipient],
        purpose: Purpose<'_>,
        secret: &Secret,
    ) -> Result<Vec<SealedSecret>, RepositoryError> {
        let what = "the repository's keys cannot be sealed".to_owned();
        let sealed = seal_for_all(recipients, &purpose, secret, self.entropy().as_ref());
        sealed.map_err(|source| RepositoryError::Key { what, source })
    }
}

/// The regions while keys are changed in them.
struct Work<'a> {
    repository: &'a Repository,
    /// Regions that answer, in the order of their ids: two changes at once meet in the same one first.
    regions: Vec<&'a Arc<Region>>,
    objects: &'a KeyObjects<'a>,
    /// The objects that count now.
    present: Vec<ObjectName>,
    written: u64,
    deleted: u64,
    behind: Vec<Cause>,
}

impl<'a> Work<'a> {
    fn new(repository: &'a Repository, objects: &'a KeyObjects<'a>) -> Self {
        let away = |region: &Region| objects.silent.iter().any(|cause| cause.region == region.name());
        let mut regions: Vec<(Option<RegionId>, &Arc<Region>)> =
            repository.regions().iter().filter(|region| !away(region)).map(|region| (region.id(), region)).collect();
        regions.sort_by_key(|(id, _)| *id);
        let silent = objects.silent.iter();
        let behind = silent
            .map(|cause| Cause { region: cause.region.clone(), trouble: Trouble::Unusable(cause.trouble.to_string()) });
        Work {
            repository,
            regions: regions.into_iter().map(|(_, region)| region).collect(),
            objects,
            present: Vec::new(),
            written: 0,
            deleted: 0,
            behind: behind.collect(),
        }
    }

    /// Creates a new object in every region that answers. At least one must take it.
    async fn create_everywhere(&mut self, name: &ObjectName, bytes: Vec<u8>) -> Result<(), RepositoryError> {
        let bytes = Bytes::from(bytes);
        let mut taken = 0;
        for region in self.regions.clone() {
            match put(region, name, &bytes).await {
                Ok(_) => {
                    taken += 1;
                    self.written += 1;
                }
                Err(Trouble::Storage(error)) if error.kind == breakwater_storage::StorageErrorKind::AlreadyExists => {
                    return Err(RepositoryError::Refused(format!(
                        "somebody else changes the keys at the same time: `{name}` is in region `{}` already; hint: run \
                         the change again",
                        region.name()
                    )));
                }
                Err(trouble) => self.behind.push(region.cause(trouble)),
            }
        }
        if taken == 0 {
            let causes = std::mem::take(&mut self.behind);
            return Err(RepositoryError::Unreadable { name: name.to_string(), causes });
        }
        self.present.push(name.clone());
        Ok(())
    }

    /// Brings an object that is there already to the regions that lack it.
    async fn copy_everywhere(&mut self, name: &ObjectName) {
        let holders = self.objects.holders(name);
        let lacking: Vec<&Arc<Region>> = self
            .regions
            .iter()
            .copied()
            .filter(|region| !holders.iter().any(|held| held.name() == region.name()))
            .collect();
        self.present.push(name.clone());
        if lacking.is_empty() {
            return;
        }
        let order = self.repository.read_order();
        let bytes = match self.repository.fetch(&order, name, |bytes| Ok(Bytes::copy_from_slice(bytes))).await {
            Ok((bytes, _)) => bytes,
            Err(error) => {
                let why = breakwater_core::Chain(&error).to_string();
                self.behind.extend(lacking.iter().map(|region| region.cause(Trouble::Unusable(why.clone()))));
                return;
            }
        };
        for region in lacking {
            match put(region, name, &bytes).await {
                Ok(_) => self.written += 1,
                Err(trouble) => self.behind.push(region.cause(trouble)),
            }
        }
    }

    /// Deletes what the present objects have replaced, in each region where these can be read.
    async fn delete_replaced(&mut self) {
        for region in self.regions.clone() {
            let mut whole = true;
            for name in &self.present {
                if let Err(trouble) = region::get(region.place(), name).await {
                    self.behind.push(region.cause(trouble));
                    whole = false;
                }
            }
            if !whole {
                continue;
            }
            for name in self.objects.replaced_by(&self.present, region.name()) {
                match within(CALL_DEADLINE, region.place().delete(&name.to_string())).await {
                    Ok(()) => self.deleted += 1,
                    Err(trouble) => self.behind.push(region.cause(trouble)),
                }
            }
        }
    }
}

async fn put(region: &Region, name: &ObjectName, bytes: &Bytes) -> Result<(), Trouble> {
    let payload = breakwater_storage::Payload::from(bytes.clone());
    within(CALL_DEADLINE, region.ready().await?.create(&name.to_string(), payload)).await
}
