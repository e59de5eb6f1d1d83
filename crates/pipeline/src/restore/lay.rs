//! Lays a tree: directories and files window by window, then links and devices, attributes of directories, and the entries
//! that come last.
//!
//! Invariant: entries marked `last` get their right name only after everything else is complete and on the disk. The mark of
//! incompleteness is not taken away here: what was laid may still have to be recovered.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use breakwater_repository::format::tree::{LeafRef, TreeEntry, TreeKind, extent_count};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::attributes::Metadata;
use super::extra::{self, Sweep};
use super::fetch::{Fetcher, whole_class};
use super::special;
use super::survey::Survey;
use super::target::Target;
use super::window::Window;
use crate::PipelineError;
use crate::frames::{LeafReader, TreeReader, leaves_of};

/// Windows at work at once: the first ranges of one fill the gaps that the last of the other leave.
const AT_ONCE: usize = 2;

/// A tree being laid.
pub(crate) struct Laying {
    pub(crate) target: Arc<Target>,
    pub(crate) survey: Arc<Survey>,
    pub(crate) leaves: LeafReader,
    pub(crate) fetcher: Fetcher,
    /// What goes that the snapshot does not have.
    pub(crate) sweep: Option<Sweep>,
    pub(crate) window: Window,
    pub(crate) directories: Vec<(Vec<u8>, Metadata)>,
    /// The windows that are being restored while the next one is read.
    pub(crate) running: VecDeque<AbortOnDropHandle<Result<(), PipelineError>>>,
}

impl Laying {
    pub(crate) fn new(survey: Arc<Survey>, leaves: LeafReader, fetcher: Fetcher, sweep: Option<Sweep>) -> Laying {
        let target = Arc::clone(&fetcher.target);
        let (window, directories) = (Window::default(), Vec::new());
        Laying { target, survey, leaves, fetcher, sweep, window, directories, running: VecDeque::new() }
    }

    /// Lays everything that was chosen; `reader` reads the tree, `tree` makes more of its kind.
    pub(crate) async fn run(
        mut self,
        mut reader: TreeReader,
        tree: impl Fn() -> TreeReader,
    ) -> Result<(), PipelineError> {
        while let Some(mut entry) = reader.next().await? {
            if let Some(path) = self.survey.stand_ins.get(&entry.path) {
                entry.path.clone_from(path);
                self.entry(entry, &reader).await?;
            } else if self.survey.takes(&entry) {
                self.entry(entry, &reader).await?;
            }
        }
        self.restore_window().await?;
        self.wait_for(0).await?;
        if self.survey.specials > 0 {
            special::lay(&self.fetcher, &self.survey, tree()).await?;
        }
        if let Some(sweep) = self.sweep {
            extra::remove(&self.fetcher, &self.survey, sweep, tree()).await?;
        }
        self.end().await
    }

    /// Lays one entry; `reader` has what comes after it.
    async fn entry(&mut self, mut entry: TreeEntry, reader: &TreeReader) -> Result<(), PipelineError> {
        let metadata = Metadata::of(&mut entry);
        match entry.kind {
            TreeKind::Directory => {
                self.window.directories.push(entry.path.clone());
                self.fetcher.progress.entry(false);
                self.directories.push((entry.path, metadata));
                if self.window.is_full() {
                    self.restore_window().await?;
                }
            }
            TreeKind::File { size, extent, leaves } => {
                self.file(entry.path, metadata, entry.last, (size, extent), &leaves, reader).await?;
            }
            // These come when every file is there.
            TreeKind::Symlink { .. }
            | TreeKind::Hardlink { .. }
            | TreeKind::Fifo
            | TreeKind::Socket
            | TreeKind::CharDevice(_)
            | TreeKind::BlockDevice(_) => {}
        }
        Ok(())
    }

