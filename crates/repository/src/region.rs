//! One region as a reader sees it: a place that must prove, before it is believed, that it is the one that was joined.
//!
//! Invariant: an empty or foreign place is never taken for a region, so that "there is no such object" is never said by
//! an unmounted volume.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use breakwater_core::{Clock, RegionId, RepositoryId};
use breakwater_crypto::Fingerprint;
use breakwater_storage::{Features, Storage, StorageError};
use futures::TryStreamExt;
use tokio::sync::OnceCell;

use crate::error::{Cause, Trouble};
use crate::format::descriptor::{Descriptor, RegionRecord};
use crate::format::{FormatError, ObjectName};
use crate::region_policy::{Keeping, RegionPolicy};
use crate::regions::Role;

/// How long one small call may take.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// How long one read of data may take.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(90);
/// A region that could not be used is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A place that is to be used as a region.
#[derive(Clone, Debug)]
pub struct Place {
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The place.
    pub storage: Storage,
    /// The id that it must have, where that is known from before.
    pub id: Option<RegionId>,
    /// How what is written into it is kept.
    pub policy: RegionPolicy,
}

impl Place {
    /// A place whose id is not known yet.
    pub fn new(name: &str, role: Role, storage: Storage) -> Self {
        Place { name: name.to_owned(), role, storage, id: None, policy: RegionPolicy::default() }
    }

    /// The same place, where what is written from now on is kept as `policy` says.
    #[must_use]
    pub fn kept(self, policy: RegionPolicy, clock: Arc<dyn Clock>) -> Self {
        let storage = self.storage.with_placing(Arc::new(Keeping::new(policy.clone(), clock)));
        Place { storage, policy, ..self }
    }
}

/// What is known about a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionState {
    /// It answered and is the one that was joined.
    Ready,
    /// It cannot be used now, and why.
    Away(String),
}

/// A region of an opened repository.
#[derive(Debug)]
pub struct Region {
    name: String,
    role: Role,
    storage: Storage,
    policy: RegionPolicy,
    /// What the place offers, once it was asked.
    features: OnceCell<Features>,
    repository: RepositoryId,
    pinned: Fingerprint,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    id: Option<RegionId>,
    state: RegionState,
    asked: Instant,
}

