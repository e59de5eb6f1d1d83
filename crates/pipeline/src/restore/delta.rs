//! What lies in the target already and need not be fetched: an older or damaged copy, or what an interrupted restore left.
//!
//! Bytes are compared by their chunk's id, computed with the repository's key, so what is kept is proven as well as what is
//! fetched. Extents that are patched have no id of their own and are always fetched.
//!
//! Invariant: a file keeps its name only while it is all old or all new. A small one that differs is made anew beside the old
//! one; a large one loses its name while it is changed in place. What has other names too is never changed, because they may
//! lie outside the target.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::Stat;

use super::content::Content;
use super::fetch::Fetcher;
use super::target::Target;
use super::window::{Destination, Window, WindowFile, Zeros};
use super::write::{Base, Found};
use crate::PipelineError;
use crate::progress::Kind;

/// Files of at least this size are changed in place: a second copy would take too much room and time.
const IN_PLACE: u64 = 64 << 20;

/// Bytes of zeros compared at once.
const PIECE: usize = 64 << 10;

/// Compares a window with what lies in the target, and prepares the files that differ.
pub(crate) async fn compare(fetcher: &Fetcher, window: Window) -> Result<(Window, Vec<Base>), PipelineError> {
    let window = Arc::new(window);
    let next = Arc::new(AtomicUsize::new(0));
    let largest = window.destinations.iter().map(|one| u64::from(one.location.plain)).max().unwrap_or(0);
    let lanes = (0..fetcher.lanes.max(1)).map(|_| {
        let (window, next, fetcher) = (Arc::clone(&window), Arc::clone(&next), fetcher.clone());
        async move {
            let permit = fetcher.budget.acquire(largest + PIECE as u64).await;
            let work = fetcher.clone();
            let lane = fetcher.blocking(move || {
                let mut done = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = window.files.get(index) else { return Ok(done) };
                    if work.cancel.is_cancelled() {
                        return Err(PipelineError::Cancelled);
                    }
                    let part = Part {
                        file,
                        destinations: window.destinations.get(file.destinations.clone()).unwrap_or_default(),
                        zeros: window.zeros.get(file.zeros.clone()).unwrap_or_default(),
                        target: &work.target,
                        content: &work.content,
                    };
                    let base = part.prepare()?;
                    let kept = part.destinations.iter().zip(&base.kept).filter(|(_, kept)| **kept);
                    work.done(kept.map(|(one, _)| u64::from(one.length)).sum(), Kind::Unchanged);
                    done.push((index, base));
                }
            });
            let done = lane.await;
            drop(permit);
            done
        }
    });
    let done = futures::future::try_join_all(lanes).await?;
    let mut bases: Vec<Base> = vec![Base::default(); window.files.len()];
    for (index, base) in done.into_iter().flatten() {
        if let Some(slot) = bases.get_mut(index) {
            *slot = base;
        }
    }
    let window = Arc::try_unwrap(window);
    let window = window.map_err(|_| PipelineError::Defect("a window is still compared".to_owned()))?;
    Ok((window, bases))
}

/// How much of a file is there, without changing anything.
pub(crate) struct Compared {
    pub(crate) kept: Vec<bool>,
    /// Every byte, its size included.
    pub(crate) whole: bool,
}

/// The part of a file that lies in one window.
pub(crate) struct Part<'a> {
    pub(crate) file: &'a WindowFile,
    pub(crate) destinations: &'a [Destination],
    pub(crate) zeros: &'a [Zeros],
    pub(crate) target: &'a Target,
    pub(crate) content: &'a Content,
}

