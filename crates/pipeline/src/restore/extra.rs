//! What lies in the target and not in the snapshot: left alone, or removed on request. Unfinished files that an interrupted
//! restore has left are removed either way.
//!
//! Invariant: what is removed lies beneath the target, reached without following any link, on the file system that its
//! directory is on; a mount point and what is in it stay.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use breakwater_repository::format::tree::TreeKind;
use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use super::fetch::Fetcher;
use super::marker::MARKER;
use super::survey::Survey;
use super::target::{Target, is_working_name, open_beneath};
use crate::PipelineError;
use crate::frames::TreeReader;

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// Unfinished files that nobody finishes any more.
    Unfinished,
    /// Those, and all that the snapshot does not have.
    Everything,
}

/// Removes what is not in the tree. Both come in path order, so neither is held in memory.
pub(crate) async fn remove(
    fetcher: &Fetcher,
    survey: &Survey,
    sweep: Sweep,
    mut tree: TreeReader,
) -> Result<(), PipelineError> {
    let target = std::sync::Arc::clone(&fetcher.target);
    let mut walk = Walk::new(target);
    let mut wanted: Option<(Vec<u8>, bool)> = None;
    let mut ended = false;
    loop {
        let here = fetcher.blocking(move || {
            let next = walk.next()?;
            Ok((walk, next))
        });
        let next;
        (walk, next) = here.await?;
        let Some((path, is_directory)) = next else { return Ok(()) };
        if fetcher.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        while !ended && wanted.as_ref().is_none_or(|(wanted, _)| *wanted < path) {
            match tree.next().await? {
                None => ended = true,
                Some(entry) if survey.takes(&entry) => {
                    wanted = Some((entry.path, entry.kind == TreeKind::Directory));
                }
                Some(_) => {}
            }
        }
        let kept = !ended && wanted.as_ref().is_some_and(|(wanted, _)| *wanted == path);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // Those that get their names last are unfinished still.
        let waits = is_working_name(name) && {
            let last = fetcher.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            last.iter().any(|path| fetcher.target.working_name(path).as_bytes() == name)
        };
        let goes = match sweep {
            Sweep::Everything => !kept && !waits,
            Sweep::Unfinished => is_working_name(name) && !waits && !is_directory,
        };
        let stays = path == MARKER.as_bytes() || !goes;
        let here = fetcher.blocking(move || {
            match (stays, is_directory) {
                (true, true) => walk.enter(&path)?,
                (true, false) => {}
                (false, _) => walk.take_away(&path)?,
            }
            Ok(walk)
        });
        walk = here.await?;
    }
}

/// What lies in the target, in the order of whole paths.
struct Walk {
    target: std::sync::Arc<Target>,
    waiting: BinaryHeap<Reverse<(Vec<u8>, bool)>>,
    begun: bool,
}

impl Walk {
    fn new(target: std::sync::Arc<Target>) -> Walk {
        Walk { target, waiting: BinaryHeap::new(), begun: false }
    }

    /// The next path, and whether it is a directory.
    fn next(&mut self) -> Result<Option<(Vec<u8>, bool)>, PipelineError> {
        if !self.begun {
            self.begun = true;
            self.enter(b"")?;
        }
        Ok(self.waiting.pop().map(|Reverse(next)| next))
    }

    /// What is in the directory comes later.
    fn enter(&mut self, path: &[u8]) -> Result<(), PipelineError> {
        let failed = |error| self.target.failed("listing", path, error);
        let directory = open_beneath(&self.target.root, path).map_err(failed)?;
        for (name, stat) in list(&directory).map_err(failed)? {
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(&name);
            self.waiting.push(Reverse((below, FileType::from_raw_mode(stat.st_mode).is_dir())));
        }
        Ok(())
    }

    fn take_away(&self, path: &[u8]) -> Result<(), PipelineError> {
        let (parent, name) = self.target.parent_of(path)?;
        let failed = |error| self.target.failed("removing", path, error);
        let stat = rustix::fs::fstat(&*parent).map_err(failed)?;
        match remove_below(&parent, &name, stat.st_dev) {
            Ok(()) => Ok(()),
            Err(Errno::XDEV | Errno::BUSY) => {
                self.target.dresser.shortfalls.note("mount point not removed", path);
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Removes `name` and all that is in it.
pub(crate) fn remove_below(parent: &OwnedFd, name: &OsStr, device: u64) -> Result<(), Errno> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return rustix::fs::unlinkat(parent, name, AtFlags::empty());
    }
    if stat.st_dev != device {
        return Err(Errno::XDEV);
    }
    let directory = open_beneath(parent, name.as_bytes())?;
    for (name, _) in list(&directory)? {
        remove_below(&directory, OsStr::from_bytes(&name), device)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn list(directory: &OwnedFd) -> Result<Vec<(Vec<u8>, Stat)>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        match rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push((name.to_vec(), stat)),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
