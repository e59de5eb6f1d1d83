//! Writes the chunks of one window into files, and finishes each file with its last chunk: the thread that writes it sets
//! the attributes and gives the name, so that a small file costs one visit and few system calls.
//!
//! Invariant: a file gets its right name only when all its content is written.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::Chain;

use super::content::Fetched;
use super::fetch::Fetcher;
use super::window::{Destination, Planned, WindowFile};
use crate::PipelineError;
use crate::progress::Kind;

/// Files held open at once.
const OPEN_FILES: usize = 256;

/// So many bytes of a file are sent to the disk together while the next are written, so that not all of a restore waits there at its
/// end for the last sync.
const FLUSHED: u64 = 8 << 20;

/// Holes begin and end at multiples of this.
const HOLE: usize = 4096;

/// What lies where a file of the window goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base {
    pub(crate) state: Found,
    /// For each destination of the file, whether its bytes are there.
    pub(crate) kept: Vec<bool>,
}

/// Where the bytes that are there lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is nothing.
    #[default]
    Nothing,
    /// In an unfinished file.
    Unfinished,
    /// At its path, and nothing has to be written.
    Whole,
}

/// A window at work.
pub(crate) struct Writing {
    pub(crate) planned: Planned,
    pub(crate) fetcher: Fetcher,
    bases: Vec<Base>,
    /// Destinations of each file that are still to be written.
    left: Vec<AtomicU32>,
    finished: Vec<AtomicBool>,
    open: Mutex<HashMap<u32, Arc<File>>>,
}

impl Writing {
    pub(crate) fn new(planned: Planned, kept: &[bool], bases: Vec<Base>, fetcher: Fetcher) -> Writing {
        let left = |file: &WindowFile| {
            let kept = kept.get(file.destinations.clone()).unwrap_or_default();
            let left = file.destinations.len() - kept.iter().filter(|kept| **kept).count();
            AtomicU32::new(u32::try_from(left).unwrap_or(u32::MAX))
        };
        let left = planned.files.iter().map(left).collect();
        let finished = planned.files.iter().map(|_| AtomicBool::new(false)).collect();
        Writing { planned, fetcher, bases, left, finished, open: Mutex::default() }
    }

    /// Opens and writes all that one range serves. Answers the destinations whose frames are damaged, and why.
    pub(crate) fn write_range(
        &self,
        index: usize,
        mut fetched: Fetched,
    ) -> Result<Vec<(usize, String)>, PipelineError> {
        let mut damaged = Vec::new();
        let Some(fetch) = self.planned.fetches.get(index) else { return Ok(damaged) };
        let needs = self.planned.needs.get(fetch.needs.clone()).unwrap_or_default();
        let mut opener = self.fetcher.opener();
        // Needs of the same frame are neighbours; it is opened once.
        for same in needs.chunk_by(|one, other| one.offset == other.offset) {
            if self.fetcher.cancel.is_cancelled() {
                return Err(PipelineError::Cancelled);
            }
            let destinations = || same.iter().map(|need| need.extent as usize);
            let first = destinations().next().and_then(|first| self.planned.destinations.get(first));
            let Some(first) = first else { continue };
            let Some(key) = self.planned.keys.get(first.key as usize) else { continue };
            match self.fetcher.content.open(&mut fetched, key, first.class, &first.location, &mut opener) {
                Ok(plain) => destinations().try_for_each(|destination| self.write_chunk(destination, plain))?,
                Err(error) => {
                    let why = Chain(&error).to_string();
                    damaged.extend(destinations().map(|destination| (destination, why.clone())));
                }
            }
        }
        self.fetcher.openers.lock().unwrap_or_else(PoisonError::into_inner).push(opener);
        Ok(damaged)
    }

