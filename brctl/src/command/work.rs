//! Work on a repository itself: a job of an agent, or with `--offline` done here.

use breakwater_agent::jobs::repository::refuse_unknown;
use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work;
use serde_json::Value;

use crate::args::repository::WorkArgs;
use crate::command::{Desk, Ended, Ending, job};
use crate::failure::Failure;
use crate::offline::{self, Glass};
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;

const CHECKED: Listing = Listing {
    columns: &[
        Column::new("REGION", "/region", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("OBJECTS", "/objects", Kind::Text),
        Column::new("SNAPSHOTS", "/snapshots", Kind::Text),
        Column::new("PACKS", "/packs", Kind::Text),
        Column::new("FRAMES", "/frames", Kind::Text),
        Column::new("READ", "/frames_read", Kind::Text),
        Column::new("FINDINGS", "/findings_count", Kind::Text),
        Column::new("MISSING", "/missing_count", Kind::Text),
        Column::new("UNCHECKED", "/unchecked", Kind::Text),
    ],
    name: "/region",
    empty: "nothing was checked",
};

const USED: Listing = Listing {
    columns: &[
        Column::new("REGION", "/region", Kind::Text),
        Column::new("TIER", "/tier", Kind::Text),
        Column::new("OBJECTS", "/objects", Kind::Text),
        Column::new("BYTES", "/bytes", Kind::Bytes),
        Column::new("ADDED IN 1D", "/added_1d", Kind::Bytes),
        Column::new("7D", "/added_7d", Kind::Bytes),
        Column::new("30D", "/added_30d", Kind::Bytes),
    ],
    name: "/region",
    empty: "nothing was counted",
};

/// Has an agent do `work` on the repository called `repository`, the only one when empty.
pub(super) async fn by_agent(desk: &Desk, repository: String, work: Work, args: WorkArgs) -> Ended {
    let work: v1::RepositoryWork = work.into();
    refuse_unknown(&work)?;
    let request = v1::RunRepositoryWorkRequest {
        namespace: desk.namespace(),
        repository,
        agent: args.agent.unwrap_or_default(),
        request_id: args.request_id.unwrap_or_default(),
        work: Some(work),
    };
    let client = desk.client()?;
    let jobs = client.call(client.operator().run_repository_work(request)).await?.jobs;
    job::follow(desk, jobs, args.wait).await
}

/// Does `work` here, to its end.
pub(super) async fn here(desk: &Desk, glass: &Glass, work: Work, args: &WorkArgs) -> Ended {
    if args.agent.is_some() || args.request_id.is_some() {
        return Err(Failure::usage("--agent and --request-id are for jobs, and with --offline the work is done here"));
    }
    let work: v1::RepositoryWork = work.into();
    refuse_unknown(&work)?;
    let outcome = offline::perform(glass, &desk.output, &work).await?;
    let summary = &outcome.summary;
    for warning in summary["warnings"].as_array().into_iter().flatten() {
        desk.output.note(format!("note: {}", warning.as_str().unwrap_or_default()));
    }
    let regions = || summary["regions"].as_array().map_or(&[][..], Vec::as_slice);
    match work.kind() {
        v1::JobKind::Check => desk.output.list(&CHECKED, regions())?,
        v1::JobKind::Usage => desk.output.list(&USED, regions())?,
        v1::JobKind::Verify => {
            let id = summary["snapshot"].as_str().unwrap_or_default();
            desk.output.item(summary, id, || CHECKED.table(regions(), false))?;
        }
        _ => desk.output.item(summary, work.kind().word(), || yaml(&without_warnings(summary)))?,
    }
    outcome.fault.map_or(Ok(Ending::OK), |fault| Err(fault.into()))
}

/// The summary for people, who have read the warnings already.
fn without_warnings(summary: &Value) -> Value {
    let mut shown = summary.clone();
    if let Some(fields) = shown.as_object_mut() {
        fields.remove("warnings");
    }
    shown
}