impl Part<'_> {
    /// Compares with the unfinished file, or with the old one.
    pub(crate) fn look(&self) -> Result<Compared, PipelineError> {
        let (parent, name) = self.target.parent_of(&self.file.path)?;
        let working = self.target.working_name(&self.file.path);
        let mut kept = vec![false; self.destinations.len()];
        let mut buffer = Vec::new();
        let unfinished = self.target.open_old(&parent, &working)?;
        let old = self.target.open_old(&parent, &name)?;
        for file in unfinished.iter().chain(&old) {
            for (slot, destination) in kept.iter_mut().zip(self.destinations).filter(|(slot, _)| !**slot) {
                *slot = self.has(&file.0, destination, &mut buffer);
            }
        }
        let fits = old.as_ref().is_some_and(|(file, stat)| {
            stat.st_size.cast_unsigned() == self.file.size && self.zeros.iter().all(|zeros| is_zero(file, *zeros))
        });
        let whole = unfinished.is_none() && fits && kept.iter().all(|kept| *kept);
        Ok(Compared { kept, whole })
    }

    /// Compares, and makes the unfinished file wherever something has to be written.
    fn prepare(&self) -> Result<Base, PipelineError> {
        let (parent, name) = self.target.parent_of(&self.file.path)?;
        let working = self.target.working_name(&self.file.path);
        let mut buffer = Vec::new();
        let old = self.target.open_old(&parent, &name)?;
        if let Some(unfinished) = self.target.open_working(&parent, &working, &self.file.path)? {
            let mut kept = Vec::with_capacity(self.destinations.len());
            for destination in self.destinations {
                let there = self.has(&unfinished, destination, &mut buffer)
                    || self.copy(old.as_ref().map(|(file, _)| file), &unfinished, destination, &mut buffer)?;
                kept.push(there);
            }
            self.zero(&unfinished)?;
            return Ok(Base { state: Found::Unfinished, kept });
        }
        let Some((old, stat)) = old else { return Ok(Base { state: Found::Nothing, kept: self.none() }) };
        let mut kept: Vec<bool> =
            self.destinations.iter().map(|destination| self.has(&old, destination, &mut buffer)).collect();
        let size_fits = !self.file.complete || stat.st_size.cast_unsigned() == self.file.size;
        let zeros_fit = self.zeros.iter().all(|zeros| is_zero(&old, *zeros));
        if size_fits && zeros_fit && kept.iter().all(|kept| *kept) {
            let fits = !self.file.complete || self.target.dresser.fits(&old, &stat, &self.file.metadata);
            if fits {
                return Ok(Base { state: Found::Whole, kept });
            }
            if stat.st_nlink == 1 && self.file.begins && !self.file.last {
                return self.dress(&old, kept);
            }
        }
        if self.may_change(&stat) {
            // It has no name of its own while it is neither old nor new.
            self.target.rename_at(&parent, &name, &working, &self.file.path)?;
            if let Some(unfinished) = self.target.open_working(&parent, &working, &self.file.path)? {
                self.private(&unfinished)?;
                self.zero(&unfinished)?;
                return Ok(Base { state: Found::Unfinished, kept });
            }
            return Ok(Base { state: Found::Nothing, kept: self.none() });
        }
        let made = self.target.create_file(&parent, &working, &self.file.path)?;
        made.set_len(self.file.size).map_err(|error| self.failed("setting the size of", error))?;
        self.copy_before(&old, &made)?;
        for (slot, destination) in kept.iter_mut().zip(self.destinations) {
            // Read again, so that what is written is what was compared.
            *slot = *slot && self.copy(Some(&old), &made, destination, &mut buffer)?;
        }
        Ok(Base { state: Found::Unfinished, kept })
    }

    /// All content is right, and the attributes are not.
    fn dress(&self, old: &File, kept: Vec<bool>) -> Result<Base, PipelineError> {
        let dressed = self.target.dresser.open(&self.file.path, old, &self.file.metadata, false);
        dressed.map_err(|error| self.target.failed("setting the attributes of", &self.file.path, error))?;
        Ok(Base { state: Found::Whole, kept })
    }

    /// Whether the old file may become the new one: a large one that has no other name, or one of which earlier windows have
    /// kept a part.
    fn may_change(&self, stat: &Stat) -> bool {
        let large = self.file.size >= IN_PLACE || !self.file.begins;
        stat.st_nlink == 1 && large && (stat.st_mode & 0o600 == 0o600 || rustix::process::geteuid().is_root())
    }

    /// What is half written is nobody else's business.
    fn private(&self, file: &File) -> Result<(), PipelineError> {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::fchmod(file, mode)
            .map_err(|error| self.target.failed("changing the mode of", &self.file.path, error))
    }

    /// Whether the bytes of the destination lie in `file`.
    fn has(&self, file: &File, destination: &Destination, buffer: &mut Vec<u8>) -> bool {
        if !destination.whole {
            return false;
        }
        buffer.resize(destination.length as usize, 0);
        file.read_exact_at(buffer, destination.offset).is_ok()
            && self.content.id(destination.class, buffer) == destination.location.id
    }

    /// Copies the bytes of the destination, when `from` has them.
    fn copy(
        &self,
        from: Option<&File>,
        to: &File,
        destination: &Destination,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, PipelineError> {
        let there = from.is_some_and(|from| self.has(from, destination, buffer));
        if there {
            to.write_all_at(buffer, destination.offset).map_err(|error| self.failed("writing", error))?;
        }
        Ok(there)
    }

    /// Copies what earlier windows have found right in a file that must not be changed.
    fn copy_before(&self, old: &File, made: &File) -> Result<(), PipelineError> {
        if self.file.begins {
            return Ok(());
        }
        let first = self.destinations.iter().map(|one| one.offset);
        let first = first.chain(self.zeros.iter().map(|zeros| zeros.offset)).min().unwrap_or(self.file.size);
        let mut buffer = vec![0; PIECE];
        let mut offset = 0;
        while offset < first {
            let length = usize::try_from(first - offset).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            old.read_exact_at(piece, offset).map_err(|error| self.failed("reading", error))?;
            if piece.iter().any(|byte| *byte != 0) {
                made.write_all_at(piece, offset).map_err(|error| self.failed("writing", error))?;
            }
            offset += length as u64;
        }
        Ok(())
    }

    /// Makes zeros of what must be zeros.
    fn zero(&self, file: &File) -> Result<(), PipelineError> {
        for zeros in self.zeros.iter().filter(|zeros| !is_zero(file, **zeros)) {
            let size = file.metadata().map_err(|error| self.failed("looking at", error))?.len();
            let end = (zeros.offset + zeros.length).min(size);
            let blank = vec![0; PIECE];
            let mut offset = zeros.offset;
            while offset < end {
                let length = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
                let written = file.write_all_at(blank.get(..length).unwrap_or_default(), offset);
                written.map_err(|error| self.failed("writing", error))?;
                offset += length as u64;
            }
        }
        Ok(())
    }

    fn none(&self) -> Vec<bool> {
        vec![false; self.destinations.len()]
    }

    fn failed(&self, doing: &str, error: std::io::Error) -> PipelineError {
        PipelineError::io(format!("{doing} {}", self.target.shown(&self.file.path)), error)
    }
}

