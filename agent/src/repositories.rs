//! The repositories that this agent works with: opened once, kept, watched, and opened anew when they change.
//!
//! Invariant: a region whose id was seen once is known for ever, also when it is away at the next start, so that what it
//! misses becomes its debt and is never taken for nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use breakwater_core::{Chain, Clock, Entropy, RegionId, RepositoryId, SourceUid, Timestamp};
use breakwater_proto::v1;
use breakwater_repository::format::ObjectName;
use breakwater_repository::format::descriptor::RegionRecord;
use breakwater_repository::regions::{RegionOptions, RegionSet, Role};
use breakwater_repository::session::RegionWriter;
use breakwater_repository::{Access, Place, RegionState, Repository};
use breakwater_runtime::TaskGroup;
use breakwater_storage::assemble;
use tokio_util::sync::CancellationToken;

use crate::durable;
use crate::error::AgentError;
use crate::keyring::{Keyring, Keys};
use crate::limits::limits;
use crate::region_policy::policy;
use crate::session::outbox::Outbox;
use crate::traffic::{Meters, Traffic};
use crate::wiring;

/// How long one write may wait for enough regions.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(120);

/// How often the health of regions is reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How often and how many times it is looked whether all regions were asked once.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const FIRST_LOOKS: u32 = 50;

/// How often it is looked whether regions disagree about commit registers, and how often what could not be settled is tried
/// again.
const SETTLE_EVERY: Duration = Duration::from_secs(2);
const SETTLE_AGAIN: Duration = Duration::from_secs(60);

/// How long asking one region who it is may take.
const IDENTIFY: Duration = Duration::from_secs(10);

/// Opens and keeps repositories. A clone is another handle.
#[derive(Clone, Debug)]
pub struct Repositories {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    keyring: Keyring,
    /// Where the ids of regions are kept.
    known: PathBuf,
    outbox: Arc<Outbox>,
    tasks: TaskGroup,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    slots: Mutex<HashMap<String, Slot>>,
}

/// One repository name; the lock lets one caller open while others wait for the result.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<OpenRepository>>>>;

/// A repository opened for adding.
#[derive(Debug)]
pub struct OpenRepository {
    /// What the controller says of it.
    pub spec: v1::RepositorySpec,
    /// Opened with the writer key where there is one.
    pub repository: Repository,
    /// Its regions.
    pub set: RegionSet,
    /// What they were asked.
    meters: Meters,
    /// Cancelled when it must be opened anew: its declaration changed, or a region became known.
    pub stale: CancellationToken,
}

impl OpenRepository {
    /// Writes into its regions.
    pub fn writer(&self) -> RegionWriter {
        RegionWriter::new(self.set.clone(), WRITE_PATIENCE)
    }

    /// The name of a region.
    pub fn region_name(&self, id: RegionId) -> String {
        self.set.handle(id).map_or_else(|_| id.to_string(), |handle| handle.name.clone())
    }
}

impl Repositories {
    /// Opens with the keys of `keyring`; keeps what it learns of regions in `known`.
    pub fn new(
        keyring: Keyring,
        known: PathBuf,
        outbox: Arc<Outbox>,
        tasks: TaskGroup,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let slots = Mutex::default();
        Repositories { inner: Arc::new(Inner { keyring, known, outbox, tasks, clock, entropy, slots }) }
    }

