//! What is in a repository, and one snapshot with all details. Structure only: a writer key is enough.

use breakwater_core::SourceUid;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::contents::{self, FilesWanted, Wanted};
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

/// A page of the entries of a snapshot.
pub(super) async fn files(
    tools: &Toolbox,
    repository: &v1::RepositorySpec,
    ask: &v1::AskFiles,
) -> Result<Value, AgentError> {
    let open = tools.repositories.open(repository).await?;
    let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
    let wanted = FilesWanted { patterns: &ask.patterns, after: &ask.after, limit };
    let mut value = contents::files(&open.repository, &ask.id, wanted).await?;
    value["repository"] = json!(repository.name);
    Ok(value)
}

/// The versions of one path.
pub(super) async fn versions(
    tools: &Toolbox,
    repository: &v1::RepositorySpec,
    ask: &v1::AskVersions,
) -> Result<Value, AgentError> {
    let source = ask.source_uid.parse::<SourceUid>();
    let source = source.map_err(|error| AgentError::Invalid(format!("the source: {error}")))?;
    let open = tools.repositories.open(repository).await?;
    let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
    let mut value = contents::versions(&open.repository, source, &ask.path, limit).await?;
    value["repository"] = json!(repository.name);
    Ok(value)
}
