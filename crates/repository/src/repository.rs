//! The opened handle: which regions there are, and the keys that the caller's key file gives.

use std::collections::HashMap;
use std::sync::Arc;

use breakwater_core::{
    Clock, DomainName, Entropy, ErrorClass, RegionId, RepositoryId, SessionId, SnapshotId, SourceUid, Timestamp,
};
use breakwater_crypto::{Fingerprint, Purpose, Recipient, RecipientKey, Secret, Suite, WriterKey};
use bytes::Bytes;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::descriptor::{Descriptor, RegionRecord, Use};
use crate::format::domain::{DomainKeys, DomainRecord};
use crate::format::open::SessionKeys;
use crate::format::record::{RecordKey, RecordKind};
use crate::format::{FormatError, ObjectName};
use crate::region::{self, Place, Region, RegionState};
use crate::regions::{RegionHandle, Role};

/// The key that a repository is opened with.
#[derive(Clone, Debug)]
pub enum Access {
    /// Adds backups and reads their structure.
    Writer(WriterKey),
    /// Opens everything.
    Recipient(RecipientKey),
}

impl Access {
    /// The repository that the key is for.
    pub const fn repository(&self) -> RepositoryId {
        match self {
            Access::Writer(key) => key.repository,
            Access::Recipient(key) => key.repository,
        }
    }

    const fn fingerprint(&self) -> Fingerprint {
        match self {
            Access::Writer(key) => key.fingerprint,
            Access::Recipient(key) => key.fingerprint,
        }
    }
}

/// An opened repository. A clone is another handle.
#[derive(Clone, Debug)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    descriptor: Descriptor,
    descriptor_bytes: Bytes,
    fingerprint: Fingerprint,
    keyring: Keyring,
    regions: Vec<Arc<Region>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// The keys that the caller's key gives.
#[derive(Clone, Debug)]
struct Keyring {
    domain: DomainName,
    epoch: u32,
    keys: DomainKeys,
    recipients: Vec<Recipient>,
    recipient: Option<RecipientKey>,
    /// The repository's root; only recipients have it.
    root: Option<Secret>,
}

impl Repository {
    /// Opens the repository that `access` is for in `places`. Regions that do not answer are tolerated as long as one
    /// does; [`regions`](Self::regions) tells which.
    pub async fn open(
        places: Vec<Place>,
        access: Access,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Repository, RepositoryError> {
        check_places(&places)?;
        let (expected, pinned) = (access.repository(), access.fingerprint());
        let answers = futures::future::join_all(places.iter().map(look)).await;
        let mut regions = Vec::new();
        let mut descriptor_bytes = None;
        let mut troubles = Vec::new();
        let mut seen: HashMap<RegionId, String> = HashMap::new();
        for (mut place, answer) in places.into_iter().zip(answers) {
            let location = place.storage.location().to_owned();
            let found = match answer {
                Err(trouble) => Err(trouble),
                Ok((bytes, record)) => {
                    let fingerprint = Descriptor::fingerprint(&bytes);
                    if record.repository != expected {
                        let (region, found) = (place.name, record.repository);
                        return Err(RepositoryError::Foreign { region, location, found, expected });
                    }
                    if let Some(first) = seen.insert(record.region, place.name.clone()) {
                        return Err(RepositoryError::SamePlace { first, second: place.name });
                    }
                    if place.id.is_some_and(|id| id != record.region) {
                        Err(Trouble::Unusable(format!("another region ({}) lies at {location}", record.region)))
                    } else if fingerprint == pinned {
                        descriptor_bytes = Some(bytes);
                        Ok(record.region)
                    } else {
                        let (region, found) = (place.name.clone(), fingerprint);
                        let error = RepositoryError::Fingerprint { region, found, pinned };
                        Err(Trouble::Unusable(error.to_string()))
                    }
                }
            };
            let state = match found {
                Ok(id) => {
                    place.id = Some(id);
                    RegionState::Ready
                }
                Err(trouble) => {
                    let state = RegionState::Away(trouble.to_string());
                    troubles.push(Cause { region: place.name.clone(), trouble });
                    state
                }
            };
            regions.push(Arc::new(Region::new(place, expected, pinned, state)));
        }
        let Some(descriptor_bytes) = descriptor_bytes else {
            return Err(RepositoryError::NoRegion { causes: troubles });
        };
        for cause in &troubles {
            tracing::warn!(region = %cause.region, error = %cause.trouble, "region cannot be used");
        }
        let descriptor = Descriptor::decode(&descriptor_bytes)
            .map_err(|source| RepositoryError::format(ObjectName::Descriptor, source))?;
        let keyring = match access {
            Access::Writer(key) => Keyring::of_writer(key, &descriptor)?,
            Access::Recipient(key) => Keyring::of_recipient(key, &descriptor, &regions).await?,
        };
        let inner = Inner { descriptor, descriptor_bytes, fingerprint: pinned, keyring, regions, clock, entropy };
        Ok(Repository { inner: Arc::new(inner) })
    }

    /// The repository.
    pub fn id(&self) -> RepositoryId {
        self.inner.descriptor.repository
    }

    /// What it is.
    pub fn descriptor(&self) -> &Descriptor {
        &self.inner.descriptor
    }

    /// What key files pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprint
    }

