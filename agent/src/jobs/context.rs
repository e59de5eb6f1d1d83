//! What one attempt at a job knows of itself, and how it says how far it is.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use breakwater_core::{Attempt, Clock, JobId};
use breakwater_pipeline::Progress;
use breakwater_proto::v1;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::error::AgentError;
use crate::session::outbox::Outbox;

/// One attempt.
#[derive(Debug)]
pub struct JobContext {
    /// The job.
    pub id: JobId,
    /// Which try.
    pub attempt: Attempt,
    /// What distinguishes it from other tries for the controller.
    pub fence: u64,
    /// Stops it.
    pub cancel: CancellationToken,
    /// Counters of the data path.
    pub progress: Arc<Progress>,
    phase: Mutex<&'static str>,
    outbox: Arc<Outbox>,
    clock: Arc<dyn Clock>,
}

impl JobContext {
    /// The attempt `(job, attempt, fence)`.
    pub fn new(
        (id, attempt, fence): (JobId, Attempt, u64),
        cancel: CancellationToken,
        outbox: Arc<Outbox>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let progress = Arc::default();
        JobContext { id, attempt, fence, cancel, progress, phase: Mutex::new("waiting"), outbox, clock }
    }

    /// Runs one phase in a span of its name; stops when the job is stopped. For work that leaves nothing half done when it
    /// is dropped.
    pub async fn phase<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(AgentError::Cancelled),
            done = self.phase_to_its_end(name, work) => done,
        }
    }

    /// Like [`phase`](Self::phase) for work that looks at the job's token itself and must not be dropped.
    pub async fn phase_to_its_end<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = name;
        self.report();
        work.instrument(tracing::info_span!("phase", otel.name = name)).await
    }

    /// Says each second how far the job is. Never returns.
    pub async fn report_each_second(&self) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            self.report();
        }
    }

    fn report(&self) {
        let totals = self.progress.totals();
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = v1::Progress {
            phase: phase.to_owned(),
            bytes_done: totals.read + totals.kept,
            bytes_total: totals.expected,
            bytes_new: totals.new,
            bytes_stored: totals.stored,
            files_done: totals.files,
            at: self.clock.now().as_micros(),
        };
        self.outbox.progress(v1::JobUpdate {
            job_id: self.id.to_string(),
            attempt: self.attempt.0,
            fence: self.fence,
            state: v1::JobState::Running.into(),
            progress: Some(progress),
        });
    }
}