    /// The repository of `spec`, opened for adding.
    pub async fn open(&self, spec: &v1::RepositorySpec) -> Result<Arc<OpenRepository>, AgentError> {
        let slot = {
            let mut slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(spec.name.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref().filter(|open| open.spec == *spec && !open.stale.is_cancelled()) {
            return Ok(Arc::clone(open));
        }
        if let Some(old) = slot.take() {
            old.stale.cancel();
        }
        let (repository, meters) = self.open_with(spec, Keys::for_writing, "adding to it needs its writer key").await?;
        let set = region_set(&repository, spec, &self.inner.clock)?;
        let stale = CancellationToken::new();
        let open = Arc::new(OpenRepository { spec: spec.clone(), repository, set, meters, stale });
        self.inner.tasks.spawn("compare", compare(Arc::clone(&open), self.inner.tasks.token()));
        self.inner.tasks.spawn("regions", watch(Arc::clone(&open), self.clone(), self.inner.tasks.token()));
        *slot = Some(Arc::clone(&open));
        Ok(open)
    }

    /// The repository of `spec`, opened with a recipient's key: the only way to content.
    pub async fn open_for_restore(&self, spec: &v1::RepositorySpec) -> Result<Repository, AgentError> {
        let needs = "opening its content needs a recipient's key";
        self.open_with(spec, Keys::for_restoring, needs).await.map(|(repository, _)| repository)
    }

    /// The repository of `spec`, opened with the key that is meant for deleting where there is one, else as for adding.
    pub async fn open_for_deleting(&self, spec: &v1::RepositorySpec) -> Result<Repository, AgentError> {
        let needs = "deleting from it needs a reaper's or its writer key";
        self.open_with(spec, Keys::for_deleting, needs).await.map(|(repository, _)| repository)
    }

    async fn open_with(
        &self,
        spec: &v1::RepositorySpec,
        choose: fn(&Keys) -> Option<Access>,
        needs: &str,
    ) -> Result<(Repository, Meters), AgentError> {
        let inner = &self.inner;
        let (mut places, meters) = places(spec, &inner.clock, &inner.entropy).await?;
        let id = identify(&spec.name, &places).await?;
        let keys = inner.keyring.of(id)?;
        let access = choose(&keys).ok_or_else(|| no_key(id, needs, &inner.keyring))?;
        let known = self.known(id)?;
        for place in &mut places {
            place.id = known.get(&place.name).copied();
        }
        let opening = Repository::open(places, access, Arc::clone(&inner.clock), Arc::clone(&inner.entropy));
        let repository =
            opening.await.map_err(AgentError::repository(format!("opening repository `{}`", spec.name)))?;
        self.remember(&repository, known)?;
        Ok((repository, meters))
    }

    fn known_path(&self, repository: RepositoryId) -> PathBuf {
        self.inner.known.join(format!("{repository}.json"))
    }

    fn known(&self, repository: RepositoryId) -> Result<BTreeMap<String, RegionId>, AgentError> {
        let Some(bytes) = durable::read(&self.known_path(repository))? else { return Ok(BTreeMap::new()) };
        // A damaged file costs only what it knew of regions that are away just now.
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn remember(&self, repository: &Repository, mut known: BTreeMap<String, RegionId>) -> Result<(), AgentError> {
        let before = known.clone();
        for region in repository.regions() {
            known.extend(region.id().map(|id| (region.name().to_owned(), id)));
        }
        if known == before {
            return Ok(());
        }
        durable::make_private_directory(&self.inner.known)?;
        let text = serde_json::to_vec_pretty(&known).expect("names and ids become JSON");
        durable::replace(&self.known_path(repository.id()), &text)
    }
}

/// The set over all regions of `repository` whose id is known.
fn region_set(
    repository: &Repository,
    spec: &v1::RepositorySpec,
    clock: &Arc<dyn Clock>,
) -> Result<RegionSet, AgentError> {
    let options =
        RegionOptions { clock: Arc::clone(clock), repository: Some(repository.id()), ..RegionOptions::default() };
    let commit = usize::try_from(spec.commit.max(1)).unwrap_or(usize::MAX);
    let handles = repository.handles();
    let sync = handles.iter().filter(|handle| handle.role == Role::Sync).count();
    if sync < commit && handles.len() < spec.regions.len() {
        let unseen = repository.regions().iter().filter(|region| region.id().is_none());
        let unseen: Vec<&str> = unseen.map(|region| region.name()).collect();
        return Err(AgentError::Unavailable(format!(
            "repository `{}` needs {commit} sync regions, and these were never seen from this host: {} (hint: are the \
             places mounted?)",
            spec.name,
            unseen.join(", ")
        )));
    }
    Ok(RegionSet::with_options(handles, commit, options)?)
}

fn no_key(repository: RepositoryId, needs: &str, keyring: &Keyring) -> AgentError {
    AgentError::Denied(format!(
        "repository {repository}: {needs}, and {} holds other keys only (hint: put the key that `repository create` made \
         beside them, or do it with `brctl --offline` where the key is)",
        keyring.directory().display()
    ))
}

/// The places of a specification with everything around them that places have, and what counts what they are asked.
async fn places(
    spec: &v1::RepositorySpec,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Vec<Place>, Meters), AgentError> {
    let kinds = wiring::places();
    let mut meters = Meters::new();
    let mut places = Vec::with_capacity(spec.regions.len());
    for region in &spec.regions {
        let role = match region.role.as_str() {
            "sync" | "" => Role::Sync,
            "async" => Role::Async,
            "archive" => Role::Archive,
            other => {
                return Err(AgentError::Invalid(format!("region `{}` has the unknown role `{other}`", region.name)));
            }
        };
        let storage = kinds
            .open_existing(&region.url)
            .await
            .map_err(|source| AgentError::Storage { region: region.name.clone(), source })?;
        let limited = limits(region.limits.as_ref())
            .map_err(|error| AgentError::Invalid(format!("limits of region `{}`: {error}", region.name)))?;
        let stack = assemble(&storage, &region.name, &limited, clock, entropy);
        meters.insert(region.name.clone(), stack.meter);
        places.push(Place::new(&region.name, role, stack.storage).kept(policy(region)?, Arc::clone(clock)));
    }
    Ok((places, meters))
}

/// Asks the places which repository they belong to; the first answer counts, and opening compares the others with it.
async fn identify(name: &str, places: &[Place]) -> Result<RepositoryId, AgentError> {
    let asked = places.iter().map(|place| async move {
        let name = ObjectName::Region.to_string();
        match tokio::time::timeout(IDENTIFY, place.storage.get(&name)).await {
            Ok(Ok(bytes)) => RegionRecord::decode(&bytes)
                .map(|record| record.repository)
                .map_err(|error| format!("{}: {}", place.name, Chain(&error))),
            Ok(Err(error)) if error.is_not_found() => {
                Err(format!("{}: {} holds no repository", place.name, place.storage.location()))
            }
            Ok(Err(error)) => Err(format!("{}: {}", place.name, Chain(&error))),
            Err(_) => Err(format!("{}: no answer in time", place.name)),
        }
    });
    let mut troubles = Vec::new();
    for answer in futures::future::join_all(asked).await {
        match answer {
            Ok(id) => return Ok(id),
            Err(trouble) => troubles.push(trouble),
        }
    }
    Err(AgentError::Unavailable(format!(
        "no region of repository `{name}` can be used: {} (hint: are the places mounted? a new repository is made with \
         `brctl repository create`)",
        troubles.join("; ")
    )))
}

/// Has the regions compared with each other until each one was, so that what they miss of what was written before this
/// process began becomes their debt, and settles commit registers about which they turn out to disagree.
async fn compare(open: Arc<OpenRepository>, stop: CancellationToken) {
    open.set.keep_compared();
    let mut every = tokio::time::interval(SETTLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut unsettled = BTreeSet::new();
    let mut tried = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = open.stale.cancelled() => return,
            _ = every.tick() => {}
        }
        let found = open.set.take_unsettled();
        if found.is_empty() && (unsettled.is_empty() || tried.elapsed() < SETTLE_AGAIN) {
            continue;
        }
        unsettled.extend(found);
        tried = Instant::now();
        tokio::select! {
            () = stop.cancelled() => return,
            () = open.stale.cancelled() => return,
            left = settle(&open, &unsettled) => unsettled = left,
        }
    }
}

/// Settles the registers of `sources`. Answers the sources that are to be tried again.
async fn settle(open: &OpenRepository, sources: &BTreeSet<SourceUid>) -> BTreeSet<SourceUid> {
    let writer = open.writer();
    let mut left = BTreeSet::new();
    for source in sources {
        match open.repository.settle_registers(&writer, *source).await {
            Ok(settled) => {
                if !settled.settled.is_empty() {
                    let snapshots = settled.settled.len();
                    tracing::info!(repository = open.spec.name, source.uid = %source, snapshots, "regions with a fence show the committed snapshot now");
                }
                if !settled.open.is_empty() || !settled.silent.is_empty() {
                    left.insert(*source);
                }
            }
            Err(error) => {
                tracing::warn!(repository = open.spec.name, source.uid = %source, error = %Chain(&error), "commit registers are not settled; tried again");
                left.insert(*source);
            }
        }
    }
    left
}

/// Reports the health of the regions, and notices when one becomes known that was not.
async fn watch(open: Arc<OpenRepository>, repositories: Repositories, stop: CancellationToken) {
    // "Not asked yet" is no state on the wire, so the first report waits for the first answers.
    for _ in 0..FIRST_LOOKS {
        if open.set.statuses().iter().all(|status| status.reachable.is_some()) {
            break;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = open.stale.cancelled() => return,
            () = tokio::time::sleep(FIRST_LOOK) => {}
        }
    }
    let mut every = tokio::time::interval(REPORT_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut traffic = Traffic::new(open.meters.clone(), repositories.inner.clock.now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = open.stale.cancelled() => return,
            _ = every.tick() => {}
        }
        let now = repositories.inner.clock.now();
        repositories.inner.outbox.regions(report(&open, now, &mut traffic.look(now)));
        for region in open.repository.regions().iter().filter(|region| region.id().is_none()) {
            if region.ready().await.is_ok() {
                tracing::info!(repository = open.spec.name, region = region.name(), "a region is there now");
                open.stale.cancel();
            }
        }
    }
}

fn report(
    open: &OpenRepository,
    now: Timestamp,
    traffic: &mut BTreeMap<String, v1::RegionTraffic>,
) -> v1::RegionReport {
    let observed = now.as_micros();
    let statuses = open.set.statuses();
    let regions = open.repository.regions().iter().map(|region| {
        let status = statuses.iter().find(|status| status.name == region.name());
        let traffic = traffic.remove(region.name());
        let Some(status) = status else {
            let why = match region.state() {
                RegionState::Away(why) => why,
                RegionState::Ready => String::new(),
            };
            let (region, last_error) = (region.name().to_owned(), why);
            return v1::RegionHealth { region, last_error, observed, traffic, ..v1::RegionHealth::default() };
        };
        let reachable = status.reachable == Some(true);
        let error = status.last_error.as_ref().filter(|_| !reachable || status.owed_objects > 0);
        v1::RegionHealth {
            region: status.name.clone(),
            reachable,
            last_error: error.map(|(failure, _)| failure.to_string()).unwrap_or_default(),
            observed,
            owed_objects: status.owed_objects,
            owed_bytes: status.owed_bytes,
            oldest_owed: status.oldest_owed_since.map_or(0, Timestamp::as_micros),
            traffic,
        }
    });
    v1::RegionReport { repository: open.spec.name.clone(), regions: regions.collect() }
}
