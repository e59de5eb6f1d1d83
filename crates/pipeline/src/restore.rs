//! From the regions into a directory.
//!
//! The tree is read twice: first whole, so that a tree that cannot be laid is refused before anything is written
//! ([`survey`]), then to lay it ([`lay`]) window by window ([`window`], [`plan`], [`fetch`]). Nothing is written outside the
//! target ([`target`]), and what lies there is marked as unusable until the last step is done.

mod content;
mod fetch;
mod globs;
mod lay;
mod plan;
mod survey;
mod target;
mod window;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::{FrameReader, ReadOrder, Repository};
use breakwater_runtime::ByteBudget;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use content::Content;
use fetch::{Fetcher, Served};
use globs::Globs;
use lay::{Laying, check_room};
use survey::Survey;
use target::Target;

use crate::PipelineError;
use crate::frames::{Frames, LeafReader, TreeReader};
use crate::progress::{Progress, Totals};

pub use target::MARKER;

/// Ranges on their way at once: enough to fill a line to a distant region.
const AT_ONCE: usize = 16;

/// One restore to run.
#[derive(Debug)]
pub struct RestoreJob {
    /// Opened with a recipient's key.
    pub repository: Repository,
    /// The regions to read from, best first.
    pub order: ReadOrder,
    /// What to restore.
    pub manifest: Manifest,
    /// A directory that is empty or does not exist.
    pub target: PathBuf,
    /// Patterns that choose what is restored; none: everything.
    pub only: Vec<String>,
    /// Where memory for buffers comes from.
    pub budget: ByteBudget,
    /// Ranges of packs on their way at once; 0: as many as are usual. The budget limits them too.
    pub parallel: usize,
    /// Counters that the caller may watch.
    pub progress: Arc<Progress>,
    /// Stops the restore; the target stays marked as incomplete.
    pub cancel: CancellationToken,
}

/// What a restore has done.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// Figures: `read` counts bytes written to the target, `stored` bytes fetched.
    pub totals: Totals,
    /// Bytes that each region served.
    pub served: BTreeMap<String, u64>,
    /// Damage that was found and mended from another region, one line each.
    pub damage: Vec<String>,
}

/// Restores a snapshot. When it answers well, every byte is proven and on the disk. After an error the target is as it was
/// ([`ErrorClass::Refused`](breakwater_core::ErrorClass)), or marked as incomplete ([`PipelineError::Incomplete`]).
pub async fn run_restore(job: RestoreJob) -> Result<RestoreReport, PipelineError> {
    let target = job.target.clone();
    let report = lay_files(job).await?;
    finish(&target).await?;
    Ok(report)
}

/// Takes the mark of incompleteness from what [`lay_files`] has laid, once it is usable.
pub async fn finish(target: &Path) -> Result<(), PipelineError> {
    let path = target.to_owned();
    let unmarked = tokio::task::spawn_blocking(move || Target::unmark(&path)).await;
    let unmarked = unmarked
        .unwrap_or_else(|error| Err(PipelineError::io("the thread of the last step", std::io::Error::from(error))));
    unmarked.map_err(|source| incomplete(target, source))
}

/// Like [`run_restore`], and leaves the mark of incompleteness in the target, for files that have to be recovered before
/// anybody may use them; [`finish`] is the last step then.
pub async fn lay_files(job: RestoreJob) -> Result<RestoreReport, PipelineError> {
    Target::check(&job.target)?;
    let frames = FrameReader::new(&job.repository, job.manifest.source.uid, job.order.clone());
    let structure: Arc<dyn Frames> = Arc::new(frames.clone());
    let tree = || TreeReader::new(Arc::clone(&structure), &job.manifest.tree);
    let surveying = async {
        // Keys that do not fit are found here, before anything is written.
        for session in &job.manifest.sessions {
            let opened = frames.session_secret(*session).await;
            opened
                .map_err(|error| PipelineError::repository(format!("opening the keys of session {session}"), error))?;
        }
        Survey::of(&mut tree(), Globs::new(&job.only)).await
    };
    let survey = tokio::select! {
        biased;
        () = job.cancel.cancelled() => return Err(PipelineError::Cancelled),
        survey = surveying => survey?,
    };
    if survey.entries == 0 && !job.only.is_empty() {
        return Err(PipelineError::NothingChosen { patterns: job.only.join(" ") });
    }
    check_room(&job.target, survey.bytes)?;
    job.progress.expect(survey.bytes);
    let target = Arc::new(Target::begin(&job.target)?);
    let (served, writers) = (Arc::new(Served::default()), TaskTracker::new());
    let lanes = std::thread::available_parallelism().map_or(2, usize::from);
    let fetcher = Fetcher {
        content: Arc::new(Content::new(frames)),
        target: Arc::clone(&target),
        budget: job.budget.clone(),
        parallel: if job.parallel > 0 { job.parallel } else { AT_ONCE },
        openers: Arc::default(),
        opening: Arc::new(Semaphore::new(lanes)),
        lanes,
        progress: Arc::clone(&job.progress),
        cancel: job.cancel.child_token(),
        writers: writers.clone(),
        served: Arc::clone(&served),
    };
    let stop = fetcher.cancel.clone();
    let _stops_with_this_future = stop.clone().drop_guard();
    let owners = rustix::process::geteuid().is_root();
    let laying = Laying::new(target, survey, LeafReader::new(Arc::clone(&structure)), fetcher, owners).run(tree());
    let laid = tokio::select! {
        biased;
        () = job.cancel.cancelled() => Err(PipelineError::Cancelled),
        laid = laying => laid,
    };
    if laid.is_err() {
        stop.cancel();
    }
    // No thread writes any more once this function has answered.
    writers.close();
    writers.wait().await;
    laid.map_err(|source| incomplete(&job.target, source))?;
    let (served, damage) = served.take();
    Ok(RestoreReport { totals: job.progress.totals(), served, damage })
}

fn incomplete(target: &Path, source: PipelineError) -> PipelineError {
    PipelineError::Incomplete { target: target.to_owned(), source: Box::new(source) }
}
