//! A filter beside each run: says of a half that it is not in the run, or that it may be.
//!
//! A Bloom filter whose keys are spread over pages by their first bytes. Runs are sorted, so the pages are made one after the
//! other in the memory of one page, however large the run is, and a question reads one page. (A binary fuse filter would be a
//! quarter smaller, but building one takes some thirty bytes of memory an entry, and a question reads three places.) At 12 bits
//! a key and 8 probes, 1 answer in 320 is a false "may be". Halves that are not as random as ids are only make it less sharp.

use std::io;
use std::path::Path;

use super::cache::Cache;
use super::entry::Half;
use super::page::{CONTENT, Page, PageFile, PageWriter};

const BITS: u64 = (CONTENT * 8) as u64;
const BITS_PER_KEY: u64 = 12;
const PROBES: u64 = 8;

#[derive(Debug)]
pub(super) struct Filter {
    pages: PageFile,
}

impl Filter {
    /// Whether the half may be among the keys.
    pub(super) fn may_hold(&self, half: &Half, cache: &Cache) -> io::Result<bool> {
        cache.with(&self.pages, page_of(half, self.pages.pages), |page: &Page| {
            probes(half).all(|(byte, bit)| page.get(byte).is_some_and(|found| found & bit != 0))
        })
    }
}

/// A filter in the making.
#[derive(Debug)]
pub(super) struct FilterWriter {
    writer: PageWriter,
    /// Pages that it will have.
    pages: u64,
    /// The page that is being filled.
    current: u64,
    content: Box<[u8; CONTENT]>,
}

impl FilterWriter {
    /// For `keys` keys.
    pub(super) fn new(dir: &Path, keys: u64) -> io::Result<FilterWriter> {
        let pages = (keys * BITS_PER_KEY).div_ceil(BITS).max(1);
        Ok(FilterWriter { writer: PageWriter::new(dir)?, pages, current: 0, content: Box::new([0; CONTENT]) })
    }

    /// Adds a key; keys come in ascending order.
    pub(super) fn push(&mut self, half: &Half) -> io::Result<()> {
        self.fill_up_to(page_of(half, self.pages))?;
        for (byte, bit) in probes(half) {
            if let Some(found) = self.content.get_mut(byte) {
                *found |= bit;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Filter> {
        self.fill_up_to(self.pages)?;
        Ok(Filter { pages: self.writer.finish()? })
    }

    fn fill_up_to(&mut self, page: u64) -> io::Result<()> {
        while self.current < page {
            self.writer.push(&*self.content)?;
            self.content.fill(0);
            self.current += 1;
        }
        Ok(())
    }
}

/// The page of a key among `pages`: in the order of the keys.
fn page_of(half: &Half, pages: u64) -> u64 {
    let (high, _) = words(half);
    u64::try_from((u128::from(high) * u128::from(pages)) >> 64).expect("less than the number of pages")
}

/// Bytes and bits that a key has in its page.
fn probes(half: &Half) -> impl Iterator<Item = (usize, u8)> {
    let (_, low) = words(half);
    let (start, step) = (low >> 32, low & 0xffff_ffff | 1);
    (0..PROBES).map(move |probe| {
        let spread = (start + probe * step) & 0xffff_ffff;
        let bit = (spread * BITS) >> 32;
        ((bit / 8) as usize, 1 << (bit % 8))
    })
}

fn words(half: &Half) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *half;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_denied_and_few_others_pass() {
        let dir = tempfile::tempdir().unwrap();
        let half = |n: u32| -> Half { breakwater_crypto::sha256(&n.to_le_bytes())[..16].try_into().unwrap() };
        let mut keys: Vec<Half> = (0..20_000).map(half).collect();
        keys.sort_unstable();
        let mut writer = FilterWriter::new(dir.path(), keys.len() as u64).unwrap();
        keys.iter().for_each(|key| writer.push(key).unwrap());
        let filter = writer.finish().unwrap();
        let cache = Cache::new(1 << 20);
        assert!(keys.iter().all(|key| filter.may_hold(key, &cache).unwrap()));
        let passed = (20_000..60_000).filter(|n| filter.may_hold(&half(*n), &cache).unwrap()).count();
        assert!(passed < 40_000 / 200, "{passed} of 40000 pass");
    }
}