    async fn file(
        &mut self,
        path: Vec<u8>,
        metadata: Metadata,
        last: bool,
        (size, extent_size): (u64, u32),
        leaves: &[LeafRef],
        reader: &TreeReader,
    ) -> Result<(), PipelineError> {
        let bad = |what: &str| PipelineError::bad_tree(format!("`{}` {what}", path.escape_ascii()));
        let class = whole_class(extent_size);
        let count: u64 = match extent_size {
            0 => leaves.iter().map(|part| u64::from(part.count)).sum(),
            fixed => extent_count(size, fixed),
        };
        self.window.file(path.clone(), metadata.clone(), size, last, true);
        let (mut index, mut offset) = (0, 0);
        let mut parts = leaves.iter();
        while let Some(part) = parts.next() {
            let chosen = reader.at_hand().filter(|entry| self.survey.takes(entry));
            let next = parts.clone().chain(leaves_of(chosen));
            for extent in self.leaves.extents(part, next).await? {
                let length = u64::from(extent.plain());
                let fits = match extent_size {
                    0 => length > 0 && length <= size - offset,
                    fixed => length == (size - offset).min(u64::from(fixed)),
                };
                if index >= count || !fits {
                    return Err(bad(&format!("has an extent {index} that does not have the length that it needs")));
                }
                self.window.extent(offset, &extent, class);
                index += 1;
                offset += length;
            }
            if self.window.is_full() && index < count {
                self.restore_window().await?;
                self.window.file(path.clone(), metadata.clone(), size, last, false);
            }
        }
        if index < count || offset != size {
            return Err(bad("lacks extents"));
        }
        self.window.complete();
        if self.window.is_full() {
            self.restore_window().await?;
        }
        Ok(())
    }

    /// Starts the window that was collected. The one before it may still be at work, unless both write into one file, or what is
    /// there has to be looked at first.
    async fn restore_window(&mut self) -> Result<(), PipelineError> {
        let mut window = std::mem::take(&mut self.window);
        if window.is_empty() {
            return Ok(());
        }
        let beside = if window.stands_alone() && !self.target.existing { AT_ONCE - 1 } else { 0 };
        self.wait_for(beside).await?;
        let directories = std::mem::take(&mut window.directories);
        if !directories.is_empty() {
            let target = Arc::clone(&self.target);
            let create = move || directories.iter().try_for_each(|path| target.create_directory(path));
            self.fetcher.blocking(create).await?;
        }
        let fetcher = self.fetcher.clone();
        let running = tokio::spawn(async move { fetcher.restore(window).await }.in_current_span());
        self.running.push_back(AbortOnDropHandle::new(running));
        Ok(())
    }

    /// Waits until at most so many windows are at work, the oldest first.
    async fn wait_for(&mut self, left: usize) -> Result<(), PipelineError> {
        while self.running.len() > left {
            let Some(running) = self.running.pop_front() else { break };
            let ended = running.await;
            ended.unwrap_or_else(|error| Err(PipelineError::Defect(format!("a window of a restore: {error}"))))?;
        }
        Ok(())
    }

    async fn end(self) -> Result<(), PipelineError> {
        let Laying { target, directories, fetcher, .. } = self;
        let last = std::mem::take(&mut *fetcher.last.lock().unwrap_or_else(PoisonError::into_inner));
        let finish = move || {
            let parents: BTreeSet<&[u8]> = last.iter().map(|path| parent(path)).collect();
            // From the inside out, so that setting one does not touch the time of one that is done.
            let (late, early): (Vec<_>, Vec<_>) =
                directories.iter().rev().partition(|(path, _)| parents.contains(path.as_slice()));
            for (path, metadata) in early {
                target.finish_directory(path, metadata)?;
            }
            let synced = |error| PipelineError::io(format!("syncing {}", target.shown(b"")), error);
            target.durability.all().map_err(synced)?;
            for path in &last {
                let (directory, name) = target.parent_of(path)?;
                target.rename_at(&directory, &target.working_name(path), &name, path)?;
            }
            for (path, metadata) in late {
                target.finish_directory(path, metadata)?;
            }
            for path in parents {
                target.sync_directory(path)?;
            }
            target.durability.all().map_err(synced)?;
            target.sync_directory(b"")
        };
        fetcher.blocking(finish).await
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..at)).unwrap_or_default()
}

/// Refuses a target without room for `needed` bytes.
pub(crate) fn check_room(target: &Path, needed: u64) -> Result<(), PipelineError> {
    let free = Target::free_bytes(target)?;
    if free < needed { Err(PipelineError::NoRoom { target: target.to_owned(), needed, free }) } else { Ok(()) }
}
