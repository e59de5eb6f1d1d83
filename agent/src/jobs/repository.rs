//! Work on a repository itself: one function behind the jobs of agents and `brctl --offline`, so that both do the same.
//!
//! A new kind of work is a message in `RepositoryWork`, a file beside this one, an arm in [`perform`] and one in
//! [`needs`].

use std::path::PathBuf;
use std::sync::Arc;

use breakwater_pipeline::Progress;
use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work;
use breakwater_repository::Repository;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::context::JobContext;
use super::outcome::Outcome;
use super::{check, delete, gc, hold, locks, renew, repair, tier, usage, verify};
use crate::error::AgentError;
use crate::toolbox::Toolbox;

/// A repository that is worked on, and with what.
#[derive(Clone, Debug)]
pub struct Workplace {
    /// How people call it.
    pub name: String,
    /// Opened with a key that is enough for the work; see [`needs`].
    pub repository: Repository,
    /// Counts what is done.
    pub progress: Arc<Progress>,
    /// Where it may keep files while it goes on.
    pub scratch: PathBuf,
    /// Stops the work.
    pub cancel: CancellationToken,
}

/// The right that work needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// To read structure.
    Structure,
    /// To delete; a reaper's key is enough.
    Deletion,
    /// To open content.
    Content,
}

/// The right that `work` needs.
pub fn needs(work: &v1::RepositoryWork) -> Needs {
    match &work.work {
        Some(Work::Check(spec)) if spec.read_data => Needs::Content,
        Some(Work::Verify(spec)) if verify::opens_content(spec) => Needs::Content,
        Some(Work::Delete(_) | Work::Gc(_) | Work::Hold(_) | Work::Renew(_) | Work::Tier(_)) => Needs::Deletion,
        // Repair mends with a writer's key what does not have to be opened for that.
        None | Some(Work::Check(_) | Work::Verify(_) | Work::Repair(_) | Work::Usage(_) | Work::Locks(_)) => {
            Needs::Structure
        }
    }
}

/// Refuses work that this version does not know, before anything is opened.
pub fn refuse_unknown(work: &v1::RepositoryWork) -> Result<(), AgentError> {
    match &work.work {
        Some(_) => Ok(()),
        None => Err(unknown()),
    }
}

fn unknown() -> AgentError {
    let text = "this version does not know this kind of work on a repository (hint: update it)";
    AgentError::Refused(text.to_owned())
}

/// Does the work, wherever. When it is stopped, it ends between two of its steps; what is done stays done.
pub async fn perform(place: &Workplace, work: &v1::RepositoryWork) -> Result<Outcome, AgentError> {
    let working: BoxFuture<'_, Result<Outcome, AgentError>> = match &work.work {
        Some(Work::Check(spec)) => Box::pin(check::perform(place, spec)),
        Some(Work::Verify(spec)) => Box::pin(verify::perform(place, spec)),
        Some(Work::Delete(spec)) => Box::pin(delete::perform(place, spec)),
        Some(Work::Usage(spec)) => Box::pin(usage::perform(place, spec)),
        Some(Work::Hold(spec)) => Box::pin(hold::perform(place, spec)),
        Some(Work::Locks(spec)) => Box::pin(locks::perform(place, spec)),
        // These look at the token themselves, and say what they did.
        Some(Work::Gc(spec)) => return gc::perform(place, spec).await,
        Some(Work::Repair(spec)) => return repair::perform(place, spec).await,
        Some(Work::Renew(_)) => return renew::perform(place).await,
        Some(Work::Tier(spec)) => return tier::perform(place, spec).await,
        None => return Err(unknown()),
    };
    tokio::select! {
        biased;
        () = place.cancel.cancelled() => Err(AgentError::Cancelled),
        outcome = working => outcome,
    }
}

/// The name of the phase, for people.
fn phase(work: &v1::RepositoryWork) -> &'static str {
    match &work.work {
        Some(Work::Check(_)) => "checking",
        Some(Work::Verify(_)) => "verifying",
        Some(Work::Delete(_)) => "deleting",
        Some(Work::Gc(_)) => "collecting",
        Some(Work::Repair(_)) => "repairing",
        Some(Work::Usage(_)) => "counting",
        Some(Work::Hold(_)) => "holding",
        Some(Work::Locks(_)) => "asking",
        Some(Work::Renew(_)) => "renewing",
        Some(Work::Tier(_)) => "moving",
        None => "working",
    }
}

/// Does the work that a controller asks for.
pub(super) async fn run(
    tools: &Arc<Toolbox>,
    context: &JobContext,
    start: &v1::StartJob,
    work: &v1::RepositoryWork,
) -> Result<Outcome, AgentError> {
    refuse_unknown(work)?;
    let spec = start.repository.as_ref().ok_or_else(|| {
        AgentError::NotFound("the repository is not declared any more (hint: brctl get repository)".to_owned())
    })?;
    let opening = async {
        let repository = match needs(work) {
            Needs::Structure => tools.repositories.open(spec).await?.repository.clone(),
            Needs::Deletion => tools.repositories.open_for_deleting(spec).await?,
            Needs::Content => tools.repositories.open_for_restore(spec).await?,
        };
        Ok(Workplace {
            name: spec.name.clone(),
            repository,
            progress: Arc::clone(&context.progress),
            scratch: tools.scratch.clone(),
            cancel: context.cancel.clone(),
        })
    };
    let place = context.phase("opening", opening).await?;
    context.phase_to_its_end(phase(work), perform(&place, work)).await
}
