//! The tree of all entries, early and late ones, as frames of structure.

use breakwater_repository::format::tree::TreeEncoder;
use breakwater_repository::format::{Class, FormatError, FrameLocation};

use super::spool::{Spooled, merged};
use super::structure::StructurePacks;
use crate::PipelineError;

/// Writes the tree. Frames that the base has too are referred to. Blocks the thread.
pub(crate) fn write_tree(
    structure: &mut StructurePacks,
    mut early: Spooled,
    mut late: Spooled,
    base: &[FrameLocation],
) -> Result<Vec<FrameLocation>, PipelineError> {
    let bad = |error: FormatError| PipelineError::bad_tree(error.to_string());
    let mut encoder = TreeEncoder::default();
    let mut tree = Vec::new();
    while let Some(entry) = merged(&mut early, &mut late)? {
        if let Some(frame) = encoder.push(&entry).map_err(bad)? {
            tree.push(structure.put(Class::Tree, &frame, base)?);
        }
    }
    if let Some(frame) = encoder.finish() {
        tree.push(structure.put(Class::Tree, &frame, base)?);
    }
    Ok(tree)
}
