//! The tree of all entries, early and late ones, as frames of structure.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use breakwater_engine::Unreadable;
use breakwater_repository::format::tree::TreeEncoder;
use breakwater_repository::format::{Class, FormatError, FrameLocation};

use super::compress::Encoder;
use super::spool::{Spooled, merged};
use super::structure::{Naming, Prepared, StructurePacks, structure_encoder};
use crate::PipelineError;

/// Threads that name and compress frames of the tree. Each takes a frame at a time, so that memory does not grow with the tree.
const LANES: usize = 2;

/// A thread that prepares one frame after the other.
struct Lane {
    frames: SyncSender<Vec<u8>>,
    prepared: Receiver<Result<Prepared<'static>, PipelineError>>,
}

/// The lanes in turn: what went in first comes out first.
struct Lanes {
    lanes: Vec<Lane>,
    sent: usize,
    received: usize,
}

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
        let lanes = (0..LANES).map(|_| Lane::start(scope, naming, base)).collect();
        let mut lanes = Lanes { lanes, sent: 0, received: 0 };
        let mut encoder = TreeEncoder::default();
        let mut tree = Vec::new();
        while let Some(line) = merged(&mut early, &mut late)? {
            if line.target.is_some_and(|target| left_out.contains(&target)) {
                unreadable.note(line.path, "the file that it is another name of could not be read");
                continue;
            }
            if let Some(frame) = encoder.push_line(&line.path, line.is_symlink, &line.bytes).map_err(bad)? {
                tree.extend(lanes.take(frame, structure)?);
            }
        }
        if let Some(frame) = encoder.finish() {
            tree.extend(lanes.take(frame, structure)?);
        }
        while let Some(location) = lanes.next(structure)? {
            tree.push(location);
        }
        Ok(tree)
    })
}

impl Lane {
    fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        naming: &'env Naming,
        base: &'env [FrameLocation],
    ) -> Lane {
        let (frames, input) = sync_channel::<Vec<u8>>(1);
        let (output, prepared) = sync_channel(1);
        scope.spawn(move || {
            let mut encoder = None;
            for frame in input {
                let prepared = prepare(naming, base, &frame, &mut encoder);
                // Nobody wants it any more: the run has failed.
                if output.send(prepared).is_err() {
                    return;
                }
            }
        });
        Lane { frames, prepared }
    }
}

fn prepare(
    naming: &Naming,
    base: &[FrameLocation],
    frame: &[u8],
    encoder: &mut Option<Encoder>,
) -> Result<Prepared<'static>, PipelineError> {
    let encoder = match encoder {
        Some(encoder) => encoder,
        None => encoder.insert(structure_encoder()?),
    };
    naming.prepare(Class::Tree, frame, base, encoder).map(Prepared::into_owned)
}

impl Lanes {
    /// Hands a frame to the next lane, and answers where the frame was put that was in its way.
    fn take(&mut self, frame: Vec<u8>, structure: &mut StructurePacks) -> Result<Option<FrameLocation>, PipelineError> {
        let before = if self.sent - self.received >= LANES { self.next(structure)? } else { None };
        let lane = self.lanes.get(self.sent % LANES);
        self.sent += 1;
        lane.and_then(|lane| lane.frames.send(frame).ok()).ok_or_else(ended)?;
        Ok(before)
    }

    /// Where the oldest frame was put; `None` when all were.
    fn next(&mut self, structure: &mut StructurePacks) -> Result<Option<FrameLocation>, PipelineError> {
        if self.received == self.sent {
            return Ok(None);
        }
        let lane = self.lanes.get(self.received % LANES);
        self.received += 1;
        let prepared = lane.and_then(|lane| lane.prepared.recv().ok()).ok_or_else(ended)?;
        structure.put_prepared(prepared?).map(Some)
    }
}

fn ended() -> PipelineError {
    PipelineError::Defect("a thread that writes the tree ended".to_owned())
}

fn bad(error: FormatError) -> PipelineError {
    PipelineError::bad_tree(error.to_string())
}
