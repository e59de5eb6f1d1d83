//! What a restore would do, without doing it.

use std::sync::Arc;

use breakwater_proto::v1;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;
use crate::jobs::restore::prepare;
use crate::restore::{RestoreRequest, stop_in_words, thaw};
use crate::toolbox::Toolbox;

pub(super) async fn show(
    tools: &Toolbox,
    question: &v1::Question,
    repository: &v1::RepositorySpec,
    ask: &v1::AskPreview,
) -> Result<Value, AgentError> {
    let spec = ask
        .restore
        .as_ref()
        .ok_or_else(|| AgentError::Invalid("the question says nothing of the restore".to_owned()))?;
    let watched = (Arc::default(), CancellationToken::new());
    let request = match prepare(tools, question.source.as_ref(), Some(repository), spec, watched).await {
        Ok(request) => request,
        Err(error) => return Ok(refused(&error)),
    };
    let refusal = request.check().await.err().map(|error| breakwater_core::Chain(&error).to_string());
    let mut value = of_request(&request);
    if refusal.is_none() {
        match thaw::plan(&request).await {
            Ok(plan) => value["archived"] = thaw::shown(&plan),
            Err(error) => value["refused"] = json!(breakwater_core::Chain(&error).to_string()),
        }
        match request.delta().await {
            Ok(delta) => value["delta"] = json!(delta),
            Err(error) => value["refused"] = json!(breakwater_core::Chain(&error).to_string()),
        }
        return Ok(value);
    }
    value["refused"] = json!(refusal);
    Ok(value)
}

/// What `request` would do, as a document. Moments are microseconds.
pub fn of_request(request: &RestoreRequest) -> Value {
    let plan = &request.plan;
    let log = plan.log_size();
    json!({
        "base": {
            "snapshot": plan.snapshot.id,
            "consistent_at": plan.snapshot.consistent_at,
            "regions": plan.snapshot.regions,
        },
        "segments": log.pieces,
        "log_bytes": log.bytes,
        "log_stored_bytes": log.stored,
        "bytes": plan.manifest.totals.bytes,
        "files": plan.manifest.totals.files,
        "from": plan.manifest.start.map(|start| start.to_string()),
        "to": plan.log.as_ref().map(|log| log.end.to_string()),
        "stop": stop_in_words(&plan.stop),
        "reaches": plan.reaches,
        "target": request.target,
        "delta": Value::Null,
        "archived": Value::Null,
        "expected_seconds": Value::Null,
        "refused": Value::Null,
    })
}

fn refused(error: &AgentError) -> Value {
    json!({
        "base": null, "segments": 0, "log_bytes": 0, "log_stored_bytes": 0, "bytes": 0, "files": 0, "from": null, "to": null,
        "stop": null, "reaches": null, "expected_seconds": null,
        "refused": breakwater_core::Chain(error).to_string(),
    })
}
