//! Jobs in the store. Every change goes through the pure life of a job (`breakwater_planner::job`).

use std::sync::Arc;

use breakwater_core::{JobId, Name, Timestamp};
use breakwater_planner::job::{self, JobEffect, JobEvent, JobFailure, JobState};
use breakwater_proto::v1;
use breakwater_state::keyspace::{self, Key};

use crate::book::{Book, encode};
use crate::error::ControlError;
use crate::fleet::Fleet;
use crate::records::{JOB_LOG_LINES, JobRecord};

/// Ended jobs kept per namespace; older ones are pruned.
const ENDED_JOBS_KEPT: usize = 200;

/// The jobs of an installation.
#[derive(Clone, Debug)]
pub struct Jobs {
    book: Book,
    fleet: Arc<Fleet>,
}

impl Jobs {
    /// Over `book`, telling `fleet` of changes.
    pub fn new(book: Book, fleet: Arc<Fleet>) -> Self {
        Jobs { book, fleet }
    }

    /// Accepts a job. The same id is accepted once: whoever asks again gets the job that is there.
    pub async fn accept(&self, record: JobRecord) -> Result<JobRecord, ControlError> {
        let key = Key::Job { namespace: record.namespace.clone(), job: record.id };
        if !self.book.create(&[(key.clone(), encode(&record))]).await?
            && let Some(present) = self.book.read::<JobRecord>(&key).await?
        {
            return Ok(present.value);
        }
        tracing::info!(job.id = %record.id, source.name = record.source, agent.name = %record.agent_name, "job accepted");
        self.fleet.job_changed(&record.id.to_string());
        self.fleet.wake();
        self.prune(&record.namespace).await?;
        Ok(record)
    }

    /// The job `id`.
    pub async fn get(&self, namespace: &Name, id: JobId) -> Result<(JobRecord, u64), ControlError> {
        let key = Key::Job { namespace: namespace.clone(), job: id };
        match self.book.read::<JobRecord>(&key).await? {
            Some(found) => Ok((found.value, found.revision)),
            None => Err(ControlError::not_found("job", &id.to_string())),
        }
    }

    /// The job whose id begins with `prefix`.
    pub async fn find(&self, namespace: &Name, prefix: &str) -> Result<(JobRecord, u64), ControlError> {
        if let Ok(id) = prefix.parse() {
            return self.get(namespace, id).await;
        }
        let mut found = None;
        for job in self.list(namespace).await? {
            if !prefix.is_empty() && job.0.id.to_string().starts_with(prefix) {
                if found.is_some() {
                    let message = format!("`{prefix}` begins the ids of several jobs (hint: give more digits)");
                    return Err(ControlError::answer(breakwater_core::ErrorClass::Invalid, message));
                }
                found = Some(job);
            }
        }
        found.ok_or_else(|| ControlError::not_found("job", prefix))
    }