    /// Writes what a destination takes of its chunk, and finishes the file when that was the last.
    pub(crate) fn write_chunk(&self, destination: usize, plain: &[u8]) -> Result<(), PipelineError> {
        let Some(destination) = self.planned.destinations.get(destination) else { return Ok(()) };
        let (from, length) = (destination.from as usize, destination.length as usize);
        let bytes = from.checked_add(length).and_then(|end| plain.get(from..end)).ok_or_else(|| {
            PipelineError::bad_tree(format!("a piece reaches beyond the chunk {}", destination.location.id))
        })?;
        let number = destination.file;
        let (Some(file), Some(left)) = (self.planned.files.get(number as usize), self.left.get(number as usize)) else {
            return Ok(());
        };
        let new = self.found(number) == Found::Nothing;
        if new && file.begins && file.complete && file.destinations.len() == 1 {
            self.lay_at_once(file, destination, bytes)?;
            if let Some(finished) = self.finished.get(number as usize) {
                finished.store(true, Ordering::Release);
            }
        } else {
            let open = self.open(number, file)?;
            let sparse = new && file.begins && file.metadata.is_sparse();
            self.write(&open, file, bytes, destination.offset, sparse)?;
            if left.fetch_sub(1, Ordering::AcqRel) == 1 && file.complete {
                self.finish(number, file, &open)?;
            }
        }
        self.fetcher.done(bytes.len() as u64, Kind::New);
        Ok(())
    }

    /// Files that are complete with this window and were not finished by their last chunk.
    pub(crate) fn unfinished(&self) -> Vec<u32> {
        let is_left =
            |(file, finished): &(&WindowFile, &AtomicBool)| file.complete && !finished.load(Ordering::Acquire);
        let all = (0..).zip(self.planned.files.iter().zip(&self.finished));
        all.filter(|(_, pair)| is_left(pair)).map(|(number, _)| number).collect()
    }

    /// Finishes a file that nothing was written into.
    pub(crate) fn finish_idle(&self, number: u32) -> Result<(), PipelineError> {
        if self.fetcher.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        let Some(file) = self.planned.files.get(number as usize) else { return Ok(()) };
        let zeros = self.planned_zeros(number);
        self.fetcher.done(zeros, Kind::Zeros);
        if self.found(number) == Found::Whole {
            self.fetcher.progress.entry(true);
            return Ok(());
        }
        let open = self.open(number, file)?;
        self.finish(number, file, &open)
    }

    fn planned_zeros(&self, number: u32) -> u64 {
        let file = self.planned.files.get(number as usize);
        let covered = file.map_or(0, |file| {
            let destinations = self.planned.destinations.get(file.destinations.clone()).unwrap_or_default();
            destinations.iter().map(|one| u64::from(one.length)).sum()
        });
        file.filter(|file| file.begins && file.complete).map_or(0, |file| file.size.saturating_sub(covered))
    }

    fn found(&self, number: u32) -> Found {
        self.bases.get(number as usize).map_or(Found::Nothing, |base| base.state)
    }

    /// A file of one chunk.
    fn lay_at_once(&self, file: &WindowFile, destination: &Destination, bytes: &[u8]) -> Result<(), PipelineError> {
        let target = &self.fetcher.target;
        let (parent, name) = target.parent_of(&file.path)?;
        // One that comes last has to be found again by its unfinished name.
        let nameless = if file.last { None } else { target.create_nameless(&parent, &file.path)? };
        let (open, working) = match nameless {
            Some(open) => (open, None),
            None => {
                let working = target.working_name(&file.path);
                (target.create_file(&parent, &working, &file.path)?, Some(working))
            }
        };
        self.write(&open, file, bytes, destination.offset, file.metadata.is_sparse())?;
        if file.size != destination.offset + bytes.len() as u64 || file.metadata.is_sparse() {
            self.resize(&open, file)?;
        }
        self.dress(&open, file, true)?;
        match working {
            None => target.link_at(&open, &parent, &name, &file.path)?,
            Some(working) => self.rename(file, &parent, &working, &name)?,
        }
        if target.durability.is_due(bytes.len() as u64) {
            let target = Arc::clone(target);
            self.fetcher.writers.spawn_blocking(move || target.durability.send());
        }
        self.fetcher.progress.entry(true);
        Ok(())
    }

