//! Turns the engine's entries into work: metadata first, then runs of extents with what the base holds at their place.

use breakwater_engine::{BackupSession, Entry, EntryKind};
use breakwater_repository::format::leaf::EXTENTS_MAX;
use breakwater_repository::format::tree::TreeKind;
use tokio::sync::mpsc;

use super::base::{Base, BaseFile};
use super::work::{Meta, MetaKind, Run, Work};
use super::worker::Stop;
use crate::PipelineError;
use crate::progress::Progress;

/// Entries asked of the engine at once.
const BATCH: usize = 256;

/// Puts every entry of the engine into the queue. Ends early, without an error, when nobody takes from the queue any more:
/// whoever stopped taking knows why.
pub(crate) async fn list(
    engine: &mut dyn BackupSession,
    base: &mut Base,
    queue: &mpsc::Sender<Work>,
    extent_size: u32,
    progress: &Progress,
    stop: &Stop,
) -> Result<(), PipelineError> {
    loop {
        let entries = tokio::select! {
            biased;
            () = stop.set() => return Err(PipelineError::Cancelled),
            entries = engine.next_entries(BATCH) => entries.map_err(PipelineError::engine("listing the source's entries"))?,
        };
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if !enqueue(entry, base, queue, extent_size, progress).await {
                return Ok(());
            }
        }
    }
}

/// Puts one entry into the queue; false when nobody takes any more.
pub(crate) async fn enqueue(
    entry: Entry,
    base: &mut Base,
    queue: &mpsc::Sender<Work>,
    extent_size: u32,
    progress: &Progress,
) -> bool {
    let Entry { path, kind, mode, uid, gid, mtime, last, attributes, stamp, tolerant: _ } = entry;
    let (kind, content) = match kind {
        EntryKind::File { size, reader, .. } => (MetaKind::File { listed: size }, Some((size, reader))),
        EntryKind::Directory => (MetaKind::Other(TreeKind::Directory), None),
        EntryKind::Symlink { target } => (MetaKind::Other(TreeKind::Symlink { target }), None),
        EntryKind::Hardlink { target } => (MetaKind::Other(TreeKind::Hardlink { target }), None),
        EntryKind::Fifo => (MetaKind::Other(TreeKind::Fifo), None),
        EntryKind::Socket => (MetaKind::Other(TreeKind::Socket), None),
        EntryKind::CharDevice(number) => (MetaKind::Other(TreeKind::CharDevice(number)), None),
        EntryKind::BlockDevice(number) => (MetaKind::Other(TreeKind::BlockDevice(number)), None),
    };
    let mut in_base: Option<BaseFile> = base.file(&path).await;
    let shared: std::sync::Arc<[u8]> = path.as_slice().into();
    if queue.send(Work::Begin(Meta { path, mode, uid, gid, mtime, last, attributes, stamp, kind })).await.is_err() {
        return false;
    }
    let Some((listed, reader)) = content else { return true };
    progress.expect(listed);
    let extents = listed.div_ceil(u64::from(extent_size.max(1)));
    let mut first = 0;
    while first < extents {
        let count = (extents - first).min(EXTENTS_MAX as u64);
        let (base, base_leaves) = match &mut in_base {
            Some(file) => base.extents(file, count).await,
            None => Default::default(),
        };
        let (path, reader) = (std::sync::Arc::clone(&shared), std::sync::Arc::clone(&reader));
        let run = Run { path, reader, first, count, listed, base, base_leaves };
        if queue.send(Work::Run(run)).await.is_err() {
            return false;
        }
        first += count;
    }
    true
}
