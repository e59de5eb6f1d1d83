//! `snapshot files` and `snapshot versions`: what a snapshot holds, and how one path went from snapshot to snapshot.

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use serde_json::Value;

use crate::args::snapshot::{FilesArgs, VersionsArgs};
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::{offline, view};

const FILES: Listing = Listing {
    columns: &[
        Column::new("MODE", "/mode", Kind::Text),
        Column::new("TYPE", "/type", Kind::Text),
        Column::wide("USER", "/user", Kind::Text),
        Column::wide("GROUP", "/group", Kind::Text),
        Column::new("SIZE", "/size", Kind::Bytes),
        Column::new("MODIFIED", "/mtime", Kind::Moment),
        Column::new("PATH", "/path", Kind::Text),
        Column::wide("TARGET", "/target", Kind::Text),
        Column::wide("ATTRIBUTES", "/xattrs", Kind::List),
    ],
    name: "/path",
    empty: "nothing in the snapshot is like that",
};

const VERSIONS: Listing = Listing {
    columns: &[
        Column::new("SNAPSHOT", "/snapshot", Kind::Text),
        Column::new("SHOWS", "/consistent_at", Kind::Moment),
        Column::new("CHANGE", "/change", Kind::Text),
        Column::new("TYPE", "/type", Kind::Text),
        Column::new("SIZE", "/size", Kind::Bytes),
        Column::new("MODIFIED", "/mtime", Kind::Moment),
        Column::new("MODE", "/mode", Kind::Text),
        Column::wide("USER", "/user", Kind::Text),
        Column::wide("GROUP", "/group", Kind::Text),
    ],
    name: "/snapshot",
    empty: "no version",
};

pub(super) async fn files(desk: &Desk, args: FilesArgs) -> Ended {
    let mut document = match desk.glass().await? {
        Some(glass) => offline::files(&glass, &args).await?,
        None => {
            let client = desk.client()?;
            let request = v1::FilesRequest {
                namespace: desk.namespace(),
                id: args.id.clone(),
                repository: desk.settings.repository.clone().unwrap_or_default(),
                patterns: args.patterns.clone(),
                after: args.after.clone(),
                limit: args.limit,
            };
            first(client.documents(client.operator().files(request)).await?, || {
                Failure::new(ErrorClass::NotFound, format!("snapshot `{}` does not exist", args.id))
                    .hint("brctl snapshot list")
            })?
        }
    };
    view::readable(&mut document);
    desk.output.list(&FILES, rows(&document, "entries"))?;
    if let Some(next) = document["next"].as_str() {
        desk.output.note(format!("note: there are more (hint: --after '{next}', or --limit N)"));
    }
    Ok(Ending::OK)
}

pub(super) async fn versions(desk: &Desk, args: VersionsArgs) -> Ended {
    let mut document = match desk.glass().await? {
        Some(glass) => offline::versions(&glass, &args).await?,
        None => {
            let client = desk.client()?;
            let request = v1::VersionsRequest {
                namespace: desk.namespace(),
                source: args.source.clone(),
                path: args.path.clone(),
                limit: args.limit,
            };
            first(client.documents(client.operator().versions(request)).await?, || {
                Failure::new(ErrorClass::NotFound, format!("no snapshot holds `{}`", args.path))
            })?
        }
    };
    view::readable(&mut document);
    desk.output.list(&VERSIONS, rows(&document, "versions"))?;
    if let Some(more) = document["more"].as_u64().filter(|more| *more > 0) {
        desk.output.note(format!("note: {more} other snapshots were not looked into (hint: --limit N)"));
    }
    Ok(Ending::OK)
}

fn first(documents: Vec<Value>, missing: impl FnOnce() -> Failure) -> Result<Value, Failure> {
    documents.into_iter().find(|document| !document.is_null()).ok_or_else(missing)
}

fn rows<'a>(document: &'a Value, field: &str) -> &'a [Value] {
    document[field].as_array().map_or(&[], Vec::as_slice)
}
