//! What a repository says of itself.

use breakwater_repository::RegionState;
use serde_json::{Value, json};

use super::Glass;
use crate::failure::Failure;
use crate::view;

/// The repository, its regions and its sources.
pub(crate) async fn show(glass: &Glass) -> Result<Value, Failure> {
    let repository = &glass.repository;
    let regions: Vec<Value> = repository
        .regions()
        .iter()
        .map(|region| {
            let (state, detail) = match region.state() {
                RegionState::Ready => ("ok", None),
                RegionState::Away(why) => ("unreachable", Some(why)),
            };
            json!({
                "name": region.name(),
                "id": region.id().map(|id| id.to_string()),
                "url": region.place().location(),
                "state": state,
                "detail": detail,
            })
        })
        .collect();
    let sources = glass.sources().await?;
    let mut value = json!({
        "repository": repository.id().to_string(),
        "fingerprint": repository.fingerprint().to_string(),
        "suite": repository.suite().to_string(),
        "domain": repository.domain(),
        "regions": regions,
        "sources": sources.iter().map(|one| json!({
            "uid": one.uid, "name": one.name, "engine": one.engine, "identity": one.identity, "created": one.created,
        })).collect::<Vec<_>>(),
    });
    view::readable(&mut value);
    Ok(value)
}
