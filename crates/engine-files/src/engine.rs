//! The engine: some directories and the rules for what is in them.

use std::sync::Arc;

use breakwater_core::Clock;
use breakwater_engine::{BackupRequest, BackupSession, Engine, EngineError, EngineErrorKind, LogSource, Probe};

use crate::probe::probe;
use crate::session::FilesSession;
use crate::settings::FilesSettings;

/// One source of files.
#[derive(Clone, Debug)]
pub struct FilesEngine {
    settings: Arc<FilesSettings>,
    clock: Arc<dyn Clock>,
}

impl FilesEngine {
    /// The engine for what `settings` name; `clock` stamps the copies.
    pub fn new(settings: FilesSettings, clock: Arc<dyn Clock>) -> Self {
        FilesEngine { settings: Arc::new(settings), clock }
    }
}

#[async_trait::async_trait]
impl Engine for FilesEngine {
    fn kind(&self) -> &'static str {
        crate::KIND
    }

    async fn probe(&self) -> Result<Probe, EngineError> {
        let settings = Arc::clone(&self.settings);
        blocking(move || probe(&settings)).await
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupSession>, EngineError> {
        let (settings, clock) = (Arc::clone(&self.settings), Arc::clone(&self.clock));
        let session = blocking(move || FilesSession::begin(&settings, &request, clock)).await?;
        Ok(Box::new(session))
    }

    fn log_source(&self) -> Option<Arc<dyn LogSource>> {
        None
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(EngineError::new(EngineErrorKind::Internal, "work on files ended early").because(error)),
    }
}
