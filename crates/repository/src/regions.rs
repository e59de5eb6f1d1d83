//! Several regions written as one: every object goes into all of them at once, the caller waits for as many as it asked
//! for, and what a region missed is its debt, copied over from the others as ciphertext.
//!
//! Invariant: a region that shows a manifest holds everything the manifest names; nothing that was acknowledged is
//! forgotten by a region before it holds it.
//!
//! Reading order: [`order`] (what must come before what), [`lane`] (a region's queue, pure), [`write`], [`worker`] and
//! [`copy`] (what runs the queue), [`probe`] (does the place answer, and is it the right one), [`read`], [`audit`],
//! [`comparison`] (what must be known before a manifest shows), [`status`].

mod audit;
mod comparison;
mod copy;
mod error;
pub(crate) mod keys;
mod lane;
pub(crate) mod merge;
pub(crate) mod order;
mod probe;
mod read;
mod region;
mod shipment;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod worker;
mod write;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use breakwater_core::{Clock, RegionId, RepositoryId, SourceUid};
use breakwater_runtime::SystemClock;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

pub use audit::{AuditReport, RegionAudit};
pub use error::{Failure, RegionError, RegionFailure};
pub use read::{Listed, Listing};
pub use region::{RegionHandle, Role};
pub use status::{RegionStatus, SourceDebt};
pub use write::{Decided, Durability};

use comparison::Comparison;
use region::Region;

/// The times and sizes of a set of regions.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    /// Stamps debts and statuses.
    pub clock: Arc<dyn Clock>,
    /// The repository that each place must say it belongs to; none: only the region's id is compared.
    pub repository: Option<RepositoryId>,
    /// How long a region that is behind may still be served from the buffer once enough others hold the object.
    pub grace: Duration,
    /// How many bytes of buffers may be in that state.
    pub grace_bytes: u64,
    /// How often each place is asked whether it is there.
    pub probe_interval: Duration,
    /// How long such a question may take. All other calls end when the place's own [`Timed`](breakwater_storage::Timed) ends them,
    /// since only it knows how much of the time was waiting for bandwidth or a turn.
    pub probe_timeout: Duration,
    /// The first wait after a failure; doubles with every further one.
    pub backoff: Duration,
    /// The longest such wait.
    pub backoff_cap: Duration,
    /// Copies at once into one region.
    pub copies: usize,
    /// Puts of buffers at once into one region.
    pub puts: usize,
    /// Bytes that copies may hold in memory, all regions together.
    pub copy_bytes: u64,
}

impl Default for RegionOptions {
    fn default() -> Self {
        RegionOptions {
            clock: Arc::new(SystemClock),
            repository: None,
            grace: Duration::from_secs(2),
            grace_bytes: 64 << 20,
            probe_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(4),
            backoff: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(30),
            copies: 2,
            puts: 16,
            copy_bytes: 64 << 20,
        }
    }
}

/// The regions of a repository, written and read as one. A clone is another handle; the last one to go stops the
/// background tasks (debts are found again by an [`audit`](RegionSet::audit)).
#[derive(Clone, Debug)]
pub struct RegionSet {
    set: Arc<Set>,
    /// Held for its drop alone.
    _tasks: Arc<Tasks>,
}

/// Aborts the background tasks when the last handle goes.
#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What handles and tasks share.
#[derive(Debug)]
struct Set {
    regions: Vec<Region>,
    commit: usize,
    options: RegionOptions,
    /// KiB that copies may still take.
    copy_budget: Semaphore,
    /// Bytes of buffers that outlive their caller.
    grace_bytes: AtomicU64,
    /// Sources with a register about which regions disagree.
    unsettled: Mutex<BTreeSet<SourceUid>>,
    /// Which regions were compared with which.
    comparison: Comparison,
}

impl Set {
    /// Regions disagree about the register `name`.
    fn unsettled(&self, name: &str) {
        if let Ok(source) = order::Place::of(name).scope.parse() {
            self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).insert(source);
        }
    }
}

impl RegionSet {
    /// The sources with a commit register about which regions were found to disagree since the last call. What to do about
    /// it is [`Repository::settle_registers`](crate::Repository::settle_registers).
    pub fn take_unsettled(&self) -> Vec<SourceUid> {
        let mut unsettled = self.set.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *unsettled).into_iter().collect()
    }

    /// A set that acknowledges what `commit` of its sync regions hold. Must be called inside a tokio runtime: every
    /// region gets two background tasks, and the set one.
    pub fn new(handles: Vec<RegionHandle>, commit: usize) -> Result<RegionSet, RegionError> {
        RegionSet::with_options(handles, commit, RegionOptions::default())
    }

    /// The same with other times and sizes.
    pub fn with_options(
        handles: Vec<RegionHandle>,
        commit: usize,
        options: RegionOptions,
    ) -> Result<RegionSet, RegionError> {
        check(&handles, commit)?;
        let budget = usize::try_from(options.copy_bytes >> 10).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let set = Arc::new(Set {
            regions: handles.into_iter().map(Region::new).collect(),
            commit,
            options,
            copy_budget: Semaphore::new(budget),
            grace_bytes: AtomicU64::new(0),
            unsettled: Mutex::default(),
            comparison: Comparison::default(),
        });
        let mut tasks = vec![tokio::spawn(comparison::run(Arc::clone(&set))).abort_handle()];
        for index in 0..set.regions.len() {
            tasks.push(tokio::spawn(worker::run(Arc::clone(&set), index)).abort_handle());
            tasks.push(tokio::spawn(probe::run(Arc::clone(&set), index)).abort_handle());
        }
        Ok(RegionSet { set, _tasks: Arc::new(Tasks(tasks)) })
    }

    /// How many sync regions must hold an object before it counts as durable.
    pub fn commit(&self) -> usize {
        self.set.commit
    }

    /// The regions, in the order of preference for reading.
    pub fn handles(&self) -> impl Iterator<Item = &RegionHandle> {
        self.set.regions.iter().map(|region| &region.handle)
    }

    /// The region with this id.
    pub fn handle(&self, id: RegionId) -> Result<&RegionHandle, RegionError> {
        self.handles().find(|handle| handle.id == id).ok_or_else(|| RegionError::UnknownRegion(id.to_string()))
    }
}

fn check(handles: &[RegionHandle], commit: usize) -> Result<(), RegionError> {
    let sync = handles.iter().filter(|handle| handle.role == Role::Sync).count();
    if commit == 0 || commit > sync {
        return Err(RegionError::Setup(format!(
            "commit must be from 1 to the number of sync regions ({sync}): {commit}"
        )));
    }
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    for handle in handles {
        if !names.insert(&handle.name) {
            return Err(RegionError::Setup(format!("two regions have the same name: {}", handle.name)));
        }
        if !ids.insert(handle.id) {
            return Err(RegionError::Setup(format!(
                "region {} is the same place as another region of this repository; hint: give every region its own bucket or path",
                handle.name
            )));
        }
    }
    Ok(())
}
