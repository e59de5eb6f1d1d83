//! What a server answers instead of doing it, and what kind of trouble that is.
//!
//! SFTP version 3 has few codes: a taken name, a full disk, a directory that is not empty and a broken disk are all `Failure`.
//! Whoever asked has to look what it was.

use std::error::Error;

use breakwater_storage::StorageErrorKind;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{Status, StatusCode};

/// How much of a server's own words is shown.
const WORDS_MAX: usize = 200;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nothing has that name, or a part of the path is no directory.
    #[error("no such file")]
    Missing,
    /// The account may not do that, or the server is set up to refuse it.
    #[error(
        "the server does not permit it: {0} (hint: see the owner and mode of the directory, and the account's part of sshd_config)"
    )]
    Denied(String),
    /// The request is not known to the server.
    #[error("the server does not know the request: {0}")]
    Unknown(String),
    /// The request cannot be right there.
    #[error("the server does not understand it: {0}")]
    Invalid(String),
    /// A file or a directory has no more.
    #[error("the server says that there is no more")]
    End,
    /// Anything else.
    #[error("the server says no more than: {0} (hint: a quota, or a disk that fails; the server's log knows)")]
    Failed(String),
    /// There is no answer, and none will come.
    #[error("the connection was lost: {0}")]
    Lost(String),
}

impl From<SftpError> for Refusal {
    fn from(error: SftpError) -> Refusal {
        match error {
            SftpError::Status(status) => Refusal::from(status),
            SftpError::Timeout => Refusal::Lost("no answer in time".to_owned()),
            other => Refusal::Lost(words(&other.to_string())),
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        let said = words(&status.error_message);
        match status.status_code {
            StatusCode::NoSuchFile => Refusal::Missing,
            StatusCode::PermissionDenied => Refusal::Denied(said),
            StatusCode::OpUnsupported => Refusal::Unknown(said),
            StatusCode::BadMessage => Refusal::Invalid(said),
            StatusCode::NoConnection | StatusCode::ConnectionLost => Refusal::Lost(said),
            StatusCode::Eof => Refusal::End,
            StatusCode::Ok | StatusCode::Failure => Refusal::Failed(said),
        }
    }
}

/// A server's own words, safe to show.
fn words(text: &str) -> String {
    text.chars().take(WORDS_MAX).flat_map(char::escape_default).collect()
}

/// A [`StorageError`](breakwater_storage::StorageError) that does not know yet where it happened.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: StorageErrorKind,
    pub(crate) source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(kind: StorageErrorKind) -> Failure {
        Failure { kind, source: None }
    }

    pub(crate) fn because(kind: StorageErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { kind, source: Some(source.into()) }
    }

    /// That a connection broke, or never came to be.
    pub(crate) fn lost(error: russh::Error) -> Failure {
        Failure::because(StorageErrorKind::Unreachable, error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let kind = match refusal {
            Refusal::Missing => return Failure::new(StorageErrorKind::NotFound),
            Refusal::Denied(_) => StorageErrorKind::Denied,
            Refusal::Unknown(_) => StorageErrorKind::Unsupported,
            Refusal::Invalid(_) => StorageErrorKind::Invalid,
            // A disk that fails is not the object's fault, and the same call may pass later or in another region.
            Refusal::Failed(_) | Refusal::End | Refusal::Lost(_) => StorageErrorKind::Unreachable,
        };
        Failure::because(kind, refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_meaning_and_words_are_harmless() {
        let check = |code, expected| {
            let status = Status {
                id: 1,
                status_code: code,
                error_message: "\u{1b}[2J".to_owned() + &"x".repeat(1000),
                language_tag: String::new(),
            };
            let failure = Failure::from(Refusal::from(status));
            assert_eq!(failure.kind, expected, "{code:?}");
            if let Some(source) = failure.source {
                let text = source.to_string();
                assert!(!text.contains('\u{1b}') && text.len() < 400, "{text}");
            }
        };
        check(StatusCode::NoSuchFile, StorageErrorKind::NotFound);
        check(StatusCode::PermissionDenied, StorageErrorKind::Denied);
        check(StatusCode::Failure, StorageErrorKind::Unreachable);
        check(StatusCode::OpUnsupported, StorageErrorKind::Unsupported);
        check(StatusCode::BadMessage, StorageErrorKind::Invalid);
        check(StatusCode::ConnectionLost, StorageErrorKind::Unreachable);
    }
}
