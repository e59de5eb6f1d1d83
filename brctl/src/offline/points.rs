//! What can be restored to when, region by region, without a controller.

use breakwater_agent::questions::points::of_source;
use breakwater_agent::restore_plan::ReadSide;
use serde_json::Value;

use super::Glass;
use crate::failure::Failure;
use crate::view;

/// One document a source, as agents answer it.
pub(crate) async fn points(glass: &Glass, source: Option<&str>) -> Result<Vec<Value>, Failure> {
    let side = ReadSide::new(&glass.repository, None)?;
    let mut documents = Vec::new();
    for record in glass.sources().await? {
        if source.is_some_and(|wanted| wanted != record.name && wanted != record.uid.to_string()) {
            continue;
        }
        let mut document = of_source(&glass.repository, &side.set, record.uid, &record.name).await;
        view::readable(&mut document);
        documents.push(document);
    }
    if let (true, Some(source)) = (documents.is_empty(), source) {
        // Says which sources there are.
        glass.source(Some(source)).await?;
    }
    Ok(documents)
}
