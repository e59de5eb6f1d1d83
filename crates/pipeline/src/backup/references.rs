//! Collects what a snapshot needs of each pack, in any order, and gives it back sorted.
//!
//! Invariant: memory is flat. What does not fit is sorted into runs on disk, runs of one level are merged into one of the
//! next before there are too many to read at once, and all of it is in files without names, which are gone with the run.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_repository::format::pack::{KeyKind, PackId};
use breakwater_repository::format::references::{
    FrameRange, PackRanges, ReferenceDecoder, ReferenceEncoder, Union, push,
};
use breakwater_repository::format::{FormatError, FrameLocation};

use crate::PipelineError;

/// Ranges that wait in memory: 2 MiB.
const WAITING: usize = 1 << 16;

/// Runs of one level before they become one of the next.
const FAN_IN: usize = 32;

/// Bytes of a run that are read at once.
const PIECE: usize = 16 << 10;

type Item = ((KeyKind, PackId), FrameRange);

/// References being collected.
pub(crate) struct References {
    scratch: PathBuf,
    waiting: Vec<Item>,
    limit: usize,
    levels: Vec<Level>,
}

/// Runs of about one size.
struct Level {
    file: Arc<File>,
    /// Where each run begins and ends.
    runs: Vec<(u64, u64)>,
}

/// One run, read along.
pub(crate) struct Run {
    file: Arc<File>,
    at: u64,
    end: u64,
    decoder: ReferenceDecoder,
    ready: VecDeque<PackRanges>,
}

impl References {
    /// `scratch` is where runs are kept.
    pub(crate) fn new(scratch: &Path) -> References {
        References::with_limit(scratch, WAITING)
    }

    fn with_limit(scratch: &Path, limit: usize) -> References {
        References { scratch: scratch.to_owned(), waiting: Vec::new(), limit, levels: Vec::new() }
    }

    /// The snapshot needs this frame.
    pub(crate) fn add(&mut self, kind: KeyKind, location: &FrameLocation) -> Result<(), PipelineError> {
        let (key, range) = ((kind, location.pack), FrameRange::of(location));
        if let Some((last, known)) = self.waiting.last_mut()
            && *last == key
            && known.reaches(range.offset)
        {
            known.extend_over(range);
            return Ok(());
        }
        self.waiting.push((key, range));
        if self.waiting.len() >= self.limit {
            self.shrink();
            if self.waiting.len() > self.limit / 2 {
                self.set_aside()?;
            }
        }
        Ok(())
    }

    /// All of it, one pack after the other.
    pub(crate) fn finish(mut self) -> Result<impl Iterator<Item = Result<PackRanges, PipelineError>>, PipelineError> {
        self.shrink();
        let rest = grouped(std::mem::take(&mut self.waiting)).into_iter().map(Ok);
        let mut lists: Vec<Box<dyn Iterator<Item = Result<PackRanges, PipelineError>> + Send>> = vec![Box::new(rest)];
        for level in &self.levels {
            lists.extend(level.runs.iter().map(|run| Box::new(level.read(*run)) as Box<_>));
        }
        Ok(Union::new(lists))
    }

    /// Sorts what waits and joins what touches.
    fn shrink(&mut self) {
        self.waiting.sort_unstable();
        self.waiting.dedup_by(|(next_key, next), (key, range)| {
            let joins = next_key == key && range.reaches(next.offset);
            if joins {
                range.extend_over(*next);
            }
            joins
        });
    }

    fn set_aside(&mut self) -> Result<(), PipelineError> {
        let packs = grouped(std::mem::take(&mut self.waiting));
        self.write(0, packs.into_iter().map(Ok))?;
        let mut level = 0;
        while self.levels.get(level).is_some_and(|level| level.runs.len() >= FAN_IN) {
            let Some(full) = self.levels.get(level) else { break };
            let runs: Vec<Run> = full.runs.iter().map(|run| full.read(*run)).collect();
            self.write(level + 1, Union::new(runs))?;
            if let Some(full) = self.levels.get_mut(level) {
                full.runs.clear();
                full.file.set_len(0).map_err(failed)?;
            }
            level += 1;
        }
        Ok(())
    }

