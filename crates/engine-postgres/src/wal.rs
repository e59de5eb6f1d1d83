//! PostgreSQL's write-ahead log as bytes: names of its files, headers of its pages, the few records an index needs, and
//! the histories that join timelines.
//!
//! Nothing here does I/O. Integers are read little-endian, as every platform that this program runs on writes them; the
//! magic number of a page from a big-endian server is refused as unknown.
//!
//! Reading order: [`segment`] (where a byte lies and how its file is called), [`page`] (what a page says about itself),
//! [`scanner`] (the walk over records) with [`event`] and `record`, [`history`] (timelines).

pub mod event;
pub mod history;
pub mod page;
mod record;
pub mod scanner;
pub mod segment;

pub use event::WalEvent;
pub use history::{HistoryError, TimelineHistory, TimelineSpan};
pub use page::{PageError, PageHeader, SegmentHeader, check_segment, check_segment_start};
pub use scanner::{RecordScanner, ScanError};
pub use segment::{BadFileName, BadSegmentSize, SegmentSize, WalFileName, last_needed_segment, segment_file_name};
