//! Work on the repository itself without a controller: the same function as behind an agent's job, on this machine.

use std::sync::Arc;
use std::time::Duration;

use breakwater_agent::jobs::outcome::Outcome;
use breakwater_agent::jobs::repository::{self, Needs, Workplace};
use breakwater_pipeline::Progress;
use breakwater_proto::v1;
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::Glass;
use crate::failure::Failure;
use crate::output::Output;
use crate::view;

/// Does `work` here and to its end. An interrupt stops it.
pub(crate) async fn perform(glass: &Glass, output: &Output, work: &v1::RepositoryWork) -> Result<Outcome, Failure> {
    if repository::needs(work) == Needs::Content {
        glass.needs_content()?;
    }
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    let place = Workplace {
        name: glass.repository.id().to_string(),
        repository: glass.repository.clone(),
        progress: Arc::clone(&progress),
        scratch: std::env::temp_dir(),
        cancel: cancel.clone(),
    };
    let working = repository::perform(&place, work);
    tokio::pin!(working);
    let bar = if output.can_draw() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_message(work.kind().word());
    bar.enable_steady_tick(Duration::from_millis(200));
    let outcome = loop {
        tokio::select! {
            outcome = &mut working => break outcome,
            _ = breakwater_runtime::shutdown_signal(), if !cancel.is_cancelled() => {
                output.note("stopping");
                cancel.cancel();
            }
        }
    };
    bar.finish_and_clear();
    let mut outcome = outcome?;
    view::readable(&mut outcome.summary);
    Ok(outcome)
}
