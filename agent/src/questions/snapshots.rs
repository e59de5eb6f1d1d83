//! What is in a repository, and one snapshot with all details. Structure only: a writer key is enough.

use breakwater_core::SourceUid;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::contents::{self, Wanted};
use crate::error::AgentError;
use crate::toolbox::Toolbox;

/// Snapshots of an answer unless more are asked for.
const LIMIT: usize = 1000;

pub(super) async fn list(
    tools: &Toolbox,
    repository: &v1::RepositorySpec,
    ask: &v1::AskSnapshots,
) -> Result<Value, AgentError> {
    let source = match ask.source_uid.as_str() {
        "" => None,
        uid => {
            let parsed = uid.parse::<SourceUid>();
            Some(parsed.map_err(|error| AgentError::Invalid(format!("the source: {error}")))?)
        }
    };
    let limit = if ask.limit == 0 { LIMIT } else { usize::try_from(ask.limit).unwrap_or(LIMIT) };
    let open = tools.repositories.open(repository).await?;
    let mut value = contents::snapshots(&open.repository, Wanted { source, status: &ask.status, limit }).await?;
    value["repository"] = json!(repository.name);
    Ok(value)
}

pub(super) async fn show(tools: &Toolbox, repository: &v1::RepositorySpec, id: &str) -> Result<Value, AgentError> {
    let open = tools.repositories.open(repository).await?;
    let mut value = contents::snapshot(&open.repository, id).await?;
    value["repository"] = json!(repository.name);
    Ok(value)
}

/// The repository itself.
pub(super) async fn repository(tools: &Toolbox, repository: &v1::RepositorySpec) -> Result<Value, AgentError> {
    let open = tools.repositories.open(repository).await?;
    contents::describe(&open.repository).await
}
