//! What people and programs ask of the controller.

pub mod ask;
pub mod run;

use std::pin::Pin;
use std::sync::Arc;

use breakwater_core::{Clock, ErrorClass, Name};
use breakwater_planner::job::{JobEffect, JobEvent};
use breakwater_proto::v1::controller_message::Body as Told;
use breakwater_proto::v1::operator_server::Operator;
use breakwater_proto::{convert, v1};
use breakwater_state::keyspace::ObjectKind;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::assign;
use crate::auth::Doorkeeper;
use crate::book::Book;
use crate::catalogue::{self, Stored, document_kind};
use crate::enrolment::Registrar;
use crate::error::ControlError;
use crate::fleet::Fleet;
use crate::jobs::Jobs;
use crate::objects::document::{API_VERSION, DEFAULT_NAMESPACE, kind_word};
use crate::objects::parse;
use crate::overview::Overview;

/// Serves operators.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Knows callers.
    pub doorkeeper: Doorkeeper,
    /// The store.
    pub book: Book,
    /// Live agents.
    pub fleet: Arc<Fleet>,
    /// The jobs.
    pub jobs: Jobs,
    /// Tokens and locks.
    pub registrar: Registrar,
    /// The figures.
    pub overview: Overview,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This controller's id.
    pub controller_id: String,
}

type Jsons = Pin<Box<dyn Stream<Item = Result<v1::Json, Status>> + Send>>;
type JobStream = Pin<Box<dyn Stream<Item = Result<v1::Job, Status>> + Send>>;

/// The namespace that a request names, `default` unless it does.
fn namespace(text: &str) -> Result<Name, ControlError> {
    name(if text.is_empty() { DEFAULT_NAMESPACE } else { text })
}

fn name(text: &str) -> Result<Name, ControlError> {
    Name::new(text).map_err(|bad| ControlError::answer(ErrorClass::Invalid, bad.to_string()))
}

fn object_kind(text: &str) -> Result<ObjectKind, ControlError> {
    let word = kind_word(text).ok_or_else(|| {
        let message = format!("unknown kind `{text}` (hint: repository, source or plan)");
        ControlError::answer(ErrorClass::Invalid, message)
    })?;
    Ok(match word {
        "repository" => ObjectKind::Repository,
        "source" => ObjectKind::Source,
        _ => ObjectKind::Plan,
    })
}

impl Desk {
    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        self.doorkeeper.operator(&request).map_err(|status| *status)?;
        Ok(request.into_inner())
    }

    /// Sends every connected agent what it is to look after now.
    async fn reassign(&self) -> Result<(), ControlError> {
        for agent in self.fleet.connected() {
            let Some(name) = self.fleet.name_of(agent) else { continue };
            let assignment = assign::of_agent(&self.book, &self::name(&name)?).await?;
            self.fleet.send(agent, Told::Assignment(assignment));
        }
        Ok(())
    }

    fn object(stored: &Stored) -> v1::Object {
        let json = serde_json::json!({
            "apiVersion": API_VERSION,
            "kind": stored.spec.kind(),
            "metadata": {
                "name": stored.name, "namespace": stored.namespace, "uid": stored.uid,
                "created": stored.created.to_string(), "changed": stored.changed.to_string(),
            },
            "spec": stored.spec.to_json(),
        });
        v1::Object {
            kind: stored.spec.kind().to_owned(),
            namespace: stored.namespace.to_string(),
            name: stored.name.to_string(),
            uid: stored.uid.to_string(),
            revision: stored.revision,
            json: json.to_string(),
        }
    }

    async fn watch(&self, request: v1::WatchJobRequest) -> Result<JobStream, ControlError> {
        let namespace = namespace(&request.namespace)?;
        let mut changes = self.fleet.watch_jobs();
        let (job, _) = self.jobs.find(&namespace, &request.id).await?;
        let (id, jobs) = (job.id, self.jobs.clone());
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let answer = match jobs.get(&namespace, id).await {
                    Ok((job, revision)) => Ok((jobs.show(&job, revision), job.life.state.is_terminal())),
                    Err(error) => Err(Status::from(error)),
                };
                let (message, last) = match answer {
                    Ok((job, last)) => (Ok(job), last),
                    Err(status) => (Err(status), true),
                };
                if sender.send(message).await.is_err() || last {
                    return;
                }
                loop {
                    let changed = tokio::select! {
                        () = sender.closed() => return,
                        changed = changes.recv() => changed,
                    };
                    match changed {
                        Ok(changed) if changed == id.to_string() => break,
                        Ok(_) => {}
                        // Having missed changes means looking again.
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => break,
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    }
                }
            }
        });
        Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver)))
    }

    async fn cancel(&self, request: v1::CancelJobRequest) -> Result<v1::Job, ControlError> {
        let namespace = namespace(&request.namespace)?;
        let (job, revision) = self.jobs.find(&namespace, &request.id).await?;
        if job.life.state.is_terminal() {
            return Ok(self.jobs.show(&job, revision));
        }
        let now = self.clock.now();
        let (job, effect) = self.jobs.happen(&namespace, job.id, JobEvent::CancelRequested, None, now).await?;
        if effect == JobEffect::Stop {
            let reason = if request.reason.is_empty() { "cancelled by an operator".to_owned() } else { request.reason };
            self.fleet.send(job.agent, Told::CancelJob(v1::CancelJob { job_id: job.id.to_string(), reason }));
        }
        let (job, revision) = self.jobs.get(&namespace, job.id).await?;
        Ok(self.jobs.show(&job, revision))
    }

    async fn lock_agent(&self, request: v1::SetAgentLockRequest) -> Result<v1::Agent, ControlError> {
        let agent_name = name(&request.name)?;
        let reason = if request.reason.is_empty() { "by an operator".to_owned() } else { request.reason };
        let uid = self.registrar.set_lock(&agent_name, request.locked.then(|| reason.clone())).await?;
        if request.locked {
            let message = format!("agent `{agent_name}` is locked: {reason}");
            self.fleet.dismiss(uid, v1::Failure::new(ErrorClass::Denied, message));
        }
        let agents = self.overview.agents().await?;
        agents
            .into_iter()
            .find(|agent| agent.name == agent_name.as_str())
            .ok_or_else(|| ControlError::not_found("agent", agent_name.as_str()))
    }
}

