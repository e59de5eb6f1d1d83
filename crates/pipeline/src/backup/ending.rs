//! The tree of all entries, early and late ones, as frames of structure.

use std::collections::HashSet;

use breakwater_engine::Unreadable;
use breakwater_repository::format::tree::TreeEncoder;
use breakwater_repository::format::{Class, FormatError, FrameLocation};

use super::spool::{Spooled, merged};
use super::structure::StructurePacks;
use crate::PipelineError;

/// Writes the tree. Frames that the base has too are referred to. Further names of files that are `left_out` are left out
/// too, and noted. Blocks the thread.
pub(crate) fn write_tree(
    structure: &mut StructurePacks,
    mut early: Spooled,
    mut late: Spooled,
    base: &[FrameLocation],
    left_out: &HashSet<Vec<u8>>,
    unreadable: &mut Unreadable,
) -> Result<Vec<FrameLocation>, PipelineError> {
    let bad = |error: FormatError| PipelineError::bad_tree(error.to_string());
    let mut encoder = TreeEncoder::default();
    let mut tree = Vec::new();
    while let Some(line) = merged(&mut early, &mut late)? {
        if line.target.is_some_and(|target| left_out.contains(&target)) {
            unreadable.note(line.path, "the file that it is another name of could not be read");
            continue;
        }
        if let Some(frame) = encoder.push_line(&line.path, line.is_symlink, &line.bytes).map_err(bad)? {
            tree.push(structure.put(Class::Tree, &frame, base)?);
        }
    }
    if let Some(frame) = encoder.finish() {
        tree.push(structure.put(Class::Tree, &frame, base)?);
    }
    Ok(tree)
}
