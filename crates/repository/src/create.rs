//! Making a repository, and joining a region to one.
//!
//! Invariants: the descriptor is written last, so that a place without one holds no repository; no key is handed out
//! before the recovery key has opened the new repository; a place that holds anything else is left alone.

use std::sync::Arc;

use breakwater_core::{Clock, DomainName, Entropy, RegionId, RepositoryId, Timestamp};
use breakwater_crypto::{
    Holder, Purpose, Recipient, RecipientKey, RecipientSecret, Secret, Suite, Voucher, WriterKey, commitment,
    seal_for_all,
};
use breakwater_storage::{Payload, Placement, Retention, StorageErrorKind, Tier, probe, probe_placement};
use bytes::Bytes;
use futures::TryStreamExt;

use crate::error::{RepositoryError, Trouble};
use crate::format::ObjectName;
use crate::format::descriptor::{Descriptor, Offers, RegionRecord};
use crate::format::domain::{DomainKeys, DomainRecord, RestoreRecord};
use crate::format::recipients::{Member, RecipientsRecord};
use crate::keys::opening::KeyObjects;
use crate::region::{self, CALL_DEADLINE, Place, within};
use crate::repository::{Access, Repository, check_places};

/// Below this a probe leaves its traces when it is killed.
const PROBE_PREFIX: &str = "repo/";
const PROBE_NAMES: &str = "repo/probe-";
/// How long an object is locked to find out whether that binds.
const TRIED_FOR_MICROS: i64 = 60_000_000;

/// How a new repository is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// How it names and seals.
    pub suite: Suite,
    /// The name of its domain.
    pub domain: DomainName,
    /// Bytes of a file's extent: a power of two from 4 KiB to 4 MiB.
    pub extent_size: u32,
    /// Bytes that packs aim at: from 1 MiB to 1 GiB.
    pub pack_size: u32,
    /// Whether sources of a domain may lean on each other's verified packs.
    pub verified_chunks: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        CreateOptions {
            suite: Suite::Standard,
            domain: DomainName::new("default").expect("`default` is a name"),
            extent_size: 128 << 10,
            pack_size: 64 << 20,
            verified_chunks: false,
        }
    }
}

/// A new repository and its keys. The keys exist nowhere else.
#[derive(Debug)]
pub struct Created {
    /// Opened with the primary key.
    pub repository: Repository,
    /// For agents.
    pub writer_key: WriterKey,
    /// For daily restores.
    pub key: RecipientKey,
    /// For the safe: it has opened the repository once.
    pub recovery_key: RecipientKey,
}

