//! What can go wrong with a stream.

use breakwater_core::{ErrorClass, LogPosition, SessionId};

use crate::RepositoryError;
use crate::format::FormatError;
use crate::format::names::LogRange;
use crate::regions::RegionError;

/// An error of writing or reading a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The regions did not do what was asked.
    #[error("the stream's regions failed")]
    Region(#[from] RegionError),
    /// An object is not what it should be.
    #[error("object `{name}` cannot be used")]
    Format {
        /// The object.
        name: String,
        /// Why not.
        #[source]
        source: FormatError,
    },
    /// The session secret could not be sealed or opened.
    #[error("the keys of session {session} cannot be used")]
    Keys {
        /// The session.
        session: SessionId,
        /// Why not.
        #[source]
        source: Box<RepositoryError>,
    },
    /// The source sent other bytes than are stored.
    #[error(
        "the source's log differs from what is stored in branch {} from {} to {}: it went back in time or is another database; nothing was overwritten; hint: make it a new source, or restore it from its own backups",
        range.branch, LogPosition::new(range.branch, range.start).lsn(), LogPosition::new(range.branch, range.end).lsn()
    )]
    Divergence {
        /// The stored piece that differs.
        range: LogRange,
    },
    /// The history of a branch differs from the one that is stored.
    #[error("the history of branch {branch} differs from the one that is stored; nothing was overwritten")]
    HistoryDiverged {
        /// The branch.
        branch: u32,
    },
    /// Bytes came from another place than was expected.
    #[error("the stream jumped: expected {expected}, got {got}")]
    Jump {
        /// Where the next byte should have come from.
        expected: LogPosition,
        /// Where it came from.
        got: LogPosition,
    },
    /// The stream must begin at a segment boundary.
    #[error("the stream cannot begin inside a segment: {0}")]
    Unaligned(LogPosition),
    /// Another writer claimed a higher generation.
    #[error("another agent writes this stream now (generation {0}); this one stops")]
    Fenced(u32),
    /// Another writer stored more while this one claimed.
    #[error("the stored stream grew while it was claimed; hint: open it again")]
    Moved,
    /// Going on now could leave stored log behind for ever.
    #[error(
        "the source begins at {start}, after what the regions hold that answer; more may be stored in {}; hint: the stream goes on when it answers",
        silent.join(", ")
    )]
    Unsure {
        /// Where the source begins.
        start: LogPosition,
        /// The regions that do not answer.
        silent: Vec<String>,
    },
    /// Nothing can be written before the start is known.
    #[error("the stream was not begun")]
    NotBegun,
    /// The spool cannot be used.
    #[error("spool {}: {problem}", path.display())]
    Spool {
        /// The file or directory.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
        /// What the file system said.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The stored log does not hold what was asked for.
    #[error("the stored log has a gap in branch {} from {} to {}", range.branch,
        LogPosition::new(range.branch, range.start).lsn(), LogPosition::new(range.branch, range.end).lsn())]
    Missing {
        /// The piece that is not there.
        range: LogRange,
    },
    /// Sealing did not end.
    #[error("a background task of the stream ended early")]
    Stopped,
}

impl StreamError {
    /// What it means to the one who has to act on it.
    pub fn class(&self) -> ErrorClass {
        match self {
            StreamError::Region(error) => error.class(),
            StreamError::Format { source, .. } => source.class(),
            StreamError::Keys { source, .. } => source.class(),
            StreamError::Divergence { .. } | StreamError::HistoryDiverged { .. } | StreamError::Fenced(_) => {
                ErrorClass::Conflict
            }
            StreamError::Jump { .. } | StreamError::Unaligned(_) | StreamError::NotBegun | StreamError::Stopped => {
                ErrorClass::Internal
            }
            StreamError::Moved | StreamError::Unsure { .. } => ErrorClass::Unavailable,
            StreamError::Spool { source, .. } => source.as_ref().map_or(ErrorClass::Unavailable, ErrorClass::of_io),
            StreamError::Missing { .. } => ErrorClass::NotFound,
        }
    }

    pub(crate) fn secret(session: SessionId) -> impl FnOnce(RepositoryError) -> StreamError {
        move |source| StreamError::Keys { session, source: Box::new(source) }
    }

    pub(crate) fn format(name: &impl ToString) -> impl FnOnce(FormatError) -> StreamError {
        let name = name.to_string();
        move |source| StreamError::Format { name, source }
    }
}
