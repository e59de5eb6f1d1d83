//! From the regions into a directory.
//!
//! The tree is read twice: first whole, so that a tree that cannot be laid is refused before anything is written
//! ([`survey`]), then to lay it ([`lay`]) window by window ([`window`], [`plan`], [`fetch`], [`write`]). What the target holds
//! already is compared first ([`delta`]). Nothing is written outside the target ([`target`]), and what lies there is marked as
//! unusable until the last step is done ([`marker`]).

mod attributes;
mod content;
mod delta;
mod durable;
mod extra;
mod fetch;
mod globs;
mod lay;
mod marker;
mod onto;
mod owners;
mod plan;
mod preview;
mod shortfall;
mod special;
mod supply;
mod survey;
mod target;
mod window;
mod write;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::{FrameReader, ReadOrder, Repository};
use breakwater_runtime::ByteBudget;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use attributes::Dresser;
use content::Content;
use extra::Sweep;
use fetch::Fetcher;
use lay::{Laying, check_room};
use marker::Mark;
use onto::Entrance;
use owners::Owners;
use shortfall::Shortfalls;
use supply::Supply;
use survey::Survey;
use target::{Namer, Target};

use crate::PipelineError;
use crate::frames::{Frames, LeafReader, TreeReader};
use crate::progress::{Progress, Totals};

pub use globs::Globs;
pub use marker::MARKER;
pub use onto::Onto;
pub use owners::OwnerBy;
pub use preview::{DeltaPreview, needed_packs, preview_delta};
pub use shortfall::Shortfall;

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
    /// Where to.
    pub target: PathBuf,
    /// What may be there.
    pub onto: Onto,
    /// Patterns that choose what is restored; none: everything.
    pub only: Vec<String>,
    /// Whom the files belong to.
    pub owner: OwnerBy,
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
    /// Figures: `read` counts bytes that are in the target now, of which `unchanged` were there before; `stored` bytes
    /// fetched.
    pub totals: Totals,
    /// Bytes that each region served.
    pub served: BTreeMap<String, u64>,
    /// Damage that was found and mended from another region, one line each.
    pub damage: Vec<String>,
    /// What could not be put back beside the content.
    pub shortfalls: Vec<Shortfall>,
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
    on_a_thread(move || marker::unmark(&path)).await.map_err(|source| incomplete(target, source))
}

/// Like [`run_restore`], and leaves the mark of incompleteness in the target, for files that have to be recovered before
/// anybody may use them; [`finish`] is the last step then.
pub async fn lay_files(job: RestoreJob) -> Result<RestoreReport, PipelineError> {
    let entrance = job.entrance().await?;
    let source = Source::of(&job).await?;
    let mut survey = tokio::select! {
        biased;
        () = job.cancel.cancelled() => return Err(PipelineError::Cancelled),
        survey = source.survey(&job) => survey?,
    };
    if entrance.existing {
        onto::check_conflicts(&job.target, &survey, &entrance, source.tree()).await?;
    } else {
        check_room(&job.target, survey.bytes)?;
    }
    job.progress.expect(survey.bytes);
    let target = job.begin(entrance.clone(), survey.last.clone()).await?;
    for path in &survey.leftovers {
        target.dresser.shortfalls.note("unfinished file of an earlier restore not laid", path);
    }
    let writers = TaskTracker::new();
    let fetcher = source.fetcher(&job, Arc::clone(&target), writers.clone());
    let stop = fetcher.cancel.clone();
    let _stops_with_this_future = stop.clone().drop_guard();
    let sweep = match (entrance.existing, entrance.delete_extra) {
        (false, _) => None,
        (true, false) => Some(Sweep::Unfinished),
        (true, true) => Some(Sweep::Everything),
    };
    let leaves = LeafReader::new(Arc::clone(&source.structure));
    let first = survey.reader(|| source.tree());
    let laying = Laying::new(Arc::new(survey), leaves, fetcher, sweep).run(first, || source.tree());
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
    let (served, damage) = source.content.supply.take();
    Ok(RestoreReport { totals: job.progress.totals(), served, damage, shortfalls: target.dresser.shortfalls.take() })
}

/// What a restore reads from.
struct Source {
    structure: Arc<dyn Frames>,
    content: Arc<Content>,
    manifest: Manifest,
}

