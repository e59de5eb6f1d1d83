//! The opened handle: which regions there are, and the keys that the caller's key file gives.

use std::collections::HashMap;
use std::sync::Arc;

use breakwater_core::{
    Clock, DomainName, Entropy, ErrorClass, RegionId, RepositoryId, SessionId, SnapshotId, SourceUid, Timestamp,
};
use breakwater_crypto::{Fingerprint, ReaperKey, RecipientKey, Secret, Suite, WriterKey};
use bytes::Bytes;
use futures::StreamExt;

use crate::error::{Cause, RepositoryError, Trouble};
use crate::format::descriptor::{Descriptor, RegionRecord, Use};
use crate::format::record::{RecordKey, RecordKind};
use crate::format::{FormatError, ObjectName};
use crate::keys::grants::OpenedGrant;
use crate::keys::ring::{Opener, Ring};
use crate::region::{self, Place, Region, RegionState};
use crate::regions::{RegionHandle, Role};

/// Source records that are read at once.
const SOURCES_AT_ONCE: usize = 16;

/// The key that a repository is opened with.
#[derive(Clone, Debug)]
pub enum Access {
    /// Adds backups and reads their structure.
    Writer(WriterKey),
    /// Opens everything.
    Recipient(RecipientKey),
    /// Lists and deletes; opens no content and names no chunks.
    Reaper(ReaperKey),
    /// Opens one snapshot.
    Grant(OpenedGrant),
}

impl Access {
    /// The repository that the key is for.
    pub const fn repository(&self) -> RepositoryId {
        match self {
            Access::Writer(key) => key.repository,
            Access::Recipient(key) => key.repository,
            Access::Reaper(key) => key.repository,
            Access::Grant(grant) => grant.grant.repository,
        }
    }