    /// All jobs of a namespace with their revisions, newest first.
    pub async fn list(&self, namespace: &Name) -> Result<Vec<(JobRecord, u64)>, ControlError> {
        let records = self.book.list::<JobRecord>(&keyspace::jobs(namespace)).await?;
        let mut jobs: Vec<_> = records.into_iter().map(|record| (record.value, record.revision)).collect();
        jobs.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then(b.id.cmp(&a.id)));
        Ok(jobs)
    }

    /// Lets `event` happen to a job: answers it afterwards and what is to be done.
    pub async fn happen(
        &self,
        namespace: &Name,
        id: JobId,
        event: JobEvent,
        summary: Option<&str>,
        now: Timestamp,
    ) -> Result<(JobRecord, JobEffect), ControlError> {
        let key = Key::Job { namespace: namespace.clone(), job: id };
        let mut effect = JobEffect::None;
        let mut happened = None;
        let changed = self
            .book
            .change::<JobRecord, _>(&key, |present| {
                let Some(present) = present else { return Ok(None) };
                let (life, what) = job::transition(&present.life, event.clone(), now);
                effect = what;
                happened = None;
                if life == present.life {
                    return Ok(None);
                }
                let mut next = present.clone();
                let what = described(&event, &life);
                next.log.push(format!("{now} {what}"));
                happened = Some(what);
                if next.log.len() > JOB_LOG_LINES {
                    next.log.remove(0);
                }
                next.life = life;
                if let Some(summary) = summary {
                    summary.clone_into(&mut next.summary);
                }
                Ok(Some(next))
            })
            .await?;
        let Some(changed) = changed else { return Err(ControlError::not_found("job", &id.to_string())) };
        if let Some(what) = happened {
            tracing::info!(job.id = %id, source.name = changed.value.source, "job: {what}");
        }
        self.fleet.job_changed(&id.to_string());
        if changed.value.life.state.is_terminal() {
            self.fleet.forget_progress(&id.to_string());
        } else {
            self.fleet.wake();
        }
        Ok((changed.value, effect))
    }

    /// Deletes the oldest ended jobs beyond what is kept.
    async fn prune(&self, namespace: &Name) -> Result<(), ControlError> {
        let jobs = self.list(namespace).await?;
        let ended = jobs.iter().filter(|(job, _)| job.life.state.is_terminal());
        for (job, _) in ended.skip(ENDED_JOBS_KEPT) {
            self.book.delete(&Key::Job { namespace: namespace.clone(), job: job.id }).await?;
        }
        Ok(())
    }

    /// A job for people and programs.
    pub fn show(&self, job: &JobRecord, revision: u64) -> v1::Job {
        let micros = |moment: Option<Timestamp>| moment.map_or(0, Timestamp::as_micros);
        v1::Job {
            id: job.id.to_string(),
            namespace: job.namespace.to_string(),
            kind: job.work.kind().into(),
            state: wire_state(job.life.state).into(),
            source: job.source.clone(),
            agent: job.agent_name.to_string(),
            attempt: job.life.attempt,
            created: job.created.as_micros(),
            started: micros(job.life.started),
            finished: micros(job.life.finished),
            progress: self.fleet.progress(&job.id.to_string()),
            failure: job
                .life
                .failure
                .as_ref()
                .map(|failure| v1::Failure { class: failure.class.clone(), message: failure.message.clone() }),
            summary_json: job.summary.clone(),
            trace_id: job
                .traceparent
                .as_deref()
                .and_then(|parent| parent.split('-').nth(1))
                .unwrap_or_default()
                .to_owned(),
            plan: job.plan.clone(),
            revision,
            snapshot_id: job.work.snapshot(),
            log: job.log.clone(),
        }
    }
}

/// The state on the wire.
pub fn wire_state(state: JobState) -> v1::JobState {
    match state {
        JobState::Pending => v1::JobState::Pending,
        JobState::Dispatched => v1::JobState::Dispatched,
        JobState::Running => v1::JobState::Running,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    }
}

/// The state from the wire; only terminal ones are taken from agents.
pub fn terminal_state(state: v1::JobState) -> Option<JobState> {
    match state {
        v1::JobState::Succeeded => Some(JobState::Succeeded),
        v1::JobState::Failed => Some(JobState::Failed),
        v1::JobState::Cancelled => Some(JobState::Cancelled),
        v1::JobState::Unspecified | v1::JobState::Pending | v1::JobState::Dispatched | v1::JobState::Running => None,
    }
}

fn described(event: &JobEvent, life: &job::JobLife) -> String {
    let attempt = life.attempt;
    match event {
        JobEvent::Dispatch { .. } => format!("attempt {attempt} sent to the agent"),
        JobEvent::Running { .. } => format!("attempt {attempt} runs"),
        JobEvent::Ended { failure: Some(JobFailure { class, message }), .. } => match life.state {
            JobState::Pending => {
                format!("attempt {attempt} failed ({class}), tried again from {}: {message}", life.not_before)
            }
            _ => format!("attempt {attempt} ended ({class}): {message}"),
        },
        JobEvent::Ended { .. } => format!("attempt {attempt} ended"),
        JobEvent::Lost { .. } => format!("the agent does not know attempt {attempt} any more"),
        JobEvent::CancelRequested => "cancel requested".to_owned(),
    }
}
