//! The engine: one PostgreSQL cluster on this host.

use std::sync::Arc;

use breakwater_engine::{BackupRequest, BackupSession, Engine, EngineError, LogSource, Probe};

use crate::log::PostgresLog;
use crate::restore::PostgresRestorer;
use crate::settings::PostgresSettings;
use crate::{KIND, backup, probe};

/// One cluster.
#[derive(Clone, Debug)]
pub struct PostgresEngine {
    settings: Arc<PostgresSettings>,
}

impl PostgresEngine {
    /// The engine for the cluster that `settings` name. Nothing is connected yet.
    pub fn new(settings: PostgresSettings) -> Self {
        PostgresEngine { settings: Arc::new(settings) }
    }

    /// A restorer that looks for programs where this source's settings say.
    pub fn restorer(&self) -> PostgresRestorer {
        PostgresRestorer { program_directory: self.settings.program_directory.clone(), ..PostgresRestorer::default() }
    }
}

#[async_trait::async_trait]
impl Engine for PostgresEngine {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn probe(&self) -> Result<Probe, EngineError> {
        probe::probe(&self.settings).await
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupSession>, EngineError> {
        backup::begin(&self.settings, request).await
    }

    fn log_source(&self) -> Option<Arc<dyn LogSource>> {
        Some(Arc::new(PostgresLog::new(Arc::clone(&self.settings))))
    }
}