    const fn fingerprint(&self) -> Fingerprint {
        match self {
            Access::Writer(key) => key.fingerprint,
            Access::Recipient(key) => key.fingerprint,
            Access::Reaper(key) => key.fingerprint,
            Access::Grant(grant) => grant.grant.fingerprint,
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
    ring: Ring,
    regions: Vec<Arc<Region>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
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
        let ring = match access {
            Access::Writer(key) => Ring::of_writer(key, &descriptor)?,
            Access::Recipient(key) => Ring::open(key, &descriptor, &regions).await?,
            Access::Reaper(key) => Ring::of_reaper(key, entropy.as_ref()),
            Access::Grant(grant) => Ring::of_grant(grant, entropy.as_ref()),
        };
        let inner = Inner { descriptor, descriptor_bytes, fingerprint: pinned, ring, regions, clock, entropy };
        let repository = Repository { inner: Arc::new(inner) };
        repository.learn_domains().await;
        Ok(repository)
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

    /// The domain that new sources are written to with this handle: that of the writer key; with a recipient's key
    /// `default`, or the first one, unless [`in_domain`](Self::in_domain) says another.
    pub fn domain(&self) -> &DomainName {
        &self.inner.ring.home().name
    }

    /// The domain of `source`, as far as anything of it was seen.
    pub fn domain_of(&self, source: SourceUid) -> &DomainName {
        &self.inner.ring.domain_of(source).name
    }

    /// The domains that the key opens.
    pub fn domains(&self) -> Vec<DomainName> {
        self.inner.ring.domains().iter().map(|domain| domain.name.clone()).collect()
    }

    /// The same repository, where new sources belong to `domain`.
    pub fn in_domain(&self, domain: &DomainName) -> Result<Repository, RepositoryError> {
        let ring = self.inner.ring.at_home_in(domain);
        let ring = ring.ok_or_else(|| RepositoryError::UnknownDomain(domain.clone()))?;
        Ok(self.with(ring, self.inner.regions.clone()))
    }

    /// Whether content can be opened with this handle's key.
    pub fn opens_content(&self) -> bool {
        self.inner.ring.opener.is_some() || self.inner.ring.grant.is_some()
    }

    /// The key that names the chunks of new sources.
    pub fn id_key(&self) -> &Secret {
        &self.inner.ring.home().keys.id_key
    }

    /// The key that names the chunks of `source`.
    pub fn id_key_of(&self, source: SourceUid) -> &Secret {
        &self.inner.ring.domain_of(source).keys.id_key
    }

    /// The key of everything about `source` that is not content.
    pub fn structure_key(&self, source: SourceUid) -> Secret {
        self.inner.ring.domain_of(source).structure_key(source)
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

    /// What an agent needs to write into the home domain, and no more.
    pub fn writer_key(&self) -> WriterKey {
        let domain = self.inner.ring.home();
        let restore = domain.present();
        WriterKey {
            repository: self.id(),
            fingerprint: self.inner.fingerprint,
            suite: self.suite(),
            domain: domain.name.clone(),
            epoch: restore.epoch,
            id_key: domain.keys.id_key.clone(),
            structure_root: domain.keys.structure_root.clone(),
            restore: restore.public,
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
        let open = |structure: &Secret| RecordKey { repository: self.id(), structure }.open(kind, name, bytes);
        self.inner.ring.try_domains(source, open)
    }

    /// Opens the bytes of the record `name` of `source` whatever its kind is.
    pub fn open_any_record(
        &self,
        source: SourceUid,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<(RecordKind, Vec<u8>), FormatError> {
        let open = |structure: &Secret| RecordKey { repository: self.id(), structure }.open_any(name, bytes);
        self.inner.ring.try_domains(source, open)
    }

    /// Refuses `what` where the key opens no content.
    pub(crate) fn needs_content(&self, what: &'static str) -> Result<(), RepositoryError> {
        if self.opens_content() { Ok(()) } else { Err(RepositoryError::NeedsRecipient { what }) }
    }

    /// What only a recipient's key gives.
    pub(crate) fn opener(&self, what: &'static str) -> Result<&Opener, RepositoryError> {
        self.inner.ring.opener.as_ref().ok_or(RepositoryError::NeedsRecipient { what })
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.inner.ring
    }

    pub(crate) fn root(&self) -> Option<&Secret> {
        self.inner.ring.opener.as_ref().map(|opener| &opener.root)
    }

    /// Finds out which domain each source belongs to, where there are several. What cannot be read now is found out when
    /// the first record of the source is.
    pub(crate) async fn learn_domains(&self) {
        if self.inner.ring.domains().len() < 2 {
            return;
        }
        let order = self.read_order();
        let Ok(sources) = self.sources(&order).await else { return };
        let learn = |uid| {
            let order = &order;
            async move {
                if let Err(error) = self.source_record(order, uid).await {
                    tracing::debug!(source = %uid, error = %breakwater_core::Chain(&error), "no source record");
                }
            }
        };
        futures::stream::iter(sources.uids).for_each_concurrent(SOURCES_AT_ONCE, learn).await;
    }

    pub(crate) fn descriptor_bytes(&self) -> &Bytes {
        &self.inner.descriptor_bytes
    }

    /// The same repository with one region more.
    pub(crate) fn with_region(&self, place: Place) -> Repository {
        let mut regions = self.inner.regions.clone();
        regions.push(Arc::new(Region::new(place, self.id(), self.inner.fingerprint, RegionState::Ready)));
        self.with(self.inner.ring.clone(), regions)
    }

    /// The same repository with these keys and regions.
    pub(crate) fn with(&self, ring: Ring, regions: Vec<Arc<Region>>) -> Repository {
        let inner = &self.inner;
        let inner = Inner {
            descriptor: inner.descriptor.clone(),
            descriptor_bytes: inner.descriptor_bytes.clone(),
            fingerprint: inner.fingerprint,
            ring,
            regions,
            clock: Arc::clone(&inner.clock),
            entropy: Arc::clone(&inner.entropy),
        };
        Repository { inner: Arc::new(inner) }
    }
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
