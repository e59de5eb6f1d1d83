//! Bringing cut pieces into the regions, or into the spool while too few answer.
//!
//! Invariant: what goes into the spool leaves it in the order in which it was cut; while anything is in it, newer pieces
//! follow through it. A piece counts in the ledger only once it is durable or fsynced.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_core::{ErrorClass, Generation, LogPosition, SessionId, Watermark};
use breakwater_storage::Payload;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::StreamError;
use super::claim::{Session, Surroundings};
use super::ledger::Ledger;
use super::piece::{Draft, seal};
use super::spool::{Spool, Stored};
use crate::format::ObjectName;
use crate::format::names::LogRange;
use crate::regions::{Durability, RegionError};

/// How long a put may wait for regions when there is a spool to turn to.
const PATIENCE_WITH_SPOOL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
const FENCE_INTERVAL_MICROS: i64 = 30_000_000;

/// An object on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) body: Body,
    pub(super) entry: Entry,
}

#[derive(Debug)]
pub(super) enum Body {
    /// To be compressed and sealed first.
    Draft(Box<Draft>, Session),
    Sealed(Payload),
}

/// What the ledger and the regions need to know of an object.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// What it holds; none for records and idle marks.
    pub(super) range: Option<LogRange>,
    pub(super) watermarks: Vec<Watermark>,
    /// Objects that are not needed once this one is there.
    pub(super) supersedes: Vec<String>,
    pub(super) segment: bool,
}

