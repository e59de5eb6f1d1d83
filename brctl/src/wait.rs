//! Following jobs to their end, over lost connections and restarted controllers.
//!
//! Invariant: the exit code is the outcome of the jobs; 0 only when every one of them succeeded.

mod bar;

use std::time::Duration;

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use breakwater_runtime::{RetryPolicy, SystemEntropy};

use crate::args::Format;
use crate::client::Client;
use crate::command::Ending;
use crate::failure::Failure;
use crate::output::{Output, say};
use crate::view;
use bar::Bars;

/// The waits between looks at a controller that does not answer.
const AGAIN: RetryPolicy = RetryPolicy::new(u32::MAX, Duration::from_millis(500), Duration::from_secs(5));

/// A lost connection is mentioned after this many tries that failed.
const MENTION_AFTER: u32 = 2;

/// Follows `jobs` to their ends. With ndjson every change is a line on standard output.
pub(crate) async fn to_the_end(client: &Client, output: &Output, jobs: Vec<v1::Job>) -> Vec<Result<v1::Job, Failure>> {
    let bars = Bars::new(output.can_draw());
    let follow = jobs.into_iter().map(|job| follow(client, output, &bars, job));
    let ended = futures::future::join_all(follow).await;
    bars.clear();
    ended
}

/// The exit code for how jobs ended.
pub(crate) fn outcome(ended: &[Result<v1::Job, Failure>]) -> Ending {
    let codes: Vec<u8> = ended
        .iter()
        .map(|job| match job {
            Ok(job) => code_of(job),
            Err(failure) => failure.code(),
        })
        .collect();
    match codes.as_slice() {
        [] => Ending::OK,
        [first, rest @ ..] if rest.iter().all(|code| code == first) => Ending(*first),
        // Some succeeded, or they failed in different ways: part of the work is done.
        codes if codes.contains(&0) => Ending::of(ErrorClass::Partial),
        [first, ..] => Ending(*first),
    }
}

/// The exit code for how a job ended.
fn code_of(job: &v1::Job) -> u8 {
    match job.state() {
        // Partial work has succeeded and says what is missing.
        v1::JobState::Succeeded => job.failure.as_ref().map_or(0, |missing| missing.error_class().exit_code()),
        v1::JobState::Cancelled => ErrorClass::Cancelled.exit_code(),
        v1::JobState::Failed => job.failure.as_ref().map_or(ErrorClass::Internal, v1::Failure::error_class).exit_code(),
        v1::JobState::Unspecified | v1::JobState::Pending | v1::JobState::Dispatched | v1::JobState::Running => {
            ErrorClass::Internal.exit_code()
        }
    }
}

/// Says on standard error why jobs did not succeed.
pub(crate) fn explain(ended: &[Result<v1::Job, Failure>]) {
    for job in ended {
        match job {
            Ok(job) => {
                if let Some(failure) = failure_of(job) {
                    say(failure);
                }
            }
            Err(failure) => say(failure),
        }
    }
}

/// Why an ended job did not succeed.
pub(crate) fn failure_of(job: &v1::Job) -> Option<Failure> {
    let what = format!("{} {}", job.kind().word(), job.id);
    match (job.state(), &job.failure) {
        (v1::JobState::Succeeded, None) => None,
        (v1::JobState::Succeeded, Some(missing)) => {
            Some(Failure::new(missing.error_class(), missing.message.clone()).doing(format!("{what} is partial")))
        }
        (v1::JobState::Failed, Some(failure)) => {
            Some(Failure::new(failure.error_class(), failure.message.clone()).doing(format!("{what} failed")))
        }
        (v1::JobState::Cancelled, _) => Some(Failure::new(ErrorClass::Cancelled, format!("{what} was cancelled"))),
        (state, _) => Some(Failure::internal(format!("{what} is {}", state.word()))),
    }
}

