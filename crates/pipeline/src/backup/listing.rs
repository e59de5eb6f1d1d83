//! Turns the engine's entries into work, with what the base holds at their place: small entries in batches, large files in
//! stretches.

use std::ops::Range;
use std::sync::Arc;

use breakwater_engine::{BackupSession, ChangedPages, Chunking, Entry, EntryKind};
use breakwater_repository::format::leaf::{EXTENTS_MAX, Extent};
use breakwater_repository::format::tree::TreeKind;
use tokio::sync::mpsc;

use super::base::{Base, BaseFile};
use super::work::{Content, Item, Large, Meta, MetaKind, Mode, Run, SEGMENT, Work};
use super::worker::Context;
use crate::PipelineError;

/// Entries asked of the engine at once.
const ENTRIES: usize = 1024;

/// A file of extents up to this size is done in one go.
const SMALL: u64 = 1 << 20;

/// A batch ends when it weighs this much.
const BATCH: u64 = 1 << 20;

/// What an entry weighs beside the bytes that are to be read of it.
const ENTRY_WEIGHT: u64 = 2 << 10;

/// Makes work of entries.
pub(crate) struct Listing<'a> {
    context: &'a Context,
    base: &'a mut Base,
    queue: mpsc::Sender<Work>,
    batch: Vec<Item>,
    weight: u64,
}

/// Nobody takes from the queue any more; whoever stopped taking knows why.
pub(crate) struct NobodyTakes;

impl<'a> Listing<'a> {
    pub(crate) fn new(context: &'a Context, base: &'a mut Base, queue: mpsc::Sender<Work>) -> Self {
        Listing { context, base, queue, batch: Vec::new(), weight: 0 }
    }

    /// Puts every entry of the engine into the queue, and has the engine list on meanwhile. Ends early, without an error, when
    /// nobody takes from it any more.
    pub(crate) async fn list(mut self, engine: &mut dyn BackupSession) -> Result<(), PipelineError> {
        let context = self.context;
        let mut entries = Vec::new();
        loop {
            let listing = async {
                tokio::join!(biased; engine.next_entries(ENTRIES), self.entries(std::mem::take(&mut entries)))
            };
            let (next, taken) = tokio::select! {
                biased;
                () = context.stop.set() => return Err(PipelineError::Cancelled),
                listed = listing => listed,
            };
            entries = next.map_err(PipelineError::engine("listing the source's entries"))?;
            if taken.is_err() {
                return Ok(());
            }
            if entries.is_empty() {
                drop(self.flush().await);
                return Ok(());
            }
        }
    }

    /// Puts these entries into the queue.
    pub(crate) async fn all(mut self, entries: Vec<Entry>) {
        if self.entries(entries).await.is_ok() {
            drop(self.flush().await);
        }
    }

    async fn entries(&mut self, entries: Vec<Entry>) -> Result<(), NobodyTakes> {
        for entry in entries {
            self.entry(entry).await?;
        }
        Ok(())
    }

    async fn entry(&mut self, entry: Entry) -> Result<(), NobodyTakes> {
        let Entry { path, kind, mode, uid, gid, mtime, last, attributes, stamp, tolerant } = entry;
        let sparse = attributes.sparse;
        let meta = |path, kind| Meta { path, mode, uid, gid, mtime, last, attributes, stamp, tolerant, kind };
        let other = match kind {
            EntryKind::File { size, reader, chunking, changed } => {
                let content = Content {
                    reader,
                    listed: size,
                    chunking,
                    sparse,
                    changed,
                    kept: false,
                    base: Vec::new(),
                    base_leaves: Vec::new(),
                };
                return self.file(meta(path, MetaKind::File), content).await;
            }
            EntryKind::Directory => TreeKind::Directory,
            EntryKind::Symlink { target } => TreeKind::Symlink { target },
            EntryKind::Hardlink { target } => TreeKind::Hardlink { target },
            EntryKind::Fifo => TreeKind::Fifo,
            EntryKind::Socket => TreeKind::Socket,
            EntryKind::CharDevice(number) => TreeKind::CharDevice(number),
            EntryKind::BlockDevice(number) => TreeKind::BlockDevice(number),
        };
        self.push(Item { meta: meta(path, MetaKind::Other(other)), content: None }, 0).await
    }

