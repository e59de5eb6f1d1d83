//! Work that a controller hands out: each job once at a time, two at once, its result kept until somebody has it.
//!
//! Invariant: of one job at most one attempt runs here. A start that repeats the running attempt changes nothing; a newer
//! one (by its fence) begins when the older one has ended.

mod backup;
pub mod check;
pub mod context;
mod delete;
mod gc;
mod hold;
pub mod journal;
mod locks;
pub mod outcome;
mod renew;
pub mod repair;
pub mod repository;
pub mod restore;
mod tier;
mod usage;
mod verify;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use breakwater_core::{Attempt, Chain, JobId};
use breakwater_proto::v1;
use breakwater_proto::v1::start_job::Work;
use breakwater_runtime::{TaskGroup, telemetry};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::error::AgentError;
use crate::session::outbox::Outbox;
use crate::toolbox::Toolbox;
pub use backup::lineage::Lineage;
use context::JobContext;
use outcome::Outcome;

/// Bytes of a summary on the wire.
const SUMMARY_BYTES_MAX: usize = 32 * 1024;

/// Tries at writing a result into the journal, a second apart.
const JOURNAL_TRIES: u32 = 5;

/// Ended attempts that are remembered after a controller has acknowledged them.
const ENDED_KEPT: usize = 256;

/// Runs jobs. A clone is another handle.
#[derive(Clone, Debug)]
pub struct Runner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tools: Arc<Toolbox>,
    outbox: Arc<Outbox>,
    tasks: TaskGroup,
    slots: Arc<Semaphore>,
    active: Mutex<Attempts>,
}

/// The attempts that run or wait to run, by job, and the last ones that ended.
#[derive(Debug, Default)]
struct Attempts {
    running: HashMap<String, Active>,
    /// Job and fence, oldest first: a start that is repeated just after its result was acknowledged must not run again.
    ended: VecDeque<(String, u64)>,
}

impl Attempts {
    /// Takes the attempt off the list, unless a newer one stands there already.
    fn leave(&mut self, job: &str, fence: u64) {
        if self.running.get(job).is_some_and(|active| active.fence == fence) {
            self.running.remove(job);
        }
    }

    /// The attempt has a result.
    fn end(&mut self, job: &str, fence: u64) {
        self.leave(job, fence);
        if self.ended.len() >= ENDED_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back((job.to_owned(), fence));
    }

    /// Whether this attempt, or a newer one of the same job, ended not long ago.
    fn has_ended(&self, job: &str, fence: u64) -> bool {
        self.ended.iter().any(|(ended, of)| ended == job && *of >= fence)
    }
}

/// The attempt that runs, or waits to run.
#[derive(Debug)]
struct Active {
    attempt: u32,
    fence: u64,
    cancel: CancellationToken,
    /// Closed when the attempt has ended.
    ended: watch::Receiver<()>,
}

impl Runner {
    /// A runner of `at_once` jobs with the tools of `tools`.
    pub fn new(tools: Arc<Toolbox>, outbox: Arc<Outbox>, tasks: TaskGroup, at_once: usize) -> Self {
        let slots = Arc::new(Semaphore::new(at_once.max(1)));
        Runner { inner: Arc::new(Inner { tools, outbox, tasks, slots, active: Mutex::default() }) }
    }

    /// What a controller is to know: attempts that run, and ended ones whose result it has not acknowledged.
    pub fn running(&self) -> Vec<v1::RunningJob> {
        let mut all: Vec<v1::RunningJob> = self
            .inner
            .active()
            .running
            .iter()
            .map(|(job, active)| v1::RunningJob { job_id: job.clone(), attempt: active.attempt, fence: active.fence })
            .collect();
        let ended = self.inner.outbox.journal().unacknowledged().into_iter();
        let ended =
            ended.map(|result| v1::RunningJob { job_id: result.job_id, attempt: result.attempt, fence: result.fence });
        all.extend(ended);
        all
    }

