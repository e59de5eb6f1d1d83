//! Hands a recovering database the pieces of log that its restore's plan holds, by the names that it asks for.
//!
//! Invariant: "beyond the plan" is said only of what the plan proves not to belong to the restore. A piece that the plan
//! names and nobody delivers is an error.

use std::path::Path;

use breakwater_core::ErrorClass;
use breakwater_engine::{EngineError, EngineErrorKind, LogFetch, LogFetcher};
use breakwater_pipeline::ReadAhead;
use breakwater_repository::stream::{LogReader, StreamError};

use crate::wiring::{self, LogFile};

/// Delivers from one plan.
#[derive(Debug)]
pub(super) struct PlanFetcher {
    kind: String,
    facts: serde_json::Value,
    reader: ReadAhead,
}

impl PlanFetcher {
    pub(super) fn new(kind: &str, facts: &serde_json::Value, reader: LogReader) -> Self {
        PlanFetcher { kind: kind.to_owned(), facts: facts.clone(), reader: ReadAhead::new(reader) }
    }

    async fn content(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        match wiring::log_file(&self.kind, &self.facts, name)? {
            LogFile::Segment { branch, start, size } => {
                let reading = self.reader.segment_file(branch, start, size).await;
                reading.map_err(|error| unreadable(name, error))
            }
            LogFile::History { branch } => {
                let plan = self.reader.plan();
                Ok(plan.histories.iter().find(|history| history.branch == branch).map(|history| history.text.clone()))
            }
            LogFile::Other => Ok(None),
        }
    }
}

#[async_trait::async_trait]
impl LogFetcher for PlanFetcher {
    async fn fetch(&self, name: &str, destination: &Path) -> Result<LogFetch, EngineError> {
        let Some(content) = self.content(name).await? else { return Ok(LogFetch::BeyondPlan) };
        tokio::fs::write(destination, content)
            .await
            .map_err(|error| EngineError::io(format!("cannot write {}", destination.display()), error))?;
        Ok(LogFetch::Delivered)
    }
}

fn unreadable(name: &str, error: StreamError) -> EngineError {
    let kind = match error.class() {
        ErrorClass::Unavailable => EngineErrorKind::Unreachable,
        ErrorClass::Corrupt => EngineErrorKind::Corrupt,
        ErrorClass::Denied => EngineErrorKind::Denied,
        ErrorClass::NotFound => EngineErrorKind::NotFound,
        _ => EngineErrorKind::Internal,
    };
    EngineError::new(kind, format!("the piece of log {name} cannot be read")).because(error)
}
