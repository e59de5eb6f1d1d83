//! Restoring without a controller: the agent's own plan and run, on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use breakwater_agent::questions::preview;
use breakwater_agent::restore::{self, RestoreRequest, Verify, thaw};
use breakwater_agent::restore_plan::{self, Point, ReadSide};
use breakwater_core::{ByteCount, ErrorClass};
use breakwater_pipeline::Progress;
use breakwater_pipeline::restore::{Onto, OwnerBy};
use breakwater_proto::v1;
use breakwater_runtime::ByteBudget;
use breakwater_storage::Thaw;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Glass;
use crate::failure::Failure;
use crate::output::Output;
use crate::{fetch, view};

/// Bytes for buffers, as an agent has them.
const BUFFERS: ByteCount = ByteCount::mib(160);

/// What is to be restored, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The source by name or uid; none: the only one.
    pub(crate) source: Option<String>,
    /// The moment.
    pub(crate) point: Option<v1::restore_point::Point>,
    /// The directory.
    pub(crate) target: PathBuf,
    /// What may be in it.
    pub(crate) onto: Onto,
    /// Whom the files belong to.
    pub(crate) owner: OwnerBy,
    /// Read from this region only.
    pub(crate) region: Option<String>,
    /// Only paths that match.
    pub(crate) only: Vec<String>,
    /// Readers at once; 0: as the machine suggests.
    pub(crate) parallel: usize,
    /// Replay and check; else lay files only.
    pub(crate) recover: bool,
    /// The word of the check.
    pub(crate) verify: String,
    /// Where the database's programs lie.
    pub(crate) program_directory: Option<PathBuf>,
    /// How archived data is thawed; none: a restore that needs some is refused.
    pub(crate) thaw: Option<Thaw>,
    /// Say what would be done, and do nothing.
    pub(crate) preview: bool,
}

/// Restores, or says what a restore would do. An interrupt stops it.
pub(crate) async fn run(glass: &Glass, output: &Output, wanted: &Wanted) -> Result<Value, Failure> {
    glass.needs_content()?;
    let source = glass.source(wanted.source.as_deref()).await?;
    let side = ReadSide::new(&glass.repository, wanted.region.as_deref())?;
    let point = Point::from_wire(Some(&v1::RestorePoint { point: wanted.point.clone() }))?;
    let secrets = restore::secrets(&side, source)?;
    let plan = restore_plan::plan(&side, source, &point, Some(secrets.as_ref())).await?;
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    let request = RestoreRequest {
        side,
        source,
        plan,
        secrets,
        target: wanted.target.clone(),
        onto: wanted.onto,
        owner: wanted.owner,
        only: wanted.only.clone(),
        parallel: wanted.parallel,
        recover: wanted.recover,
        verify: Verify::parse(&wanted.verify)?,
        program_directory: wanted.program_directory.clone(),
        fetch_program: if wanted.recover { fetch::own_program()? } else { fetch::lasting_program()? },
        thaw: wanted.thaw,
        budget: ByteBudget::new(BUFFERS.as_u64()),
        progress: Arc::clone(&progress),
        cancel: cancel.clone(),
    };
    if wanted.preview {
        request.check().await?;
        let delta = request.delta().await?;
        let mut value = preview::of_request(&request);
        value["delta"] = json!(delta);
        value["archived"] = thaw::shown(&thaw::plan(&request).await?);
        view::readable(&mut value);
        return Ok(value);
    }
    let restoring = restore::run(request);
    tokio::pin!(restoring);
    let bar = bar(output);
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let summary = loop {
        tokio::select! {
            summary = &mut restoring => break summary,
            _ = tick.tick() => draw(&bar, &progress),
            _ = breakwater_runtime::shutdown_signal(), if !cancel.is_cancelled() => {
                output.note("stopping");
                cancel.cancel();
            }
        }
    };
    bar.finish_and_clear();
    let summary = summary?;
    for warning in &summary.warnings {
        output.note(format!("note: {warning}"));
    }
    let mut value = serde_json::to_value(&summary)
        .map_err(|error| Failure::new(ErrorClass::Internal, format!("the summary: {error}")))?;
    view::readable(&mut value);
    Ok(value)
}

fn bar(output: &Output) -> ProgressBar {
    let target = if output.can_draw() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = "restore  {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  eta {eta}";
    let style = ProgressStyle::with_template(template).expect("our template is well formed").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let totals = progress.totals();
    bar.set_length(totals.expected.max(totals.read));
    bar.set_position(totals.read);
}
