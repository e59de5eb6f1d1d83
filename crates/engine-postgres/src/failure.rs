//! Errors of the layers below, told in the engine's terms.

use std::time::Duration;

use breakwater_core::ErrorClass;
use breakwater_engine::{EngineError, EngineErrorKind};

use crate::connection::ConnectionError;
use crate::walsender::{WalSenderError, class_of_sqlstate};

/// The kind that stands for a class.
pub(crate) fn kind_of(class: ErrorClass) -> EngineErrorKind {
    match class {
        ErrorClass::Invalid => EngineErrorKind::Invalid,
        ErrorClass::Denied => EngineErrorKind::Denied,
        ErrorClass::Refused => EngineErrorKind::Refused,
        ErrorClass::Cancelled => EngineErrorKind::Cancelled,
        ErrorClass::NotFound => EngineErrorKind::NotFound,
        ErrorClass::Conflict => EngineErrorKind::Conflict,
        ErrorClass::Unavailable => EngineErrorKind::Unreachable,
        ErrorClass::Corrupt => EngineErrorKind::Corrupt,
        ErrorClass::Partial | ErrorClass::Internal => EngineErrorKind::Internal,
    }
}

/// A connection that could not be had.
pub(crate) fn of_connection(error: ConnectionError) -> EngineError {
    EngineError::new(kind_of(error.class()), "cannot connect to PostgreSQL").because(error)
}

/// A failure of the replication protocol while doing `what`.
pub(crate) fn of_walsender(what: &str, error: WalSenderError) -> EngineError {
    EngineError::new(kind_of(error.class()), what).because(error)
}

/// A failure of a statement; `what` says what it was to do.
pub(crate) fn of_sql(what: &str, error: tokio_postgres::Error) -> EngineError {
    let kind = match error.as_db_error() {
        Some(server) => kind_of(class_of_sqlstate(server.code().code())),
        None => EngineErrorKind::Unreachable,
    };
    // The client library's own text is only "db error"; what the server said is what helps.
    let said = error.as_db_error().map(|server| format!("{what}: {}", server.message()));
    EngineError::new(kind, said.unwrap_or_else(|| what.to_owned())).because(error)
}

/// A failure of a file operation. A disk that cannot read is damage, never something to skip.
pub(crate) fn of_file(what: String, error: std::io::Error) -> EngineError {
    if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
        return EngineError::new(EngineErrorKind::Corrupt, what)
            .because(error)
            .hint("check the disk: the kernel cannot read it");
    }
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    let error = EngineError::io(what, error);
    if denied {
        return error.hint("run the agent as the user that PostgreSQL runs as");
    }
    error
}

/// A value that was not as it must be.
pub(crate) fn internal(what: impl Into<String>) -> EngineError {
    EngineError::new(EngineErrorKind::Internal, what)
}

/// Runs blocking work away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(internal("work on a PostgreSQL data directory ended early").because(error)),
    }
}

/// Waits for `work` no longer than `limit`; `late` says what did not happen.
pub(crate) async fn in_time<T>(
    limit: Duration,
    late: &str,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer,
        Err(_) => {
            let what = format!("{late} within {} s", limit.as_secs());
            Err(EngineError::new(EngineErrorKind::Unreachable, what))
        }
    }
}