impl Region {
    pub(crate) fn new(place: Place, repository: RepositoryId, pinned: Fingerprint, state: RegionState) -> Self {
        let known = Known { id: place.id, state, asked: Instant::now() };
        Region {
            name: place.name,
            role: place.role,
            storage: place.storage,
            policy: place.policy,
            features: OnceCell::new(),
            repository,
            pinned,
            known: Mutex::new(known),
        }
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The id; none while a region that was never seen does not answer.
    pub fn id(&self) -> Option<RegionId> {
        self.known().id
    }

    /// What is known at the moment.
    pub fn state(&self) -> RegionState {
        self.known().state.clone()
    }

    /// The place, whatever its state.
    pub const fn place(&self) -> &Storage {
        &self.storage
    }

    /// How what is written into it is kept.
    pub const fn policy(&self) -> &RegionPolicy {
        &self.policy
    }

    /// What the place offers beyond what every place does, as it answered when it was asked first.
    pub async fn features(&self) -> Result<&Features, Trouble> {
        let ask = async { within(CALL_DEADLINE, self.ready().await?.features()).await };
        self.features.get_or_try_init(|| ask).await
    }

    /// The place, once it has proven that it is this region.
    pub async fn ready(&self) -> Result<&Storage, Trouble> {
        {
            let known = self.known();
            match &known.state {
                RegionState::Ready => return Ok(&self.storage),
                RegionState::Away(why) if known.asked.elapsed() < ASK_AGAIN => {
                    return Err(Trouble::Unusable(why.clone()));
                }
                RegionState::Away(_) => {}
            }
        }
        self.ask().await
    }

    /// The place, asked now whether it still is this region. A volume can go away under an open repository, and what is left
    /// is an empty place.
    pub(crate) async fn ask(&self) -> Result<&Storage, Trouble> {
        let id = self.known().id;
        let answer = identify(&self.storage, self.repository, self.pinned).await;
        let mut known = self.known();
        if let Err(trouble @ (Trouble::Silent | Trouble::Storage(_))) = &answer
            && known.state == RegionState::Ready
        {
            // A call that failed says nothing about whose place it is; the next one may pass.
            return Err(Trouble::Unusable(trouble.to_string()));
        }
        known.asked = Instant::now();
        let answer = answer.map_err(|trouble| trouble.to_string()).and_then(|found| match id {
            Some(expected) if expected != found => Err(format!("another region ({found}) lies in its place")),
            _ => Ok(found),
        });
        match answer {
            Ok(found) => {
                known.id = Some(found);
                known.state = RegionState::Ready;
                Ok(&self.storage)
            }
            Err(why) => {
                known.state = RegionState::Away(why.clone());
                Err(Trouble::Unusable(why))
            }
        }
    }

    /// What became of a read: "there is no such object" counts only from a place that still is this region.
    pub(crate) async fn doubted(&self, trouble: Trouble) -> Trouble {
        if !trouble.is_not_found() {
            return trouble;
        }
        self.ask().await.err().unwrap_or(trouble)
    }

    /// All names below `prefix`; an empty list counts only from a place that still is this region.
    pub(crate) async fn names(&self, prefix: &str) -> Result<Vec<(String, u64)>, Trouble> {
        let listed = list(self.ready().await?, prefix).await?;
        if listed.is_empty() {
            self.ask().await?;
        }
        Ok(listed)
    }

    pub(crate) fn cause(&self, trouble: Trouble) -> Cause {
        Cause { region: self.name.clone(), trouble }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads who a place says it is, and refuses a place that is not of `repository`.
async fn identify(storage: &Storage, repository: RepositoryId, pinned: Fingerprint) -> Result<RegionId, Trouble> {
    let descriptor =
        get(storage, &ObjectName::Descriptor).await.map_err(|trouble| explain_missing(storage, trouble))?;
    if Descriptor::fingerprint(&descriptor) != pinned {
        return Err(Trouble::Unusable(format!(
            "the descriptor at {} is not the one that the key pins",
            storage.location()
        )));
    }
    let region = get(storage, &ObjectName::Region).await?;
    let region = RegionRecord::decode(&region).map_err(Trouble::Format)?;
    if region.repository != repository {
        return Err(Trouble::Unusable(format!("{} belongs to repository {}", storage.location(), region.repository)));
    }
    Ok(region.region)
}

pub(crate) fn explain_missing(storage: &Storage, trouble: Trouble) -> Trouble {
    if trouble.is_not_found() {
        return Trouble::Unusable(format!(
            "{} holds no repository; hint: is the place mounted? a new region must be joined first",
            storage.location()
        ));
    }
    trouble
}

/// One small object, within the deadline.
pub(crate) async fn get(storage: &Storage, name: &ObjectName) -> Result<bytes::Bytes, Trouble> {
    within(CALL_DEADLINE, storage.get(&name.to_string())).await
}

/// Waits for a call on storage, but not for ever.
pub(crate) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map_err(Trouble::Storage),
        Err(_) => Err(Trouble::Silent),
    }
}

/// All names below `prefix` with their sizes. Each piece of the list must come within the deadline.
async fn list(storage: &Storage, prefix: &str) -> Result<Vec<(String, u64)>, Trouble> {
    let mut names = Vec::new();
    let mut listing = storage.list(prefix);
    while let Some(object) = within(READ_DEADLINE, listing.try_next()).await? {
        names.push((object.key, object.size));
    }
    Ok(names)
}

impl From<FormatError> for Trouble {
    fn from(error: FormatError) -> Self {
        Trouble::Format(error)
    }
}
