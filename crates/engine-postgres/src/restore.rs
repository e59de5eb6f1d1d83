//! Making a cluster of laid files: the restorer of PostgreSQL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use breakwater_engine::{EngineError, RecoveryOutcome, RecoveryRequest, Restorer};

use crate::facts::Facts;
use crate::failure::blocking;
use crate::programs::find_programs;
use crate::target::Owner;
use crate::{conf, recovery, target};

/// Restores clusters on this host.
#[derive(Clone, Debug)]
pub struct PostgresRestorer {
    /// Where the programs lie, when the usual places are not right. A request's own choice comes first.
    pub program_directory: Option<PathBuf>,
    /// How long a recovering server may do nothing at all before it is given up.
    pub quiet_timeout: Duration,
}

impl Default for PostgresRestorer {
    fn default() -> Self {
        PostgresRestorer { program_directory: None, quiet_timeout: Duration::from_secs(10 * 60) }
    }
}

#[async_trait::async_trait]
impl Restorer for PostgresRestorer {
    async fn check_target(&self, target: &Path, facts: &serde_json::Value) -> Result<(), EngineError> {
        let facts = Facts::from_json(facts)?;
        let target = std::path::absolute(target)
            .map_err(|error| EngineError::io(format!("cannot find the target: {}", target.display()), error))?;
        let programs = self.program_directory.clone();
        blocking(move || {
            target::check_empty(&target)?;
            target::check_reachable(&target, Owner { uid: facts.uid, gid: facts.gid })?;
            find_programs(facts.major, programs.as_deref()).map(drop)
        })
        .await
    }

    async fn recover(&self, request: RecoveryRequest) -> Result<RecoveryOutcome, EngineError> {
        let facts = Facts::from_json(&request.facts)?;
        let request = absolute(request)?;
        let given = request.program_directory.clone().or_else(|| self.program_directory.clone());
        let major = facts.major;
        let programs = blocking(move || find_programs(major, given.as_deref())).await?;
        recovery::recover(request, facts, programs, self.quiet_timeout).await
    }

    async fn prepare(&self, request: RecoveryRequest) -> Result<(), EngineError> {
        let facts = Facts::from_json(&request.facts)?;
        let request = absolute(request)?;
        blocking(move || prepare(&request, &facts)).await
    }
}

/// The server runs in another directory than we do.
fn absolute(mut request: RecoveryRequest) -> Result<RecoveryRequest, EngineError> {
    request.target = std::path::absolute(&request.target)
        .map_err(|error| EngineError::io(format!("cannot find the target: {}", request.target.display()), error))?;
    Ok(request)
}

/// Writes the settings of the person's own recovery. Without a fetch server its command ends every fetch with an error, so
/// a server that is started too early stops instead of being promoted in the middle of its history.
fn prepare(request: &RecoveryRequest, facts: &Facts) -> Result<(), EngineError> {
    let directory = &request.target;
    let owner = target::check_laid(directory, facts)?;
    target::complete_configuration(directory, facts, owner)?;
    target::take_out_recovery_settings(directory, &["postgresql.auto.conf", "postgresql.conf"], owner)?;
    let path = directory.join("postgresql.auto.conf");
    let mut text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|error| EngineError::io(format!("cannot read {}", path.display()), error))?,
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str("# written by breakwater restore --no-recover\n");
    let program = request.fetch_program.clone().unwrap_or_else(|| PathBuf::from("breakwater-agent"));
    text.push_str(&conf::line("restore_command", &conf::restore_command(&program, None)));
    for (name, value) in recovery::target_settings(request, facts) {
        text.push_str(&conf::line(name, &value));
    }
    target::write(&path, &text, owner)?;
    target::write(&directory.join("recovery.signal"), "", owner)
}
