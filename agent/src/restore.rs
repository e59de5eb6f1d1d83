//! Running a planned restore: files first, then the log, then the engine's own checks. Independent of any controller.

mod fetcher;
pub mod ground;
pub mod thaw;
mod unproven;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use breakwater_core::{LogPosition, SourceUid, Timestamp};
use breakwater_engine::{RecoveryOutcome, RecoveryRequest, RecoveryTarget, Restorer};
use breakwater_pipeline::Progress;
use breakwater_pipeline::restore::{DeltaPreview, Onto, OwnerBy, RestoreJob, lay_files, preview_delta};
use breakwater_repository::stream::{LogReader, SecretSource};
use breakwater_runtime::ByteBudget;
use breakwater_storage::Thaw;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;
use crate::restore_plan::{ReadSide, RestorePlan};
use crate::wiring;
use fetcher::PlanFetcher;
use unproven::Unproven;

/// How a restored database is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// It starts and answers.
    #[default]
    Quick,
    /// And more, where the engine offers more.
    Standard,
    /// And everything that the engine offers.
    Comprehensive,
}

impl Verify {
    /// Reads the word; nothing is `quick`.
    pub fn parse(word: &str) -> Result<Verify, AgentError> {
        match word {
            "" | "quick" => Ok(Verify::Quick),
            "standard" => Ok(Verify::Standard),
            "comprehensive" => Ok(Verify::Comprehensive),
            _ => Err(AgentError::Invalid(format!(
                "`{word}` is no level of verification (hint: quick, standard or comprehensive)"
            ))),
        }
    }
}

/// A restore to run.
#[derive(Debug)]
pub struct RestoreRequest {
    /// Where it reads from; opened with a recipient's key.
    pub side: ReadSide,
    /// The source that the snapshot is of.
    pub source: SourceUid,
    /// The way to the wanted moment.
    pub plan: RestorePlan,
    /// Opens the log's session secrets.
    pub secrets: Arc<dyn SecretSource>,
    /// The directory.
    pub target: PathBuf,
    /// What may be in it.
    pub onto: Onto,
    /// Whom the files belong to.
    pub owner: OwnerBy,
    /// Patterns that choose files; none: everything.
    pub only: Vec<String>,
    /// Ranges fetched at once; 0: as the machine suggests.
    pub parallel: usize,
    /// Replay the log and check the result; otherwise files are laid for the person's own recovery.
    pub recover: bool,
    /// How the result is checked.
    pub verify: Verify,
    /// Where the database's programs lie, when the usual places are not right.
    pub program_directory: Option<PathBuf>,
    /// The program whose `wal-fetch` a recovering server calls.
    pub fetch_program: PathBuf,
    /// Bytes for buffers.
    pub budget: ByteBudget,
    /// How archived data is thawed; none: a restore that needs some is refused.
    pub thaw: Option<Thaw>,
    /// Counters that the caller may watch.
    pub progress: Arc<Progress>,
    /// Stops it.
    pub cancel: CancellationToken,
}

/// What a restore has done.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreSummary {
    /// The snapshot that it began with.
    pub snapshot: String,
    /// Where the files lie.
    pub target: String,
    /// Whether the log was replayed and the result checked.
    pub recovered: bool,
    /// The last position replayed.
    pub reached: Option<LogPosition>,
    /// The moment on the source's clock that the result shows, as the plan says.
    pub reaches: Option<Timestamp>,
    /// The time of the last transaction replayed.
    pub last_transaction: Option<Timestamp>,
    /// Bytes of files laid.
    pub bytes: u64,
    /// Of those, bytes that lay there already.
    pub bytes_kept: u64,
    /// Bytes fetched from regions.
    pub bytes_fetched: u64,
    /// Files laid.
    pub files: u64,
    /// Pieces of log in the plan.
    pub segments: u64,
    /// Bytes of log in the plan.
    pub log_bytes: u64,
    /// How long each part took.
    pub seconds: Seconds,
    /// Bytes that each region served.
    pub region_bytes: BTreeMap<String, u64>,
    /// The level of verification that was done.
    pub verified: Option<Verify>,
    /// How the result was checked, one line each.
    pub checks: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Seconds of each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Laying files.
    pub fetch: f64,
    /// Replaying and checking.
    pub replay: f64,
}

