//! The one place that names concrete engines.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use breakwater_engine::Engine;
use breakwater_engine_files::{FilesEngine, FilesSettings, Root};
use breakwater_runtime::SystemClock;

/// Reads everything in `tree`.
pub(crate) fn files(tree: &Path, scratch: &Path) -> Result<Box<dyn Engine>> {
    let root = Root::named_by_path(tree).context("the tree has no name")?;
    let settings = FilesSettings { defaults: false, ..FilesSettings::new("bench", vec![root], scratch) };
    Ok(Box::new(FilesEngine::new(settings, Arc::new(SystemClock))))
}
