//! `snapshot`: what was backed up.

mod files;

use breakwater_core::{ErrorClass, SnapshotId};
use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work;
use serde_json::Value;

use crate::args::repository::WorkArgs;
use crate::args::snapshot::{
    DeleteArgs, HoldArgs, LocksArgs, SnapshotCommand, SnapshotListArgs, UnholdArgs, VerifyArgs,
};
use crate::command::{Desk, Ended, Ending, work};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;
use crate::{offline, view};

pub(crate) const SNAPSHOTS: Listing = Listing {
    columns: &[
        Column::new("ID", "/id", Kind::Text),
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("SHOWS", "/consistent_at", Kind::Moment),
        Column::new("AGE", "/consistent_at", Kind::Age),
        Column::new("STATUS", "/status", Kind::Text),
        Column::new("SIZE", "/size_bytes", Kind::Bytes),
        Column::new("STORED", "/stored_bytes", Kind::Bytes),
        Column::new("REGIONS", "/regions", Kind::List),
        Column::wide("REPOSITORY", "/repository", Kind::Text),
        Column::wide("ENGINE", "/engine", Kind::Text),
        Column::wide("FILES", "/files", Kind::Text),
        Column::wide("LOG FROM", "/start", Kind::Text),
        Column::wide("CONSISTENT AT", "/end", Kind::Text),
    ],
    name: "/id",
    empty: "no snapshot",
};

pub(super) async fn run(desk: &Desk, command: SnapshotCommand) -> Ended {
    match command {
        SnapshotCommand::List(args) => list(desk, args).await,
        SnapshotCommand::Show { id } => show(desk, id).await,
        SnapshotCommand::Files(args) => files::files(desk, args).await,
        SnapshotCommand::Versions(args) => files::versions(desk, args).await,
        SnapshotCommand::Verify(args) => verify(desk, args).await,
        SnapshotCommand::Delete(args) => delete(desk, args).await,
        SnapshotCommand::Hold(HoldArgs { id: snapshot, reason, work }) => {
            let spec = v1::HoldSpec { snapshot, reason, lift: false };
            perform(desk, Work::Hold(spec), work).await
        }
        SnapshotCommand::Unhold(UnholdArgs { id: snapshot, work }) => {
            let spec = v1::HoldSpec { snapshot, reason: String::new(), lift: true };
            perform(desk, Work::Hold(spec), work).await
        }
        SnapshotCommand::Locks(LocksArgs { id: snapshot, regions, work }) => {
            perform(desk, Work::Locks(v1::LocksSpec { snapshot, regions }), work).await
        }
    }
}

async fn list(desk: &Desk, args: SnapshotListArgs) -> Ended {
    if let Some(glass) = desk.glass().await? {
        let mut document = offline::list(&glass, &args).await?;
        note_doubts(desk, &document);
        let snapshots = document["snapshots"].take();
        desk.output.list(&SNAPSHOTS, snapshots.as_array().map_or(&[], Vec::as_slice))?;
        return Ok(Ending::OK);
    }
    let client = desk.client()?;
    let request = v1::SnapshotsRequest {
        namespace: desk.namespace(),
        source: args.source.unwrap_or_default(),
        status: args.status.unwrap_or_default(),
        limit: args.limit,
        repository: desk.settings.repository.clone().unwrap_or_default(),
    };
    let documents = client.documents(client.operator().snapshots(request)).await?;
    for document in &documents {
        note_doubts(desk, document);
    }
    desk.output.list(&SNAPSHOTS, &rows(documents))?;
    Ok(Ending::OK)
}

/// Says what the list does not show.
fn note_doubts(desk: &Desk, document: &Value) {
    let each = |field: &str| document[field].as_array().map_or(&[][..], Vec::as_slice).iter();
    for silent in each("silent_regions") {
        let text = |field: &str| silent[field].as_str().unwrap_or_default();
        desk.output.note(format!("note: what only region {} holds is not known: {}", text("region"), text("reason")));
    }
    for damaged in each("damaged") {
        let text = |field: &str| damaged[field].as_str().unwrap_or_default();
        desk.output.note(format!("note: {} is damaged: {}", text("object"), text("reason")));
    }
    if let Some(more) = document["more"].as_u64().filter(|more| *more > 0) {
        desk.output.note(format!("note: {more} older snapshots are not shown (hint: --limit N)"));
    }
}

