//! Hands pending jobs to connected agents, and sends again what an agent never confirmed.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Clock, Name, Timestamp, Uid};
use breakwater_planner::job::{DISPATCH_PATIENCE_MICROS, JobEffect, JobEvent, JobState};
use breakwater_proto::v1;
use breakwater_proto::v1::controller_message::Body as Told;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::assign;
use crate::book::Book;
use crate::catalogue::{self, Declared};
use crate::error::ControlError;
use crate::fleet::Fleet;
use crate::jobs::Jobs;
use crate::records::JobRecord;

/// The dispatcher looks at all jobs this often even when nobody woke it.
const PERIOD: Duration = Duration::from_secs(2);

/// Dispatches until told to stop.
#[derive(Debug)]
pub struct Dispatcher {
    /// The store.
    pub book: Book,
    /// Live agents.
    pub fleet: Arc<Fleet>,
    /// The jobs.
    pub jobs: Jobs,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Dispatcher {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut work = self.fleet.watch_work();
        loop {
            if let Err(error) = self.pass().await {
                tracing::warn!(error = %breakwater_core::Chain(&error), "jobs were not dispatched; tried again soon");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = work.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn pass(&self) -> Result<(), ControlError> {
        let connected = self.fleet.connected();
        if connected.is_empty() {
            return Ok(());
        }
        for namespace in catalogue::namespaces(&self.book).await? {
            let jobs = self.jobs.list(&namespace).await?;
            let waiting: Vec<JobRecord> = jobs
                .into_iter()
                .map(|(job, _)| job)
                .filter(|job| connected.contains(&job.agent) && self.is_due(job))
                .collect();
            if waiting.is_empty() {
                continue;
            }
            let declared = catalogue::read(&self.book, &namespace).await?;
            // Oldest first: the list comes newest first.
            for job in waiting.into_iter().rev() {
                self.dispatch(&namespace, &declared, job).await?;
            }
        }
        Ok(())
    }

    fn is_due(&self, job: &JobRecord) -> bool {
        let now = self.clock.now();
        match job.life.state {
            JobState::Pending => now >= job.life.not_before,
            JobState::Dispatched => {
                job.life.dispatched.is_some_and(|at| now.micros_since(at) > DISPATCH_PATIENCE_MICROS)
            }
            JobState::Running | JobState::Succeeded | JobState::Failed | JobState::Cancelled => false,
        }
    }

    async fn dispatch(&self, namespace: &Name, declared: &Declared, job: JobRecord) -> Result<(), ControlError> {
        if job.life.state == JobState::Dispatched {
            // The same attempt again: the agent knows what it has by the fence.
            self.send(job.agent, self.message(declared, &job).await?);
            return Ok(());
        }
        let now: Timestamp = self.clock.now();
        let fence = self.book.revision().await?.max(job.life.fence.saturating_add(1));
        let span = tracing::info_span!("job.dispatch", job.id = %job.id, agent.name = %job.agent_name, fence);
        if let Some(parent) = &job.traceparent {
            breakwater_runtime::telemetry::set_parent(&span, parent);
        }
        let event = JobEvent::Dispatch { fence };
        let happened = self.jobs.happen(namespace, job.id, event, None, now).instrument(span).await?;
        if let (job, JobEffect::Send) = happened {
            self.send(job.agent, self.message(declared, &job).await?);
        }
        Ok(())
    }

    fn send(&self, agent: Uid, start: v1::StartJob) {
        // An agent that is gone says at its return what it runs; what it never got is sent then.
        self.fleet.send(agent, Told::StartJob(start));
    }

    /// The job as its agent gets it.
    async fn message(&self, declared: &Declared, job: &JobRecord) -> Result<v1::StartJob, ControlError> {
        let mut known = Vec::new();
        if job.work.kind() == v1::JobKind::Gc {
            // One repository may be declared in several namespaces.
            for namespace in catalogue::namespaces(&self.book).await? {
                known.extend(self.jobs.list(&namespace).await?.into_iter().map(|(job, _)| job));
            }
        }
        let source = job
            .source_uid
            .and_then(|uid| declared.source_by_uid(&uid.to_string()))
            .map(|(stored, spec)| assign::source_message(declared, stored, spec));
        let repository = declared
            .repository(job.repository.as_str())
            .map(|(stored, spec)| assign::repository_message(&stored.name, spec));
        Ok(v1::StartJob {
            job_id: job.id.to_string(),
            attempt: job.life.attempt,
            fence: job.life.fence,
            traceparent: job.traceparent.clone().unwrap_or_default(),
            must_understand: Vec::new(),
            source,
            repository,
            work: Some(job.work.order(job, &known)?),
        })
    }
}