/// What the writer and its tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    around: Surroundings,
    ledger: Mutex<Ledger>,
    spool: Option<Arc<Spool>>,
    /// What was spooled by this process, by name.
    spooled: Mutex<HashMap<String, Entry>>,
    /// Objects in flight, and what made them needless.
    in_flight: Mutex<HashMap<String, Option<String>>>,
    failure: Mutex<Option<StreamError>>,
    failed: AtomicBool,
    spool_full: AtomicBool,
    sequence: AtomicU64,
    writer: Mutex<(Generation, SessionId)>,
    fence_checked: AtomicI64,
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(super) fn spool(&self) -> Option<&Arc<Spool>> {
        self.spool.as_ref()
    }

    pub(super) fn is_spool_full(&self) -> bool {
        self.spool_full.load(Ordering::Relaxed)
    }

    /// The error that ended the uploads; given out once, later only as [`StreamError::Stopped`].
    pub(super) fn check(&self) -> Result<(), StreamError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(lock(&self.failure).take().unwrap_or(StreamError::Stopped))
    }

    fn fail(&self, error: StreamError) {
        let mut failure = lock(&self.failure);
        if !self.failed.swap(true, Ordering::AcqRel) {
            *failure = Some(error);
        }
    }

    /// Ends all uploads: nothing more may be written under this claim.
    pub(super) fn stop(&self) {
        self.fail(StreamError::Stopped);
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn set_writer(&self, generation: Generation, session: SessionId) {
        *lock(&self.writer) = (generation, session);
    }

    /// Takes over what regions were brought since.
    pub(super) fn poll_regions(&self) {
        let regions = &self.around.regions;
        self.ledger().poll(|region, name| regions.misses(region, name));
    }

    /// The object is durable.
    fn arrived(&self, entry: &Entry, durability: &Durability) {
        if let Some(range) = entry.range {
            self.ledger().stored(&entry.name, range, &entry.watermarks, &durability.held);
        } else if let Some(watermark) = entry.watermarks.first() {
            let at = watermark.position;
            let range = LogRange { branch: at.branch, start: at.offset, end: at.offset };
            self.ledger().stored(&entry.name, range, &entry.watermarks, &durability.held);
        }
        self.supersede(entry);
    }

    fn supersede(&self, entry: &Entry) {
        if entry.supersedes.is_empty() {
            return;
        }
        let mut stored = Vec::new();
        {
            let mut in_flight = lock(&self.in_flight);
            for name in &entry.supersedes {
                match in_flight.get_mut(name) {
                    Some(by) => *by = Some(entry.name.clone()),
                    None => stored.push(name.clone()),
                }
            }
        }
        self.around.regions.supersede(&entry.name, &stored);
        self.ledger().superseded(&entry.supersedes);
    }

    /// Takes those of the superseded objects that are in the spool out of it.
    async fn clear_spool(&self, entry: &Entry) -> Result<(), StreamError> {
        let Some(spool) = self.spool.clone() else { return Ok(()) };
        if entry.supersedes.is_empty() || spool.is_empty() {
            return Ok(());
        }
        let names = entry.supersedes.clone();
        let removed = blocking(move || {
            for sequence in spool.find(&names) {
                spool.remove(sequence)?;
            }
            Ok(())
        });
        removed.await?;
        for name in &entry.supersedes {
            lock(&self.spooled).remove(name);
        }
        Ok(())
    }

    fn superseded_by(&self, name: &str) -> Option<String> {
        lock(&self.in_flight).get(name).cloned().flatten()
    }

    async fn run(self: Arc<Self>, job: Job, sequence: u64) {
        let entry = job.entry.clone();
        let result = self.bring(job, sequence).await;
        let superseded = lock(&self.in_flight).remove(&entry.name).flatten();
        if let Some(covering) = superseded {
            // It may have arrived although it was not needed any more, and what it was to replace is not needed either.
            let supersedes = [std::slice::from_ref(&entry.name), &entry.supersedes].concat();
            self.supersede(&Entry { name: covering, supersedes, ..entry });
        }
        if let Err(error) = result {
            self.fail(error);
        }
        self.wake.notify_waiters();
    }

    async fn bring(&self, job: Job, sequence: u64) -> Result<(), StreamError> {
        let Job { body, entry } = job;
        let payload = match body {
            Body::Sealed(payload) => payload,
            Body::Draft(draft, session) => {
                let (keys, entropy) = (self.around.keys.clone(), Arc::clone(&self.around.entropy));
                let sealed = blocking(move || {
                    seal(&keys, &session.secret, &draft, &*entropy).map_err(StreamError::format(&draft.name))
                });
                sealed.await?
            }
        };
        loop {
            if self.has_failed() || self.superseded_by(&entry.name).is_some() {
                return Ok(());
            }
            if self.spool.as_ref().is_some_and(|spool| !spool.is_empty())
                && self.spool_piece(&entry, sequence, &payload).await?
            {
                return Ok(());
            }
            let patience = if self.spool.is_some() && !self.is_spool_full() { PATIENCE_WITH_SPOOL } else { PATIENCE };
            match self.around.regions.create(&entry.name, payload.clone(), patience).await {
                Ok(durability) => {
                    self.arrived(&entry, &durability);
                    self.clear_spool(&entry).await?;
                    return self.check_fence(&entry).await;
                }
                Err(error @ RegionError::Conflict { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(object = %entry.name, error = %error, "too few regions answer");
                    if self.spool_piece(&entry, sequence, &payload).await? {
                        return Ok(());
                    }
                    if self.spool.is_none() && error.class() == ErrorClass::Denied {
                        return Err(error.into());
                    }
                    // A refusal at once must not become a busy loop.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// Puts a piece into the spool; false when there is none or it is full.
    async fn spool_piece(&self, entry: &Entry, sequence: u64, payload: &Payload) -> Result<bool, StreamError> {
        let Some(spool) = self.spool.clone() else { return Ok(false) };
        let (name, payload) = (entry.name.clone(), payload.clone());
        lock(&self.spooled).insert(entry.name.clone(), entry.clone());
        let stored = blocking(move || spool.store(sequence, &name, &payload)).await;
        match stored {
            Ok(Stored::Done) => {
                self.spool_full.store(false, Ordering::Relaxed);
                if let Some(range) = entry.range {
                    self.ledger().spooled(range);
                }
                self.clear_spool(entry).await?;
                self.wake.notify_waiters();
                Ok(true)
            }
            Ok(Stored::Full) => {
                lock(&self.spooled).remove(&entry.name);
                if !self.spool_full.swap(true, Ordering::Relaxed) {
                    tracing::error!(source = %self.around.keys.source, "the spool is full; the source has to wait");
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn check_fence(&self, entry: &Entry) -> Result<(), StreamError> {
        let now = self.around.clock.now().as_micros();
        let last = self.fence_checked.load(Ordering::Relaxed);
        if !entry.segment || now.saturating_sub(last) < FENCE_INTERVAL_MICROS {
            return Ok(());
        }
        self.fence_checked.store(now, Ordering::Relaxed);
        let writer = *lock(&self.writer);
        match self.around.check_fence(writer).await {
            Err(error @ StreamError::Fenced(_)) => Err(error),
            // Regions that do not answer are no news about other writers.
            _ => Ok(()),
        }
    }

    /// Uploads the oldest spooled object; false when there is none.
    async fn drain_one(&self, patience: Duration) -> Result<bool, StreamError> {
        let Some(spool) = self.spool.clone() else { return Ok(false) };
        let Some((sequence, spooled)) = spool.first() else { return Ok(false) };
        let reader = Arc::clone(&spool);
        let wanted = spooled.clone();
        let payload = match blocking(move || reader.load(sequence, &wanted)).await {
            Ok(payload) => payload,
            // A segment that was spooled or stored meanwhile made it needless.
            Err(_) if !spool.contains(sequence) => return Ok(true),
            Err(error) => return Err(error),
        };
        let durability = self.around.regions.create(&spooled.name, payload, patience).await?;
        let entry = lock(&self.spooled).remove(&spooled.name);
        if let Some(entry) = entry {
            self.arrived(&entry, &durability);
        }
        blocking(move || spool.remove(sequence)).await?;
        self.spool_full.store(false, Ordering::Relaxed);
        Ok(true)
    }

    async fn drain(self: Arc<Self>) {
        loop {
            match self.drain_one(PATIENCE).await {
                Ok(true) => self.wake.notify_waiters(),
                Ok(false) => {
                    let woken = self.wake.notified();
                    drop(tokio::time::timeout(Duration::from_secs(1), woken).await);
                }
                Err(error @ (StreamError::Spool { .. } | StreamError::Region(RegionError::Conflict { .. }))) => {
                    self.fail(error);
                    self.wake.notify_waiters();
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }
}

/// Runs what blocks or computes for long outside of the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StreamError> + Send + 'static,
) -> Result<T, StreamError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StreamError::Stopped)?
}

/// Empties the spool that an earlier process left, in order. Needed before the stream can be resumed: what is in it was
/// released.
pub(super) async fn empty_spool(
    around: &Surroundings,
    spool: &Arc<Spool>,
    within: Duration,
) -> Result<(), StreamError> {
    let limit = Instant::now() + within;
    while let Some((sequence, entry)) = spool.first() {
        let (reader, wanted) = (Arc::clone(spool), entry.clone());
        let payload = blocking(move || reader.load(sequence, &wanted)).await?;
        let left = limit.saturating_duration_since(Instant::now());
        let created = around.regions.create(&entry.name, payload, left).await;
        match created {
            Ok(_) => {}
            Err(RegionError::Conflict { .. }) if is_history(&entry.name) => {}
            Err(error) => return Err(error.into()),
        }
        let spool = Arc::clone(spool);
        blocking(move || spool.remove(sequence)).await?;
    }
    Ok(())
}

/// A branch's history is sealed anew by every writer that sees the fork, so its bytes may differ.
fn is_history(name: &str) -> bool {
    matches!(ObjectName::parse(name), Some(ObjectName::History(..)))
}

/// The uploads of one writer. Dropping them stops them.
#[derive(Debug)]
pub(super) struct Uploads {
    pub(super) shared: Arc<Shared>,
    tasks: JoinSet<()>,
    segments: Arc<Semaphore>,
    tails: Arc<Semaphore>,
    limits: (usize, usize),
}

impl Uploads {
    pub(super) fn new(
        around: Surroundings,
        ledger: Ledger,
        spool: Option<Arc<Spool>>,
        segments: usize,
        tails: usize,
        writer: (Generation, SessionId),
    ) -> Uploads {
        let sequence = spool.as_ref().map_or(0, |spool| spool.next_sequence());
        let now = around.clock.now().as_micros();
        let shared = Arc::new(Shared {
            around,
            ledger: Mutex::new(ledger),
            spool,
            spooled: Mutex::default(),
            in_flight: Mutex::default(),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
            spool_full: AtomicBool::new(false),
            sequence: AtomicU64::new(sequence),
            writer: Mutex::new(writer),
            fence_checked: AtomicI64::new(now),
            wake: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        if shared.spool.is_some() {
            tasks.spawn(Arc::clone(&shared).drain());
        }
        let (segment_slots, tail_slots) = (Arc::new(Semaphore::new(segments)), Arc::new(Semaphore::new(tails)));
        Uploads { shared, tasks, segments: segment_slots, tails: tail_slots, limits: (segments, tails) }
    }

    /// Whether another tail may be cut now.
    pub(super) fn takes_tails(&self) -> bool {
        self.tails.available_permits() > 0
    }

    /// Starts a job. No more than the limits are under way: the caller waits, and so the source.
    pub(super) async fn submit(&mut self, job: Job) -> Result<(), StreamError> {
        while self.tasks.try_join_next().is_some() {}
        let slots = if job.entry.segment { &self.segments } else { &self.tails };
        let permit = Arc::clone(slots).acquire_owned().await.map_err(|_| StreamError::Stopped)?;
        self.shared.check()?;
        lock(&self.shared.in_flight).insert(job.entry.name.clone(), None);
        let sequence = self.shared.sequence.fetch_add(1, Ordering::Relaxed);
        self.tasks.spawn(run_with(permit, Arc::clone(&self.shared), job, sequence));
        Ok(())
    }

    /// Waits until the source may forget everything before `position`; false when `within` has passed before.
    pub(super) async fn released_to(&self, position: LogPosition, within: Duration) -> bool {
        let limit = Instant::now() + within;
        loop {
            self.shared.poll_regions();
            if self.shared.ledger().released_to().is_some_and(|released| released >= position) {
                return true;
            }
            if self.shared.has_failed() || Instant::now() >= limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is under way and the spool is empty; false when `within` has passed before.
    pub(super) async fn settled(&self, within: Duration) -> bool {
        let limit = Instant::now() + within;
        loop {
            let idle =
                self.segments.available_permits() == self.limits.0 && self.tails.available_permits() == self.limits.1;
            let empty = self.shared.spool.as_ref().is_none_or(|spool| spool.is_empty());
            if (idle && empty) || self.shared.has_failed() {
                return !self.shared.has_failed();
            }
            if Instant::now() >= limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn run_with(permit: OwnedSemaphorePermit, shared: Arc<Shared>, job: Job, sequence: u64) {
    let _permit = permit;
    shared.run(job, sequence).await;
}
