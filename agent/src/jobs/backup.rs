//! A backup: prove that the log arrives, read the source, commit.

mod begin;
pub(super) mod lineage;

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{ErrorClass, SnapshotId};
use breakwater_engine::{BackupRequest, BaseFacts, RecoveryRange};
use breakwater_pipeline::backup::{BackupJob, BackupOutcome, Commit, GateError, LogGate, run_backup};
use breakwater_proto::v1;
use breakwater_repository::format::codec::Compression;
use breakwater_repository::format::manifest::{Manifest, ManifestSource, SnapshotSession, Unreadable};

use super::context::JobContext;
use super::outcome::Outcome;
use crate::error::AgentError;
use crate::patience::{SQL_PATIENCE, answered};
use crate::repositories::OpenRepository;
use crate::sources::receive::ensure_source;
use crate::sources::{NotDurable, Source};
use crate::toolbox::Toolbox;
use begin::{Begun, Start, begin};

/// How long a source that was declared just now may take to be taken up.
const ASSIGNED_PATIENCE: Duration = Duration::from_secs(15);

/// How long a record that was just written may take into the regions before the log counts as not arriving.
const LOG_PATIENCE: Duration = Duration::from_secs(60);

/// How long beginning to read may take: a server writes a checkpoint first, and may take its time for it.
const BEGIN_PATIENCE: Duration = Duration::from_secs(60 * 60);

/// How long the log of a finished read may take into the regions.
const GATE_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Files that could not be read and are named; the summary has more.
const UNREADABLE_SHOWN: usize = 3;

/// Takes the backup that `spec` asks for.
pub(super) async fn run(
    tools: &Arc<Toolbox>,
    context: &JobContext,
    start: &v1::StartJob,
    spec: &v1::BackupSpec,
) -> Result<Outcome, AgentError> {
    if !matches!(spec.read.as_str(), "" | "full") {
        return Err(AgentError::Refused(format!(
            "reading a source `{}` is not in this version (hint: full)",
            spec.read
        )));
    }
    let compression = match spec.compression.as_str() {
        "" => Compression::default(),
        word => word.parse().map_err(|bad| AgentError::Invalid(format!("{bad}")))?,
    };
    let snapshot: SnapshotId =
        spec.snapshot_id.parse().map_err(|error| AgentError::Invalid(format!("the snapshot: {error}")))?;
    let source = tools.sources.wait_for(&spec.source_uid, ASSIGNED_PATIENCE).await;
    let source = source.ok_or_else(|| {
        let name = start.source.as_ref().map_or(spec.source_uid.as_str(), |source| source.name.as_str());
        AgentError::Refused(format!(
            "source `{name}` is not assigned to this agent, so nothing receives its log (hint: brctl get plan, and look whether one covers it)"
        ))
    })?;
    let repository =
        source.assigned.repository.as_ref().ok_or_else(|| {
            AgentError::Refused(format!("no plan gives source `{}` a repository", source.assigned.name))
        })?;

    let probe = context
        .phase("probing", async {
            let probe = answered(SQL_PATIENCE, source.engine().probe()).await;
            probe.map_err(AgentError::engine(format!("looking at source `{}`", source.assigned.name)))
        })
        .await?;
    refuse_unready(&source, &probe)?;
    let open = tools.repositories.open(repository).await?;
    ensure_source(&open, &source, &probe.identity).await?;
    if source.assigned.stream {
        context.phase("log", prove_log(tools, &source)).await?;
    }
    let session = context.phase("preparing", begin(&open, &tools.lineage, &source, context, snapshot)).await;
    let Start { session, base, verified, has_losses } = match session? {
        Begun::Session(start) => *start,
        Begun::AlreadyThere(manifest) => return Ok(whole_or_not(already_there(&manifest), &manifest)),
    };
    let request = BackupRequest {
        label: context.id.to_string(),
        fast: true,
        extent_size: open.repository.descriptor().extent_size,
        base: base.as_ref().map(|base| BaseFacts { facts: base.facts.clone(), start: base.start, end: base.end }),
    };
    let engine = context
        .phase("reading", async {
            let begun = answered(BEGIN_PATIENCE, source.engine().begin_backup(request)).await;
            begun.map_err(AgentError::engine(format!("beginning to read source `{}`", source.assigned.name)))
        })
        .await?;
    let job = BackupJob {
        engine,
        session: Arc::new(session),
        writer: open.writer(),
        source: ManifestSource {
            uid: source.uid,
            name: source.assigned.name.clone(),
            engine: source.assigned.engine.clone(),
        },
        scheduled: None,
        base,
        verified,
        budget: tools.budget.clone(),
        compression,
        uploads: usize::try_from(spec.uploads).unwrap_or(usize::MAX),
        threads: 0,
        read_rate: None,
        scratch: tools.scratch.clone(),
        progress: Arc::clone(&context.progress),
        cancel: context.cancel.clone(),
        log_gate: source.assigned.stream.then(|| gate(tools, &source)),
    };
    std::fs::create_dir_all(&tools.scratch).map_err(AgentError::file("cannot make", &tools.scratch))?;
    let reading = async {
        run_backup(job).await.map_err(AgentError::pipeline(format!("backing up source `{}`", source.assigned.name)))
    };
    let outcome = context.phase_to_its_end("reading", reading).await?;
    if let (Commit::Committed { .. }, Some(start)) = (&outcome.commit, outcome.manifest.start) {
        source.note_base(start);
    }
    if matches!(outcome.commit, Commit::Committed { .. }) {
        let Manifest { snapshot, session, .. } = outcome.manifest;
        match has_losses {
            true => settle_losses(&open, &source).await,
            false => {
                tools.lineage.note(open.repository.id(), source.uid, SnapshotSession { snapshot, session }).await;
            }
        }
    }
    let mut summary = summary(&open, &outcome);
    summary["compression"] = serde_json::json!(compression);
    Ok(whole_or_not(summary, &outcome.manifest))
}
/// Snapshots that had lost something are whole again where this backup has stored it. What stays open is settled by a
/// later backup or repair.
async fn settle_losses(open: &OpenRepository, source: &Source) {
    match open.repository.settle_losses(source.uid).await {
        Ok(settled) if settled == breakwater_repository::repair::Settled::default() => {}
        Ok(settled) => {
            tracing::info!(found = settled.found, open = settled.open, "chunks that were lost are stored anew")
        }
        Err(error) => {
            tracing::warn!(error = %breakwater_core::Chain(&error), "what was lost could not be settled; repair does it");
        }
    }
}