/// Whether a stretch of a file reads as zeros; what lies beyond its end will, once it is long enough.
fn is_zero(file: &File, zeros: Zeros) -> bool {
    let mut buffer = vec![0; PIECE];
    let (mut offset, end) = (zeros.offset, zeros.offset + zeros.length);
    while offset < end {
        let length = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        match file.read_at(piece, offset) {
            Ok(0) => return true,
            Ok(read) if piece.get(..read).is_some_and(|piece| piece.iter().all(|byte| *byte == 0)) => {
                offset += read as u64;
            }
            _ => return false,
        }
    }
    true
}

/// Takes the names of files that come last from what lies there, before anything else changes: half a restore must not be
/// startable. They are compared all the same, under the name of unfinished files.
pub(crate) fn put_away(target: &Target, paths: &[Vec<u8>]) -> Result<(), PipelineError> {
    for path in paths {
        // Where even the directory is not there, nothing has to be put away.
        let Ok((parent, name)) = target.parent_of(path) else { continue };
        let working = target.working_name(path);
        let parent: &OwnedFd = &parent;
        if target.stat(parent, &name)?.is_some() {
            if target.stat(parent, &working)?.is_some() {
                let removed = rustix::fs::unlinkat(parent, &name, rustix::fs::AtFlags::empty());
                removed.map_err(|error| target.failed("putting away", path, error))?;
            } else {
                target.rename_at(parent, &name, &working, path)?;
            }
            rustix::fs::fsync(parent).map_err(|error| target.failed("syncing the directory of", path, error))?;
        }
    }
    Ok(())
}
