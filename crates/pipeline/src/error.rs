//! Why a run of the pipeline ended without its result.

use std::path::PathBuf;

use breakwater_core::{ErrorClass, LogPosition, SessionId};
use breakwater_repository::RepositoryError;

use crate::backup::GateError;

/// What failed. Each Display says its own level; causes lie underneath.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The engine could not read, stream or end.
    #[error("{doing}")]
    Engine {
        /// What the pipeline asked of it.
        doing: String,
        /// The engine's answer.
        #[source]
        source: breakwater_engine::EngineError,
    },
    /// The repository could not be written or read.
    #[error("{doing}")]
    Repository {
        /// What the pipeline asked of it.
        doing: String,
        /// The class of the cause.
        class: ErrorClass,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No region has a piece of content whole.
    #[error("{name} is lost in every region: {causes}")]
    Lost {
        /// The pack and chunk.
        name: String,
        /// What each region said.
        causes: String,
    },
    /// A file or directory of this machine could not be used.
    #[error("{what}")]
    Io {
        /// What was attempted, naming the path.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The target of a restore holds something already; nothing was written.
    #[error("{} is not empty: it holds `{found}` (hint: restore into a new or empty directory)", target.display())]
    TargetNotEmpty {
        /// The target.
        target: PathBuf,
        /// One of the names found in it.
        found: String,
    },
    /// An unfinished restore lies in the target; nothing was written.
    #[error(
        "{} holds an unfinished restore (hint: --resume continues it; or remove the directory)",
        target.display()
    )]
    TargetUnfinished {
        /// The target.
        target: PathBuf,
    },
    /// What is asked of the target does not fit what lies there; nothing was written.
    #[error("{}: {why}", target.display())]
    TargetUnfit {
        /// The target.
        target: PathBuf,
        /// Why, with what to do.
        why: String,
    },
    /// There is too little room for the restore; nothing was written.
    #[error(
        "{} has {free} bytes free, but the restore needs {needed} (hint: free some room or restore to another file system)",
        target.display()
    )]
    NoRoom {
        /// The target.
        target: PathBuf,
        /// Bytes that the restore will take.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// What the repository says of a tree cannot be laid without leaving the target, or contradicts itself.
    #[error("the snapshot's tree is not usable: {what} (hint: `repository check` shows what is damaged)")]
    BadTree {
        /// What is wrong, naming the path.
        what: String,
    },
    /// No path of the snapshot is chosen by the patterns.
    #[error(
        "nothing in the snapshot matches the patterns given: {patterns} (hint: list the snapshot to see its paths)"
    )]
    NothingChosen {
        /// The patterns.
        patterns: String,
    },
    /// The byte budget cannot hold what one run needs at least.
    #[error(
        "the memory budget of {capacity} bytes is too small: this run needs {needed} (hint: raise the budget, or use a repository with smaller packs)"
    )]
    Budget {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that there are.
        capacity: u64,
    },
    /// The log that makes the copy consistent did not become durable, so the snapshot was not committed.
    #[error("the log up to {position}, which the backup needs, did not become durable")]
    LogNotDurable {
        /// The position.
        position: LogPosition,
        /// Why.
        #[source]
        source: GateError,
    },
    /// Another attempt has given this session up.
    #[error("session {session} was fenced by another attempt ({reason}); it has committed nothing")]
    Fenced {
        /// The session.
        session: SessionId,
        /// Why, as the fence says.
        reason: String,
    },
    /// Stopped on request.
    #[error("stopped on request")]
    Cancelled,
    /// A restore failed after it had begun to write.
    #[error("the restore into {} did not finish; what is there is not usable (hint: --resume continues it; or remove it and run the restore again)", target.display())]
    Incomplete {
        /// The target.
        target: PathBuf,
        /// Why.
        #[source]
        source: Box<PipelineError>,
    },
    /// A defect of this program.
    #[error("internal defect: {0}")]
    Defect(String),
}

impl PipelineError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> PipelineError {
        PipelineError::Io { what: what.into(), source: source.into() }
    }

    pub(crate) fn engine(doing: impl Into<String>) -> impl FnOnce(breakwater_engine::EngineError) -> PipelineError {
        let doing = doing.into();
        move |source| PipelineError::Engine { doing, source }
    }

    pub(crate) fn repository(doing: impl Into<String>, source: RepositoryError) -> PipelineError {
        PipelineError::Repository { doing: doing.into(), class: source.class(), source: Box::new(source) }
    }

    pub(crate) fn bad_tree(what: impl Into<String>) -> PipelineError {
        PipelineError::BadTree { what: what.into() }
    }

    /// What the error means to the one who has to act on it.
    pub fn class(&self) -> ErrorClass {
        match self {
            PipelineError::Engine { source, .. } => source.class(),
            PipelineError::Repository { class, .. } => *class,
            PipelineError::Io { source, .. } => ErrorClass::of_io(source),
            PipelineError::TargetNotEmpty { .. }
            | PipelineError::TargetUnfinished { .. }
            | PipelineError::TargetUnfit { .. }
            | PipelineError::NoRoom { .. } => ErrorClass::Refused,
            PipelineError::BadTree { .. } | PipelineError::Lost { .. } => ErrorClass::Corrupt,
            PipelineError::NothingChosen { .. } => ErrorClass::NotFound,
            PipelineError::Budget { .. } => ErrorClass::Invalid,
            PipelineError::LogNotDurable { source, .. } => source.class,
            PipelineError::Fenced { .. } => ErrorClass::Conflict,
            PipelineError::Cancelled => ErrorClass::Cancelled,
            PipelineError::Incomplete { source, .. } => source.class(),
            PipelineError::Defect(_) => ErrorClass::Internal,
        }
    }
}
