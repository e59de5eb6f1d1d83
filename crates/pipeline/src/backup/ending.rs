//! The tree of all entries, early and late ones, as frames of structure.

use std::collections::{HashSet, VecDeque};
use std::thread::ScopedJoinHandle;

use breakwater_engine::Unreadable;
use breakwater_repository::format::tree::TreeEncoder;
use breakwater_repository::format::{Class, FormatError, FrameLocation};

use super::spool::{Spooled, merged};
use super::structure::{Prepared, StructurePacks, structure_encoder};
use crate::PipelineError;

/// Frames of the tree that are named and compressed at once.
const AT_ONCE: usize = 2;

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
    let naming = &structure.naming();
    std::thread::scope(|scope| {
        let prepare = |frame: Vec<u8>| {
            scope.spawn(move || {
                let mut encoder = structure_encoder()?;
                naming.prepare(Class::Tree, &frame, base, &mut encoder).map(Prepared::into_owned)
            })
        };
        let mut encoder = TreeEncoder::default();
        let (mut ahead, mut tree) = (VecDeque::new(), Vec::new());
        while let Some(line) = merged(&mut early, &mut late)? {
            if line.target.is_some_and(|target| left_out.contains(&target)) {
                unreadable.note(line.path, "the file that it is another name of could not be read");
                continue;
            }
            if let Some(frame) = encoder.push_line(&line.path, line.is_symlink, &line.bytes).map_err(bad)? {
                ahead.push_back(prepare(frame));
                if ahead.len() > AT_ONCE {
                    tree.extend(place(structure, ahead.pop_front())?);
                }
            }
        }
        ahead.extend(encoder.finish().map(prepare));
        while !ahead.is_empty() {
            tree.extend(place(structure, ahead.pop_front())?);
        }
        Ok(tree)
    })
}

fn place(
    structure: &mut StructurePacks,
    prepared: Option<ScopedJoinHandle<'_, Result<Prepared<'static>, PipelineError>>>,
) -> Result<Option<FrameLocation>, PipelineError> {
    let Some(prepared) = prepared else { return Ok(None) };
    let prepared =
        prepared.join().map_err(|_| PipelineError::Defect("a thread that writes the tree ended".to_owned()))?;
    structure.put_prepared(prepared?).map(Some)
}

fn bad(error: FormatError) -> PipelineError {
    PipelineError::bad_tree(error.to_string())
}
