//! Starting and stopping an agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{ByteCount, Clock, Entropy};
use breakwater_runtime::{ByteBudget, SystemClock, SystemEntropy, TaskGroup};
use tokio::sync::watch;

use crate::assignment::AssignmentFile;
use crate::config::AgentConfig;
use crate::durable;
use crate::error::AgentError;
use crate::identity::renew::{self, CurrentIdentity};
use crate::identity::{Identity, host_and_port};
use crate::jobs::journal::Journal;
use crate::jobs::{Lineage, Runner};
use crate::keyring::Keyring;
use crate::questions::Respondent;
use crate::repositories::Repositories;
use crate::session::outbox::Outbox;
use crate::session::{LinkState, SessionTask};
use crate::sources::Sources;
use crate::supervisor::Supervisor;
use crate::toolbox::Toolbox;

/// How long a stopping agent waits for its streams to store their last bytes.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// An agent.
#[derive(Debug)]
pub struct Agent;

/// A running agent.
#[derive(Debug)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Its id.
    pub uid: String,
    link: watch::Receiver<LinkState>,
    tasks: TaskGroup,
}

impl Agent {
    /// Starts the agent whose identity lies in the data directory. It works on its last assignment at once, whether or not
    /// a controller answers.
    pub async fn start(config: AgentConfig) -> Result<Running, AgentError> {
        let identity = Identity::load(&config.data_dir)?.ok_or_else(|| {
            AgentError::Refused(format!(
                "no agent is enrolled in {} (hint: breakwater-agent enrol, with what `brctl agent token create` prints)",
                config.data_dir.display()
            ))
        })?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let controller = config.controller.clone().unwrap_or_else(|| identity.about.controller.clone());
        host_and_port(&controller)?;
        let (name, uid) = (identity.about.name.clone(), identity.about.uid.clone());
        let fetch_program = match &config.fetch_program {
            Some(program) => program.clone(),
            None => own_program()?,
        };
        let scratch = config.data_dir.join("scratch");
        clear(&scratch)?;

        let (journal, interrupted) = Journal::open(&config.data_dir.join("journal"))?;
        for job in interrupted {
            tracing::warn!(
                job.id = job,
                "the last process ended in the middle of this job; a controller gives it out again"
            );
        }
        let outbox = Arc::new(Outbox::new(Arc::new(journal)));
        let tasks = TaskGroup::new("agent");
        let repositories = Repositories::new(
            Keyring::new(config.keys_dir()),
            config.data_dir.join("regions"),
            Arc::clone(&outbox),
            tasks.child("repositories"),
            Arc::clone(&clock),
            Arc::clone(&entropy),
        );
        let tools = Arc::new(Toolbox {
            repositories,
            sources: Sources::default(),
            budget: ByteBudget::new(ByteCount::mib(config.buffer_mib).as_u64()),
            scratch,
            lineage: Lineage::open(&config.data_dir.join("lineage"))?,
            fetch_program,
            host: host(),
            agent: name.clone(),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        });
        let runner = Runner::new(Arc::clone(&tools), Arc::clone(&outbox), tasks.child("jobs"), config.jobs);

        let (assignments, assigned) = watch::channel(None);
        let (applied, last_applied) = watch::channel(0);
        let supervisor = Supervisor {
            file: AssignmentFile::new(config.data_dir.join("assignment.pb")),
            spools: config.data_dir.join("spool"),
            memories: config.data_dir.join("streams"),
            spool_limit: ByteCount::mib(config.spool_mib),
            tools: Arc::clone(&tools),
            outbox: Arc::clone(&outbox),
            tasks: tasks.child("sources"),
            applied,
        };
        durable::make_private_directory(&supervisor.spools)?;
        tasks.spawn("supervisor", supervisor.run(assigned, tasks.token()));

        let current = CurrentIdentity::new(identity);
        let (state, link) = watch::channel(LinkState::Away);
        let session = SessionTask {
            identity: current.clone(),
            controller: controller.clone(),
            host: tools.host.clone(),
            outbox,
            runner,
            respondent: Respondent::new(tools),
            assignments,
            applied: last_applied,
            state,
            tasks: tasks.child("session"),
            entropy: Arc::clone(&entropy),
        };
        tasks.spawn("session", session.run(tasks.token()));
        let (token, data_dir) = (tasks.token(), config.data_dir);
        tasks.spawn("renewal", async move {
            renew::run(current, &data_dir, &controller, clock.as_ref(), entropy.as_ref(), token).await;
        });
        tracing::info!(agent.name = name, agent.uid = uid, "agent started");
        Ok(Running { name, uid, link, tasks })
    }
}

impl Running {
    /// Whether a controller is there, as it changes.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.clone()
    }

    /// Stops. Streams store their last bytes; jobs are left to the next process. Answers the names of tasks that would not
    /// stop.
    pub async fn stop(self) -> Result<(), Vec<String>> {
        self.tasks.shutdown(STOP_PATIENCE).await
    }
}

/// The program that serves `wal-fetch`: this one, or the agent's beside it when this is another.
fn own_program() -> Result<PathBuf, AgentError> {
    const AGENT: &str = "breakwater-agent";
    let this = std::env::current_exe().map_err(AgentError::file("cannot find", "this program".as_ref()))?;
    let beside = this.with_file_name(AGENT);
    Ok(if beside.is_file() { beside } else { this })
}

/// Empties the directory for work in progress: what lies there is of a process that is gone.
fn clear(scratch: &std::path::Path) -> Result<(), AgentError> {
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(AgentError::file("cannot empty", scratch)(error));
        }
        _ => {}
    }
    durable::make_private_directory(scratch)
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}