    fn write(
        &mut self,
        level: usize,
        packs: impl Iterator<Item = Result<PackRanges, PipelineError>>,
    ) -> Result<(), PipelineError> {
        while self.levels.len() <= level {
            let file = tempfile::tempfile_in(&self.scratch).map_err(failed)?;
            self.levels.push(Level { file: Arc::new(file), runs: Vec::new() });
        }
        let Some(level) = self.levels.get_mut(level) else { return Ok(()) };
        let begin = level.runs.last().map_or(0, |(_, end)| *end);
        let mut output = BufWriter::new(Placed { file: &level.file, at: begin });
        let mut encoder = ReferenceEncoder::with_frames_of(PIECE);
        for pack in packs {
            if let Some(frame) = encoder.push(&pack?).map_err(damaged)? {
                put(&mut output, &frame)?;
            }
        }
        if let Some(frame) = encoder.finish() {
            put(&mut output, &frame)?;
        }
        let end = output.into_inner().map_err(|error| failed(error.into_error()))?.at;
        level.runs.push((begin, end));
        Ok(())
    }
}

impl Level {
    fn read(&self, (at, end): (u64, u64)) -> Run {
        let file = Arc::clone(&self.file);
        Run { file, at, end, decoder: ReferenceDecoder::default(), ready: VecDeque::new() }
    }
}

impl Run {
    fn advance(&mut self) -> Result<Option<PackRanges>, PipelineError> {
        while self.ready.is_empty() && self.at < self.end {
            let mut length = [0; 4];
            self.file.read_exact_at(&mut length, self.at).map_err(failed)?;
            let mut frame = vec![0; u32::from_le_bytes(length) as usize];
            self.file.read_exact_at(&mut frame, self.at + 4).map_err(failed)?;
            self.at += 4 + frame.len() as u64;
            self.ready.extend(self.decoder.frame(&frame).map_err(damaged)?);
        }
        Ok(self.ready.pop_front())
    }
}

impl Iterator for Run {
    type Item = Result<PackRanges, PipelineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Writes into a file from one place on.
struct Placed<'a> {
    file: &'a File,
    at: u64,
}

impl Write for Placed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn put(output: &mut impl Write, frame: &[u8]) -> Result<(), PipelineError> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    output.write_all(&length.to_le_bytes()).and_then(|()| output.write_all(frame)).map_err(failed)
}

fn grouped(items: Vec<Item>) -> Vec<PackRanges> {
    let mut packs: Vec<PackRanges> = Vec::new();
    for ((kind, pack), range) in items {
        match packs.last_mut() {
            Some(last) if last.key() == (kind, pack) => push(&mut last.ranges, range),
            _ => packs.push(PackRanges { kind, pack, ranges: vec![range] }),
        }
    }
    packs
}

fn failed(error: std::io::Error) -> PipelineError {
    PipelineError::io(
        "keeping the references of a snapshot in a temporary file (hint: TMPDIR chooses the place)",
        error,
    )
}

fn damaged(error: FormatError) -> PipelineError {
    PipelineError::Defect(format!("collecting references: {error}"))
}

#[cfg(test)]
mod tests {
    use breakwater_core::SessionId;
    use breakwater_crypto::ChunkId;
    use breakwater_repository::format::Codec;
    use breakwater_repository::format::references::collect;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    fn frame(session: u8, number: u32, place: u32) -> FrameLocation {
        let pack = PackId { session: SessionId::from_bytes([session; 16]), number };
        FrameLocation { pack, offset: 128 + place * 48, stored: 16, plain: 9, codec: Codec::None, id: ChunkId([0; 32]) }
    }

    proptest! {
        #[test]
        fn what_was_added_comes_out_once_and_sorted(
            frames in prop::collection::vec((any::<bool>(), 0..3u8, 0..20u32, 0..200u32), 0..3000),
            limit in 2..40usize,
        ) {
            let frames: Vec<_> = frames
                .into_iter()
                .map(|(content, session, number, place)| {
                    (if content { KeyKind::Content } else { KeyKind::Structure }, frame(session, number, place))
                })
                .collect();
            let mut references = References::with_limit(&std::env::temp_dir(), limit);
            for (kind, frame) in &frames {
                references.add(*kind, frame).unwrap();
            }
            let list: Vec<_> = references.finish().unwrap().map(|pack| pack.unwrap()).collect();
            prop_assert_eq!(list, collect(frames));
        }
    }

    #[test]
    fn neighbours_take_no_room_and_levels_stay_few() {
        let mut references = References::with_limit(&std::env::temp_dir(), 64);
        (0..10_000).for_each(|place| references.add(KeyKind::Content, &frame(1, 0, place)).unwrap());
        assert!(references.levels.is_empty() && references.waiting.len() == 1);
        // Every other frame of many packs: nothing joins.
        let scattered = (0..100_000).map(|n: u32| frame(2, n * 7919 % 1000, n * 2 % 2000));
        scattered.for_each(|frame| references.add(KeyKind::Content, &frame).unwrap());
        assert!((2..4).contains(&references.levels.len()));
        assert!(references.levels.iter().all(|level| level.runs.len() <= FAN_IN));
    }
}