    async fn file(&mut self, mut meta: Meta, mut content: Content) -> Result<(), NobodyTakes> {
        let chunked = content.chunking == Chunking::ContentDefined;
        let extent_size = if chunked { 0 } else { self.context.extent_size };
        let mut in_base = self.base.file(&meta.path, extent_size).await;
        content.kept = in_base.as_ref().is_some_and(|file| {
            file.stamp.is_some() && file.stamp == meta.stamp && !file.changed && file.size == content.listed
        });
        if let Some(file) = in_base.as_mut().filter(|_| content.kept && meta.attributes.xattrs.is_empty()) {
            // The stamp stands for them too.
            meta.attributes.xattrs = std::mem::take(&mut file.xattrs);
        }
        if content.kept && content.listed == 0 {
            in_base = None;
        }
        self.context.progress.expect(content.listed);
        let base_count = in_base.as_ref().map_or(0, BaseFile::extents);
        let small = match content.kept {
            true => base_count <= EXTENTS_MAX as u64,
            false => content.listed <= if chunked { SEGMENT } else { SMALL },
        };
        if !small {
            return self.large(meta, content, in_base).await;
        }
        if let Some(file) = &mut in_base {
            // Chunks of a changed file are found by their names, wherever they were.
            if content.kept || !chunked {
                (content.base, content.base_leaves) = self.base.extents(file, base_count).await;
                // A base that could not be read after all keeps nothing.
                content.kept &= plain_of(&content.base) == content.listed;
            } else {
                content.base_leaves = file.leaves();
            }
        }
        if chunked && !content.kept {
            self.context.know_the_base().await;
        }
        let weight = if content.kept { content.base.len() as u64 * 128 } else { content.listed };
        self.push(Item { meta, content: Some(content) }, weight).await
    }

    async fn large(&mut self, meta: Meta, content: Content, in_base: Option<BaseFile>) -> Result<(), NobodyTakes> {
        self.flush().await?;
        if content.chunking == Chunking::ContentDefined && !content.kept {
            self.context.know_the_base().await;
        }
        let stretches = self.stretches(&content, in_base.as_ref());
        let claims = match (&content.changed, content.kept, content.chunking) {
            (None, false, Chunking::Extents) => content.listed.div_ceil(self.context.extent_size.into()),
            _ => stretches.len() as u64,
        };
        let file = Arc::new(Large::new(&meta.path, &content, meta.tolerant, claims));
        self.send(Work::Begin(meta, Arc::clone(&file))).await?;
        let mut in_base = in_base;
        for (first, count, mode) in stretches {
            let (base, base_leaves) = match &mut in_base {
                Some(known) if content.kept || content.chunking == Chunking::Extents => {
                    self.base.extents(known, count).await
                }
                Some(known) => (Vec::new(), known.leaves()),
                None => Default::default(),
            };
            let run = Run { file: Arc::clone(&file), first, count, mode, base, base_leaves };
            self.send(Work::Run(run)).await?;
        }
        Ok(())
    }

    /// First extent, number of extents and mode of each stretch of a large file.
    fn stretches(&self, content: &Content, in_base: Option<&BaseFile>) -> Vec<(u64, u64, Mode)> {
        let most = EXTENTS_MAX as u64;
        let cut =
            |extents: u64| (0..extents).step_by(EXTENTS_MAX).map(move |first| (first, (extents - first).min(most)));
        if let (true, Some(file)) = (content.kept, in_base) {
            return cut(file.extents()).map(|(first, count)| (first, count, Mode::Kept)).collect();
        }
        if content.chunking == Chunking::ContentDefined {
            let segments = content.listed.div_ceil(SEGMENT);
            let range = |number: u64| number * SEGMENT..((number + 1) * SEGMENT).min(content.listed);
            return (0..segments).map(|number| (number, 1, Mode::Chunks(range(number)))).collect();
        }
        let extent = u64::from(self.context.extent_size.max(1));
        let extents = content.listed.div_ceil(extent);
        let mode = |first: u64, count: u64| match &content.changed {
            None => Mode::Extents,
            Some(changed) => {
                Mode::Pages(changed_bytes(changed, first * extent..((first + count) * extent).min(content.listed)))
            }
        };
        cut(extents).map(|(first, count)| (first, count, mode(first, count))).collect()
    }

    async fn push(&mut self, item: Item, weight: u64) -> Result<(), NobodyTakes> {
        self.batch.push(item);
        self.weight += ENTRY_WEIGHT + weight;
        if self.weight >= BATCH { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), NobodyTakes> {
        self.weight = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.send(Work::Batch(batch)).await
    }

    async fn send(&self, work: Work) -> Result<(), NobodyTakes> {
        self.queue.send(work).await.map_err(|_| NobodyTakes)
    }
}

/// The bytes of `within` that lie in changed pages, ascending, joined where they touch.
pub(crate) fn changed_bytes(changed: &ChangedPages, within: Range<u64>) -> Vec<Range<u64>> {
    let page = u64::from(changed.page_size.max(1));
    let first = changed.ranges.partition_point(|range| range.end.saturating_mul(page) <= within.start);
    let mut bytes: Vec<Range<u64>> = Vec::new();
    for range in changed.ranges.get(first..).unwrap_or_default() {
        let (start, end) = (range.start.saturating_mul(page), range.end.saturating_mul(page));
        let part = start.max(within.start)..end.min(within.end);
        if part.is_empty() {
            if start >= within.end {
                break;
            }
            continue;
        }
        match bytes.last_mut() {
            Some(last) if last.end >= part.start => last.end = last.end.max(part.end),
            _ => bytes.push(part),
        }
    }
    bytes
}

/// Bytes of extents.
pub(crate) fn plain_of(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.plain())).sum()
}
