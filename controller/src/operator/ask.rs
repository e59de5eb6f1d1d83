//! Questions that an agent answers: what is in a repository, what is on a host.

use std::time::Duration;

use breakwater_core::{ErrorClass, Name, Uid};
use breakwater_proto::v1;
use breakwater_proto::v1::question::Ask;
use breakwater_runtime::{SystemEntropy, telemetry};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::assign;
use crate::catalogue::{self, Declared};
use crate::error::ControlError;
use crate::fleet::AnswerPiece;
use crate::operator::{Desk, Jsons, name, namespace, status_of};

/// An agent that has not sent the next piece of its answer after this is taken for lost.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

impl Desk {
    pub(crate) async fn ask_snapshots(&self, request: v1::SnapshotsRequest) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(&request.namespace)?).await?;
        let source_uid = match request.source.as_str() {
            "" => String::new(),
            source => match declared.source(source) {
                Some((stored, _)) => stored.uid.to_string(),
                // A uid is taken as it is: snapshots outlive the declaration of their source.
                None if source.parse::<breakwater_core::SourceUid>().is_ok() => source.to_owned(),
                None => return Err(ControlError::not_found("source", source)),
            },
        };
        let ask = Ask::Snapshots(v1::AskSnapshots { source_uid, limit: request.limit, status: request.status });
        let places = self.places(&declared, &request.source, &request.repository).await?;
        self.ask_each(&declared, places, &ask)
    }

    pub(crate) async fn ask_snapshot(&self, request: v1::SnapshotRequest) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(&request.namespace)?).await?;
        let ask = Ask::Snapshot(v1::AskSnapshot { id: request.id });
        let places = self.places(&declared, "", &request.repository).await?;
        self.ask_each(&declared, places, &ask)
    }

    pub(crate) async fn ask_repository(&self, request: v1::RepositoryFactsRequest) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(&request.namespace)?).await?;
        if declared.repository(&request.repository).is_none() {
            return Err(ControlError::not_found("repository", &request.repository));
        }
        let places = self.places(&declared, "", &request.repository).await?;
        self.ask_each(&declared, places, &Ask::RepositoryFacts(v1::AskRepository {}))
    }

    pub(crate) async fn ask_points(&self, request: v1::PointsRequest) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(&request.namespace)?).await?;
        let (stored, _) =
            declared.source(&request.source).ok_or_else(|| ControlError::not_found("source", &request.source))?;
        let ask = Ask::Points(v1::AskPoints { source_uid: stored.uid.to_string() });
        let places = self.places(&declared, &request.source, "").await?;
        self.ask_each(&declared, places, &ask)
    }

    pub(crate) async fn ask_files(&self, request: v1::FilesRequest) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(&request.namespace)?).await?;
        let v1::FilesRequest { id, patterns, after, limit, .. } = request;
        let places = self.places(&declared, "", &request.repository).await?;
        self.ask_each(&declared, places, &Ask::Files(v1::AskFiles { id, patterns, after, limit }))
    }

    pub(crate) async fn ask_versions(&self, request: v1::VersionsRequest) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(&request.namespace)?).await?;
        let (stored, _) =
            declared.source(&request.source).ok_or_else(|| ControlError::not_found("source", &request.source))?;
        let (source_uid, v1::VersionsRequest { path, limit, .. }) = (stored.uid.to_string(), request.clone());
        let places = self.places(&declared, &request.source, "").await?;
        self.ask_each(&declared, places, &Ask::Versions(v1::AskVersions { source_uid, path, limit }))
    }

    pub(crate) async fn ask_explain(&self, request: v1::ExplainPathRequest) -> Result<Jsons, ControlError> {
        self.ask_source(&request.namespace, &request.name, Ask::Explain(v1::AskExplain { path: request.path })).await
    }

    pub(crate) async fn ask_preview(&self, request: v1::RunRestoreRequest) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(&request.namespace)?).await?;
        let (agent, restore, repository) = self.restore_target(&declared, &request).await?;
        let ask = Ask::Preview(v1::AskPreview { restore: Some(restore.clone()) });
        let mut question = self.question(&declared, Some(&repository), ask);
        question.source = declared
            .source_by_uid(&restore.source_uid)
            .map(|(stored, spec)| assign::source_message(&declared, stored, spec));
        self.ask(vec![(agent, question)])
    }

    pub(crate) async fn ask_discover(&self, request: v1::DiscoverRequest) -> Result<Jsons, ControlError> {
        let agents = if request.agent.is_empty() {
            self.fleet.connected()
        } else {
            vec![self.overview.connected_agent(&name(&request.agent)?).await?]
        };
        if agents.is_empty() {
            let message = "no agent is connected (hint: brctl agent list)";
            return Err(ControlError::answer(ErrorClass::Unavailable, message));
        }
        let nothing = Declared::default();
        let questions =
            agents.into_iter().map(|agent| (agent, self.question(&nothing, None, Ask::Discover(v1::AskDiscover {}))));
        self.ask(questions.collect())
    }

    pub(crate) async fn ask_check_source(&self, request: v1::CheckSourceRequest) -> Result<Jsons, ControlError> {
        self.ask_source(&request.namespace, &request.name, Ask::CheckSource(v1::AskCheckSource {})).await
    }

    /// Asks the agent that looks after a source about it.
    async fn ask_source(&self, in_namespace: &str, source: &str, ask: Ask) -> Result<Jsons, ControlError> {
        let declared = catalogue::read(&self.book, &namespace(in_namespace)?).await?;
        let (stored, spec) = declared.source(source).ok_or_else(|| ControlError::not_found("source", source))?;
        let agent = self.overview.connected_agent(&spec.agent).await?;
        let mut question = self.question(&declared, None, ask);
        question.source = Some(assign::source_message(&declared, stored, spec));
        self.ask(vec![(agent, question)])
    }

    /// One connected agent per repository that the request is about.
    async fn places(
        &self,
        declared: &Declared,
        source: &str,
        repository: &str,
    ) -> Result<Vec<(Uid, Name)>, ControlError> {
        let mut places: Vec<(Uid, Name)> = Vec::new();
        let mut silent = None;
        for (stored, plan) in &declared.plans {
            let about = (repository.is_empty() || plan.repository.as_str() == repository)
                && (declared.source(source).is_none() || plan.sources.iter().any(|one| one.as_str() == source));
            if !about || places.iter().any(|(_, known)| *known == plan.repository) {
                continue;
            }
            let agents =
                plan.sources.iter().filter_map(|one| declared.source(one.as_str())).map(|(_, spec)| &spec.agent);
            let mut found = None;
            for agent in agents {
                match self.overview.connected_agent(agent).await {
                    Ok(uid) => {
                        found = Some(uid);
                        break;
                    }
                    Err(error) => silent = Some(error),
                }
            }
            match found {
                Some(uid) => places.push((uid, plan.repository.clone())),
                None => tracing::debug!(plan.name = %stored.name, "no agent of the plan is connected"),
            }
        }
        match (places.is_empty(), silent) {
            (false, _) => Ok(places),
            (true, Some(error)) => Err(error),
            (true, None) => Err(ControlError::answer(
                ErrorClass::NotFound,
                "no plan covers what was asked for, so no repository is known (hint: brctl get plan)",
            )),
        }
    }

    fn question(&self, declared: &Declared, repository: Option<&Name>, ask: Ask) -> v1::Question {
        let repository = repository
            .and_then(|name| declared.repository(name.as_str()))
            .map(|(stored, spec)| assign::repository_message(&stored.name, spec));
        v1::Question {
            id: Uid::v7(self.clock.now(), &SystemEntropy).to_string(),
            traceparent: telemetry::current_traceparent().unwrap_or_default(),
            source: None,
            repository,
            ask: Some(ask),
        }
    }

    fn ask_each(&self, declared: &Declared, places: Vec<(Uid, Name)>, ask: &Ask) -> Result<Jsons, ControlError> {
        let questions = places
            .into_iter()
            .map(|(agent, repository)| (agent, self.question(declared, Some(&repository), ask.clone())));
        self.ask(questions.collect())
    }

    /// Sends the questions; the answers come as one JSON document each, a line break between them.
    fn ask(&self, questions: Vec<(Uid, v1::Question)>) -> Result<Jsons, ControlError> {
        let mut answers = Vec::with_capacity(questions.len());
        for (agent, question) in questions {
            let pieces = self.fleet.ask(agent, question).ok_or_else(|| {
                let message = "the agent left just now (hint: brctl agent list, then again)";
                ControlError::answer(ErrorClass::Unavailable, message)
            })?;
            answers.push(pieces);
        }
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            for pieces in answers {
                if !pass_on(pieces, &sender).await {
                    return;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver).map(|piece| piece)))
    }
}

/// Passes one answer on. False when nobody listens any more or the answer failed.
async fn pass_on(mut pieces: mpsc::Receiver<AnswerPiece>, sender: &mpsc::Sender<Result<v1::Json, Status>>) -> bool {
    let mut any = false;
    loop {
        let Ok(piece) = tokio::time::timeout(ANSWER_PATIENCE, pieces.recv()).await else {
            let failure =
                v1::Failure::new(ErrorClass::Unavailable, "the agent does not answer (hint: brctl agent list)");
            sender.send(Err(status_of(&failure))).await.ok();
            return false;
        };
        match piece {
            Some(Ok(piece)) => {
                any = true;
                if sender.send(Ok(v1::Json { piece: piece.to_vec() })).await.is_err() {
                    return false;
                }
            }
            Some(Err(failure)) => {
                sender.send(Err(status_of(&failure))).await.ok();
                return false;
            }
            None if any => return sender.send(Ok(v1::Json { piece: b"\n".to_vec() })).await.is_ok(),
            None => {
                let failure = v1::Failure::new(ErrorClass::Unavailable, "the agent left before it answered");
                sender.send(Err(status_of(&failure))).await.ok();
                return false;
            }
        }
    }
}