async fn follow(client: &Client, output: &Output, bars: &Bars, mut job: v1::Job) -> Result<v1::Job, Failure> {
    let bar = bars.add(&job);
    let mut shown = None;
    let mut failed = 0;
    loop {
        show(output, &job, &mut shown);
        bar.show(&job);
        if job.state().is_terminal() {
            return Ok(job);
        }
        let request = v1::WatchJobRequest { id: job.id.clone(), namespace: job.namespace.clone() };
        let mut operator = client.operator();
        let error = match client.call(operator.watch_job(request)).await {
            Err(failure) => failure,
            Ok(mut changes) => loop {
                match changes.message().await {
                    Ok(Some(change)) => {
                        if failed >= MENTION_AFTER {
                            output.note("the controller answers again");
                        }
                        failed = 0;
                        job = change;
                        show(output, &job, &mut shown);
                        bar.show(&job);
                        if job.state().is_terminal() {
                            return Ok(job);
                        }
                    }
                    Ok(None) => break Failure::new(ErrorClass::Unavailable, "the controller ended the answer"),
                    Err(status) => break client.failure(&status),
                }
            },
        };
        // A controller that is starting or stopping cuts streams in several ways; only clear words end the wait.
        let lost = error.is_transient() || is_cut(&error);
        if !lost {
            return Err(error.doing(format!("following {} {}", job.kind().word(), job.id)));
        }
        failed += 1;
        if failed == MENTION_AFTER {
            output.note(format!("{}; waiting for it, the job goes on", error.message()));
            bar.lost();
        }
        tokio::time::sleep(AGAIN.delay(failed.min(8), &SystemEntropy)).await;
    }
}

/// A stream that was cancelled by a peer that is going away.
fn is_cut(failure: &Failure) -> bool {
    failure.code() == ErrorClass::Cancelled.exit_code()
}

/// One line for each change with ndjson; else the changes of state as notes where no bar is drawn.
fn show(output: &Output, job: &v1::Job, shown: &mut Option<v1::Job>) {
    if shown.as_ref() == Some(job) {
        return;
    }
    if output.format() == Format::Ndjson {
        // Nobody reads any more: the wait goes on for its exit code.
        drop(output.text(&format!("{}\n", view::job(job))));
    } else if !output.can_draw() && shown.as_ref().is_none_or(|shown| shown.state() != job.state()) {
        output.note(format!("{} {}: {}", job.kind().word(), job.id, job.state().word()));
    }
    *shown = Some(job.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(state: v1::JobState, class: Option<ErrorClass>) -> Result<v1::Job, Failure> {
        let failure = class.map(|class| v1::Failure::new(class, "why"));
        Ok(v1::Job { id: "j".to_owned(), state: state.into(), failure, ..v1::Job::default() })
    }

    #[test]
    fn only_success_is_0() {
        let check = |jobs: Vec<Result<v1::Job, Failure>>, code: u8| assert_eq!(outcome(&jobs).0, code);
        let good = || ended(v1::JobState::Succeeded, None);
        check(vec![good()], 0);
        check(vec![good(), good()], 0);
        check(vec![ended(v1::JobState::Succeeded, Some(ErrorClass::Partial))], 10);
        check(vec![good(), ended(v1::JobState::Succeeded, Some(ErrorClass::Partial))], 10);
        check(vec![ended(v1::JobState::Cancelled, None)], 5);
        check(vec![ended(v1::JobState::Failed, Some(ErrorClass::Corrupt))], 9);
        check(vec![ended(v1::JobState::Failed, None)], 1);
        check(vec![ended(v1::JobState::Running, None)], 1);
        check(vec![good(), ended(v1::JobState::Failed, Some(ErrorClass::Unavailable))], 10);
        check(vec![Err(Failure::new(ErrorClass::NotFound, "job"))], 6);
        let (a, b) = (ErrorClass::Unavailable, ErrorClass::Refused);
        check(vec![ended(v1::JobState::Failed, Some(a)), ended(v1::JobState::Failed, Some(b))], 8);
    }
}
