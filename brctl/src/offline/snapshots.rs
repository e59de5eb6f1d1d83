//! The repository and its snapshots without a controller, as agents show them.

use breakwater_agent::contents::{self, FilesWanted, Wanted};
use serde_json::Value;

use super::Glass;
use crate::args::snapshot::{FilesArgs, SnapshotListArgs, VersionsArgs};
use crate::failure::Failure;
use crate::view;

/// The snapshots as an agent answers them: newest first, and what could not be read.
pub(crate) async fn list(glass: &Glass, args: &SnapshotListArgs) -> Result<Value, Failure> {
    let source = match &args.source {
        Some(source) => Some(glass.source(Some(source)).await?),
        None => None,
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let status = args.status.as_deref().unwrap_or_default();
    let mut value = contents::snapshots(&glass.repository, Wanted { source, status, limit }).await?;
    view::readable(&mut value);
    Ok(value)
}

/// One snapshot with everything that its manifest says.
pub(crate) async fn show(glass: &Glass, id: &str) -> Result<Value, Failure> {
    let mut value = contents::snapshot(&glass.repository, id).await?;
    view::readable(&mut value);
    Ok(value)
}

/// A page of the entries of one snapshot.
pub(crate) async fn files(glass: &Glass, args: &FilesArgs) -> Result<Value, Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let wanted = FilesWanted { patterns: &args.patterns, after: &args.after, limit };
    Ok(contents::files(&glass.repository, &args.id, wanted).await?)
}

/// The versions of one path.
pub(crate) async fn versions(glass: &Glass, args: &VersionsArgs) -> Result<Value, Failure> {
    let source = glass.source(Some(&args.source)).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    Ok(contents::versions(&glass.repository, source, &args.path, limit).await?)
}

/// The repository, its regions and its sources.
pub(crate) async fn repository(glass: &Glass) -> Result<Value, Failure> {
    let mut value = contents::describe(&glass.repository).await?;
    view::readable(&mut value);
    Ok(value)
}
