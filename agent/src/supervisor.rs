//! Makes what runs equal to what is assigned, and tells what came of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{ByteCount, Chain};
use breakwater_proto::v1;
use breakwater_runtime::TaskGroup;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::assignment::{AssignmentFile, changes};
use crate::error::AgentError;
use crate::session::outbox::Outbox;
use crate::sources::memory::Memory;
use crate::sources::receive::SpoolPlace;
use crate::toolbox::Toolbox;
use crate::wiring;

/// A promise that could not be given up is tried again after this.
const FORGET_AGAIN: Duration = Duration::from_secs(30);

/// How long one try may take.
const FORGET_PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of one problem's text, and how many problems one message tells of; the log has them all.
const PROBLEM_BYTES: usize = 1024;
const PROBLEMS: usize = 40;

/// Applies assignments.
#[derive(Debug)]
pub struct Supervisor {
    /// Where the last one is kept.
    pub file: AssignmentFile,
    /// Where spools lie, one directory a source.
    pub spools: PathBuf,
    /// Where is kept what is known of streams, one file a source.
    pub memories: PathBuf,
    /// Bytes of one spool.
    pub spool_limit: ByteCount,
    /// What sources work with.
    pub tools: Arc<Toolbox>,
    /// Where the answer goes.
    pub outbox: Arc<Outbox>,
    /// Streams run here.
    pub tasks: TaskGroup,
    /// The revision that was applied last.
    pub applied: watch::Sender<u64>,
}

impl Supervisor {
    /// Applies the kept assignment, then each new one, until `stop`.
    pub async fn run(self, mut assignments: watch::Receiver<Option<v1::Assignment>>, stop: CancellationToken) {
        let mut running: BTreeMap<String, v1::AssignedSource> = BTreeMap::new();
        let mut waiting: Vec<v1::AssignedSource> = Vec::new();
        let mut last = None;
        match self.file.load() {
            Ok(Some(kept)) if assignments.borrow().is_none() => {
                tracing::info!(
                    revision = kept.revision,
                    sources = kept.sources.len(),
                    "going on with the last assignment"
                );
                last = Some(kept.revision);
                waiting = self.apply(&mut running, kept).await;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error = %Chain(&error), "the last assignment is not known"),
        }
        loop {
            let retry = async {
                if waiting.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(FORGET_AGAIN).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = assignments.changed() => if changed.is_err() { return },
                () = retry => {
                    let (left, forgotten, problems) = self.forget(std::mem::take(&mut waiting)).await;
                    waiting = left;
                    self.tell(last.unwrap_or(0), forgotten, problems);
                    continue;
                }
            }
            let next = assignments.borrow_and_update().clone();
            if let Some(next) = next {
                if let Err(error) = self.file.store(&next) {
                    tracing::error!(error = %Chain(&error), "the assignment cannot be kept; a start without a controller would not know it");
                }
                last = Some(next.revision);
                waiting = self.apply(&mut running, next).await;
            }
        }
    }

    /// Applies one assignment. Answers the removed sources whose promise could not be given up yet.
    async fn apply(
        &self,
        running: &mut BTreeMap<String, v1::AssignedSource>,
        next: v1::Assignment,
    ) -> Vec<v1::AssignedSource> {
        let changes = changes(running, &next);
        for uid in &changes.stop {
            if let Some(source) = running.remove(uid) {
                tracing::info!(source.name = source.name, "no longer looked after like this");
            }
            self.tools.sources.stop(uid).await;
            self.outbox.forget_stream(uid);
        }
        let mut problems = Vec::new();
        for source in changes.start {
            let (uid, name) = (source.uid.clone(), source.name.clone());
            let memory = Memory::new(self.memories.join(format!("{uid}.json")));
            let spool = SpoolPlace { directory: self.spools.join(&uid), limit: self.spool_limit, memory };
            match self.tools.sources.start(source.clone(), &self.tools, spool, &self.outbox, &self.tasks) {
                Ok(()) => {
                    tracing::info!(
                        source.name = name,
                        engine = source.engine,
                        stream = source.stream,
                        "looking after a source"
                    );
                    running.insert(uid, source);
                }
                Err(error) => {
                    tracing::error!(source.name = name, error = %Chain(&error), "a source cannot be looked after");
                    problems.push(problem(&uid, &error));
                }
            }
        }
        let (left, forgotten, more) = self.forget(changes.forget).await;
        problems.extend(more);
        self.tell(next.revision, forgotten, problems);
        left
    }

    fn tell(&self, revision: u64, forgotten: Vec<String>, problems: Vec<v1::SourceProblem>) {
        self.applied.send_replace(revision);
        let mut problems = problems;
        problems.truncate(PROBLEMS);
        self.outbox.applied(v1::AssignmentApplied { revision, problems, forgotten });
    }

    /// Gives up what removed sources promise to hold for us. Answers those that are left, and the uids of the others.
    async fn forget(
        &self,
        removed: Vec<v1::AssignedSource>,
    ) -> (Vec<v1::AssignedSource>, Vec<String>, Vec<v1::SourceProblem>) {
        let (mut left, mut forgotten, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for source in removed {
            match self.forget_one(&source).await {
                Ok(()) => {
                    tracing::info!(source.name = source.name, "its log is not held for us any more");
                    forgotten.push(source.uid);
                }
                Err(error) => {
                    tracing::warn!(source.name = source.name, error = %Chain(&error), "a removed source still holds its log for us; tried again");
                    problems.push(problem(&source.uid, &error));
                    left.push(source);
                }
            }
        }
        (left, forgotten, problems)
    }

    async fn forget_one(&self, source: &v1::AssignedSource) -> Result<(), AgentError> {
        let tools = &self.tools;
        let scratch = tools.scratch.join(&source.uid);
        let wired = wiring::engine(&source.engine, &source.name, &source.settings_json, &scratch, &tools.clock)?;
        let Some(log) = wired.engine.log_source() else { return Ok(()) };
        let doing = || format!("giving up the log of source `{}`", source.name);
        match tokio::time::timeout(FORGET_PATIENCE, log.forget()).await {
            Ok(done) => done.map_err(AgentError::engine(doing())),
            Err(_) => Err(AgentError::Unavailable(format!("{}: no answer in time", doing()))),
        }
    }
}

fn problem(uid: &str, error: &AgentError) -> v1::SourceProblem {
    let mut failure = error.failure();
    // Many of them have to fit one message.
    if failure.message.len() > PROBLEM_BYTES {
        failure.message = failure.message.chars().take(PROBLEM_BYTES / 4).chain(['…']).collect();
    }
    v1::SourceProblem { source_uid: uid.to_owned(), failure: Some(failure) }
}
