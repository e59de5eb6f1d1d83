//! Lays a tree: directories and empty files first, content window by window, then links, attributes, and the entries that
//! come last.
//!
//! Invariant: entries marked `last` get their right name only after everything else is complete and on the disk. The mark of
//! incompleteness is not taken away here: what was laid may still have to be recovered.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use breakwater_repository::format::tree::{LeafRef, TreeEntry, TreeKind, extent_count};

use super::fetch::Fetcher;
use super::survey::Survey;
use super::target::{Attributes, Target};
use super::window::Window;
use crate::PipelineError;
use crate::frames::{LeafReader, TreeReader};

/// A tree being laid.
pub(crate) struct Laying {
    pub(crate) target: Arc<Target>,
    pub(crate) survey: Survey,
    pub(crate) leaves: LeafReader,
    pub(crate) fetcher: Fetcher,
    /// Owners are set only where we may.
    pub(crate) owners: bool,
    window: Window,
    directories: Vec<(Vec<u8>, Attributes)>,
    links: Vec<(Vec<u8>, Vec<u8>, Attributes)>,
    /// Temporary name and right name.
    last: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Laying {
    pub(crate) fn new(
        target: Arc<Target>,
        survey: Survey,
        leaves: LeafReader,
        fetcher: Fetcher,
        owners: bool,
    ) -> Laying {
        Laying {
            target,
            survey,
            leaves,
            fetcher,
            owners,
            window: Window::default(),
            directories: Vec::new(),
            links: Vec::new(),
            last: Vec::new(),
        }
    }

    /// Lays everything that was chosen.
    pub(crate) async fn run(mut self, mut tree: TreeReader) -> Result<(), PipelineError> {
        while let Some(entry) = tree.next().await? {
            if self.survey.takes(&entry) {
                self.entry(entry).await?;
            }
        }
        self.restore_window().await?;
        self.end().await
    }

    async fn entry(&mut self, entry: TreeEntry) -> Result<(), PipelineError> {
        let owner = self.owners.then_some((entry.uid, entry.gid));
        let attributes = Attributes { mode: entry.mode, owner, mtime: entry.mtime };
        match entry.kind {
            TreeKind::Directory => {
                self.target.create_directory(&entry.path)?;
                self.fetcher.progress.entry(false);
                self.directories.push((entry.path, attributes));
            }
            TreeKind::Symlink { target } => {
                self.fetcher.progress.entry(false);
                self.links.push((entry.path, target, attributes));
            }
            TreeKind::File { size, extent, leaves } => {
                let path = if entry.last { self.temporary_name(entry.path) } else { entry.path };
                self.file(path, attributes, size, extent, &leaves).await?;
            }
            TreeKind::Hardlink { .. }
            | TreeKind::Fifo
            | TreeKind::Socket
            | TreeKind::CharDevice(_)
            | TreeKind::BlockDevice(_) => {
                let what = format!("`{}` is of a kind that this version cannot lay", entry.path.escape_ascii());
                return Err(PipelineError::bad_tree(what));
            }
        }
        Ok(())
    }

    /// A free name beside `path`, under which it waits for its turn.
    fn temporary_name(&mut self, path: Vec<u8>) -> Vec<u8> {
        let directory = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let mut waiting = path.get(..directory).unwrap_or_default().to_vec();
        waiting.extend_from_slice(format!(".restore-waiting-{}", self.last.len()).as_bytes());
        self.last.push((waiting.clone(), path));
        waiting
    }

    async fn file(
        &mut self,
        path: Vec<u8>,
        attributes: Attributes,
        size: u64,
        extent_size: u32,
        leaves: &[LeafRef],
    ) -> Result<(), PipelineError> {
        let file = self.target.create_file(&path)?;
        let sized = file.set_len(size);
        sized.map_err(|error| PipelineError::io(format!("setting the size of {}", self.target.shown(&path)), error))?;
        drop(file);
        self.window.file(path.clone(), attributes);
        let count = extent_count(size, extent_size);
        let mut index = 0;
        for part in leaves {
            for extent in self.leaves.extents(part).await? {
                let offset = index * u64::from(extent_size);
                let length = size.saturating_sub(offset).min(u64::from(extent_size));
                if index >= count || u64::from(extent.plain()) != length {
                    let what = format!(
                        "extent {index} of `{}` does not have the length that its file needs",
                        path.escape_ascii()
                    );
                    return Err(PipelineError::bad_tree(what));
                }
                self.window.extent(offset, &extent)?;
                index += 1;
            }
            if self.window.is_full() && index < count {
                self.restore_window().await?;
                self.window.file(path.clone(), attributes);
            }
        }
        if index < count {
            return Err(PipelineError::bad_tree(format!("`{}` lacks extents", path.escape_ascii())));
        }
        self.window.complete();
        if self.window.is_full() {
            self.restore_window().await?;
        }
        Ok(())
    }

    async fn restore_window(&mut self) -> Result<(), PipelineError> {
        let window = std::mem::take(&mut self.window);
        if window.is_empty() { Ok(()) } else { self.fetcher.restore(window).await }
    }

    async fn end(self) -> Result<(), PipelineError> {
        let Laying { target, directories, links, last, fetcher, .. } = self;
        let finish = move || {
            for (path, link, attributes) in &links {
                target.create_symlink(path, link, *attributes)?;
            }
            let parents: BTreeSet<&[u8]> = last.iter().map(|(_, path)| parent(path)).collect();
            // From the inside out, so that setting one does not touch the time of one that is done.
            let (late, early): (Vec<_>, Vec<_>) =
                directories.iter().rev().partition(|(path, _)| parents.contains(path.as_slice()));
            for (path, attributes) in early {
                target.finish_directory(path, *attributes)?;
            }
            for (path, _) in &late {
                target.sync_directory(path)?;
            }
            target.sync_root()?;
            for (waiting, path) in &last {
                target.rename(waiting, path)?;
            }
            for (path, attributes) in late {
                target.finish_directory(path, *attributes)?;
            }
            Ok(())
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