impl Source {
    /// Opens the keys of all sessions: one that does not fit is found before anything is written.
    async fn of(job: &RestoreJob) -> Result<Source, PipelineError> {
        let frames = FrameReader::new(&job.repository, job.manifest.source.uid, job.order.clone());
        frames.lean_on(&job.manifest.leans);
        let opening = async {
            for session in &job.manifest.sessions {
                let opened = frames.session_secret(*session).await;
                opened.map_err(|error| {
                    PipelineError::repository(format!("opening the keys of session {session}"), error)
                })?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = job.cancel.cancelled() => return Err(PipelineError::Cancelled),
            opened = opening => opened?,
        }
        let supply = Supply::new(&job.order, job.budget.clone());
        let content = Arc::new(Content::new(frames.clone(), supply));
        Ok(Source { structure: Arc::new(frames), content, manifest: job.manifest.clone() })
    }

    fn tree(&self) -> TreeReader {
        TreeReader::new(Arc::clone(&self.structure), &self.manifest.tree)
    }

    async fn survey(&self, job: &RestoreJob) -> Result<Survey, PipelineError> {
        let survey = Survey::of(|| self.tree(), Globs::new(&job.only)).await?;
        if survey.entries == 0 && !job.only.is_empty() {
            return Err(PipelineError::NothingChosen { patterns: job.only.join(" ") });
        }
        Ok(survey)
    }

    fn fetcher(&self, job: &RestoreJob, target: Arc<Target>, writers: TaskTracker) -> Fetcher {
        let parallel = if job.parallel > 0 { job.parallel } else { AT_ONCE };
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let lanes = processors.min(parallel);
        Fetcher {
            content: Arc::clone(&self.content),
            target,
            budget: job.budget.clone(),
            parallel,
            reading: Arc::new(Semaphore::new(parallel)),
            near: Arc::new(Semaphore::new(2 * lanes)),
            lanes,
            opening: Arc::new(Semaphore::new(lanes)),
            openers: Arc::default(),
            progress: Arc::clone(&job.progress),
            cancel: job.cancel.child_token(),
            writers,
            last: Arc::default(),
        }
    }
}

impl RestoreJob {
    async fn entrance(&self) -> Result<Entrance, PipelineError> {
        if matches!(self.onto, Onto::Copy { delete_extra: true }) && !self.only.is_empty() {
            let why = "what is extra is not known when only some paths are restored (hint: leave --delete-extra out)";
            return Err(PipelineError::TargetUnfit { target: self.target.clone(), why: why.to_owned() });
        }
        let (path, onto) = (self.target.clone(), self.onto);
        let mark = Mark::of(&self.manifest, &self.only, false);
        on_a_thread(move || onto::check(&path, onto, mark)).await
    }

    /// Makes, opens and marks the target, and puts away what must not be there while it is half restored.
    async fn begin(&self, entrance: Entrance, last: Vec<Vec<u8>>) -> Result<Arc<Target>, PipelineError> {
        let (path, owner) = (self.target.clone(), self.owner);
        let namer =
            Namer { suite: self.repository.suite(), key: self.repository.id_key_of(self.manifest.source.uid).clone() };
        let begun = on_a_thread(move || {
            let failed = |error| PipelineError::io(format!("creating the target {}", path.display()), error);
            std::fs::create_dir_all(&path).map_err(failed)?;
            entrance.mark.write(&path)?;
            let marked = path.join(MARKER).symlink_metadata().map_err(failed)?;
            // New files belong to whom the mark belongs, unless directories that are there say otherwise.
            let default_owner = (!entrance.existing).then(|| (marked.uid(), marked.gid()));
            let owners = Owners::new(owner, Path::new("/etc"));
            let dresser = Dresser { owners, shortfalls: Shortfalls::default(), default_owner };
            let mut target = Target::open(&path, dresser, namer, entrance.existing)?;
            target.may_delete = entrance.delete_extra;
            if entrance.existing {
                delta::put_away(&target, &last)?;
            }
            Ok(Arc::new(target))
        });
        begun.await.map_err(|source| incomplete(&self.target, source))
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PipelineError> + Send + 'static,
) -> Result<T, PipelineError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(PipelineError::io("the thread of a restore", std::io::Error::from(error))))
}

fn incomplete(target: &Path, source: PipelineError) -> PipelineError {
    PipelineError::Incomplete { target: target.to_owned(), source: Box::new(source) }
}
