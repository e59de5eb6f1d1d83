//! Files of pages. A page has 4 KiB: content, its own number, and a checksum, so that neither a flipped bit nor a page that
//! a disk delivers in place of another is ever believed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// Bytes of a page that are content.
pub(super) const CONTENT: usize = 4064;

const NUMBER_AT: usize = 4084;
const CHECKSUM_AT: usize = 4092;

/// Pages that are written at once.
const BATCH: usize = 32;

/// Tells files apart in the cache.
static FILES: AtomicU64 = AtomicU64::new(0);

/// The bytes of one page.
pub(super) type Page = [u8; PAGE];

/// A finished file of pages.
#[derive(Debug)]
pub(super) struct PageFile {
    file: File,
    pub(super) id: u64,
    pub(super) pages: u64,
}

impl PageFile {
    /// Reads and checks a page.
    pub(super) fn read(&self, number: u64, page: &mut Page) -> io::Result<()> {
        self.file.read_exact_at(page, number * PAGE as u64)?;
        check(number, page)
    }

    /// Reads and checks pages from `first` on, as many as fit into `pages` and are there; answers how many.
    pub(super) fn read_many(&self, first: u64, pages: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.pages.saturating_sub(first)).unwrap_or(usize::MAX);
        let count = (pages.len() / PAGE).min(left);
        let pages = pages.get_mut(..count * PAGE).unwrap_or_default();
        self.file.read_exact_at(pages, first * PAGE as u64)?;
        let (each, _) = pages.as_chunks::<PAGE>();
        each.iter().zip(first..).try_for_each(|(page, number)| check(number, page))?;
        Ok(count)
    }
}

fn check(number: u64, page: &Page) -> io::Result<()> {
    let (content, checksum) = page.split_at(CHECKSUM_AT);
    if crc32c::crc32c(content).to_le_bytes() != checksum || content[NUMBER_AT..] != number.to_le_bytes() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("page {number} is damaged")));
    }
    Ok(())
}

/// A file of pages that is being written, in a directory but without a name there.
#[derive(Debug)]
pub(super) struct PageWriter {
    file: File,
    pages: u64,
    batch: Vec<u8>,
}

impl PageWriter {
    pub(super) fn new(dir: &Path) -> io::Result<PageWriter> {
        Ok(PageWriter { file: tempfile::tempfile_in(dir)?, pages: 0, batch: Vec::with_capacity(BATCH * PAGE) })
    }

    /// Writes a page with this content, zeros behind it.
    pub(super) fn push(&mut self, content: &[u8]) -> io::Result<()> {
        let mut page = [0; PAGE];
        page[..content.len()].copy_from_slice(content);
        page[NUMBER_AT..CHECKSUM_AT].copy_from_slice(&self.pages.to_le_bytes());
        let checksum = crc32c::crc32c(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        self.batch.extend_from_slice(&page);
        self.pages += 1;
        if self.batch.len() >= BATCH * PAGE { self.write() } else { Ok(()) }
    }

    pub(super) fn finish(mut self) -> io::Result<PageFile> {
        self.write()?;
        Ok(PageFile { file: self.file, id: FILES.fetch_add(1, Ordering::Relaxed), pages: self.pages })
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.batch)?;
        self.batch.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_and_every_flipped_bit_and_swapped_page_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = PageWriter::new(dir.path()).unwrap();
        for number in 0..70_u8 {
            writer.push(&[number; CONTENT]).unwrap();
        }
        let pages = writer.finish().unwrap();
        let mut page = [0; PAGE];
        pages.read(69, &mut page).unwrap();
        assert_eq!(page[..CONTENT], [69; CONTENT]);
        assert!(pages.read(70, &mut page).is_err());
        let mut many = vec![0; 8 * PAGE];
        assert_eq!(pages.read_many(64, &mut many).unwrap(), 6);

        for byte in [0, CONTENT - 1, NUMBER_AT, CHECKSUM_AT, PAGE - 1] {
            pages.read(3, &mut page).unwrap();
            page[byte] ^= 16;
            pages.file.write_all_at(&page, 3 * PAGE as u64).unwrap();
            assert!(pages.read(3, &mut page).is_err(), "byte {byte}");
            assert!(pages.read_many(2, &mut many).is_err());
            page[byte] ^= 16;
            pages.file.write_all_at(&page, 3 * PAGE as u64).unwrap();
        }
        pages.read(3, &mut page).unwrap();
        pages.file.write_all_at(&page, 4 * PAGE as u64).unwrap();
        assert!(pages.read(4, &mut page).is_err(), "a page in another's place");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has a name");
    }
}