fn refuse_unready(source: &Source, probe: &breakwater_engine::Probe) -> Result<(), AgentError> {
    let blocking = probe.findings.iter().find(|finding| finding.severity == breakwater_engine::Severity::Blocking);
    match blocking {
        None => Ok(()),
        Some(finding) => Err(AgentError::Refused(format!(
            "source `{}` is not ready: {} (hint: {}; brctl source check {} shows all lines)",
            source.assigned.name, finding.what, finding.next_step, source.assigned.name
        ))),
    }
}

/// Proves that the log arrives: a record that is written now becomes durable in the regions.
async fn prove_log(tools: &Toolbox, source: &Source) -> Result<(), AgentError> {
    let name = &source.assigned.name;
    let state = source.state();
    if let (false, Some(failure)) = (state.flows(), &state.failure) {
        return Err(AgentError::Unavailable(format!(
            "the log of source `{name}` is not received ({}): {}",
            state.shown(),
            failure.message
        )));
    }
    let log = source.engine().log_source().ok_or_else(|| AgentError::Defect("a stream without a log".to_owned()))?;
    let nudged = answered(LOG_PATIENCE, log.nudge()).await;
    let position = nudged.map_err(AgentError::engine(format!("writing a record into the log of source `{name}`")))?;
    let here = RecoveryRange { start: position, end: position };
    wait_durable(tools, source, here, LOG_PATIENCE).await.map_err(|error| AgentError::Unavailable(error.reason))
}

/// Waits until enough regions hold all of the log in `range`.
pub(super) async fn wait_durable(
    tools: &Toolbox,
    source: &Source,
    range: RecoveryRange,
    patience: Duration,
) -> Result<(), GateError> {
    let name = &source.assigned.name;
    match tools.sources.wait_durable(&source.assigned.uid, range, patience).await {
        Ok(()) => Ok(()),
        Err(NotDurable::Gone) => Err(GateError {
            reason: format!("source `{name}` is not looked after any more"),
            class: ErrorClass::Refused,
        }),
        Err(NotDurable::TooLate(state)) => {
            let from = state.proof.as_ref().and_then(|proof| proof.durable_from());
            let durable = match (from, state.durable) {
                (Some(from), Some(durable)) => format!("{from} to {durable}"),
                _ => "nothing".to_owned(),
            };
            let needed = if range.start == range.end {
                range.end.to_string()
            } else {
                format!("{} to {}", range.start, range.end)
            };
            let why = state.failure.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
            let reason = format!(
                "the log of source `{name}` does not arrive in the regions: {needed} is needed, {durable} is durable \
                 after {} s, the stream is {}{why} (hint: brctl lag)",
                patience.as_secs(),
                state.word.as_str()
            );
            Err(GateError { reason, class: ErrorClass::Unavailable })
        }
    }
}

