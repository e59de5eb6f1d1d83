//! Questions of a controller that need this host or a repository: answered apart from the session, in pieces.

pub mod discover;
pub mod points;
pub mod preview;
mod snapshots;
mod source;

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::Chain;
use breakwater_proto::v1::agent_link_client::AgentLinkClient;
use breakwater_proto::v1::question::Ask;
use breakwater_proto::{PIECE_BYTES, v1};
use breakwater_runtime::telemetry;
use tonic::transport::Channel;
use tracing::Instrument;

use crate::error::AgentError;
use crate::toolbox::Toolbox;

/// How long an answer may take; whoever asked has gone by then.
const ANSWER_PATIENCE: Duration = Duration::from_secs(55);

/// Answers questions. A clone is another handle.
#[derive(Clone, Debug)]
pub struct Respondent {
    tools: Arc<Toolbox>,
}

impl Respondent {
    /// Answers with what `tools` can find out.
    pub fn new(tools: Arc<Toolbox>) -> Self {
        Respondent { tools }
    }

    /// Answers `question` through `client`.
    pub async fn answer(self, question: v1::Question, mut client: AgentLinkClient<Channel>) {
        let span = tracing::info_span!("question", question.kind = kind(&question));
        telemetry::set_parent(&span, &question.traceparent);
        async {
            let found = match tokio::time::timeout(ANSWER_PATIENCE, self.find(&question)).await {
                Ok(found) => found,
                Err(_) => Err(AgentError::Unavailable(format!(
                    "no answer within {} s: a region or the source is slow (hint: brctl region check)",
                    ANSWER_PATIENCE.as_secs()
                ))),
            };
            if let Err(error) = &found {
                tracing::info!(error = %Chain(error), "a question has no answer");
            }
            let pieces = pieces(&question.id, found);
            if let Err(status) = client.answer(tokio_stream::iter(pieces)).await {
                tracing::debug!(message = status.message(), "an answer was not taken");
            }
        }
        .instrument(span)
        .await;
    }

    async fn find(&self, question: &v1::Question) -> Result<serde_json::Value, AgentError> {
        let repository = || {
            question.repository.as_ref().ok_or_else(|| {
                AgentError::NotFound(
                    "the question names no repository that is declared (hint: brctl get repository)".to_owned(),
                )
            })
        };
        let tools = &self.tools;
        match &question.ask {
            Some(Ask::Snapshots(ask)) => snapshots::list(tools, repository()?, ask).await,
            Some(Ask::Snapshot(ask)) => snapshots::show(tools, repository()?, &ask.id).await,
            Some(Ask::RepositoryFacts(_)) => snapshots::repository(tools, repository()?).await,
            Some(Ask::Points(ask)) => points::list(tools, repository()?, &ask.source_uid).await,
            Some(Ask::Preview(ask)) => preview::show(tools, question, repository()?, ask).await,
            Some(Ask::CheckSource(_)) => source::check(tools, question.source.as_ref()).await,
            Some(Ask::Discover(_)) => discover::discover(tools).await,
            Some(Ask::Files(ask)) => snapshots::files(tools, repository()?, ask).await,
            Some(Ask::Versions(ask)) => snapshots::versions(tools, repository()?, ask).await,
            Some(Ask::Explain(ask)) => source::explain(tools, question.source.as_ref(), &ask.path).await,
            None => Err(AgentError::Refused("this agent does not know that question (hint: update it)".to_owned())),
        }
    }
}

fn kind(question: &v1::Question) -> &'static str {
    match &question.ask {
        Some(Ask::Snapshots(_)) => "snapshots",
        Some(Ask::Snapshot(_)) => "snapshot",
        Some(Ask::RepositoryFacts(_)) => "repository",
        Some(Ask::Points(_)) => "points",
        Some(Ask::Preview(_)) => "preview",
        Some(Ask::CheckSource(_)) => "check_source",
        Some(Ask::Discover(_)) => "discover",
        Some(Ask::Files(_)) => "files",
        Some(Ask::Versions(_)) => "versions",
        Some(Ask::Explain(_)) => "explain",
        None => "unknown",
    }
}

/// The messages of one answer.
fn pieces(id: &str, found: Result<serde_json::Value, AgentError>) -> Vec<v1::AnswerChunk> {
    let chunk = |json: Vec<u8>, failure| v1::AnswerChunk { question_id: id.to_owned(), json, failure };
    match found {
        Ok(value) => {
            value.to_string().into_bytes().chunks(PIECE_BYTES).map(|piece| chunk(piece.to_vec(), None)).collect()
        }
        Err(error) => vec![chunk(Vec::new(), Some(error.failure()))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_comes_in_pieces_that_fit_and_a_failure_in_one() {
        let value = serde_json::json!({ "text": "x".repeat(3 * PIECE_BYTES) });
        let cut = pieces("q", Ok(value.clone()));
        assert_eq!(cut.len(), 4);
        assert!(cut.iter().all(|piece| piece.json.len() <= PIECE_BYTES && piece.question_id == "q"));
        let all: Vec<u8> = cut.into_iter().flat_map(|piece| piece.json).collect();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&all).unwrap(), value);
        let failed = pieces("q", Err(AgentError::Refused("no".to_owned())));
        assert_eq!(failed[0].failure.as_ref().unwrap().class, "refused");
    }
}
