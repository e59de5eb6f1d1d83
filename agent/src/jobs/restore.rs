//! A restore that a controller asks for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use breakwater_core::{SourceUid, Timestamp};
use breakwater_engine::RecoveryRange;
use breakwater_pipeline::Progress;
use breakwater_proto::v1;
use tokio_util::sync::CancellationToken;

use super::backup::wait_durable;
use super::context::JobContext;
use super::outcome::Outcome;
use crate::error::AgentError;
use crate::restore::{self, RestoreRequest, Seconds, Verify};
use crate::restore_plan::{self, Point, ReadSide};
use crate::toolbox::Toolbox;
use crate::wiring;

/// How long a restore waits for what was committed just before it was asked for.
const FRESH_PATIENCE: Duration = Duration::from_secs(20);

/// Microseconds that the clocks of source and agent may differ by.
const CLOCKS_APART: i64 = 5_000_000;

/// Restores what `spec` asks for.
pub(super) async fn run(
    tools: &Arc<Toolbox>,
    context: &JobContext,
    start: &v1::StartJob,
    spec: &v1::RestoreSpec,
) -> Result<Outcome, AgentError> {
    let point = Point::from_wire(spec.point.as_ref())?;
    context.phase("log", store_fresh_log(tools, &spec.source_uid, &point)).await?;
    let request = context
        .phase("planning", async {
            let watched = (Arc::clone(&context.progress), context.cancel.clone());
            let request = prepare(tools, start.source.as_ref(), start.repository.as_ref(), spec, watched).await?;
            request.check().await?;
            Ok(request)
        })
        .await?;
    context.phase("thawing", restore::thaw::ready(&request)).await?;
    let begun = Instant::now();
    let report = context.phase_to_its_end("fetching", restore::lay(&request)).await?;
    let fetch = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let outcome = context.phase_to_its_end("recovering", restore::recover(&request)).await?;
    let seconds = Seconds { fetch, replay: begun.elapsed().as_secs_f64() };
    let summary = restore::summary(&request, &report, outcome, seconds);
    let summary = serde_json::to_value(summary).map_err(|error| AgentError::Defect(format!("the summary: {error}")))?;
    Ok(Outcome::done(summary))
}

/// Plans the restore and gathers what it needs.
pub(crate) async fn prepare(
    tools: &Toolbox,
    source: Option<&v1::AssignedSource>,
    repository: Option<&v1::RepositorySpec>,
    spec: &v1::RestoreSpec,
    (progress, cancel): (Arc<Progress>, CancellationToken),
) -> Result<RestoreRequest, AgentError> {
    let uid: SourceUid =
        spec.source_uid.parse().map_err(|error| AgentError::Invalid(format!("the source to restore: {error}")))?;
    let repository = repository.ok_or_else(|| {
        AgentError::NotFound(format!(
            "repository `{}` is not declared any more (hint: brctl get repository)",
            spec.repository
        ))
    })?;
    let point = Point::from_wire(spec.point.as_ref())?;
    let opened = tools.repositories.open_for_restore(repository).await?;
    let region = (!spec.region.is_empty()).then_some(spec.region.as_str());
    let side = ReadSide::new(&opened, region)?;
    let secrets = restore::secrets(&side, uid)?;
    let plan = restore_plan::plan(&side, uid, &point, Some(secrets.as_ref())).await?;
    let named = (!spec.program_directory.is_empty()).then(|| PathBuf::from(&spec.program_directory));
    let program_directory =
        named.or_else(|| source.and_then(|source| wiring::program_directory(&source.engine, &source.settings_json)));
    Ok(RestoreRequest {
        side,
        source: uid,
        plan,
        secrets,
        target: PathBuf::from(&spec.target),
        onto: restore::ground::onto(&spec.onto, spec.delete_extra)?,
        owner: restore::ground::owner(&spec.owner)?,
        only: spec.only.clone(),
        parallel: usize::try_from(spec.parallel).unwrap_or(0),
        recover: spec.recover,
        verify: Verify::parse(&spec.verify)?,
        program_directory,
        fetch_program: tools.fetch_program.clone(),
        thaw: restore::thaw::wanted(&spec.thaw, spec.thaw_days)?,
        budget: tools.budget.clone(),
        progress,
        cancel,
    })
}

/// What was committed before the restore was asked for is to be in it: where the source streams here, its log up to now is
/// stored first. A source that does not answer any more is no reason to wait: what is stored is what there is.
async fn store_fresh_log(tools: &Toolbox, source_uid: &str, point: &Point) -> Result<(), AgentError> {
    let wanted = match point {
        Point::Latest => tools.clock.now(),
        // A moment that is not there yet is refused by the plan.
        Point::Time(moment) if *moment > tools.clock.now().plus_micros(CLOCKS_APART) => return Ok(()),
        Point::Time(moment) => *moment,
        _ => return Ok(()),
    };
    let Some(source) = tools.sources.get(source_uid) else { return Ok(()) };
    let state = source.state();
    if !state.flows() || state.recoverable().is_some_and(|recoverable| recoverable >= wanted) {
        return Ok(());
    }
    let Some(log) = source.engine().log_source() else { return Ok(()) };
    let position = match tokio::time::timeout(FRESH_PATIENCE, log.nudge()).await {
        Ok(Ok(position)) => position,
        Ok(Err(error)) => {
            tracing::warn!(error = %breakwater_core::Chain(&error), "the source does not answer; restoring what is stored");
            return Ok(());
        }
        Err(_) => return Ok(()),
    };
    let here = RecoveryRange { start: position, end: position };
    if let Err(error) = wait_durable(tools, &source, here, FRESH_PATIENCE).await {
        tracing::warn!(error = error.reason, "restoring what is stored");
        return Ok(());
    }
    wait_recoverable(&source, wanted).await;
    Ok(())
}

/// Waits until some region can be restored to `wanted`, which lies in the future of the stored log by a watermark at most.
async fn wait_recoverable(source: &crate::sources::Source, wanted: Timestamp) {
    let mut watching = source.watch();
    let waiting = watching.wait_for(|state| state.recoverable().is_some_and(|recoverable| recoverable >= wanted));
    // A moment in the future is refused by the plan, which knows what is stored.
    drop(tokio::time::timeout(FRESH_PATIENCE, waiting).await);
}
