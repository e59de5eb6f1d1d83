//! The agents' stream: takes in what they say, sends what they are to do.

use std::pin::Pin;
use std::sync::Arc;

use breakwater_core::{Clock, ErrorClass, JobId, Name, SourceUid, Timestamp, Uid};
use breakwater_planner::job::{JobEffect, JobEvent, JobFailure, JobState};
use breakwater_proto::v1::agent_link_server::AgentLink;
use breakwater_proto::v1::agent_message::Body as Said;
use breakwater_proto::v1::controller_message::Body as Told;
use breakwater_proto::{PROTOCOL_VERSION, convert, v1};
use breakwater_state::keyspace::Key;
use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::assign;
use crate::auth::Doorkeeper;
use crate::book::Book;
use crate::enrolment::refuse_locked;
use crate::error::ControlError;
use crate::fleet::Fleet;
use crate::jobs::{Jobs, terminal_state};
use crate::records::{AgentRecord, JobRecord};
use crate::summary;
use crate::work::Work;

/// Answers longer than this are cut off: one question must not hold the controller's memory or an operator's terminal.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Serves agents.
#[derive(Clone, Debug)]
pub struct Link {
    /// Knows callers.
    pub doorkeeper: Doorkeeper,
    /// The store.
    pub book: Book,
    /// Live agents.
    pub fleet: Arc<Fleet>,
    /// The jobs.
    pub jobs: Jobs,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This controller's id.
    pub controller_id: String,
    /// Ends every session when the controller stops.
    pub shutdown: CancellationToken,
}

type Messages = Pin<Box<dyn Stream<Item = Result<v1::ControllerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl AgentLink for Link {
    type SessionStream = Messages;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let agent = self.doorkeeper.agent(&request).map_err(|status| *status)?;
        let record =
            self.book.read::<AgentRecord>(&Key::Agent(agent)).await.map_err(Status::from)?.ok_or_else(|| {
                convert::status(ErrorClass::Denied, "this agent is not known here (hint: enrol it anew)")
            })?;
        refuse_locked(&record.value)?;
        let mut said = request.into_inner();
        let Some(first) = said.next().await else { return Err(Status::cancelled("the agent said nothing")) };
        let Some(Said::Hello(hello)) = first?.body else {
            return Err(convert::status(ErrorClass::Invalid, "the first message of a session is Hello"));
        };
        if hello.protocol != PROTOCOL_VERSION {
            let message =
                format!("protocol {} is not spoken here; this is protocol {PROTOCOL_VERSION}", hello.protocol);
            return Err(convert::status(ErrorClass::Refused, message));
        }
        let name = record.value.name;
        self.note_hello(agent, &hello).await?;
        // Before work can be handed to this session: what is handed to it is not in its Hello, and is not lost.
        let to_stop = self.settle_jobs(agent, &hello).await;
        let (number, messages) = self.fleet.connect(agent, name.as_str(), hello.clone(), self.clock.now());
        tracing::info!(agent.name = %name, agent.uid = %agent, version = hello.version, "agent connected");
        self.fleet.send(
            agent,
            Told::Welcome(v1::Welcome {
                controller_id: self.controller_id.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                now: self.clock.now().as_micros(),
            }),
        );
        self.fleet.send(agent, Told::Assignment(assign::of_agent(&self.book, &name).await?));
        for job in to_stop {
            self.tell_stop(agent, job, "cancelled while the agent was away");
        }
        let link = self.clone();
        tokio::spawn(async move {
            link.listen(agent, said).await;
            link.fleet.disconnect(agent, number);
            tracing::info!(agent.name = %name, "agent disconnected");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(Ok))))
    }

    async fn answer(
        &self,
        request: Request<Streaming<v1::AnswerChunk>>,
    ) -> Result<Response<v1::AnswerReceipt>, Status> {
        let agent = self.doorkeeper.agent(&request).map_err(|status| *status)?;
        let mut chunks = request.into_inner();
        let mut asker = None;
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if asker.is_none() {
                asker = self.fleet.take_question(agent, &chunk.question_id);
            }
            let Some(asker) = &asker else {
                return Err(convert::status(ErrorClass::NotFound, "nobody waits for this answer any more"));
            };
            bytes += chunk.json.len();
            if bytes > ANSWER_BYTES_MAX {
                let failure = v1::Failure::new(ErrorClass::Refused, "the answer is too long (hint: ask for less)");
                asker.send(Err(failure)).await.ok();
                break;
            }
            let piece = match chunk.failure {
                Some(failure) => Err(failure),
                None => Ok(Bytes::from(chunk.json)),
            };
            if asker.send(piece).await.is_err() {
                break;
            }
        }
        Ok(Response::new(v1::AnswerReceipt {}))
    }
}

impl Link {
    async fn listen(&self, agent: Uid, mut said: Streaming<v1::AgentMessage>) {
        loop {
            let message = tokio::select! {
                () = self.shutdown.cancelled() => return,
                message = said.next() => message,
            };
            let Some(Ok(message)) = message else { return };
            let now = self.clock.now();
            self.fleet.seen(agent, now);
            let Some(body) = message.body else { continue };
            if let Err(error) = self.hear(agent, body, now).await {
                tracing::warn!(agent.uid = %agent, error = %breakwater_core::Chain(&error), "a message was not taken in");
            }
        }
    }

