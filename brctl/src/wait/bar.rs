//! Progress bars of jobs, drawn on standard error where somebody looks.

use std::time::Duration;

use breakwater_proto::v1;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bars of all jobs that are waited for.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
}

/// The bar of one job.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bars {
    /// Bars that are drawn, or none at all.
    pub(crate) fn new(drawn: bool) -> Self {
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Bars { all: MultiProgress::with_draw_target(target) }
    }

    /// A bar for `job`.
    pub(crate) fn add(&self, job: &v1::Job) -> Bar {
        let bar = self.all.add(ProgressBar::no_length());
        let name = if job.source.is_empty() { job.id.clone() } else { job.source.clone() };
        bar.set_prefix(format!("{} {name}", job.kind().word()));
        bar.set_style(style("{prefix}  {spinner} {msg}"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar(bar)
    }

    /// Takes all bars off the screen.
    pub(crate) fn clear(&self) {
        // A screen that cannot be cleared is not worth an error.
        drop(self.all.clear());
    }
}

impl Bar {
    /// Shows how far the job is.
    pub(crate) fn show(&self, job: &v1::Job) {
        let bar = &self.0;
        if job.state().is_terminal() {
            bar.finish_and_clear();
            return;
        }
        let Some(progress) = job.progress.as_ref().filter(|_| job.state() == v1::JobState::Running) else {
            bar.set_message(job.state().word());
            return;
        };
        bar.set_message(progress.phase.clone());
        if progress.bytes_total > 0 {
            bar.set_length(progress.bytes_total.max(progress.bytes_done));
            bar.set_style(style(
                "{prefix}  {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  eta {eta}  {msg}",
            ));
        } else {
            bar.set_style(style("{prefix}  {spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}"));
        }
        bar.set_position(progress.bytes_done);
    }

    /// Shows that nothing is heard.
    pub(crate) fn lost(&self) {
        self.0.set_message("waiting for the controller");
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("our templates are well formed").progress_chars("=> ")
}
