//! Whether a source can be protected, with the exact lines that are missing.

use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::error::AgentError;
use crate::patience::{SQL_PATIENCE, answered};
use crate::toolbox::Toolbox;
use crate::wiring;

pub(super) async fn check(tools: &Toolbox, assigned: Option<&v1::AssignedSource>) -> Result<Value, AgentError> {
    let assigned = assigned.ok_or_else(|| AgentError::Invalid("the question names no source".to_owned()))?;
    let scratch = tools.scratch.join(&assigned.uid);
    let wired = wiring::engine(&assigned.engine, &assigned.name, &assigned.settings_json, &scratch, &tools.clock)?;
    Ok(match answered(SQL_PATIENCE, wired.engine.probe()).await {
        Ok(probe) => json!({
            "source": assigned.name,
            "engine": assigned.engine,
            "ready": probe.is_ready(),
            "probe": probe,
            "stream": tools.sources.get(&assigned.uid).filter(|source| source.assigned.stream).map(|source| {
                let state = source.state();
                json!({ "state": state.shown(), "failure": state.failure.map(|failure| failure.message) })
            }),
        }),
        Err(error) => json!({
            "source": assigned.name,
            "engine": assigned.engine,
            "ready": false,
            "class": error.class().as_str(),
            "error": breakwater_core::Chain(&error).to_string(),
        }),
    })
}

/// Why a path is in the source's backups, or is not.
pub(super) async fn explain(
    tools: &Toolbox,
    assigned: Option<&v1::AssignedSource>,
    path: &str,
) -> Result<Value, AgentError> {
    let assigned = assigned.ok_or_else(|| AgentError::Invalid("the question names no source".to_owned()))?.clone();
    let (scratch, path) = (tools.scratch.join(&assigned.uid), path.to_owned());
    let explain = move || wiring::explain(&assigned.engine, &assigned.name, &assigned.settings_json, &scratch, &path);
    tokio::task::spawn_blocking(explain)
        .await
        .map_err(|error| AgentError::Defect(format!("explaining a path ended early: {error}")))?
}