impl Repository {
    /// Makes a repository in `places`, which must be empty and distinct.
    pub async fn create(
        places: Vec<Place>,
        options: CreateOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Created, RepositoryError> {
        check_places(&places)?;
        check_sizes(&options)?;
        let mut offers = Vec::new();
        for place in &places {
            refuse_occupied(place).await?;
            offers.push(try_promises(place, clock.as_ref()).await?);
        }
        let fresh: Vec<(&Place, Offers)> = places.iter().zip(offers).collect();
        let draft = Draft::new(&options, clock.as_ref(), entropy.as_ref())?;
        let mut written = Vec::new();
        if let Err(error) = draft.write_regions(&fresh, clock.as_ref(), entropy.as_ref(), &mut written).await {
            // Nothing names these objects yet, and a place left half-made would have to be cleaned by hand.
            for (place, name) in written {
                drop(within(CALL_DEADLINE, place.storage.delete(&name.to_string())).await);
            }
            return Err(error);
        }
        let descriptor = Payload::from(draft.descriptor.clone());
        for place in &places {
            create(place, &ObjectName::Descriptor, descriptor.clone()).await?;
        }
        for place in &places {
            lock_signs(place, clock.as_ref()).await?;
        }
        let [key, recovery_key] = draft.recipient_keys();
        let (access, again) = (Access::Recipient(recovery_key.clone()), places.clone());
        let proof = Repository::open(again, access, Arc::clone(&clock), Arc::clone(&entropy)).await?;
        if proof.id_key() != &draft.id_key || proof.regions().iter().any(|region| region.id().is_none()) {
            return Err(RepositoryError::Refused(
                "the recovery key does not open what was just written; nothing may be backed up into it".to_owned(),
            ));
        }
        let repository = Repository::open(places, Access::Recipient(key.clone()), clock, entropy).await?;
        let writer_key = repository.writer_key();
        Ok(Created { repository, writer_key, key, recovery_key })
    }

    /// Makes `place` a region of this repository: an empty place, or one whose joining was interrupted. The new region
    /// holds no backups yet; what it lacks is its debt.
    pub async fn join(&self, mut place: Place) -> Result<Repository, RepositoryError> {
        if self.regions().iter().any(|region| region.name() == place.name) {
            return Err(RepositoryError::Invalid(format!("there is a region `{}` already", place.name)));
        }
        let id = match self.begun_join(&place).await? {
            Some(id) => id,
            None => {
                refuse_occupied(&place).await?;
                let offers = Some(try_promises(&place, self.clock().as_ref()).await?);
                let id = RegionId::v7(self.now(), self.entropy().as_ref());
                let record = RegionRecord { repository: self.id(), region: id, joined: self.now(), offers };
                create(&place, &ObjectName::Region, record.encode().into()).await?;
                id
            }
        };
        for (name, bytes) in self.key_objects().await? {
            create_same(&place, &name, bytes).await?;
        }
        create_same(&place, &ObjectName::Descriptor, self.descriptor_bytes().clone()).await?;
        lock_signs(&place, self.clock().as_ref()).await?;
        place.id = Some(id);
        Ok(self.with_region(place))
    }

    /// The region id of a place whose joining to this repository was begun; refuses the place of another region.
    async fn begun_join(&self, place: &Place) -> Result<Option<RegionId>, RepositoryError> {
        let record = match region::get(&place.storage, &ObjectName::Region).await {
            Ok(bytes) => {
                RegionRecord::decode(&bytes).map_err(|source| RepositoryError::format(ObjectName::Region, source))?
            }
            Err(trouble) if trouble.is_not_found() => return Ok(None),
            Err(trouble) => return Err(failed(place, trouble)),
        };
        if record.repository != self.id() {
            return Err(RepositoryError::AlreadyRepository {
                region: place.name.clone(),
                location: place.storage.location().to_owned(),
                repository: record.repository,
            });
        }
        match self.regions().iter().find(|region| region.id() == Some(record.region)) {
            Some(other) => {
                Err(RepositoryError::SamePlace { first: other.name().to_owned(), second: place.name.clone() })
            }
            None => Ok(Some(record.region)),
        }
    }

    /// The objects that the present keys lie in: the newest list of recipients and the newest record of each domain. Older
    /// ones are left where they are, for their keys are on the way out.
    async fn key_objects(&self) -> Result<Vec<(ObjectName, Bytes)>, RepositoryError> {
        let objects = KeyObjects::look(self.regions()).await;
        if objects.recipients.is_empty() || objects.domains.is_empty() {
            let name = "repo/recipients/".to_owned();
            return Err(RepositoryError::Unreadable { name, causes: objects.silent });
        }
        let mut names: Vec<ObjectName> =
            objects.recipients.last_key_value().map(|(n, _)| ObjectName::Recipients(*n)).into_iter().collect();
        for (domain, epochs) in &objects.domains {
            let newest = epochs.last_key_value().map(|(epoch, _)| *epoch);
            names.extend(newest.map(|epoch| ObjectName::Domain { domain: domain.clone(), epoch }));
        }
        let mut found = Vec::new();
        for name in names {
            let (bytes, _) = self.fetch(&self.read_order(), &name, |bytes| Ok(Bytes::copy_from_slice(bytes))).await?;
            found.push((name, bytes));
        }
        Ok(found)
    }
}

/// A repository that is not written yet.
struct Draft {
    repository: RepositoryId,
    recipients: [(&'static str, RecipientSecret); 2],
    descriptor: Vec<u8>,
    /// The list of recipients and the domain's record.
    keys: [(ObjectName, Vec<u8>); 2],
    id_key: Secret,
}

impl Draft {
    fn new(options: &CreateOptions, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Self, RepositoryError> {
        let now = clock.now();
        let repository = RepositoryId::v7(now, entropy);
        let recipients =
            [("primary", RecipientSecret::generate(entropy)), ("recovery", RecipientSecret::generate(entropy))];
        let public: Vec<Recipient> =
            recipients.iter().map(|(name, secret)| Recipient::new(name, secret.public())).collect();
        let seal = |purpose: Purpose<'_>, secret: &Secret| {
            let what = "a new root cannot be sealed".to_owned();
            seal_for_all(&public, &purpose, secret, entropy).map_err(|source| RepositoryError::Key { what, source })
        };
        let (root, domain_root) = (Secret::generate(entropy), Secret::generate(entropy));
        let restore = RecipientSecret::generate(entropy);
        let (domain, epoch) = (options.domain.clone(), 1);
        let restore = RestoreRecord {
            epoch,
            public: restore.public(),
            secret: seal(Purpose::RestoreKey { repository, epoch, domain: domain.as_str() }, restore.secret())?,
        };
        let record = DomainRecord {
            repository,
            domain: domain.clone(),
            epoch,
            created: now,
            rotation: 0,
            recipients: public.clone(),
            root: seal(Purpose::DomainRoot { repository, epoch, domain: domain.as_str() }, &domain_root)?,
            restore: vec![restore],
        };
        let member = |recipient: &Recipient| Member { recipient: recipient.clone(), holder: Holder::File };
        let members = RecipientsRecord {
            repository,
            number: 1,
            created: now,
            rotation: 0,
            recipients: public.iter().map(member).collect(),
            root: seal(Purpose::RepositoryRoot(repository), &root)?,
        };
        let sizes = (options.extent_size, options.pack_size);
        let mut descriptor = Descriptor::new(repository, options.suite, sizes, now, commitment(&root));
        if options.verified_chunks {
            descriptor = descriptor.with_verified_chunks(Voucher::of_root(&root).public());
        }
        Ok(Draft {
            repository,
            recipients,
            descriptor: descriptor.encode(),
            keys: [
                (ObjectName::Recipients(1), members.encode(&root)),
                (ObjectName::Domain { domain, epoch }, record.encode(&root)),
            ],
            id_key: DomainKeys::of_root(&domain_root).id_key,
        })
    }

    /// Everything but the descriptors; `written` says what was created, also when it fails.
    async fn write_regions<'a>(
        &self,
        places: &[(&'a Place, Offers)],
        clock: &dyn Clock,
        entropy: &dyn Entropy,
        written: &mut Vec<(&'a Place, ObjectName)>,
    ) -> Result<(), RepositoryError> {
        let mut ids: Vec<(RegionId, &Place)> = Vec::new();
        for (place, offers) in places {
            let (id, offers) = (RegionId::v7(clock.now(), entropy), Some(offers.clone()));
            let record = RegionRecord { repository: self.repository, region: id, joined: clock.now(), offers };
            match create(place, &ObjectName::Region, record.encode().into()).await {
                Ok(()) => {
                    written.push((*place, ObjectName::Region));
                    ids.push((id, *place));
                }
                Err(error) => return Err(self.explain_taken(place, &ids, error).await),
            }
        }
        // Also where creates do not show up at once in an alias: each place must say its own id.
        for (id, place) in &ids {
            let bytes =
                region::get(&place.storage, &ObjectName::Region).await.map_err(|trouble| failed(place, trouble))?;
            let found = RegionRecord::decode(&bytes).map(|record| record.region);
            if found.as_ref().ok() != Some(id) {
                let other = ids.iter().find(|(other, _)| found.as_ref().ok() == Some(other));
                let first = other.map_or_else(|| "(another)".to_owned(), |(_, other)| other.name.clone());
                return Err(RepositoryError::SamePlace { first, second: place.name.clone() });
            }
        }
        for (place, _) in places {
            for (name, bytes) in &self.keys {
                create(place, name, bytes.clone().into()).await?;
                written.push((*place, name.clone()));
            }
        }
        Ok(())
    }

    /// Why `repo/region` could not be created: usually because another of the places is the same one.
    async fn explain_taken(
        &self,
        place: &Place,
        ids: &[(RegionId, &Place)],
        error: RepositoryError,
    ) -> RepositoryError {
        if !matches!(&error, RepositoryError::Region { source, .. } if source.kind == StorageErrorKind::AlreadyExists) {
            return error;
        }
        let Ok(bytes) = region::get(&place.storage, &ObjectName::Region).await else { return error };
        let Ok(record) = RegionRecord::decode(&bytes) else { return error };
        match ids.iter().find(|(id, _)| *id == record.region) {
            Some((_, other)) => RepositoryError::SamePlace { first: other.name.clone(), second: place.name.clone() },
            None => RepositoryError::AlreadyRepository {
                region: place.name.clone(),
                location: place.storage.location().to_owned(),
                repository: record.repository,
            },
        }
    }

    fn recipient_keys(&self) -> [RecipientKey; 2] {
        self.recipients.clone().map(|(name, secret)| RecipientKey {
            repository: self.repository,
            fingerprint: Descriptor::fingerprint(&self.descriptor),
            name: name.to_owned(),
            secret,
        })
    }
}

fn check_sizes(options: &CreateOptions) -> Result<(), RepositoryError> {
    let (extent, pack) = (options.extent_size, options.pack_size);
    if !extent.is_power_of_two() || !(4 << 10..=4 << 20).contains(&extent) {
        return Err(RepositoryError::Invalid(format!(
            "the extent size must be a power of two from 4 KiB to 4 MiB: {extent} bytes"
        )));
    }
    if !(1 << 20..=1 << 30).contains(&pack) {
        return Err(RepositoryError::Invalid(format!("the pack size must be from 1 MiB to 1 GiB: {pack} bytes")));
    }
    Ok(())
}

/// Refuses a place that holds anything, and says what it is.
async fn refuse_occupied(place: &Place) -> Result<(), RepositoryError> {
    let mut listing = place.storage.list("");
    let mut found = None;
    while let Some(object) =
        within(CALL_DEADLINE, listing.try_next()).await.map_err(|trouble| failed(place, trouble))?
    {
        if !object.key.starts_with(PROBE_NAMES) {
            found = Some(object.key);
            break;
        }
    }
    let Some(found) = found else { return Ok(()) };
    let (region, location) = (place.name.clone(), place.storage.location().to_owned());
    let object = |name| async move { region::get(&place.storage, &name).await.ok() };
    if let Some(Ok(descriptor)) = object(ObjectName::Descriptor).await.map(|bytes| Descriptor::decode(&bytes)) {
        return Err(RepositoryError::AlreadyRepository { region, location, repository: descriptor.repository });
    }
    if let Some(Ok(record)) = object(ObjectName::Region).await.map(|bytes| RegionRecord::decode(&bytes)) {
        return Err(RepositoryError::HalfCreated { region, location, repository: record.repository });
    }
    Err(RepositoryError::NotEmpty { region, location, found })
}

/// Finds out whether the place keeps what every place promises, and what its policy needs beyond that.
async fn try_promises(place: &Place, clock: &dyn Clock) -> Result<Offers, RepositoryError> {
    place.policy.check(&place.name)?;
    let kept = match within(CALL_DEADLINE * 4, probe(&place.storage, PROBE_PREFIX)).await {
        Ok(kept) => kept,
        Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::Locked => {
            return Err(RepositoryError::Refused(format!(
                "{} (region `{}`) locks everything that is written into it, also what must go again within seconds; hint: \
                 take the default retention of the place away; what must be locked, the region's own lock does",
                place.storage.location(),
                place.name
            )));
        }
        Err(trouble) => return Err(failed(place, trouble)),
    };
    let features = within(CALL_DEADLINE, place.storage.features()).await.map_err(|trouble| failed(place, trouble))?;
    let tiers = std::iter::once(place.policy.tier).chain(place.policy.moves.iter().map(|one| one.tier));
    for tier in tiers.filter(|tier| *tier != Tier::Hot) {
        if !features.tiers.contains(&tier) {
            return Err(lacking(place, &format!("has no tier `{tier}`"), "leave the tier of the region out"));
        }
    }
    if place.policy.lock.is_some() && !features.locks {
        let how = "switch object lock or immutability on for the bucket, which most providers offer only when it is \
                   made, or declare no lock for the region";
        return Err(lacking(place, "cannot lock objects as it is set up", how));
    }
    try_placement(place, clock.now().plus_micros(kept.clock_skew_micros.max(0) + TRIED_FOR_MICROS)).await?;
    Ok(Offers {
        locks: features.locks,
        holds: features.holds,
        versions: features.versions,
        checksums: features.checksums,
        tiers: features.tiers.iter().map(ToString::to_string).collect(),
        bound: place.policy.lock.map(|lock| lock.mode.to_string()),
    })
}

/// Finds out whether the place puts objects into the region's tier and locks them until `until`, as its policy will ask.
async fn try_placement(place: &Place, until: Timestamp) -> Result<(), RepositoryError> {
    let retention = place.policy.lock.map(|lock| Retention { mode: lock.mode, until });
    let placement = Placement { retention, tier: place.policy.tier };
    if placement == Placement::default() {
        return Ok(());
    }
    match within(CALL_DEADLINE * 4, probe_placement(&place.storage, PROBE_PREFIX, &placement)).await {
        Ok(()) => Ok(()),
        Err(Trouble::Storage(error)) if error.kind == StorageErrorKind::Invalid => {
            let how = "declare no lock and no tier for the region, or use a place that keeps what it is told to keep";
            let promise = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Err(lacking(place, &format!("does not keep objects as the region declares: {promise}"), how))
        }
        Err(trouble) => Err(failed(place, trouble)),
    }
}

/// Locks the two objects that say whose the place is: nobody deletes them, and without them it is no region.
async fn lock_signs(place: &Place, clock: &dyn Clock) -> Result<(), RepositoryError> {
    let Some(lock) = place.policy.lock else { return Ok(()) };
    for name in [ObjectName::Region, ObjectName::Descriptor] {
        let locked = within(CALL_DEADLINE, place.storage.retain(&name.to_string(), lock.from(clock.now()))).await;
        locked.map_err(|trouble| failed(place, trouble))?;
    }
    Ok(())
}

fn lacking(place: &Place, what: &str, how: &str) -> RepositoryError {
    RepositoryError::Refused(format!("{} (region `{}`) {what}; hint: {how}", place.storage.location(), place.name))
}

async fn create(place: &Place, name: &ObjectName, payload: Payload) -> Result<(), RepositoryError> {
    let created = within(CALL_DEADLINE, place.storage.create(&name.to_string(), payload)).await;
    created.map_err(|trouble| failed(place, trouble))
}

/// Creates the object, or finds that it is there already with these bytes.
async fn create_same(place: &Place, name: &ObjectName, bytes: Bytes) -> Result<(), RepositoryError> {
    match create(place, name, bytes.clone().into()).await {
        Err(RepositoryError::Region { source, .. }) if source.kind == StorageErrorKind::AlreadyExists => {
            let found = region::get(&place.storage, name).await.map_err(|trouble| failed(place, trouble))?;
            if found == bytes {
                return Ok(());
            }
            Err(RepositoryError::Refused(format!(
                "`{name}` at {} (region `{}`) has other bytes than in the repository; nothing was overwritten",
                place.storage.location(),
                place.name
            )))
        }
        other => other,
    }
}

fn failed(place: &Place, trouble: Trouble) -> RepositoryError {
    match trouble {
        Trouble::Storage(source) => RepositoryError::Region { region: place.name.clone(), source },
        trouble => {
            let cause = crate::error::Cause { region: place.name.clone(), trouble };
            RepositoryError::NoRegion { causes: vec![cause] }
        }
    }
}
