//! `job`, and what other commands do with jobs that they started.

use breakwater_proto::v1;
use serde_json::Value;

use crate::args::Format;
use crate::args::job::{CancelArgs, JobArgs, JobCommand, JobListArgs};
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;
use crate::{view, wait};

pub(super) const JOBS: Listing = Listing {
    columns: &[
        Column::new("ID", "/id", Kind::Text),
        Column::new("KIND", "/kind", Kind::Text),
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::wide("OUTCOME", "/outcome", Kind::Text),
        Column::new("CREATED", "/created", Kind::Age),
        Column::new("TOOK", "/duration_seconds", Kind::Seconds),
        Column::wide("AGENT", "/agent", Kind::Text),
        Column::wide("ATTEMPT", "/attempt", Kind::Text),
        Column::wide("SNAPSHOT", "/snapshot_id", Kind::Text),
        Column::wide("TRACE", "/trace_id", Kind::Text),
        Column::new("FAILURE", "/failure/message", Kind::Brief),
    ],
    name: "/id",
    empty: "no job",
};

pub(super) async fn run(desk: &Desk, command: JobCommand) -> Ended {
    match command {
        JobCommand::List(args) => {
            let kind = args.kind.clone().unwrap_or_default();
            list(desk, args, &kind).await
        }
        JobCommand::Show(args) => show(desk, args, "").await,
        JobCommand::Cancel(args) => cancel(desk, args, "").await,
        JobCommand::Logs(args) => {
            let job = find(desk, &args.id, "").await?;
            if desk.output.is_for_people() {
                let lines: String = job.log.iter().map(|line| format!("{line}\n")).collect();
                desk.output.text(&lines)?;
            } else {
                desk.output.document(&Value::from(job.log))?;
            }
            Ok(Ending::OK)
        }
        JobCommand::Watch(args) => {
            let job = find(desk, &args.id, "").await?;
            follow(desk, vec![job], true).await
        }
    }
}

/// Lists jobs of `kind`, all when empty.
pub(super) async fn list(desk: &Desk, args: JobListArgs, kind: &str) -> Ended {
    let client = desk.client()?;
    let request = v1::ListJobsRequest {
        namespace: desk.namespace(),
        id: String::new(),
        source: args.source.unwrap_or_default(),
        kind: kind.to_owned(),
        limit: args.limit,
    };
    let jobs = client.call(client.operator().list_jobs(request)).await?.jobs;
    desk.output.list(&JOBS, &jobs.iter().map(view::job).collect::<Vec<_>>())?;
    Ok(Ending::OK)
}

/// Shows one job, which must be of `kind` where one is given.
pub(super) async fn show(desk: &Desk, args: JobArgs, kind: &str) -> Ended {
    let job = find(desk, &args.id, kind).await?;
    let value = view::job(&job);
    desk.output.item(&value, &job.id, || yaml(&value))?;
    Ok(Ending::OK)
}

/// Stops one job, which must be of `kind` where one is given.
pub(super) async fn cancel(desk: &Desk, args: CancelArgs, kind: &str) -> Ended {
    let job = find(desk, &args.id, kind).await?;
    let client = desk.client()?;
    let request = v1::CancelJobRequest { id: job.id.clone(), reason: args.reason, namespace: desk.namespace() };
    let job = client.call(client.operator().cancel_job(request)).await?;
    if args.wait {
        let ended = wait::to_the_end(&client, &desk.output, vec![job]).await;
        report(desk, &ended, true)?;
        // Asked to stop it: that it did is success, that it was faster is not.
        let stopped = ended.iter().all(|job| job.as_ref().is_ok_and(|job| job.state() == v1::JobState::Cancelled));
        if stopped {
            return Ok(Ending::OK);
        }
        return match ended.into_iter().find_map(Result::err) {
            Some(failure) => Err(failure),
            None => {
                Err(Failure::new(breakwater_core::ErrorClass::Conflict, "the job ended before it could be stopped"))
            }
        };
    }
    let value = view::job(&job);
    desk.output.item(&value, &job.id, || JOBS.table(std::slice::from_ref(&value), false))?;
    match job.state() {
        v1::JobState::Succeeded | v1::JobState::Failed => {
            let message = format!("job {} had ended already: {}", job.id, job.state().word());
            Err(Failure::new(breakwater_core::ErrorClass::Conflict, message))
        }
        _ => Ok(Ending::OK),
    }
}

async fn find(desk: &Desk, id: &str, kind: &str) -> Result<v1::Job, Failure> {
    let client = desk.client()?;
    let request =
        v1::ListJobsRequest { namespace: desk.namespace(), id: id.to_owned(), ..v1::ListJobsRequest::default() };
    let not_found = || Failure::new(breakwater_core::ErrorClass::NotFound, format!("job `{id}` does not exist"));
    let jobs = client.call(client.operator().list_jobs(request)).await?.jobs;
    let job = jobs.into_iter().next().ok_or_else(not_found)?;
    if !kind.is_empty() && job.kind().word() != kind {
        let message = format!("job `{id}` is a {}, not a {kind}", job.kind().word());
        return Err(Failure::new(breakwater_core::ErrorClass::NotFound, message).hint(format!("brctl job show {id}")));
    }
    Ok(job)
}

/// Shows jobs that were started; with `wait`, follows them and ends with their outcome.
pub(super) async fn follow(desk: &Desk, jobs: Vec<v1::Job>, wait: bool) -> Ended {
    if !wait {
        show_all(desk, &jobs)?;
        return Ok(Ending::OK);
    }
    let client = desk.client()?;
    let ended = wait::to_the_end(&client, &desk.output, jobs).await;
    report(desk, &ended, false)?;
    Ok(wait::outcome(&ended))
}

fn show_all(desk: &Desk, jobs: &[v1::Job]) -> Result<(), Failure> {
    desk.output.list(&JOBS, &jobs.iter().map(view::job).collect::<Vec<_>>())
}

/// Shows how jobs ended, and why on standard error. With ndjson the last line of each said it already.
fn report(desk: &Desk, ended: &[Result<v1::Job, Failure>], cancelling: bool) -> Result<(), Failure> {
    let jobs: Vec<v1::Job> = ended.iter().filter_map(|job| job.as_ref().ok().cloned()).collect();
    if desk.output.format() != Format::Ndjson
        && let Err(failure) = show_all(desk, &jobs)
        // The exit code matters also to somebody who stopped reading.
        && !failure.is_reader_gone()
    {
        return Err(failure);
    }
    if !cancelling {
        wait::explain(ended);
    }
    Ok(())
}