#[tonic::async_trait]
impl Operator for Desk {
    type WatchJobStream = JobStream;
    type SnapshotsStream = Jsons;
    type SnapshotStream = Jsons;
    type PreviewStream = Jsons;
    type PointsStream = Jsons;
    type RepositoryFactsStream = Jsons;
    type FilesStream = Jsons;
    type VersionsStream = Jsons;
    type DiscoverStream = Jsons;
    type CheckSourceStream = Jsons;
    type ExplainPathStream = Jsons;

    async fn version(&self, request: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        self.admit(request)?;
        Ok(Response::new(v1::VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            controller_id: self.controller_id.clone(),
            state_store: self.book.store().name(),
            now: self.clock.now().as_micros(),
        }))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let request = self.admit(request)?;
        let objects = parse(&request.documents, &namespace(&request.namespace)?).map_err(ControlError::from)?;
        let applied = catalogue::apply(&self.book, objects, self.clock.now(), request.dry_run).await?;
        if !request.dry_run {
            self.reassign().await?;
        }
        let applied = applied.into_iter().map(|one| v1::Applied {
            kind: one.kind.to_owned(),
            namespace: one.namespace.to_string(),
            name: one.name.to_string(),
            action: one.action.to_owned(),
            effects: one.effects,
        });
        Ok(Response::new(v1::ApplyResponse { applied: applied.collect() }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let request = self.admit(request)?;
        let kind = object_kind(&request.kind)?;
        let stored = catalogue::list(&self.book, &namespace(&request.namespace)?, kind).await?;
        let objects: Vec<v1::Object> = stored
            .iter()
            .filter(|stored| request.name.is_empty() || stored.name.as_str() == request.name)
            .map(Self::object)
            .collect();
        if objects.is_empty() && !request.name.is_empty() {
            return Err(ControlError::not_found(&document_kind(kind).to_lowercase(), &request.name).into());
        }
        Ok(Response::new(v1::GetResponse { objects }))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let request = self.admit(request)?;
        let kind = object_kind(&request.kind)?;
        let namespace = namespace(&request.namespace)?;
        let mut effects = catalogue::delete(&self.book, &namespace, kind, &name(&request.name)?).await?;
        self.reassign().await?;
        if kind == ObjectKind::Source && self.fleet.connected().is_empty() {
            effects.push("no agent is connected now: the slot stays until its agent is back".to_owned());
        }
        Ok(Response::new(v1::DeleteResponse { effects }))
    }

    async fn run_backup(
        &self,
        request: Request<v1::RunBackupRequest>,
    ) -> Result<Response<v1::RunJobsResponse>, Status> {
        let parent = run::traceparent(&request);
        let jobs = self.start_backups(self.admit(request)?, parent).await?;
        Ok(Response::new(v1::RunJobsResponse { jobs }))
    }

    async fn run_restore(
        &self,
        request: Request<v1::RunRestoreRequest>,
    ) -> Result<Response<v1::RunJobsResponse>, Status> {
        let parent = run::traceparent(&request);
        let jobs = vec![self.start_restore(self.admit(request)?, parent).await?];
        Ok(Response::new(v1::RunJobsResponse { jobs }))
    }

    async fn run_repository_work(
        &self,
        request: Request<v1::RunRepositoryWorkRequest>,
    ) -> Result<Response<v1::RunJobsResponse>, Status> {
        let parent = run::traceparent(&request);
        let jobs = vec![self.start_repository_work(self.admit(request)?, parent).await?];
        Ok(Response::new(v1::RunJobsResponse { jobs }))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = self.admit(request)?;
        let namespace = namespace(&request.namespace)?;
        if !request.id.is_empty() {
            let (job, revision) = self.jobs.find(&namespace, &request.id).await?;
            return Ok(Response::new(v1::ListJobsResponse { jobs: vec![self.jobs.show(&job, revision)] }));
        }
        let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        let jobs = self.jobs.list(&namespace).await?;
        let shown = jobs.iter().map(|(job, revision)| self.jobs.show(job, *revision)).filter(|job| {
            (request.source.is_empty() || job.source == request.source)
                && (request.kind.is_empty() || job.kind().word() == request.kind)
        });
        Ok(Response::new(v1::ListJobsResponse { jobs: shown.take(limit).collect() }))
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Result<Response<v1::Job>, Status> {
        Ok(Response::new(self.cancel(self.admit(request)?).await?))
    }

    async fn watch_job(&self, request: Request<v1::WatchJobRequest>) -> Result<Response<JobStream>, Status> {
        Ok(Response::new(self.watch(self.admit(request)?).await?))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let request = self.admit(request)?;
        Ok(Response::new(self.overview.status(&namespace(&request.namespace)?).await?))
    }

    async fn lag(&self, request: Request<v1::LagRequest>) -> Result<Response<v1::LagResponse>, Status> {
        let request = self.admit(request)?;
        Ok(Response::new(self.overview.lag(&namespace(&request.namespace)?, &request.source).await?))
    }

    async fn regions(&self, request: Request<v1::RegionsRequest>) -> Result<Response<v1::RegionsResponse>, Status> {
        let request = self.admit(request)?;
        Ok(Response::new(self.overview.regions(&namespace(&request.namespace)?, &request.repository).await?))
    }

    async fn snapshots(&self, request: Request<v1::SnapshotsRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_snapshots(self.admit(request)?).await?))
    }

