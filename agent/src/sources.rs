//! The sources that this agent looks after: one runtime each, with its engine and, where it has one, its log.
//!
//! Reading order: this page (which sources there are), [`state`] (what is known of a stream), [`receive`] (the log on its
//! way into the regions), [`memory`] (what outlives the process), [`report`] (what controllers hear of it).

pub mod memory;
pub mod receive;
pub mod report;
pub mod state;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use breakwater_core::{Chain, LogPosition, SourceUid};
use breakwater_engine::{Engine, RecoveryRange};
use breakwater_proto::v1;
use breakwater_repository::regions::RegionStatus;
use breakwater_runtime::{RetryPolicy, TaskGroup};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;
use crate::repositories::OpenRepository;
use crate::toolbox::Toolbox;
use crate::wiring::{self, Wired};
use receive::Receiver;
use state::{RegionView, StreamState, Word};

/// Waits between tries at a stream that ended.
const RETRY: RetryPolicy = RetryPolicy::new(u32::MAX, Duration::from_secs(1), Duration::from_secs(30));

/// How long a stopping source may take for its last bytes.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The sources by uid. A clone is another handle.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sources: Mutex<HashMap<String, Arc<Source>>>,
    /// Counts changes of the map.
    changes: watch::Sender<u64>,
}

/// Why the log of a range did not become durable.
#[derive(Clone, Debug, PartialEq)]
pub enum NotDurable {
    /// The source is not looked after any more.
    Gone,
    /// Not in time.
    TooLate(Box<StreamState>),
}

/// One source that is looked after.
#[derive(Debug)]
pub struct Source {
    /// What the controller says of it.
    pub assigned: v1::AssignedSource,
    /// Its uid.
    pub uid: SourceUid,
    /// Its engine, and what gives way when its log can be stored nowhere.
    pub wired: Wired,
    state: watch::Sender<StreamState>,
    /// The repository that the stream goes to, once it was opened.
    repository: Mutex<Option<Arc<OpenRepository>>>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Sources {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<Source>>> {
        self.inner.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// The source with this uid.
    pub fn get(&self, uid: &str) -> Option<Arc<Source>> {
        self.map().get(uid).cloned()
    }

    /// The source with this uid, which may be assigned in these moments.
    pub async fn wait_for(&self, uid: &str, patience: Duration) -> Option<Arc<Source>> {
        let mut changes = self.inner.changes.subscribe();
        let appears = changes.wait_for(|_| self.get(uid).is_some());
        // Not in time means that it is not there.
        drop(tokio::time::timeout(patience, appears).await);
        self.get(uid)
    }

    /// Waits until enough regions hold the log of `uid` in all of `range`, also when the source is taken up anew meanwhile.
    pub async fn wait_durable(&self, uid: &str, range: RecoveryRange, patience: Duration) -> Result<(), NotDurable> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            // A changed source is away for the moment in which it is stopped and begun again.
            let Some(source) = self.wait_for(uid, left.min(STOP_PATIENCE)).await else { return Err(NotDurable::Gone) };
            let mut watching = source.watch();
            tokio::select! {
                durable = watching.wait_for(|state| state.is_durable(range)) => {
                    if durable.is_ok() {
                        return Ok(());
                    }
                }
                () = source.stop.cancelled() => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Err(NotDurable::TooLate(Box::new(source.state())));
                }
            }
            // What does not stop must not hold up whoever waits.
            if tokio::time::timeout_at(deadline, source.ended.cancelled()).await.is_err() {
                return Err(NotDurable::TooLate(Box::new(source.state())));
            }
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Source>> {
        self.map().values().cloned().collect()
    }

    /// Begins to look after `assigned`.
    pub fn start(
        &self,
        assigned: v1::AssignedSource,
        tools: &Arc<Toolbox>,
        spool: receive::SpoolPlace,
        outbox: &Arc<crate::session::outbox::Outbox>,
        tasks: &TaskGroup,
    ) -> Result<(), AgentError> {
        let source = Arc::new(Source::new(assigned, tools)?);
        if source.assigned.stream {
            let log = source.wired.engine.log_source().ok_or_else(|| {
                AgentError::Refused(format!("sources of kind `{}` have no log to stream", source.assigned.engine))
            })?;
            let memory = spool.memory.clone();
            source.change(|state| memory.recall(state));
            let listed = AtomicBool::new(false);
            let receiver = Receiver { source: Arc::clone(&source), log, tools: Arc::clone(tools), spool, listed };
            let token = tasks.token();
            let name = format!("source {}", source.assigned.name);
            let (kept, outbox, clock) = (Arc::clone(&source), Arc::clone(outbox), Arc::clone(&tools.clock));
            let entropy = Arc::clone(&tools.entropy);
            tasks.spawn(&name, async move {
                let reporting = report::each_second(&kept, &outbox, &memory, clock.as_ref());
                tokio::select! {
                    () = keep_receiving(receiver, token, entropy) => {}
                    () = reporting => {}
                }
                memory.keep(&kept.state());
                kept.ended.cancel();
            });
        } else {
            source.ended.cancel();
        }
        self.map().insert(source.assigned.uid.clone(), source);
        self.changed();
        Ok(())
    }

    /// Stops looking after a source and waits until nothing of it runs. Nothing at the source is given up.
    pub async fn stop(&self, uid: &str) {
        let source = self.map().remove(uid);
        if let Some(source) = source {
            self.changed();
            source.stop.cancel();
            if tokio::time::timeout(STOP_PATIENCE, source.ended.cancelled()).await.is_err() {
                tracing::warn!(source.name = source.assigned.name, "a stream does not stop in time");
            }
        }
    }
}

impl Source {
    fn new(assigned: v1::AssignedSource, tools: &Toolbox) -> Result<Self, AgentError> {
        let uid = uid_of(&assigned)?;
        let scratch = tools.scratch.join(&assigned.uid);
        let wired = wiring::engine(&assigned.engine, &assigned.name, &assigned.settings_json, &scratch, &tools.clock)?;
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (state, _) = watch::channel(StreamState::default());
        Ok(Source { assigned, uid, wired, state, repository: Mutex::default(), stop, ended })
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.wired.engine
    }