/// The snapshots of all answers, each with its repository: one answer a repository.
fn rows(documents: Vec<Value>) -> Vec<Value> {
    let mut rows = Vec::new();
    for mut document in documents {
        view::readable(&mut document);
        let repository = document["repository"].clone();
        if let Value::Array(snapshots) = document["snapshots"].take() {
            rows.extend(snapshots.into_iter().map(|mut snapshot| {
                snapshot["repository"] = repository.clone();
                snapshot
            }));
        }
    }
    rows
}

async fn show(desk: &Desk, id: String) -> Ended {
    let value = match desk.glass().await? {
        Some(glass) => offline::show_snapshot(&glass, &id).await?,
        None => find(desk, &id).await?,
    };
    desk.output.item(&value, &id, || yaml(&value))?;
    Ok(Ending::OK)
}

/// The snapshot whose id begins with `id`, as an agent shows it.
async fn find(desk: &Desk, id: &str) -> Result<Value, Failure> {
    let client = desk.client()?;
    let repository = desk.settings.repository.clone().unwrap_or_default();
    let request = v1::SnapshotRequest { namespace: desk.namespace(), id: id.to_owned(), repository };
    let documents = client.documents(client.operator().snapshot(request)).await?;
    let Some(mut value) = documents.into_iter().find(|document| !document.is_null()) else {
        let message = format!("snapshot `{id}` does not exist");
        return Err(Failure::new(ErrorClass::NotFound, message).hint("brctl snapshot list"));
    };
    view::readable(&mut value);
    Ok(value)
}

async fn verify(desk: &Desk, args: VerifyArgs) -> Ended {
    let VerifyArgs { id: snapshot, level, regions, vouch, work } = args;
    let spec = v1::VerifySpec { snapshot, level: level.word().to_owned(), regions, vouch };
    perform(desk, Work::Verify(spec), work).await
}

/// Does `work`, by an agent or here.
async fn perform(desk: &Desk, work: Work, args: WorkArgs) -> Ended {
    match desk.glass().await? {
        Some(glass) => work::here(desk, &glass, work, &args).await,
        None => work::by_agent(desk, desk.settings.repository.clone().unwrap_or_default(), work, args).await,
    }
}

async fn delete(desk: &Desk, args: DeleteArgs) -> Ended {
    let DeleteArgs { id, yes, work } = args;
    let glass = desk.glass().await?;
    let delete = |snapshot: String| Work::Delete(v1::DeleteSpec { snapshot });
    let repository = desk.settings.repository.clone().unwrap_or_default();
    if let (None, Ok(whole), Some(given)) = (&glass, id.parse::<SnapshotId>(), &yes) {
        // Nothing to be looked up: a request that is repeated finds its job also when the snapshot is gone.
        confirm("snapshot", &[&whole.to_string()], Some(given))?;
        return work::by_agent(desk, repository, delete(whole.to_string()), work).await;
    }
    let found = match &glass {
        Some(glass) => offline::show_snapshot(glass, &id).await?,
        None => find(desk, &id).await?,
    };
    let whole = found["id"].as_str().unwrap_or_default().to_owned();
    let (source, shows) = (found["source"].as_str(), found["consistent_at"].as_str());
    let (source, shows) = (source.unwrap_or_default(), shows.unwrap_or_default());
    desk.output.note(format!("snapshot {whole} of source `{source}` shows {shows}"));
    confirm("snapshot", &[&whole, &id], yes.as_deref())?;
    match glass {
        Some(glass) => work::here(desk, &glass, delete(whole), &work).await,
        None => work::by_agent(desk, repository, delete(whole), work).await,
    }
}