    /// How it names and seals.
    pub fn suite(&self) -> Suite {
        self.inner.descriptor.suite
    }

    /// Its regions, in the order given, with what is known of each.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.inner.regions
    }

    /// The handles for a [`RegionSet`](crate::regions::RegionSet): all regions whose id is known.
    pub fn handles(&self) -> Vec<RegionHandle> {
        let handle = |region: &Arc<Region>| {
            Some(RegionHandle {
                name: region.name().to_owned(),
                id: region.id()?,
                role: region.role(),
                storage: region.place().clone(),
            })
        };
        self.inner.regions.iter().filter_map(handle).collect()
    }

    /// The region of this name.
    pub fn region(&self, name: &str) -> Result<&Arc<Region>, RepositoryError> {
        let found = self.inner.regions.iter().find(|region| region.name() == name);
        found.ok_or_else(|| RepositoryError::UnknownRegion(name.to_owned()))
    }

    /// The domain that the key opens.
    pub fn domain(&self) -> &DomainName {
        &self.inner.keyring.domain
    }

    /// The epoch of the domain's keys.
    pub fn epoch(&self) -> u32 {
        self.inner.keyring.epoch
    }

    /// Those to whom new session secrets are sealed.
    pub fn recipients(&self) -> &[Recipient] {
        &self.inner.keyring.recipients
    }

    /// Whether content can be opened with this handle's key.
    pub fn opens_content(&self) -> bool {
        self.inner.keyring.recipient.is_some()
    }

    /// The key that names chunks.
    pub fn id_key(&self) -> &Secret {
        &self.inner.keyring.keys.id_key
    }

    /// The key of everything about `source` that is not content.
    pub fn structure_key(&self, source: SourceUid) -> Secret {
        self.inner.keyring.keys.structure_key(source)
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Where randomness comes from.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.inner.entropy
    }

    /// Where the present comes from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Thirty-two random bytes.
    pub fn salt(&self) -> [u8; 32] {
        let mut salt = [0; 32];
        self.inner.entropy.fill(&mut salt);
        salt
    }

    /// A new session's id.
    pub fn new_session(&self) -> SessionId {
        SessionId::v7(self.now(), self.inner.entropy.as_ref())
    }

    /// A new id for a snapshot that no schedule asked for.
    pub fn new_snapshot(&self) -> SnapshotId {
        SnapshotId::v7(self.now(), self.inner.entropy.as_ref())
    }

    /// A handle for a writer, made of a recipient's: what an agent needs and no more.
    pub fn writer_key(&self) -> WriterKey {
        let keyring = &self.inner.keyring;
        WriterKey {
            repository: self.id(),
            fingerprint: self.inner.fingerprint,
            suite: self.suite(),
            domain: keyring.domain.clone(),
            epoch: keyring.epoch,
            id_key: keyring.keys.id_key.clone(),
            structure_root: keyring.keys.structure_root.clone(),
            recipients: keyring.recipients.clone(),
        }
    }

    /// Refuses to write where a feature would have to be known that is not.
    pub fn check_writable(&self) -> Result<(), RepositoryError> {
        let checked = self.inner.descriptor.check_use(Use::Write);
        checked.map_err(|source| RepositoryError::format(ObjectName::Descriptor, source))
    }

    /// Refuses to delete where a feature would have to be known that is not.
    pub fn check_deletable(&self) -> Result<(), RepositoryError> {
        let checked = self.inner.descriptor.check_use(Use::Delete);
        checked.map_err(|source| RepositoryError::format(ObjectName::Descriptor, source))
    }

    /// Seals `value` as the record `name` of `source`.
    pub fn seal_record<T: serde::Serialize>(
        &self,
        source: SourceUid,
        kind: RecordKind,
        name: &ObjectName,
        value: &T,
    ) -> Result<Vec<u8>, RepositoryError> {
        let structure = self.structure_key(source);
        let key = RecordKey { repository: self.id(), structure: &structure };
        key.seal(self.suite(), kind, self.salt(), name, value).map_err(|error| RepositoryError::format(name, error))
    }

    /// Opens the bytes of the record `name` of `source`.
    pub fn open_record<T: serde::de::DeserializeOwned>(
        &self,
        source: SourceUid,
        kind: RecordKind,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<T, FormatError> {
        let structure = self.structure_key(source);
        RecordKey { repository: self.id(), structure: &structure }.open(kind, name, bytes)
    }

    /// Opens the bytes of the record `name` of `source` whatever its kind is.
    pub fn open_any_record(
        &self,
        source: SourceUid,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<(RecordKind, Vec<u8>), FormatError> {
        let structure = self.structure_key(source);
        RecordKey { repository: self.id(), structure: &structure }.open_any(name, bytes)
    }

    /// The secret in a session's key record. Needs a recipient's key.
    pub fn unseal_session(&self, source: SourceUid, keys: &SessionKeys) -> Result<Secret, RepositoryError> {
        let recipient = self.recipient("opening content")?;
        let purpose = Purpose::SessionSecret { repository: self.id(), source, session: keys.session };
        recipient.secret.open(&purpose, &keys.secret).map_err(|source| RepositoryError::Key {
            what: format!("the secret of session {} cannot be opened with key `{}`", keys.session, recipient.name),
            source,
        })
    }

    pub(crate) fn recipient(&self, what: &'static str) -> Result<&RecipientKey, RepositoryError> {
        self.inner.keyring.recipient.as_ref().ok_or(RepositoryError::NeedsRecipient { what })
    }

    pub(crate) fn root(&self) -> Option<&Secret> {
        self.inner.keyring.root.as_ref()
    }

    pub(crate) fn descriptor_bytes(&self) -> &Bytes {
        &self.inner.descriptor_bytes
    }

    /// The same repository with one region more.
    pub(crate) fn with_region(&self, place: Place) -> Repository {
        let inner = &self.inner;
        let mut regions = inner.regions.clone();
        regions.push(Arc::new(Region::new(place, self.id(), inner.fingerprint, RegionState::Ready)));
        let inner = Inner {
            descriptor: inner.descriptor.clone(),
            descriptor_bytes: inner.descriptor_bytes.clone(),
            fingerprint: inner.fingerprint,
            keyring: inner.keyring.clone(),
            regions,
            clock: Arc::clone(&inner.clock),
            entropy: Arc::clone(&inner.entropy),
        };
        Repository { inner: Arc::new(inner) }
    }
}

impl Keyring {
    fn of_writer(key: WriterKey, descriptor: &Descriptor) -> Result<Self, RepositoryError> {
        if key.suite != descriptor.suite {
            return Err(RepositoryError::Invalid(format!(
                "the writer key is for suite `{}`, but the repository uses `{}`",
                key.suite, descriptor.suite
            )));
        }
        Ok(Keyring {
            domain: key.domain,
            epoch: key.epoch,
            keys: DomainKeys { id_key: key.id_key, structure_root: key.structure_root },
            recipients: key.recipients,
            recipient: None,
            root: None,
        })
    }

    async fn of_recipient(
        key: RecipientKey,
        descriptor: &Descriptor,
        regions: &[Arc<Region>],
    ) -> Result<Self, RepositoryError> {
        let repository = descriptor.repository;
        let failed = |what: &str| {
            let what = format!("the {what} cannot be opened with key `{}`", key.name);
            move |source| RepositoryError::Key { what, source }
        };
        let root = key
            .secret
            .open(&Purpose::RepositoryRoot(repository), &descriptor.root)
            .map_err(failed("repository's root"))?;
        let mut causes = Vec::new();
        for region in regions {
            match read_domain(region, &root).await {
                Ok(record) => {
                    let purpose =
                        Purpose::DomainRoot { repository, epoch: record.epoch, domain: record.domain.as_str() };
                    let domain_root = key.secret.open(&purpose, &record.root).map_err(failed("root of the domain"))?;
                    return Ok(Keyring {
                        domain: record.domain,
                        epoch: record.epoch,
                        keys: DomainKeys::of_root(&domain_root),
                        recipients: record.recipients,
                        recipient: Some(key),
                        root: Some(root),
                    });
                }
                Err(trouble) => causes.push(region.cause(trouble)),
            }
        }
        Err(RepositoryError::Unreadable { name: "repo/domain/".to_owned(), causes })
    }
}

/// The one domain that a repository of this format version has.
async fn read_domain(region: &Region, root: &Secret) -> Result<DomainRecord, Trouble> {
    let names = region.names("repo/domain/").await?;
    let mut names = names.iter().filter_map(|(name, _)| match ObjectName::parse(name) {
        Some(name @ ObjectName::Domain { .. }) => Some(name),
        _ => None,
    });
    let newer = || FormatError::Newer { what: "repository", detail: "several domains or epochs".to_owned() };
    let (name, more) = (names.next(), names.next());
    let Some(name) = name else { return Err(Trouble::Unusable("it holds no domain record".to_owned())) };
    if more.is_some() {
        return Err(Trouble::Format(newer()));
    }
    let record = DomainRecord::decode(&region::get(region.place(), &name).await?, root)?;
    if name != (ObjectName::Domain { domain: record.domain.clone(), epoch: record.epoch }) {
        return Err(Trouble::Format(FormatError::damaged("domain record", "it lies under another name")));
    }
    Ok(record)
}

/// The descriptor's bytes and the region record of a place.
async fn look(place: &Place) -> Result<(Bytes, RegionRecord), Trouble> {
    let storage = &place.storage;
    let descriptor = region::get(storage, &ObjectName::Descriptor)
        .await
        .map_err(|trouble| region::explain_missing(storage, trouble))?;
    let record = region::get(storage, &ObjectName::Region).await?;
    Ok((descriptor, RegionRecord::decode(&record)?))
}

pub(crate) fn check_places(places: &[Place]) -> Result<(), RepositoryError> {
    if places.is_empty() {
        return Err(RepositoryError::Invalid("a repository needs at least one region".to_owned()));
    }
    if !places.iter().any(|place| place.role == Role::Sync) {
        return Err(RepositoryError::Invalid("at least one region must have the role `sync`".to_owned()));
    }
    for (at, place) in places.iter().enumerate() {
        if places.iter().skip(at + 1).any(|other| other.name == place.name) {
            return Err(RepositoryError::Invalid(format!("two regions have the same name: {}", place.name)));
        }
    }
    Ok(())
}

impl Trouble {
    /// Whether another region may deliver what this one did not.
    pub(crate) fn is_damage(&self) -> bool {
        self.class() == ErrorClass::Corrupt
    }
}
