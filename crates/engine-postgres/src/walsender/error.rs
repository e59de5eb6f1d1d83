//! What can go wrong between us and a server's walsender, and what the server itself says.

use std::fmt;
use std::time::Duration;

use breakwater_core::{ErrorClass, Lsn, TimelineId};
use bytes::Bytes;

use crate::connection::ConnectionError;

/// An error that the server reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, not translated.
    pub severity: String,
    /// The five characters of the SQLSTATE.
    pub sqlstate: String,
    /// The message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
}

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse: fields of a letter and a text that ends in zero.
    pub(super) fn parse(body: &Bytes) -> Self {
        let mut error = ServerError {
            severity: "ERROR".to_owned(),
            sqlstate: "XX000".to_owned(),
            message: String::new(),
            detail: None,
            hint: None,
        };
        for field in body.split(|byte| *byte == 0) {
            let Some((letter, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match letter {
                b'V' => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }

    /// Whether the server ends the session with it.
    pub fn is_fatal(&self) -> bool {
        self.severity != "ERROR"
    }

    /// Whether the log that was asked for is no longer on the server.
    pub fn is_log_removed(&self) -> bool {
        self.sqlstate == "58P01"
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, ", hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

/// The meaning of a SQLSTATE to a caller.
pub fn class_of_sqlstate(sqlstate: &str) -> ErrorClass {
    match sqlstate {
        // insufficient_privilege
        "42501" => ErrorClass::Denied,
        // undefined_object, undefined_file (the log was removed), invalid_catalog_name
        "42704" | "58P01" | "3D000" => ErrorClass::NotFound,
        // duplicate_object, object_in_use
        "42710" | "55006" => ErrorClass::Conflict,
        // query_canceled
        "57014" => ErrorClass::Cancelled,
        // data_corrupted, index_corrupted
        "XX001" | "XX002" => ErrorClass::Corrupt,
        // PostgreSQL's code for errors without one of their own, such as a position ahead of the server.
        "XX000" => ErrorClass::Refused,
        _ => match sqlstate.get(..2) {
            Some("28") => ErrorClass::Denied,
            Some("08" | "53" | "57" | "58") => ErrorClass::Unavailable,
            Some("22" | "42") => ErrorClass::Invalid,
            Some("0A" | "25" | "55") => ErrorClass::Refused,
            _ => ErrorClass::Internal,
        },
    }
}

/// Why a command or a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum WalSenderError {
    /// The server was not reached, or the settings are wrong.
    #[error("cannot open a replication connection")]
    Connection(#[from] ConnectionError),
    /// The socket failed.
    #[error("the replication connection broke")]
    Io(#[source] std::io::Error),
    /// The server went away without a word.
    #[error("the server closed the replication connection")]
    Closed,
    /// The server reported an error.
    #[error("{command}")]
    Server {
        /// What was asked of it.
        command: String,
        /// What it said.
        #[source]
        source: Box<ServerError>,
    },
    /// Nothing was heard for too long, though an answer was asked for.
    #[error("nothing heard from the server for {} s", waited.as_secs())]
    Silent {
        /// How long was waited.
        waited: Duration,
    },
    /// A command was not answered in time.
    #[error("the server did not answer `{command}` within {} s", waited.as_secs())]
    CommandTimeout {
        /// The command.
        command: String,
        /// How long was waited.
        waited: Duration,
    },
    /// An earlier command was not waited for to its end, so answers can no longer be told apart.
    #[error("the replication connection was left in the middle of a command, hint: connect again")]
    OutOfStep,
    /// The server wants a login that is not spoken here.
    #[error(
        "the server asks for {method}, which is not supported, hint: allow scram-sha-256, md5, password or trust in pg_hba.conf"
    )]
    Authentication {
        /// What it asks for.
        method: String,
    },
    /// The server wants a password.
    #[error("the server asks for a password and none is set, hint: add passfile= or password-file= to the connection")]
    NoPassword,
    /// The exchange of proofs failed, on either side.
    #[error("the proof of the password failed")]
    Scram(#[source] std::io::Error),
    /// A name that cannot be sent.
    #[error("`{name}` is not {expected}")]
    BadName {
        /// The name.
        name: String,
        /// What it would have to be.
        expected: &'static str,
    },
    /// The stream does not go on where it should.
    #[error("the stream has a gap: {expected} is next, the server sent {found}")]
    Gap {
        /// The next position.
        expected: Lsn,
        /// What came.
        found: Lsn,
    },
    /// The server names a next timeline that cannot follow.
    #[error("the server says timeline {next} follows {timeline} at {at}, but {received} was received")]
    BadSwitch {
        /// The timeline that ended.
        timeline: TimelineId,
        /// What is to follow.
        next: TimelineId,
        /// Where.
        at: Lsn,
        /// How far the stream went.
        received: Lsn,
    },
    /// Bytes that are not the protocol.
    #[error("the server's answer is not understood: {0}")]
    Protocol(String),
    /// The stream was read past its end.
    #[error("the stream has ended")]
    Ended,
}

impl WalSenderError {
    /// What the error means to a caller.
    pub fn class(&self) -> ErrorClass {
        match self {
            WalSenderError::Connection(source) => source.class(),
            WalSenderError::Server { source, .. } => class_of_sqlstate(&source.sqlstate),
            WalSenderError::Io(_)
            | WalSenderError::Closed
            | WalSenderError::Silent { .. }
            | WalSenderError::CommandTimeout { .. }
            | WalSenderError::OutOfStep => ErrorClass::Unavailable,
            WalSenderError::Authentication { .. } => ErrorClass::Refused,
            WalSenderError::NoPassword | WalSenderError::Scram(_) => ErrorClass::Denied,
            WalSenderError::BadName { .. } => ErrorClass::Invalid,
            WalSenderError::Gap { .. } | WalSenderError::BadSwitch { .. } => ErrorClass::Corrupt,
            WalSenderError::Protocol(_) | WalSenderError::Ended => ErrorClass::Internal,
        }
    }

    /// What the server said, when it was the server.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            WalSenderError::Server { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_report_are_read() {
        let body = Bytes::from_static(b"SFEHLER\0VFATAL\0C57P01\0Mgoing down\0Hwait\0Zunknown\0\0");
        let error = ServerError::parse(&body);
        assert_eq!(error.to_string(), "FATAL 57P01: going down, hint: wait");
        assert!(error.is_fatal());
        assert_eq!(class_of_sqlstate(&error.sqlstate), ErrorClass::Unavailable);
        assert_eq!(class_of_sqlstate("28P01"), ErrorClass::Denied);
        assert_eq!(class_of_sqlstate(""), ErrorClass::Internal);
    }
}
