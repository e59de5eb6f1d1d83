//! Readers of the files of a data directory while the server writes to them.
//!
//! A page that is being written may be read half old, half new. Such a page was changed after the backup began, so the log
//! holds what mends it, and it needs no check. A page that has not changed since must have a right checksum: when it has
//! not, also when it is read again, it is damaged and is reported.
//!
//! Invariants: never more than the listed size is read; a vanished file is a short read, any other failure is an error; a
//! damaged page's position cannot hide it, because one that lies ahead of the server's log is damage too.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use breakwater_core::Lsn;
use breakwater_engine::{EngineError, EngineErrorKind, ExtentReader, ReadExtent};
use bytes::Bytes;
use tokio::runtime::Handle;

use crate::connection::SqlClient;
use crate::failure::{of_file, of_sql};
use crate::page_checksum::{PageState, judge_page};

/// How often a wrong page is read again before it counts as damaged.
const REREADS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// How long the server may take to say how far its log is.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// What the checks of pages need to know about the server, for all readers of one backup.
#[derive(Debug)]
pub(crate) struct PageRules {
    /// Bytes of a page.
    pub page_size: usize,
    /// Pages of one file of a relation.
    pub segment_pages: u32,
    /// Where the backup began: pages changed from here on are mended by the log.
    pub start: Lsn,
    /// The furthest position that the server's log is known to have reached.
    reached: AtomicU64,
    /// Weak, so that readers which outlive their session do not keep the backup open at the server.
    client: Weak<SqlClient>,
    runtime: Handle,
}

impl PageRules {
    /// Rules for a backup that began at `start`. To be made on a tokio runtime.
    pub(crate) fn new(page_size: usize, segment_pages: u32, start: Lsn, client: &Arc<SqlClient>) -> Self {
        let (client, runtime) = (Arc::downgrade(client), Handle::current());
        PageRules { page_size, segment_pages, start, reached: AtomicU64::new(start.0), client, runtime }
    }

    /// Whether the server's log has reached `lsn`. Asks the server only when what it said before does not suffice.
    fn is_reached(&self, lsn: u64) -> Result<bool, EngineError> {
        if lsn <= self.reached.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let what = "cannot ask the server for its position";
        let Some(client) = self.client.upgrade() else {
            return Err(EngineError::new(
                EngineErrorKind::Cancelled,
                "the backup that this file was read for has ended",
            ));
        };
        let asking = async {
            tokio::time::timeout(ASK_TIMEOUT, client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[])).await
        };
        let row = self
            .runtime
            .block_on(asking)
            .map_err(|_| EngineError::new(EngineErrorKind::Unreachable, what))?
            .map_err(|error| of_sql(what, error))?;
        let reached: Lsn = row
            .get::<_, String>(0)
            .parse()
            .map_err(|error: breakwater_core::point::BadLsn| crate::failure::internal(what).because(error))?;
        self.reached.fetch_max(reached.0, Ordering::Relaxed);
        Ok(lsn <= reached.0)
    }
}

/// Reads one file of the data directory.
#[derive(Debug)]
pub(crate) struct FileReader {
    path: PathBuf,
    /// The size when it was listed.
    size: u64,
    /// The rules and the file's segment number, for files whose pages carry checksums.
    pages: Option<(Arc<PageRules>, u32)>,
}

impl FileReader {
    /// A reader of the first `size` bytes of `path`; with `pages` every whole page is checked.
    pub(crate) fn new(path: PathBuf, size: u64, pages: Option<(Arc<PageRules>, u32)>) -> Self {
        FileReader { path, size, pages }
    }

    fn wrap(&self, error: std::io::Error) -> EngineError {
        of_file(format!("cannot read {}", self.path.display()), error)
    }

    fn fill(&self, file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize, EngineError> {
        let mut length = 0;
        while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.wrap(error)),
            }
        }
        Ok(length)
    }

    /// The numbers of the damaged pages among the whole pages of `read`, which was read at `offset`. A page that was wrong
    /// at first and right when read again is replaced in `read`.
    fn check(
        &self,
        file: &File,
        offset: u64,
        read: &mut [u8],
        rules: &PageRules,
        segment: u32,
    ) -> Result<Vec<u64>, EngineError> {
        let mut damaged = Vec::new();
        let first = offset / rules.page_size as u64;
        for (number, page) in (first..).zip(read.chunks_exact_mut(rules.page_size)) {
            // A relation has at most 2^32 pages, so a file beyond that is no relation's.
            let block = u64::from(segment) * u64::from(rules.segment_pages) + number;
            let good = match u32::try_from(block) {
                Ok(block) => self.page_is_good(file, number, page, block, rules)?,
                Err(_) => false,
            };
            if !good {
                damaged.push(number);
            }
        }
        Ok(damaged)
    }

    fn page_is_good(
        &self,
        file: &File,
        number: u64,
        page: &mut [u8],
        block: u32,
        rules: &PageRules,
    ) -> Result<bool, EngineError> {
        let mut again = vec![0; rules.page_size];
        for attempt in 0..=REREADS {
            let lsn = match judge_page(page, block) {
                PageState::Good => return Ok(true),
                PageState::Bad { lsn } => lsn,
            };
            if lsn >= rules.start.0 && rules.is_reached(lsn)? {
                return Ok(true);
            }
            if attempt == REREADS {
                break;
            }
            std::thread::sleep(PAUSE);
            let length = self.fill(file, number * rules.page_size as u64, &mut again)?;
            if length < again.len() {
                // The file was cut off before this page meanwhile; the log says so too.
                return Ok(true);
            }
            page.copy_from_slice(&again);
        }
        Ok(false)
    }
}

impl ExtentReader for FileReader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        let file = match File::open(&self.path) {
            // Dropped since it was listed; the log says so too.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ReadExtent::default()),
            other => other.map_err(|error| self.wrap(error))?,
        };
        let wanted = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted) else { return Ok(ReadExtent::default()) };
        let length = self.fill(&file, offset, buffer)?;
        let mut damaged_pages = Vec::new();
        if let (Some((rules, segment)), Some(read)) = (&self.pages, buffer.get_mut(..length)) {
            if !offset.is_multiple_of(rules.page_size as u64) {
                let what = format!("a read of {} begins within a page: offset {offset}", self.path.display());
                return Err(EngineError::new(EngineErrorKind::Invalid, what));
            }
            damaged_pages = self.check(&file, offset, read, rules, *segment)?;
        }
        Ok(ReadExtent { length, damaged_pages })
    }
}

/// Reads bytes that are held already.
#[derive(Debug)]
pub(crate) struct MemoryReader(pub Bytes);

impl ExtentReader for MemoryReader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<ReadExtent, EngineError> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let rest = self.0.slice(offset..);
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(ReadExtent { length, damaged_pages: Vec::new() })
    }
}