/// Opens the session secrets of the log of `source`. The repository must be opened with a recipient's key.
pub fn secrets(side: &ReadSide, source: SourceUid) -> Result<Arc<dyn SecretSource>, AgentError> {
    let opened = side.stream_keys(source).secrets(&side.repository, &side.set);
    opened.map_err(AgentError::repository("opening the keys of the log"))
}

impl RestoreRequest {
    fn restorer(&self) -> Result<Arc<dyn Restorer>, AgentError> {
        wiring::restorer(&self.plan.manifest.source.engine, self.program_directory.as_deref())
    }

    /// Refuses what cannot be done, before anything is written.
    pub async fn check(&self) -> Result<(), AgentError> {
        if !self.target.is_absolute() {
            return Err(AgentError::Invalid(format!("the target `{}` is not an absolute path", self.target.display())));
        }
        if self.recover && !self.only.is_empty() && self.plan.log.is_some() {
            return Err(AgentError::Refused(
                "a part of a cluster cannot be recovered (hint: --no-recover lays the chosen files only)".to_owned(),
            ));
        }
        let vital = wiring::vital_file(&self.plan.manifest.source.engine, &self.plan.manifest.facts).is_some();
        let kind = &self.plan.manifest.source.engine;
        if !ground::check(&self.target, self.onto, kind, vital, self.recover)? {
            return Ok(());
        }
        let restorer = self.restorer()?;
        let checking = restorer.check_target(&self.target, &self.plan.manifest.facts);
        checking.await.map_err(AgentError::engine("looking at the target"))
    }
}

impl RestoreRequest {
    fn job(&self) -> RestoreJob {
        RestoreJob {
            repository: self.side.repository.clone(),
            order: self.side.order.clone(),
            manifest: self.plan.manifest.clone(),
            target: self.target.clone(),
            onto: self.onto,
            only: self.only.clone(),
            owner: self.owner,
            budget: self.budget.clone(),
            parallel: self.parallel,
            progress: Arc::clone(&self.progress),
            cancel: self.cancel.clone(),
        }
    }

    /// What a restore onto a copy would keep and fetch; none for a restore into an empty directory.
    pub async fn delta(&self) -> Result<Option<DeltaPreview>, AgentError> {
        if self.onto == Onto::Nothing {
            return Ok(None);
        }
        let looking = preview_delta(&self.job()).await;
        looking.map(Some).map_err(AgentError::pipeline(format!("comparing {}", self.target.display())))
    }
}

/// Lays the files of the plan's snapshot. They stay marked as incomplete until [`recover`] has made a database of them.
pub async fn lay(request: &RestoreRequest) -> Result<breakwater_pipeline::restore::RestoreReport, AgentError> {
    lay_files(request.job()).await.map_err(AgentError::pipeline(format!("restoring into {}", request.target.display())))
}

/// Makes a database of the laid files, or leaves them ready for the person's own recovery. Without success, or dropped on
/// the way, it leaves a target that says that it is not usable, and does not start.
pub async fn recover(request: &RestoreRequest) -> Result<Option<RecoveryOutcome>, AgentError> {
    let source = &request.plan.manifest.source;
    let vital = wiring::vital_file(&source.engine, &request.plan.manifest.facts);
    // Before the recovery's own future, so that it is dropped after the server that works on the files.
    let laid = Unproven::new(&request.target, vital.as_deref());
    let outcome = recover_laid(request).await?;
    laid.proven().await?;
    Ok(outcome)
}

