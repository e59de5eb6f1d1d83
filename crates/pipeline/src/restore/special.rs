//! Links, pipes, sockets and devices: what is laid when every file is there.
//!
//! Invariant: a hard link is made to a file that this restore has laid, found beneath the target without following any link.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use breakwater_repository::format::tree::{TreeEntry, TreeKind};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::attributes::Metadata;
use super::fetch::Fetcher;
use super::survey::Survey;
use super::target::Target;
use crate::PipelineError;
use crate::frames::TreeReader;

/// Entries made in one go.
const BATCH: usize = 1024;

/// Lays all of the tree's links, pipes, sockets and devices that were chosen.
pub(crate) async fn lay(fetcher: &Fetcher, survey: &Arc<Survey>, mut tree: TreeReader) -> Result<(), PipelineError> {
    let mut batch = Vec::new();
    loop {
        let entry = tree.next().await?;
        let ended = entry.is_none();
        batch.extend(entry.filter(|entry| {
            let plain = matches!(entry.kind, TreeKind::File { .. } | TreeKind::Directory);
            !plain && survey.takes(entry)
        }));
        if ended || batch.len() >= BATCH {
            let (entries, work, survey) = (std::mem::take(&mut batch), fetcher.clone(), Arc::clone(survey));
            let laying = fetcher.blocking(move || {
                entries.into_iter().try_for_each(|entry| {
                    if work.cancel.is_cancelled() {
                        return Err(PipelineError::Cancelled);
                    }
                    one(&work.target, &survey, entry)?;
                    work.progress.entry(false);
                    Ok(())
                })
            });
            laying.await?;
        }
        if ended {
            return Ok(());
        }
    }
}

fn one(target: &Target, survey: &Survey, mut entry: TreeEntry) -> Result<(), PipelineError> {
    let metadata = Metadata::of(&mut entry);
    let path = &entry.path;
    let node = |kind: FileType, device: u64| {
        let made = target.create_named(path, Some((&metadata, true)), |parent, name| {
            rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
        });
        match made {
            Err(PipelineError::Io { source, .. }) if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                target.dresser.shortfalls.note("device not made (not permitted)", path);
                Ok(())
            }
            made => made,
        }
    };
    match &entry.kind {
        TreeKind::File { .. } | TreeKind::Directory => Ok(()),
        TreeKind::Symlink { target: to } => {
            let to = OsStr::from_bytes(to);
            target.create_named(path, Some((&metadata, false)), |parent, name| rustix::fs::symlinkat(to, parent, name))
        }
        TreeKind::Fifo => node(FileType::Fifo, 0),
        TreeKind::Socket => node(FileType::Socket, 0),
        TreeKind::CharDevice(number) => {
            node(FileType::CharacterDevice, rustix::fs::makedev(number.major, number.minor))
        }
        TreeKind::BlockDevice(number) => node(FileType::BlockDevice, rustix::fs::makedev(number.major, number.minor)),
        TreeKind::Hardlink { target: to } => hard_link(target, path, survey.stand_ins.get(to).unwrap_or(to)),
    }
}

fn hard_link(target: &Target, path: &[u8], to: &[u8]) -> Result<(), PipelineError> {
    if path == to {
        // It has the content itself.
        return Ok(());
    }
    let (from_directory, from_name) = target.parent_of(to)?;
    let found = target.stat(&from_directory, &from_name)?;
    let Some(found) = found.filter(|found| FileType::from_raw_mode(found.st_mode).is_file()) else {
        let (path, to) = (path.escape_ascii(), to.escape_ascii());
        return Err(PipelineError::bad_tree(format!("`{path}` is another name of `{to}`, which is no file here")));
    };
    let (directory, name) = target.parent_of(path)?;
    let same = target.stat(&directory, &name)?;
    if same.is_some_and(|same| (same.st_dev, same.st_ino) == (found.st_dev, found.st_ino)) {
        return Ok(());
    }
    // Without following: a link that was put in the place of the file just now is linked itself.
    target.create_named(path, None, |parent, name| {
        rustix::fs::linkat(&*from_directory, &from_name, parent, name, AtFlags::empty())
    })
}
