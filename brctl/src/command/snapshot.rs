//! `snapshot`: what was backed up.

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use serde_json::Value;

use crate::args::repository::{SnapshotCommand, SnapshotListArgs};
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;
use crate::view;

const SNAPSHOTS: Listing = Listing {
    columns: &[
        Column::new("ID", "/id", Kind::Text),
        Column::new("SOURCE", "/source", Kind::Text),
        Column::new("SHOWS", "/consistent_at", Kind::Moment),
        Column::new("AGE", "/consistent_at", Kind::Age),
        Column::new("STATUS", "/status", Kind::Text),
        Column::new("SIZE", "/bytes_read", Kind::Bytes),
        Column::new("STORED", "/bytes_stored", Kind::Bytes),
        Column::new("REGIONS", "/regions", Kind::List),
        Column::wide("REPOSITORY", "/repository", Kind::Text),
        Column::wide("ENGINE", "/engine", Kind::Text),
        Column::wide("FILES", "/files", Kind::Text),
    ],
    name: "/id",
    empty: "no snapshot",
};

pub(super) async fn run(desk: &Desk, command: SnapshotCommand) -> Ended {
    match command {
        SnapshotCommand::List(args) => list(desk, args).await,
        SnapshotCommand::Show { id } => show(desk, id).await,
    }
}

async fn list(desk: &Desk, args: SnapshotListArgs) -> Ended {
    let client = desk.client()?;
    let request = v1::SnapshotsRequest {
        namespace: desk.namespace(),
        source: args.source.unwrap_or_default(),
        status: args.status.unwrap_or_default(),
        limit: args.limit,
        repository: desk.settings.repository.clone().unwrap_or_default(),
    };
    let documents = client.documents(client.operator().snapshots(request)).await?;
    desk.output.list(&SNAPSHOTS, &rows(documents))?;
    Ok(Ending::OK)
}

/// The snapshots of all answers: one answer a repository.
fn rows(documents: Vec<Value>) -> Vec<Value> {
    let mut rows = Vec::new();
    for mut document in documents {
        view::readable(&mut document);
        match document {
            Value::Array(items) => rows.extend(items),
            Value::Object(mut fields) => match fields.remove("snapshots") {
                Some(Value::Array(items)) => rows.extend(items),
                _ => rows.push(Value::Object(fields)),
            },
            _ => {}
        }
    }
    rows
}

async fn show(desk: &Desk, id: String) -> Ended {
    let client = desk.client()?;
    let repository = desk.settings.repository.clone().unwrap_or_default();
    let request = v1::SnapshotRequest { namespace: desk.namespace(), id: id.clone(), repository };
    let documents = client.documents(client.operator().snapshot(request)).await?;
    let Some(mut value) = documents.into_iter().find(|document| !document.is_null()) else {
        let message = format!("snapshot `{id}` does not exist");
        return Err(Failure::new(ErrorClass::NotFound, message).hint("brctl snapshot list"));
    };
    view::readable(&mut value);
    desk.output.item(&value, &id, || yaml(&value))?;
    Ok(Ending::OK)
}