    async fn snapshot(&self, request: Request<v1::SnapshotRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_snapshot(self.admit(request)?).await?))
    }

    async fn preview(&self, request: Request<v1::RunRestoreRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_preview(self.admit(request)?).await?))
    }

    async fn points(&self, request: Request<v1::PointsRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_points(self.admit(request)?).await?))
    }

    async fn repository_facts(&self, request: Request<v1::RepositoryFactsRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_repository(self.admit(request)?).await?))
    }

    async fn files(&self, request: Request<v1::FilesRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_files(self.admit(request)?).await?))
    }

    async fn versions(&self, request: Request<v1::VersionsRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_versions(self.admit(request)?).await?))
    }

    async fn explain_path(&self, request: Request<v1::ExplainPathRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_explain(self.admit(request)?).await?))
    }

    async fn discover(&self, request: Request<v1::DiscoverRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_discover(self.admit(request)?).await?))
    }

    async fn check_source(&self, request: Request<v1::CheckSourceRequest>) -> Result<Response<Jsons>, Status> {
        Ok(Response::new(self.ask_check_source(self.admit(request)?).await?))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = self.admit(request)?;
        let mut agents = self.overview.agents().await?;
        if !request.name.is_empty() {
            agents.retain(|agent| agent.name == request.name);
            if agents.is_empty() {
                return Err(ControlError::not_found("agent", &request.name).into());
            }
        }
        Ok(Response::new(v1::ListAgentsResponse { agents }))
    }

    async fn set_agent_lock(&self, request: Request<v1::SetAgentLockRequest>) -> Result<Response<v1::Agent>, Status> {
        Ok(Response::new(self.lock_agent(self.admit(request)?).await?))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        Ok(Response::new(self.registrar.create_token(self.admit(request)?).await?))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.admit(request)?;
        Ok(Response::new(v1::ListTokensResponse { tokens: self.registrar.tokens().await? }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let request = self.admit(request)?;
        self.registrar.revoke_token(&request.id).await?;
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }
}

/// An error in the middle of a stream.
fn status_of(failure: &v1::Failure) -> Status {
    convert::status(failure.error_class(), failure.message.clone())
}