    /// Starts what a controller asks for.
    pub fn start(&self, start: v1::StartJob) {
        if self.inner.outbox.journal().has_ended(&start.job_id, start.fence) {
            self.inner.outbox.ended(&start.job_id);
            return;
        }
        let (done, ended) = watch::channel(());
        let cancel = CancellationToken::new();
        let active = Active { attempt: start.attempt, fence: start.fence, cancel: cancel.clone(), ended };
        let before = {
            let mut attempts = self.inner.active();
            if attempts.has_ended(&start.job_id, start.fence) {
                return;
            }
            match attempts.running.get(&start.job_id) {
                Some(present) if present.fence >= start.fence => {
                    if present.fence == start.fence {
                        // The controller has not heard that it runs.
                        self.inner.outbox.begun(begun(&start));
                    }
                    return;
                }
                _ => attempts.running.insert(start.job_id.clone(), active),
            }
        };
        self.inner.outbox.begun(begun(&start));
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn("job", async move {
            if let Some(mut before) = before {
                before.cancel.cancel();
                // An error means that it is gone, which is what is waited for.
                before.ended.changed().await.ok();
            }
            inner.run(start, cancel).await;
            drop(done);
        });
    }

    /// Stops a job.
    pub fn cancel(&self, job: &str, reason: &str) {
        if let Some(active) = self.inner.active().running.get(job) {
            tracing::info!(job.id = job, reason, "a job is stopped");
            active.cancel.cancel();
        }
    }
}

impl Inner {
    fn active(&self) -> MutexGuard<'_, Attempts> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: &Arc<Self>, start: v1::StartJob, cancel: CancellationToken) {
        let source = start.source.as_ref().map(|source| source.name.clone()).unwrap_or_default();
        let span = tracing::info_span!(
            "job",
            job.id = start.job_id,
            job.kind = kind(&start),
            source.name = source,
            job.attempt = start.attempt,
            error = tracing::field::Empty,
            otel.status_code = tracing::field::Empty
        );
        telemetry::set_parent(&span, &start.traceparent);
        let began = self.tools.clock.now();
        // When the agent itself ends the work is dropped, not cancelled: a cancelled backup is given up for good, a dropped
        // one is taken over by the attempt that a controller gives out next.
        let outgoing = self.tasks.token();
        let outcome = tokio::select! {
            biased;
            outcome = self.work(&start, &cancel).instrument(span.clone()) => outcome,
            () = outgoing.cancelled() => {
                self.active().leave(&start.job_id, start.fence);
                return;
            }
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome::failed(serde_json::Value::Null, error));
        if let Some(fault) = &outcome.fault {
            span.record("error", fault.class().as_str());
            if fault.class() != breakwater_core::ErrorClass::Partial {
                span.record("otel.status_code", "ERROR");
            }
        }
        let result = self.result(&start, began.as_micros(), outcome);
        span.in_scope(|| {
            let (state, message) = (result.state().word(), result.failure.as_ref().map(|failure| &failure.message));
            tracing::info!(job.id = start.job_id, job.state = state, error = message, "job ended");
        });
        drop(span);
        let mut tries = 0;
        while let Err(error) = self.outbox.journal().finish(result.clone(), self.tools.clock.now()).await {
            tries += 1;
            tracing::error!(job.id = start.job_id, error = %Chain(&error), tries, "a result cannot be journalled");
            if tries >= JOURNAL_TRIES || self.tasks.token().is_cancelled() {
                self.outbox.journal().keep_unwritten(result, self.tools.clock.now());
                break;
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        self.active().end(&start.job_id, start.fence);
        self.outbox.ended(&start.job_id);
    }

    async fn work(self: &Arc<Self>, start: &v1::StartJob, cancel: &CancellationToken) -> Result<Outcome, AgentError> {
        if let Some(word) = start.must_understand.first() {
            return Err(AgentError::Refused(format!(
                "this agent (version {}) does not know `{word}`, which the job asks for (hint: update the agent)",
                env!("CARGO_PKG_VERSION")
            )));
        }
        let id: JobId = start.job_id.parse().map_err(|error| AgentError::Invalid(format!("the job: {error}")))?;
        let _slot = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(AgentError::Cancelled),
            slot = Arc::clone(&self.slots).acquire_owned() => slot.expect("the runner's slots are never closed"),
        };
        self.outbox.journal().begin(&start.job_id).await?;
        let context = JobContext::new(
            (id, Attempt(start.attempt), start.fence),
            cancel.clone(),
            Arc::clone(&self.outbox),
            Arc::clone(&self.tools.clock),
        );
        let work: BoxFuture<'_, Result<Outcome, AgentError>> = match &start.work {
            Some(Work::Backup(spec)) => Box::pin(backup::run(&self.tools, &context, start, spec)),
            Some(Work::Restore(spec)) => Box::pin(restore::run(&self.tools, &context, start, spec)),
            Some(Work::RepositoryWork(work)) => Box::pin(repository::run(&self.tools, &context, start, work)),
            None => {
                let text = "this agent does not know this kind of job (hint: update it)";
                return Err(AgentError::Refused(text.to_owned()));
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = context.report_each_second() => Err(AgentError::Defect("the reporter ended".to_owned())),
        }
    }