    async fn hear(&self, agent: Uid, body: Said, now: Timestamp) -> Result<(), ControlError> {
        match body {
            Said::Hello(_) => Ok(()),
            Said::JobUpdate(update) => self.job_update(agent, update, now).await,
            Said::JobResult(result) => self.job_result(agent, result, now).await,
            Said::StreamStatus(status) => summary::note_stream(&self.book, &self.fleet, agent, status, now).await,
            Said::RegionReport(report) => {
                self.fleet.note_regions(agent, report);
                Ok(())
            }
            Said::AssignmentApplied(applied) => self.assignment_applied(applied).await,
        }
    }

    async fn assignment_applied(&self, applied: v1::AssignmentApplied) -> Result<(), ControlError> {
        for problem in applied.problems {
            let failure = problem.failure.unwrap_or_default();
            tracing::warn!(
                source.uid = problem.source_uid,
                error = failure.message,
                "an agent cannot look after a source"
            );
        }
        for uid in applied.forgotten {
            if let Ok(uid) = uid.parse::<SourceUid>() {
                self.book.delete(&Key::Removed(uid)).await?;
                self.fleet.forget_stream(&uid.to_string());
            }
        }
        Ok(())
    }

    /// Finds the job an agent speaks of. One that belongs to another agent is not its to change.
    async fn job_of(&self, agent: Uid, id: &str) -> Result<Option<(Name, JobId, JobRecord)>, ControlError> {
        let Ok(id) = id.parse::<JobId>() else { return Ok(None) };
        for namespace in crate::catalogue::namespaces(&self.book).await? {
            match self.jobs.get(&namespace, id).await {
                Ok((record, _)) if record.agent == agent => return Ok(Some((namespace, id, record))),
                Ok(_) => return Ok(None),
                Err(error) if error.class() == ErrorClass::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn job_update(&self, agent: Uid, update: v1::JobUpdate, now: Timestamp) -> Result<(), ControlError> {
        let Some((namespace, id, record)) = self.job_of(agent, &update.job_id).await? else { return Ok(()) };
        if let Some(progress) = update.progress {
            self.fleet.note_progress(&update.job_id, progress);
        }
        if record.life.state == JobState::Dispatched {
            let event = JobEvent::Running { fence: update.fence };
            let (_, effect) = self.jobs.happen(&namespace, id, event, None, now).await?;
            if effect == JobEffect::Stop {
                self.tell_stop(agent, id, "cancelled before it ran");
            }
        }
        Ok(())
    }

    async fn job_result(&self, agent: Uid, result: v1::JobResult, now: Timestamp) -> Result<(), ControlError> {
        let state = terminal_state(result.state());
        if let (Some(state), Some((namespace, id, _))) = (state, self.job_of(agent, &result.job_id).await?) {
            let failure = result.failure.map(|failure| JobFailure { class: failure.class, message: failure.message });
            let event = JobEvent::Ended { fence: result.fence, state, failure };
            let (record, _) = self.jobs.happen(&namespace, id, event, Some(&result.summary_json), now).await?;
            if let (true, Work::Backup { .. }, Some(source)) =
                (record.life.state.is_terminal(), &record.work, record.source_uid)
            {
                summary::note_backup(&self.book, source, &record, Timestamp::from_micros(result.finished), now).await?;
            }
        }
        // Also what nobody knows any more is acknowledged, or the agent would repeat it for ever.
        self.fleet.send(agent, Told::ResultAck(v1::ResultAck { sequence: result.sequence }));
        Ok(())
    }

    fn tell_stop(&self, agent: Uid, job: JobId, reason: &str) {
        let cancel = v1::CancelJob { job_id: job.to_string(), reason: reason.to_owned() };
        self.fleet.send(agent, Told::CancelJob(cancel));
    }

    async fn note_hello(&self, agent: Uid, hello: &v1::Hello) -> Result<(), ControlError> {
        let change = |present: Option<&AgentRecord>| {
            Ok(present.filter(|record| record.host != hello.host || record.version != hello.version).map(|record| {
                AgentRecord { host: hello.host.clone(), version: hello.version.clone(), ..record.clone() }
            }))
        };
        self.book.change::<AgentRecord, _>(&Key::Agent(agent), change).await.map(|_| ())
    }

    /// Compares what the agent says it runs with what the store says it should: jobs that it lost go back to pending,
    /// jobs whose cancel it missed are answered, to be told again.
    async fn settle_jobs(&self, agent: Uid, hello: &v1::Hello) -> Vec<JobId> {
        self.try_settle_jobs(agent, hello).await.unwrap_or_else(|error| {
            tracing::warn!(agent.uid = %agent, error = %breakwater_core::Chain(&error), "the agent's jobs were not settled");
            Vec::new()
        })
    }

    async fn try_settle_jobs(&self, agent: Uid, hello: &v1::Hello) -> Result<Vec<JobId>, ControlError> {
        let now = self.clock.now();
        let mut to_stop = Vec::new();
        for namespace in crate::catalogue::namespaces(&self.book).await? {
            for (job, _) in self.jobs.list(&namespace).await? {
                let with_agent = matches!(job.life.state, JobState::Dispatched | JobState::Running);
                if job.agent != agent || !with_agent {
                    continue;
                }
                let id = job.id.to_string();
                let known = hello.running.iter().any(|running| running.job_id == id && running.fence == job.life.fence);
                if !known {
                    let event = JobEvent::Lost { fence: job.life.fence };
                    self.jobs.happen(&namespace, job.id, event, None, now).await?;
                } else if job.life.cancel_requested {
                    to_stop.push(job.id);
                }
            }
        }
        Ok(to_stop)
    }
}
