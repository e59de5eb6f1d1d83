//! The walk over the records of the log, fed with bytes as they arrive.
//!
//! Invariants: no event is reported before the checksum of its record and the link to the record before were verified;
//! memory does not grow with what the bytes claim (records are never held, only their headers); bytes are taken strictly
//! in sequence.

use breakwater_core::{ErrorClass, Lsn, TimelineId};

use super::event::WalEvent;
use super::page::{LONG_HEADER, PageError, PageHeader, SHORT_HEADER, read_u32};
use super::record::{BodyReader, CHECKED_HEADER, RECORD_HEADER, RecordHeader};
use super::segment::SegmentSize;

/// The longest record that PostgreSQL can read back.
const MAX_RECORD: u32 = 1 << 30;
/// The page size until the first page has told; any that PostgreSQL can have divides a segment.
const ASSUMED_PAGE: u64 = 8192;

/// Walks over contiguous log bytes that begin at the start of a segment, and reports what an index needs.
///
/// The bytes of one timeline's files are expected: a segment that was copied at a timeline switch is scanned from its
/// start under the new timeline. After an error the scanner takes nothing more.
#[derive(Debug)]
pub struct RecordScanner {
    size: SegmentSize,
    page_size: u64,
    system_id: Option<u64>,
    version: u32,
    timeline: Option<TimelineId>,
    /// The position of the next byte.
    position: Lsn,
    /// The header of the present page as far as it was fed; none once it was complete.
    page: Option<Filling<LONG_HEADER>>,
    state: State,
    /// Where the last complete record begins.
    last_record: Option<Lsn>,
    complete_to: Lsn,
}

#[derive(Debug)]
enum State {
    /// Before the first page.
    Fresh,
    /// On the boundary before a record.
    Between,
    /// In the rest of a record that began before the first page.
    ForeignTail {
        left: u64,
    },
    /// In a record's header.
    Header {
        start: Lsn,
        header: Filling<RECORD_HEADER>,
    },
    /// In a record's body.
    Body(Box<OpenRecord>),
    /// In the bytes that align the next record.
    Padding {
        left: u64,
    },
    /// In the unused rest of a segment after a switch.
    Unused,
    /// In the zeros after the last record.
    End,
    Failed,
}

#[derive(Debug)]
struct OpenRecord {
    start: Lsn,
    header: RecordHeader,
    header_bytes: [u8; RECORD_HEADER],
    crc: u32,
    left: u64,
    body: Option<BodyReader>,
}

impl RecordScanner {
    /// A scanner for the log from the start of segment `segno`. With `system_id` every segment is checked to be of that
    /// cluster; without it, of the same cluster as the first one.
    pub fn new(segno: u64, size: SegmentSize, system_id: Option<u64>) -> Self {
        let start = size.start_of(segno);
        RecordScanner {
            size,
            page_size: ASSUMED_PAGE,
            system_id,
            version: 0,
            timeline: None,
            position: start,
            page: Some(Filling::new()),
            state: State::Fresh,
            last_record: None,
            complete_to: start,
        }
    }

    /// The position of the next byte to feed.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The end of the last record that was complete and verified; the start before the first. The rest of a record from
    /// before the start counts too, though only its length could be checked.
    pub fn complete_to(&self) -> Lsn {
        self.complete_to
    }

    /// Where the log ends, once zeros were found in place of a record.
    pub fn end_of_log(&self) -> Option<Lsn> {
        matches!(self.state, State::End).then_some(self.complete_to)
    }

    /// The timeline of the last page; none before the first.
    pub fn timeline(&self) -> Option<TimelineId> {
        self.timeline
    }

    /// The major version that wrote the log; none before the first page.
    pub fn version(&self) -> Option<u32> {
        (self.version > 0).then_some(self.version)
    }