    fn result(&self, start: &v1::StartJob, started: i64, outcome: Outcome) -> v1::JobResult {
        let (state, failure) = outcome::state(outcome.fault.as_ref());
        v1::JobResult {
            sequence: 0,
            job_id: start.job_id.clone(),
            attempt: start.attempt,
            fence: start.fence,
            state: state.into(),
            failure,
            summary_json: shortened(outcome.summary),
            started,
            finished: self.tools.clock.now().as_micros(),
        }
    }
}

/// The summary as text; lists of lines are cut until it fits a message.
fn shortened(mut summary: serde_json::Value) -> String {
    if summary.is_null() {
        return String::new();
    }
    for keep in [200, 50, 10, 0] {
        let text = summary.to_string();
        if text.len() <= SUMMARY_BYTES_MAX {
            return text;
        }
        cut_lists(&mut summary, keep);
    }
    let text = summary.to_string();
    if text.len() <= SUMMARY_BYTES_MAX {
        text
    } else {
        r#"{"warnings":["the summary is too long to be sent"]}"#.to_owned()
    }
}

/// Cuts every list of texts or findings, however deep, to `keep` entries and a line that says how many more there were.
fn cut_lists(value: &mut serde_json::Value, keep: usize) {
    match value {
        serde_json::Value::Array(lines) => {
            if lines.len() > keep {
                let cut = lines.len() - keep;
                lines.truncate(keep);
                lines.push(format!("{cut} more").into());
            }
            lines.iter_mut().for_each(|line| cut_lists(line, keep));
        }
        serde_json::Value::Object(map) => map.values_mut().for_each(|field| cut_lists(field, keep)),
        _ => {}
    }
}

fn kind(start: &v1::StartJob) -> &'static str {
    match &start.work {
        Some(Work::Backup(_)) => v1::JobKind::Backup.word(),
        Some(Work::Restore(_)) => v1::JobKind::Restore.word(),
        Some(Work::RepositoryWork(work)) => work.kind().word(),
        None => v1::JobKind::Unspecified.word(),
    }
}

fn begun(start: &v1::StartJob) -> v1::JobUpdate {
    v1::JobUpdate {
        job_id: start.job_id.clone(),
        attempt: start.attempt,
        fence: start.fence,
        state: v1::JobState::Running.into(),
        progress: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_summary_is_cut_by_its_lists() {
        let lines: Vec<String> = (0..5000).map(|n| format!("page {n} is damaged in the source")).collect();
        let text = shortened(serde_json::json!({ "snapshot": "s", "warnings": lines }));
        assert!(text.len() <= SUMMARY_BYTES_MAX);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["snapshot"], "s");
        assert_eq!(read["warnings"].as_array().unwrap().last().unwrap(), "4800 more");
        assert_eq!(shortened(serde_json::Value::Null), "");
    }

    #[test]
    fn an_attempt_that_ended_is_remembered_for_a_while_and_a_newer_one_may_begin() {
        let mut attempts = Attempts::default();
        attempts.end("job", 7);
        assert!(attempts.has_ended("job", 7) && attempts.has_ended("job", 6));
        assert!(!attempts.has_ended("job", 8) && !attempts.has_ended("other", 7));
        for fence in 0..ENDED_KEPT as u64 {
            attempts.end("other", fence);
        }
        assert!(!attempts.has_ended("job", 7), "memory is bounded");
    }
}