async fn recover_laid(request: &RestoreRequest) -> Result<Option<RecoveryOutcome>, AgentError> {
    let restorer = request.restorer()?;
    let manifest = &request.plan.manifest;
    let reader = request.plan.log.as_ref().map(|log| {
        let keys = request.side.stream_keys(request.source);
        LogReader::new(&request.side.set, &keys, Arc::clone(&request.secrets), log.clone())
    });
    let fetcher = reader.map(|reader| PlanFetcher::new(&manifest.source.engine, &manifest.facts, reader));
    let branch = request.plan.log.as_ref().map(|log| log.end.branch).or(manifest.start.map(|start| start.branch));
    let recovery = RecoveryRequest {
        target: request.target.clone(),
        facts: manifest.facts.clone(),
        consistent_at: manifest.end,
        branch: branch.unwrap_or_default(),
        stop: request.plan.stop.clone(),
        end: request.plan.log.as_ref().map(|log| log.end),
        fetcher: fetcher.map(|fetcher| Arc::new(fetcher) as Arc<dyn breakwater_engine::LogFetcher>),
        fetch_program: Some(request.fetch_program.clone()),
        program_directory: request.program_directory.clone(),
    };
    if !request.recover {
        if request.only.is_empty() {
            restorer.prepare(recovery).await.map_err(AgentError::engine("preparing the laid files"))?;
        }
        return Ok(None);
    }
    let recovering = restorer.recover(recovery);
    let outcome = tokio::select! {
        biased;
        () = request.cancel.cancelled() => return Err(AgentError::Cancelled),
        outcome = recovering => outcome,
    };
    outcome.map(Some).map_err(AgentError::engine(format!(
        "recovering the restored files, which stay marked as incomplete and do not start: {}",
        request.target.display()
    )))
}

/// Runs the restore to its end. An error before files are laid leaves the target as it was.
pub async fn run(request: RestoreRequest) -> Result<RestoreSummary, AgentError> {
    request.check().await?;
    thaw::ready(&request).await?;
    let begun = Instant::now();
    let report = lay(&request).await?;
    let fetch = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let outcome = recover(&request).await?;
    let seconds = Seconds { fetch, replay: begun.elapsed().as_secs_f64() };
    Ok(summary(&request, &report, outcome, seconds))
}

/// The summary of a restore that ran in parts.
pub fn summary(
    request: &RestoreRequest,
    report: &breakwater_pipeline::restore::RestoreReport,
    outcome: Option<RecoveryOutcome>,
    seconds: Seconds,
) -> RestoreSummary {
    let plan = &request.plan;
    let log = plan.log_size();
    let mut warnings = report.damage.clone();
    warnings.extend(report.shortfalls.iter().map(ToString::to_string));
    if outcome.is_some() && request.verify != Verify::Quick {
        warnings.push(format!(
            "{} offers no deeper check than `quick` in this version, so that is what was done",
            plan.manifest.source.engine
        ));
    }
    if outcome.is_none() && request.only.is_empty() && plan.log.is_some() {
        warnings.push(
            "the files are laid and not recovered: they become consistent only with the log after them".to_owned(),
        );
    }
    RestoreSummary {
        snapshot: plan.snapshot.id.to_string(),
        target: request.target.display().to_string(),
        recovered: outcome.is_some(),
        reached: outcome.as_ref().and_then(|outcome| outcome.reached),
        reaches: plan.reaches.filter(|_| outcome.is_some() || plan.log.is_none()),
        last_transaction: outcome.as_ref().and_then(|outcome| outcome.last_transaction),
        bytes: report.totals.read,
        bytes_kept: report.totals.unchanged,
        bytes_fetched: report.totals.stored,
        files: report.totals.files,
        segments: log.pieces,
        log_bytes: log.bytes,
        seconds,
        region_bytes: report.served.clone(),
        verified: outcome.as_ref().map(|_| Verify::Quick),
        checks: outcome.map(|outcome| outcome.checks).unwrap_or_default(),
        warnings,
    }
}

/// The stop in words, for people.
pub fn stop_in_words(stop: &RecoveryTarget) -> String {
    match stop {
        RecoveryTarget::End => "the end of the log".to_owned(),
        RecoveryTarget::Time(moment) => moment.to_string(),
        RecoveryTarget::Position(position) => position.to_string(),
        RecoveryTarget::Transaction(xid) => format!("transaction {xid}"),
        RecoveryTarget::Name(name) => format!("restore point `{name}`"),
        RecoveryTarget::Consistent => "the moment of the snapshot".to_owned(),
    }
}