    /// Takes the bytes at `at`, which must be [`position`](Self::position), and appends to `events` what they complete.
    ///
    /// # Errors
    /// When the bytes are not the next ones, or not a log of this cluster, or damaged. The events before the damage were
    /// appended.
    pub fn feed(&mut self, at: Lsn, bytes: &[u8], events: &mut Vec<WalEvent>) -> Result<(), ScanError> {
        if at != self.position {
            return Err(ScanError::Gap { expected: self.position, found: at });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.step(rest, events) {
                Ok(used) => {
                    rest = rest.get(used..).unwrap_or_default();
                    self.position.0 += used as u64;
                    if self.position.0.is_multiple_of(self.page_size) && self.page.is_none() {
                        self.page = Some(Filling::new());
                    }
                }
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Uses some of the bytes, at least one, and says how many.
    fn step(&mut self, bytes: &[u8], events: &mut Vec<WalEvent>) -> Result<usize, ScanError> {
        match self.state {
            State::Failed => return Err(ScanError::Stopped { at: self.position }),
            State::End => {
                return match bytes.iter().position(|byte| *byte != 0) {
                    None => Ok(bytes.len()),
                    Some(offset) => {
                        Err(ScanError::DataAfterEnd { at: Lsn(self.position.0 + offset as u64), end: self.complete_to })
                    }
                };
            }
            State::Unused => {
                let used = clip(self.size.bytes() - self.size.offset_of(self.position), bytes.len());
                if self.size.offset_of(Lsn(self.position.0 + used as u64)) == 0 {
                    self.state = State::Between;
                    self.page = Some(Filling::new());
                }
                return Ok(used);
            }
            _ => {}
        }
        if let Some(mut page) = self.page.take() {
            let length = if self.size.offset_of(Lsn(self.position.0 - page.have as u64)) == 0 {
                LONG_HEADER
            } else {
                SHORT_HEADER
            };
            let used = page.fill(bytes, length);
            if page.have < length {
                self.page = Some(page);
            } else {
                let at = Lsn(self.position.0 + used as u64 - length as u64);
                self.enter_page(at, page.bytes.get(..length).unwrap_or_default())?;
            }
            return Ok(used);
        }
        let page_left = self.page_size - self.position.0 % self.page_size;
        let bytes = bytes.get(..clip(page_left, bytes.len())).unwrap_or_default();
        self.step_in_page(bytes, events)
    }

    /// Checks the header of the page at `at` against what the pages before it announced.
    fn enter_page(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), ScanError> {
        if bytes.iter().all(|byte| *byte == 0) && !matches!(self.state, State::Fresh) {
            // A record that began before and does not go on was never complete, so the log ends before it.
            self.state = State::End;
            return Ok(());
        }
        let header = PageHeader::parse(bytes, at)?;
        match (header.segment, self.size.offset_of(at) == 0) {
            (Some(segment), true) => {
                if segment.segment_size != self.size {
                    let (expected, found) = (self.size, segment.segment_size);
                    return Err(PageError::OtherSegmentSize { at, expected, found }.into());
                }
                let expected = *self.system_id.get_or_insert(segment.system_id);
                if expected != segment.system_id {
                    return Err(PageError::SystemId { at, expected, found: segment.system_id }.into());
                }
                if self.version > 0 && self.page_size != u64::from(segment.page_size) {
                    return Err(PageError::PageSize { at, found: segment.page_size }.into());
                }
                self.page_size = u64::from(segment.page_size);
            }
            (None, true) => return Err(PageError::NoLongHeader { at }.into()),
            (_, false) => {}
        }
        if self.version > 0 && self.version != header.version {
            return Err(ScanError::Version { at, expected: self.version, found: header.version });
        }
        self.version = header.version;
        if let Some(limit) = self.timeline.filter(|timeline| header.timeline < *timeline) {
            return Err(PageError::Timeline { at, found: header.timeline, limit }.into());
        }
        self.timeline = Some(header.timeline);
        self.join_pages(at, &header)
    }

    /// Decides how the record that crosses into this page goes on.
    fn join_pages(&mut self, at: Lsn, header: &PageHeader) -> Result<(), ScanError> {
        let announced = if header.is_continuation { u64::from(header.continued) } else { 0 };
        let open = match &self.state {
            State::Fresh if header.is_continuation => {
                if announced == 0 {
                    return Err(ScanError::Continuation { at, expected: 1, announced });
                }
                self.state = State::ForeignTail { left: announced };
                return Ok(());
            }
            State::ForeignTail { left } => *left,
            State::Header { header, .. } => {
                let total = read_u32(&header.bytes, 0).unwrap_or_default();
                u64::from(total).saturating_sub(header.have as u64)
            }
            State::Body(record) => record.left,
            _ => 0,
        };
        if header.is_overwrite || matches!(self.state, State::Fresh) {
            // The server crashed inside the record and gave it up; a record that says so comes first on this page.
            self.state = State::Between;
            return Ok(());
        }
        if announced == open { Ok(()) } else { Err(ScanError::Continuation { at, expected: open, announced }) }
    }

    /// Uses bytes that lie on one page, after its header.
    fn step_in_page(&mut self, bytes: &[u8], events: &mut Vec<WalEvent>) -> Result<usize, ScanError> {
        match &mut self.state {
            State::ForeignTail { left } => {
                let used = clip(*left, bytes.len());
                *left -= used as u64;
                if *left == 0 {
                    let end = Lsn(self.position.0 + used as u64);
                    self.state = padding_after(end);
                    self.complete_to = Lsn(end.0.next_multiple_of(8));
                }
                Ok(used)
            }
            State::Padding { left } => {
                let used = clip(*left, bytes.len());
                *left -= used as u64;
                if *left == 0 {
                    self.state = State::Between;
                }
                Ok(used)
            }
            State::Between => {
                self.state = State::Header { start: self.position, header: Filling::new() };
                self.fill_header(bytes, events)
            }
            State::Header { .. } => self.fill_header(bytes, events),
            State::Body(record) => {
                let used = clip(record.left, bytes.len());
                let body = bytes.get(..used).unwrap_or_default();
                record.crc = crc32c::crc32c_append(record.crc, body);
                if let Some(reader) = &mut record.body {
                    reader.feed(body);
                }
                record.left -= used as u64;
                if record.left == 0 {
                    self.close_record(used, events)?;
                }
                Ok(used)
            }
            // Left before this point, in `step` or by the first page's header.
            State::Fresh | State::Unused | State::End | State::Failed => Err(ScanError::Stopped { at: self.position }),
        }
    }

    fn fill_header(&mut self, bytes: &[u8], events: &mut Vec<WalEvent>) -> Result<usize, ScanError> {
        let State::Header { start, header } = &mut self.state else {
            return Err(ScanError::Stopped { at: self.position });
        };
        let start = *start;
        // The length comes first and alone, because it tells a record from the zeros after the last one.
        if header.have < 4 {
            let used = header.fill(bytes, 4);
            if header.have == 4 {
                match read_u32(&header.bytes, 0).unwrap_or_default() {
                    0 => self.state = State::End,
                    #[expect(clippy::cast_possible_truncation, reason = "24 fits")]
                    length if !(RECORD_HEADER as u32..=MAX_RECORD).contains(&length) => {
                        return Err(ScanError::Length { at: start, length });
                    }
                    _ => {}
                }
            }
            return Ok(used);
        }
        let used = header.fill(bytes, RECORD_HEADER);
        if header.have < RECORD_HEADER {
            return Ok(used);
        }
        let header_bytes = header.bytes;
        let Some(header) = RecordHeader::parse(&header_bytes) else {
            return Err(ScanError::Stopped { at: start });
        };
        let linked = self.last_record.map_or(header.prev < start, |last| header.prev == last);
        if !linked {
            return Err(ScanError::Link { at: start, expected: self.last_record, found: header.prev });
        }
        let left = u64::from(header.total) - RECORD_HEADER as u64;
        let body = BodyReader::for_record(&header, self.version);
        self.state = State::Body(Box::new(OpenRecord { start, header, header_bytes, crc: 0, left, body }));
        if left == 0 {
            self.close_record(used, events)?;
        }
        Ok(used)
    }

    /// Verifies the record that ends `used` bytes after the position, and reports it.
    fn close_record(&mut self, used: usize, events: &mut Vec<WalEvent>) -> Result<(), ScanError> {
        let State::Body(record) = std::mem::replace(&mut self.state, State::Failed) else {
            return Err(ScanError::Stopped { at: self.position });
        };
        let at = record.start;
        let checked = record.header_bytes.get(..CHECKED_HEADER).unwrap_or_default();
        if crc32c::crc32c_append(record.crc, checked) != record.header.crc {
            return Err(ScanError::Checksum { at });
        }
        let end = Lsn(self.position.0 + used as u64);
        let mut lsn_end = Lsn(end.0.next_multiple_of(8));
        self.state = padding_after(end);
        if record.header.is_switch() {
            lsn_end = Lsn(end.0.next_multiple_of(self.size.bytes()));
            if self.size.offset_of(end) != 0 {
                self.state = State::Unused;
            }
        }
        if let Some(reader) = record.body {
            events.push(reader.finish(at, lsn_end).map_err(|_| ScanError::Malformed { at })?);
        }
        self.last_record = Some(at);
        self.complete_to = lsn_end;
        Ok(())
    }
}

/// A buffer of fixed length that is filled over several calls.
#[derive(Debug)]
struct Filling<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Filling<N> {
    fn new() -> Self {
        Filling { bytes: [0; N], have: 0 }
    }

    /// Copies until `upto` bytes are there, and says how many were taken.
    fn fill(&mut self, bytes: &[u8], upto: usize) -> usize {
        let taken = upto.min(N).saturating_sub(self.have).min(bytes.len());
        if let (Some(room), Some(bytes)) = (self.bytes.get_mut(self.have..self.have + taken), bytes.get(..taken)) {
            room.copy_from_slice(bytes);
        }
        self.have += taken;
        taken
    }
}

/// Records begin at multiples of eight.
fn padding_after(end: Lsn) -> State {
    match end.0.next_multiple_of(8) - end.0 {
        0 => State::Between,
        left => State::Padding { left },
    }
}

/// `left`, but no more than `available`.
fn clip(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

/// Why the walk stopped.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The bytes are not the next ones.
    #[error("log bytes at {found} do not follow: {expected} is next")]
    Gap {
        /// The position that is next.
        expected: Lsn,
        /// The position of the bytes.
        found: Lsn,
    },
    /// A page is not one of this log.
    #[error("the log cannot be read")]
    Page(#[from] PageError),
    /// Pages of two versions.
    #[error("page at {at} was written by PostgreSQL {found}, the pages before it by {expected}")]
    Version {
        /// Where the page lies.
        at: Lsn,
        /// The version so far.
        expected: u32,
        /// The version of the page.
        found: u32,
    },
    /// A page does not carry on the record that is open.
    #[error("page at {at} continues a record by {announced} bytes, but {expected} are to come")]
    Continuation {
        /// Where the page lies.
        at: Lsn,
        /// What is missing of the open record; 0 without one.
        expected: u64,
        /// What the page announces.
        announced: u64,
    },
    /// A length that no record has.
    #[error("record at {at} has an impossible length: {length}")]
    Length {
        /// Where the record begins.
        at: Lsn,
        /// The length found.
        length: u32,
    },
    /// A record does not follow the one before it.
    #[error("record at {at} names {found} as the record before it{}", expected.map(|lsn| format!(", not {lsn}")).unwrap_or_default())]
    Link {
        /// Where the record begins.
        at: Lsn,
        /// Where the record before it begins, where known.
        expected: Option<Lsn>,
        /// What the record says.
        found: Lsn,
    },
    /// A record is damaged.
    #[error("record at {at} does not match its checksum")]
    Checksum {
        /// Where the record begins.
        at: Lsn,
    },
    /// A record with a right checksum but without the fields of its kind.
    #[error("record at {at} does not have the fields of its kind")]
    Malformed {
        /// Where the record begins.
        at: Lsn,
    },
    /// Something follows where the log had ended in zeros.
    #[error("bytes at {at} follow the end of the log at {end}")]
    DataAfterEnd {
        /// The first byte that is not zero.
        at: Lsn,
        /// The end of the log.
        end: Lsn,
    },
    /// An earlier error ended the walk.
    #[error("the log was not read past {at}, because of an earlier error")]
    Stopped {
        /// Where the walk ended.
        at: Lsn,
    },
}

impl ScanError {
    /// What the error means to a caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            ScanError::Page(source) => source.class(),
            ScanError::Gap { .. } | ScanError::Stopped { .. } => ErrorClass::Internal,
            _ => ErrorClass::Corrupt,
        }
    }
}
