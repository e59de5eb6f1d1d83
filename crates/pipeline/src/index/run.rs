//! A sorted run on disk: pages of entries; pages of *fences*, which hold the first half of every page of entries; a filter. Of
//! the fences' pages the first halves are in memory, so that a lookup reads one page of fences and one of entries.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cache::Cache;
use super::entry::{ENTRY_LENGTH, Entry, Half, Packed};
use super::filter::{Filter, FilterWriter};
use super::page::{CONTENT, PAGE, Page, PageFile, PageWriter};

/// Entries of a page.
const ENTRIES: usize = CONTENT / ENTRY_LENGTH;

/// Fences of a page.
const FENCES: usize = CONTENT / size_of::<Half>();

/// Bytes that are read at once where a run is read whole.
const STRETCH: usize = 16 * PAGE;

#[derive(Debug)]
pub(super) struct Run {
    entries: u64,
    pages: PageFile,
    fences: PageFile,
    /// The first fence of each page of fences.
    top: Vec<Half>,
    filter: Filter,
    lost: AtomicBool,
}

impl Run {
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Reads nothing of it any more. Answers whether this was the first call.
    pub(super) fn give_up(&self) -> bool {
        !self.lost.swap(true, Ordering::Relaxed)
    }

    /// The place of the half, if it is in this run.
    pub(super) fn get(&self, half: &Half, cache: &Cache) -> io::Result<Option<Packed>> {
        if !self.filter.may_hold(half, cache)? {
            return Ok(None);
        }
        let Some(fence_page) = self.top.partition_point(|first| first <= half).checked_sub(1) else { return Ok(None) };
        let before = fence_page as u64 * FENCES as u64;
        let fences = usize::try_from(self.pages.pages - before).unwrap_or(usize::MAX).min(FENCES);
        let fence = cache.with(&self.fences, fence_page as u64, |page| {
            let (halves, _) = page.as_chunks::<16>();
            halves.get(..fences).unwrap_or_default().partition_point(|first| first <= half)
        })?;
        let Some(fence) = fence.checked_sub(1) else { return Ok(None) };
        let number = before + fence as u64;
        cache.with(&self.pages, number, |page| {
            let entries = entries(page, self.count(number));
            let at = entries.binary_search_by(|entry| entry[..16].cmp(half)).ok()?;
            entries.get(at).map(|entry| Entry::decode(entry).packed)
        })
    }

    /// All entries in order.
    pub(super) fn reader(&self) -> RunReader<'_> {
        RunReader { run: self, next_page: 0, stretch: vec![0; STRETCH], first_page: 0, loaded: 0, at: 0 }
    }

    /// Entries of a page.
    fn count(&self, page: u64) -> usize {
        usize::try_from(self.entries - page * ENTRIES as u64).unwrap_or(usize::MAX).min(ENTRIES)
    }
}

fn entries(page: &Page, count: usize) -> &[[u8; ENTRY_LENGTH]] {
    let (entries, _) = page.as_chunks::<ENTRY_LENGTH>();
    entries.get(..count).unwrap_or_default()
}

/// Reads a run from its beginning.
#[derive(Debug)]
pub(super) struct RunReader<'a> {
    run: &'a Run,
    /// The page behind the loaded ones.
    next_page: u64,
    stretch: Vec<u8>,
    first_page: u64,
    /// Pages loaded.
    loaded: usize,
    /// The entry among the loaded ones that comes next.
    at: usize,
}

impl RunReader<'_> {
    /// The next entry, or `None` behind the last.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        if self.at == self.loaded * ENTRIES {
            self.first_page = self.next_page;
            self.loaded = self.run.pages.read_many(self.next_page, &mut self.stretch)?;
            self.next_page += self.loaded as u64;
            self.at = 0;
        }
        let (pages, _) = self.stretch.as_chunks::<PAGE>();
        let page = self.at / ENTRIES;
        let Some(bytes) = pages.get(..self.loaded).and_then(|pages| pages.get(page)) else { return Ok(None) };
        let entry = entries(bytes, self.run.count(self.first_page + page as u64)).get(self.at % ENTRIES);
        // Only the last page may have fewer entries than others.
        self.at += 1;
        Ok(entry.map(Entry::decode))
    }
}

/// A run in the making.
#[derive(Debug)]
pub(super) struct RunWriter<'a> {
    dir: &'a Path,
    entries: u64,
    page: Vec<u8>,
    pages: PageWriter,
    fence_page: Vec<u8>,
    fences: PageWriter,
    top: Vec<Half>,
}

impl<'a> RunWriter<'a> {
    pub(super) fn new(dir: &'a Path) -> io::Result<RunWriter<'a>> {
        Ok(RunWriter {
            dir,
            entries: 0,
            page: Vec::with_capacity(CONTENT),
            pages: PageWriter::new(dir)?,
            fence_page: Vec::with_capacity(CONTENT),
            fences: PageWriter::new(dir)?,
            top: Vec::new(),
        })
    }

    /// Adds an entry; entries come in ascending order, none twice.
    pub(super) fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.page.len() == ENTRIES * ENTRY_LENGTH {
            self.pages.push(&self.page)?;
            self.page.clear();
        }
        if self.page.is_empty() {
            if self.fence_page.len() == FENCES * size_of::<Half>() {
                self.fences.push(&self.fence_page)?;
                self.fence_page.clear();
            }
            if self.fence_page.is_empty() {
                self.top.push(entry.half);
            }
            self.fence_page.extend_from_slice(&entry.half);
        }
        self.page.extend_from_slice(&entry.encode());
        self.entries += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Run> {
        if !self.page.is_empty() {
            self.pages.push(&self.page)?;
            self.fences.push(&self.fence_page)?;
        }
        let (pages, fences) = (self.pages.finish()?, self.fences.finish()?);
        // The number of keys is known only now, so they are read once more.
        let empty = FilterWriter::new(self.dir, 0)?.finish()?;
        let mut run =
            Run { entries: self.entries, pages, fences, top: self.top, filter: empty, lost: AtomicBool::new(false) };
        let mut filter = FilterWriter::new(self.dir, run.entries)?;
        let mut reader = run.reader();
        while let Some(entry) = reader.next()? {
            filter.push(&entry.half)?;
        }
        run.filter = filter.finish()?;
        Ok(run)
    }
}