    /// The stream's state as it changes.
    pub fn watch(&self) -> watch::Receiver<StreamState> {
        self.state.subscribe()
    }

    /// The stream's state now.
    pub fn state(&self) -> StreamState {
        self.state.borrow().clone()
    }

    /// A base that begins at `start` is committed: a gap before it does not matter any more.
    pub fn note_base(&self, start: LogPosition) {
        self.state.send_if_modified(|state| {
            let covers =
                state.gap_until.is_some_and(|until| (until.branch, until.offset) <= (start.branch, start.offset));
            if covers {
                state.gap_until = None;
                state.failure = None;
            }
            covers
        });
    }

    /// The regions of the stream's repository as they are now.
    pub(crate) fn region_views(&self) -> Vec<RegionView> {
        let open = self.repository.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(open) = open else { return Vec::new() };
        let view = |status: RegionStatus| RegionView {
            debt: open.set.owed_of(status.id, self.uid),
            compared: open.set.is_compared(status.id, self.uid),
            status,
        };
        open.set.statuses().into_iter().map(view).collect()
    }

    pub(crate) fn note_repository(&self, open: Arc<OpenRepository>) {
        *self.repository.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut StreamState)) {
        self.state.send_modify(change);
    }
}

/// The uid of an assigned source.
pub fn uid_of(assigned: &v1::AssignedSource) -> Result<SourceUid, AgentError> {
    let name = &assigned.name;
    assigned.uid.parse().map_err(|error| AgentError::Invalid(format!("source `{name}`: {error}")))
}

/// Receives again and again until the source is stopped or the agent ends.
async fn keep_receiving(receiver: Receiver, agent: CancellationToken, entropy: Arc<dyn breakwater_core::Entropy>) {
    let source = Arc::clone(&receiver.source);
    let stop = source.stop.clone();
    let both = CancellationToken::new();
    let watcher = {
        let (stop, both) = (stop.clone(), both.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = agent.cancelled() => {}
            }
            both.cancel();
            std::future::pending::<()>().await;
        }
    };
    let receiving = async {
        let mut failures = 0;
        let mut given_up = false;
        loop {
            let mut streamed = false;
            let error = match receiver.receive(&both, &mut given_up, &mut streamed).await {
                Ok(()) => break,
                Err(error) => error,
            };
            failures = if streamed { 0 } else { failures };
            let word = if error.class().is_transient() { Word::Unreachable } else { Word::Failed };
            if failures == 0 || word == Word::Failed {
                tracing::warn!(source.name = source.assigned.name, error = %Chain(&error), "the stream stands still; tried again");
            }
            source.change(|state| state.stand_still(word, error.failure()));
            tokio::select! {
                () = both.cancelled() => break,
                () = tokio::time::sleep(RETRY.delay(failures, entropy.as_ref()).max(Duration::from_millis(200))) => {}
            }
            failures = failures.saturating_add(1);
        }
        source.change(|state| state.word = Word::Stopped);
    };
    tokio::select! {
        () = receiving => {}
        () = watcher => {}
    }
}
