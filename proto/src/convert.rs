//! Between protocol messages and domain types.

use breakwater_core::{ErrorClass, LogPosition};

use crate::v1;
use crate::v1::repository_work::Work;

impl From<LogPosition> for v1::Position {
    fn from(position: LogPosition) -> Self {
        v1::Position { branch: position.branch, offset: position.offset }
    }
}

impl From<v1::Position> for LogPosition {
    fn from(position: v1::Position) -> Self {
        LogPosition::new(position.branch, position.offset)
    }
}

impl v1::Failure {
    /// A failure of `class` that says `message`.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        v1::Failure { class: class.as_str().to_owned(), message: message.into() }
    }

    /// The class; words of a newer peer are `Internal`.
    pub fn error_class(&self) -> ErrorClass {
        ErrorClass::from_word(&self.class)
    }
}

impl v1::JobState {
    /// Whether nothing more will happen to the job.
    pub fn is_terminal(self) -> bool {
        matches!(self, v1::JobState::Succeeded | v1::JobState::Failed | v1::JobState::Cancelled)
    }

    /// The word for people and JSON.
    pub fn word(self) -> &'static str {
        match self {
            v1::JobState::Unspecified => "unknown",
            v1::JobState::Pending => "pending",
            v1::JobState::Dispatched => "dispatched",
            v1::JobState::Running => "running",
            v1::JobState::Succeeded => "succeeded",
            v1::JobState::Failed => "failed",
            v1::JobState::Cancelled => "cancelled",
        }
    }
}

impl v1::JobKind {
    /// The word for people and JSON.
    pub fn word(self) -> &'static str {
        match self {
            v1::JobKind::Unspecified => "unknown",
            v1::JobKind::Backup => "backup",
            v1::JobKind::Restore => "restore",
            v1::JobKind::Check => "check",
            v1::JobKind::Verify => "verify",
            v1::JobKind::Delete => "delete",
            v1::JobKind::Gc => "gc",
            v1::JobKind::Repair => "repair",
            v1::JobKind::Usage => "usage",
            v1::JobKind::Hold => "hold",
            v1::JobKind::Locks => "locks",
            v1::JobKind::Renew => "renew",
            v1::JobKind::Tier => "tier",
        }
    }
}

impl v1::RepositoryWork {
    /// What kind of job it is.
    pub fn kind(&self) -> v1::JobKind {
        match &self.work {
            None => v1::JobKind::Unspecified,
            Some(Work::Check(_)) => v1::JobKind::Check,
            Some(Work::Verify(_)) => v1::JobKind::Verify,
            Some(Work::Delete(_)) => v1::JobKind::Delete,
            Some(Work::Gc(_)) => v1::JobKind::Gc,
            Some(Work::Repair(_)) => v1::JobKind::Repair,
            Some(Work::Usage(_)) => v1::JobKind::Usage,
            Some(Work::Hold(_)) => v1::JobKind::Hold,
            Some(Work::Locks(_)) => v1::JobKind::Locks,
            Some(Work::Renew(_)) => v1::JobKind::Renew,
            Some(Work::Tier(_)) => v1::JobKind::Tier,
        }
    }

    /// The snapshot it is about, as it was named; empty when it is about the whole repository.
    pub fn snapshot(&self) -> &str {
        match &self.work {
            Some(Work::Verify(spec)) => &spec.snapshot,
            Some(Work::Delete(spec)) => &spec.snapshot,
            Some(Work::Hold(spec)) => &spec.snapshot,
            Some(Work::Locks(spec)) => &spec.snapshot,
            None
            | Some(Work::Check(_) | Work::Gc(_) | Work::Repair(_) | Work::Usage(_) | Work::Renew(_) | Work::Tier(_)) => {
                ""
            }
        }
    }
}

impl From<Work> for v1::RepositoryWork {
    fn from(work: Work) -> Self {
        v1::RepositoryWork { work: Some(work) }
    }
}

/// The gRPC status for an error of `class`; the class word travels in the metadata key [`CLASS_KEY`].
pub fn status(class: ErrorClass, message: impl Into<String>) -> tonic::Status {
    let code = match class {
        ErrorClass::Invalid => tonic::Code::InvalidArgument,
        ErrorClass::Denied => tonic::Code::PermissionDenied,
        ErrorClass::Refused => tonic::Code::FailedPrecondition,
        ErrorClass::Cancelled => tonic::Code::Cancelled,
        ErrorClass::NotFound => tonic::Code::NotFound,
        ErrorClass::Conflict => tonic::Code::Aborted,
        ErrorClass::Unavailable => tonic::Code::Unavailable,
        ErrorClass::Corrupt => tonic::Code::DataLoss,
        ErrorClass::Partial | ErrorClass::Internal => tonic::Code::Internal,
    };
    let mut status = tonic::Status::new(code, message);
    status.metadata_mut().insert(CLASS_KEY, tonic::metadata::MetadataValue::from_static(class.as_str()));
    status
}

/// The metadata key of an answer that carries the class of its error.
pub const CLASS_KEY: &str = "breakwater-error-class";

/// The class of an error answer: the peer's word, else what the code suggests.
pub fn class_of(status: &tonic::Status) -> ErrorClass {
    if let Some(word) = status.metadata().get(CLASS_KEY).and_then(|value| value.to_str().ok()) {
        return ErrorClass::from_word(word);
    }
    match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => ErrorClass::Invalid,
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => ErrorClass::Denied,
        tonic::Code::FailedPrecondition => ErrorClass::Refused,
        tonic::Code::NotFound => ErrorClass::NotFound,
        tonic::Code::AlreadyExists | tonic::Code::Aborted => ErrorClass::Conflict,
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::ResourceExhausted => {
            ErrorClass::Unavailable
        }
        tonic::Code::DataLoss => ErrorClass::Corrupt,
        tonic::Code::Cancelled => ErrorClass::Cancelled,
        tonic::Code::Ok | tonic::Code::Unknown | tonic::Code::Internal | tonic::Code::Unimplemented => {
            ErrorClass::Internal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_survives_the_wire() {
        for class in [ErrorClass::Refused, ErrorClass::Partial, ErrorClass::Conflict, ErrorClass::Corrupt] {
            assert_eq!(class_of(&status(class, "x")), class);
        }
    }
}