fn gate(tools: &Arc<Toolbox>, source: &Arc<Source>) -> LogGate {
    let (tools, source) = (Arc::clone(tools), Arc::clone(source));
    Box::new(move |range| Box::pin(async move { wait_durable(&tools, &source, range, GATE_PATIENCE).await }))
}

/// Success, or partial success where files were left out because they could not be read.
fn whole_or_not(mut summary: serde_json::Value, manifest: &Manifest) -> Outcome {
    match left_out(&manifest.unreadable) {
        None => Outcome::done(summary),
        Some(what) => {
            summary["unreadable"] = serde_json::json!(manifest.unreadable);
            Outcome::partial(summary, format!("snapshot {} leaves out {what}", manifest.snapshot))
        }
    }
}

fn left_out(unreadable: &Unreadable) -> Option<String> {
    if unreadable.is_none() {
        return None;
    }
    let shown = unreadable.paths.iter().take(UNREADABLE_SHOWN).map(|one| format!("`{}`: {}", one.path, one.reason));
    let shown: Vec<String> = shown.collect();
    let more = unreadable.count.saturating_sub(shown.len() as u64);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Some(format!(
        "{} that could not be read: {}{more} (hint: let the agent's user read it, or exclude it)",
        unreadable.count,
        shown.join("; ")
    ))
}

fn already_there(manifest: &Manifest) -> serde_json::Value {
    serde_json::json!({
        "snapshot": manifest.snapshot,
        "session": manifest.session,
        "consistent_at": manifest.consistent_at,
        "start": manifest.start,
        "end": manifest.end,
        "totals": totals(manifest),
        "regions": {},
        "warnings": manifest.warnings,
        "damaged_pages": 0,
        "outcome": "superseded",
    })
}

fn totals(manifest: &Manifest) -> serde_json::Value {
    let totals = &manifest.totals;
    serde_json::json!({
        "files": totals.files,
        "others": totals.others,
        "bytes": totals.bytes,
        "read_bytes": totals.read,
        "new_bytes": totals.new,
        "reused_bytes": totals.reused,
        "zero_bytes": totals.zeros,
        "stored_bytes": totals.stored,
    })
}

fn summary(open: &OpenRepository, outcome: &BackupOutcome) -> serde_json::Value {
    let manifest = &outcome.manifest;
    let mut regions = serde_json::Map::new();
    let word = match &outcome.commit {
        Commit::Committed { held, owed } => {
            regions.extend(held.iter().map(|region| (region.clone(), "held".into())));
            regions.extend(owed.iter().map(|region| (region.clone(), "owed".into())));
            // Regions that were never seen are not in the set, and get everything once they are there.
            for region in open.repository.regions() {
                regions.entry(region.name()).or_insert_with(|| "unreachable".into());
            }
            "committed"
        }
        Commit::AlreadyCommitted { .. } => "superseded",
    };
    serde_json::json!({
        "snapshot": manifest.snapshot,
        "session": manifest.session,
        "consistent_at": manifest.consistent_at,
        "start": manifest.start,
        "end": manifest.end,
        "totals": totals(manifest),
        "regions": regions,
        "warnings": manifest.warnings,
        "damaged_pages": outcome.damaged_count,
        "outcome": word,
    })
}

#[cfg(test)]
mod tests {
    use breakwater_repository::format::manifest::UnreadablePath;

    use super::*;

    #[test]
    fn what_is_left_out_is_counted_and_named() {
        let one = |path: &str| UnreadablePath { path: path.to_owned(), reason: "permission denied".to_owned() };
        assert_eq!(left_out(&Unreadable::default()), None);
        let paths = vec![one("a"), one("b"), one("c"), one("d")];
        let text = left_out(&Unreadable { count: 1200, paths }).unwrap();
        assert!(text.starts_with("1200 that could not be read: `a`: permission denied; `b`"), "{text}");
        assert!(text.contains("and 1197 more") && !text.contains("`d`"), "{text}");
    }
}
