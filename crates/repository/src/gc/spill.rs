//! Sorting more rows than memory holds: sorted runs in files without a name, merged when they are read.
//!
//! Invariants: memory stays below the limit that was given plus a small buffer a run; a row that was pushed many times
//! comes out once; the files are gone when the process is, however it ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read of a run at once.
const READ: usize = 64 << 10;
/// Runs merged at once.
const FAN_IN: usize = 64;

/// Rows of `N` bytes on their way into order. They sort as their bytes.
#[derive(Debug)]
pub struct Spill<const N: usize> {
    directory: PathBuf,
    rows: Vec<[u8; N]>,
    most: usize,
    runs: Vec<Run<N>>,
}

/// Rows in order, to be read as often as wanted.
#[derive(Clone, Debug)]
pub struct Sorted<const N: usize> {
    runs: Vec<Run<N>>,
}

/// One sorted file.
#[derive(Clone, Debug)]
struct Run<const N: usize> {
    file: Arc<File>,
    rows: u64,
}

/// Reads sorted rows.
#[derive(Debug)]
pub struct Rows<const N: usize> {
    runs: Vec<RunReader<N>>,
    heads: BinaryHeap<Reverse<([u8; N], usize)>>,
    begun: bool,
    last: Option<[u8; N]>,
}

#[derive(Debug)]
struct RunReader<const N: usize> {
    run: Run<N>,
    /// Rows read into `buffer` so far.
    read: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<const N: usize> Spill<N> {
    /// Keeps at most `memory` bytes of rows in memory, the rest in files in `directory`.
    pub fn new(directory: &Path, memory: usize) -> Self {
        Spill { directory: directory.to_owned(), rows: Vec::new(), most: (memory / N).max(16), runs: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: [u8; N]) -> io::Result<()> {
        // The same row often comes several times in a row.
        if self.rows.last() == Some(&row) {
            return Ok(());
        }
        self.rows.push(row);
        if self.rows.len() >= self.most {
            self.rows.sort_unstable();
            self.rows.dedup();
            // Where most rows came many times, they fit for a while yet.
            if self.rows.len() > self.most / 2 {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// All rows, in order.
    pub fn finish(mut self) -> io::Result<Sorted<N>> {
        self.rows.sort_unstable();
        self.rows.dedup();
        self.flush()?;
        Ok(Sorted { runs: self.runs })
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let run = write(&self.directory, rows.iter().map(|row| Ok(*row)))?;
        self.rows = rows;
        self.rows.clear();
        self.runs.push(run);
        if self.runs.len() >= FAN_IN {
            let runs = std::mem::take(&mut self.runs);
            let merged = write(&self.directory, Sorted { runs }.rows())?;
            self.runs.push(merged);
        }
        Ok(())
    }
}

fn write<const N: usize>(directory: &Path, rows: impl Iterator<Item = io::Result<[u8; N]>>) -> io::Result<Run<N>> {
    let file = tempfile::tempfile_in(directory)?;
    let mut output = io::BufWriter::with_capacity(1 << 18, &file);
    let mut count = 0;
    for row in rows {
        output.write_all(&row?)?;
        count += 1;
    }
    output.flush()?;
    drop(output);
    Ok(Run { file: Arc::new(file), rows: count })
}

impl<const N: usize> Sorted<N> {
    /// The rows from the first to the last, each once.
    pub fn rows(&self) -> Rows<N> {
        let reader = |run: &Run<N>| RunReader { run: run.clone(), read: 0, buffer: Vec::new(), at: 0 };
        Rows { runs: self.runs.iter().map(reader).collect(), heads: BinaryHeap::new(), begun: false, last: None }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl<const N: usize> Rows<N> {
    fn refill(&mut self, index: usize) -> io::Result<()> {
        if let Some(reader) = self.runs.get_mut(index)
            && let Some(row) = reader.next()?
        {
            self.heads.push(Reverse((row, index)));
        }
        Ok(())
    }

    fn advance(&mut self) -> io::Result<Option<[u8; N]>> {
        if !std::mem::replace(&mut self.begun, true) {
            for index in 0..self.runs.len() {
                self.refill(index)?;
            }
        }
        while let Some(Reverse((row, index))) = self.heads.pop() {
            self.refill(index)?;
            if self.last != Some(row) {
                self.last = Some(row);
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

impl<const N: usize> Iterator for Rows<N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

impl<const N: usize> RunReader<N> {
    fn next(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.at >= self.buffer.len() {
            let left = self.run.rows - self.read;
            let count = left.min((READ / N).max(1) as u64);
            if count == 0 {
                return Ok(None);
            }
            self.buffer.resize(usize::try_from(count).unwrap_or(usize::MAX) * N, 0);
            self.run.file.read_exact_at(&mut self.buffer, self.read * N as u64)?;
            self.read += count;
            self.at = 0;
        }
        let row = self.buffer.get(self.at..self.at + N).and_then(|row| row.try_into().ok());
        self.at += N;
        row.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn rows_come_out_in_order_and_once(rows in prop::collection::vec(any::<[u8; 3]>(), 0..3000), memory in 0..2000usize) {
            let directory = tempfile::tempdir().unwrap();
            let mut spill = Spill::new(directory.path(), memory);
            let mut expected = rows.clone();
            for row in rows {
                spill.push(row).unwrap();
            }
            expected.sort_unstable();
            expected.dedup();
            let sorted = spill.finish().unwrap();
            for _ in 0..2 {
                let found: Vec<_> = sorted.rows().map(Result::unwrap).collect();
                prop_assert_eq!(&found, &expected);
            }
            prop_assert_eq!(sorted.is_empty(), expected.is_empty());
            prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
