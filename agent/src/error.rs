//! What can go wrong in an agent, for the one who has to act on it.

use std::path::{Path, PathBuf};

use breakwater_core::{Chain, ErrorClass};
use breakwater_crypto::KeyFileError;
use breakwater_engine::EngineError;
use breakwater_pipeline::PipelineError;
use breakwater_proto::{convert, v1};
use breakwater_repository::RepositoryError;
use breakwater_repository::regions::RegionError;
use breakwater_repository::stream::{PlanError, StreamError};
use breakwater_storage::StorageError;

/// The error of everything that an agent does.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or directory of this host.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The request or a setting is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Who asks, or what they hold, is not enough.
    #[error("{0}")]
    Denied(String),
    /// A precondition is not met; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The named thing is not there.
    #[error("{0}")]
    NotFound(String),
    /// Somebody else was first.
    #[error("{0}")]
    Conflict(String),
    /// A peer or place does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// A check found damage, or something stored cannot be used.
    #[error("{0}")]
    Corrupt(String),
    /// Done, but not all of it: what is missing.
    #[error("{0}")]
    Partial(String),
    /// Stopped on request.
    #[error("stopped on request")]
    Cancelled,
    /// The controller's answer.
    #[error("{what}: {message}")]
    Controller {
        /// What was asked of it.
        what: &'static str,
        /// The class that it gave.
        class: ErrorClass,
        /// Its words.
        message: String,
    },
    /// The controller does not answer.
    #[error("the controller cannot be reached at {address}")]
    Dial {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// A source, or the engine that reads or restores it.
    #[error("{doing}")]
    Engine {
        /// What the agent asked of it.
        doing: String,
        /// Its answer.
        #[source]
        source: EngineError,
    },
    /// A repository.
    #[error("{doing}")]
    Repository {
        /// What the agent asked of it.
        doing: String,
        /// Its answer.
        #[source]
        source: Box<RepositoryError>,
    },
    /// A place that is to hold a region.
    #[error("region `{region}`")]
    Storage {
        /// Its name.
        region: String,
        /// Why not.
        #[source]
        source: StorageError,
    },
    /// A set of regions.
    #[error("the repository's regions")]
    Regions(#[from] RegionError),
    /// A stored log.
    #[error("{doing}")]
    Stream {
        /// What the agent asked of it.
        doing: String,
        /// Why not.
        #[source]
        source: StreamError,
    },
    /// No way from a snapshot to the wanted moment.
    #[error("no way to the wanted moment")]
    Plan(#[source] Box<PlanError>),
    /// Reading or laying data.
    #[error("{doing}")]
    Pipeline {
        /// What the agent asked of it.
        doing: String,
        /// Why not.
        #[source]
        source: Box<PipelineError>,
    },
    /// A key file.
    #[error("the agent's keys")]
    Key(#[from] KeyFileError),
    /// A defect of this program.
    #[error("internal defect: {0}")]
    Defect(String),
}

impl AgentError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            AgentError::File { source, .. } => ErrorClass::of_io(source),
            AgentError::Invalid(_) => ErrorClass::Invalid,
            AgentError::Denied(_) => ErrorClass::Denied,
            AgentError::Refused(_) => ErrorClass::Refused,
            AgentError::NotFound(_) => ErrorClass::NotFound,
            AgentError::Conflict(_) => ErrorClass::Conflict,
            AgentError::Unavailable(_) | AgentError::Dial { .. } => ErrorClass::Unavailable,
            AgentError::Corrupt(_) => ErrorClass::Corrupt,
            AgentError::Partial(_) => ErrorClass::Partial,
            AgentError::Cancelled => ErrorClass::Cancelled,
            AgentError::Controller { class, .. } => *class,
            AgentError::Engine { source, .. } => source.class(),
            AgentError::Repository { source, .. } => source.class(),
            AgentError::Storage { source, .. } => source.class(),
            AgentError::Regions(source) => source.class(),
            AgentError::Stream { source, .. } => source.class(),
            AgentError::Plan(source) => source.class(),
            AgentError::Pipeline { source, .. } => source.class(),
            AgentError::Key(source) => source.class(),
            AgentError::Defect(_) => ErrorClass::Internal,
        }
    }

    /// An error of `class` that says `message`; for several errors that were put into one line.
    pub(crate) fn of_class(class: ErrorClass, message: String) -> AgentError {
        match class {
            ErrorClass::Invalid => AgentError::Invalid(message),
            ErrorClass::Denied => AgentError::Denied(message),
            ErrorClass::Refused => AgentError::Refused(message),
            ErrorClass::NotFound => AgentError::NotFound(message),
            ErrorClass::Conflict => AgentError::Conflict(message),
            ErrorClass::Unavailable => AgentError::Unavailable(message),
            ErrorClass::Corrupt => AgentError::Corrupt(message),
            ErrorClass::Partial => AgentError::Partial(message),
            ErrorClass::Cancelled => AgentError::Cancelled,
            ErrorClass::Internal => AgentError::Defect(message),
        }
    }

    /// The error as it goes over the wire, causes included.
    pub fn failure(&self) -> v1::Failure {
        let mut message = Chain(self).to_string();
        if message.len() > FAILURE_BYTES_MAX {
            let end = (0..=FAILURE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        v1::Failure::new(self.class(), message)
    }

    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AgentError {
        let path = path.to_owned();
        move |source| AgentError::File { action, path, source }
    }

    pub(crate) fn engine(doing: impl Into<String>) -> impl FnOnce(EngineError) -> AgentError {
        let doing = doing.into();
        move |source| AgentError::Engine { doing, source }
    }

    pub(crate) fn repository(doing: impl Into<String>) -> impl FnOnce(RepositoryError) -> AgentError {
        let doing = doing.into();
        move |source| AgentError::Repository { doing, source: Box::new(source) }
    }

    pub(crate) fn stream(doing: impl Into<String>) -> impl FnOnce(StreamError) -> AgentError {
        let doing = doing.into();
        move |source| AgentError::Stream { doing, source }
    }

    pub(crate) fn pipeline(doing: impl Into<String>) -> impl FnOnce(PipelineError) -> AgentError {
        let doing = doing.into();
        move |source| AgentError::Pipeline { doing, source: Box::new(source) }
    }

    pub(crate) fn controller(what: &'static str) -> impl FnOnce(tonic::Status) -> AgentError {
        move |status| {
            let class = convert::class_of(&status);
            AgentError::Controller { what, class, message: status.message().to_owned() }
        }
    }
}

impl From<PlanError> for AgentError {
    fn from(error: PlanError) -> Self {
        AgentError::Plan(Box::new(error))
    }
}

/// Bytes of a failure's text on the wire: a message of the agent stream has to hold it.
const FAILURE_BYTES_MAX: usize = 8 * 1024;