    fn write(
        &self,
        open: &File,
        file: &WindowFile,
        bytes: &[u8],
        offset: u64,
        sparse: bool,
    ) -> Result<(), PipelineError> {
        let written = if sparse { write_around_holes(open, bytes, offset) } else { open.write_all_at(bytes, offset) };
        if (offset + bytes.len() as u64) % FLUSHED < bytes.len() as u64 {
            flush_behind(open, offset);
        }
        written.map_err(|error| PipelineError::io(format!("writing {}", self.fetcher.target.shown(&file.path)), error))
    }

    fn resize(&self, open: &File, file: &WindowFile) -> Result<(), PipelineError> {
        open.set_len(file.size).map_err(|error| {
            PipelineError::io(format!("setting the size of {}", self.fetcher.target.shown(&file.path)), error)
        })
    }

    /// The unfinished file, made when it is first written.
    fn open(&self, number: u32, file: &WindowFile) -> Result<Arc<File>, PipelineError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        let target = &self.fetcher.target;
        let (parent, _) = target.parent_of(&file.path)?;
        let working = target.working_name(&file.path);
        let opened = match target.open_working(&parent, &working, &file.path)? {
            Some(opened) => opened,
            None => {
                let made = target.create_file(&parent, &working, &file.path)?;
                self.resize(&made, file)?;
                made
            }
        };
        let opened = Arc::new(opened);
        open.insert(number, Arc::clone(&opened));
        Ok(opened)
    }

    /// Everything that comes after the content.
    fn finish(&self, number: u32, file: &WindowFile, open: &File) -> Result<(), PipelineError> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let target = &self.fetcher.target;
        let (parent, name) = target.parent_of(&file.path)?;
        let working = target.working_name(&file.path);
        let new = self.found(number) == Found::Nothing && !target.existing;
        if !new {
            self.resize(open, file)?;
        }
        self.dress(open, file, new)?;
        self.rename(file, &parent, &working, &name)?;
        self.fetcher.progress.entry(true);
        if let Some(finished) = self.finished.get(number as usize) {
            finished.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn dress(&self, open: &File, file: &WindowFile, new: bool) -> Result<(), PipelineError> {
        let target = &self.fetcher.target;
        let dressed = target.dresser.open(&file.path, open, &file.metadata, new);
        dressed.map_err(|error| target.failed("setting the attributes of", &file.path, error))?;
        let synced = target.durability.file(open);
        synced.map_err(|error| PipelineError::io(format!("syncing {}", target.shown(&file.path)), error))
    }

    /// Gives a finished file its right name, now or last.
    fn rename(&self, file: &WindowFile, parent: &OwnedFd, working: &OsStr, name: &OsStr) -> Result<(), PipelineError> {
        if file.last {
            self.fetcher.last.lock().unwrap_or_else(PoisonError::into_inner).push(file.path.clone());
            return Ok(());
        }
        self.fetcher.target.rename_at(parent, working, name, &file.path)
    }
}

/// Begins to write the bytes before `end` back, without waiting. Only the last sync says whether that went well.
fn flush_behind(file: &File, end: u64) {
    let start = end.saturating_sub(FLUSHED);
    let length = NonZeroU64::new(end - start);
    if let Err(errno) = rustix::fs::fadvise(file, start, length, rustix::fs::Advice::DontNeed) {
        tracing::debug!(%errno, "written bytes are sent to the disk at the end only");
    }
}

/// Writes what is not zeros; the file is new, so that the rest is holes.
fn write_around_holes(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        // To the next multiple in the file.
        let misaligned = usize::try_from((offset + at as u64) % HOLE as u64).unwrap_or(0);
        let end = (at + HOLE - misaligned).min(bytes.len());
        let piece = bytes.get(at..end).unwrap_or_default();
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, offset + at as u64)?;
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_become_holes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        let file = File::create(&path).unwrap();
        let mut bytes = vec![0; 1 << 20];
        bytes[5000] = 1;
        bytes[900_000] = 2;
        write_around_holes(&file, &bytes, 100).unwrap();
        file.set_len(100 + bytes.len() as u64).unwrap();
        let read = std::fs::read(&path).unwrap();
        assert_eq!(read[100..], bytes);
        let on_disk = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(on_disk < 100_000, "{on_disk}");
    }
}
