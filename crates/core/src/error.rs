//! What an error means to the one who has to act on it.
//!
//! Each crate has its own error types; every one of them answers [`class`](ErrorClass). Retry, gRPC status and the exit
//! code of `brctl` are one table over that class, here.

use std::error::Error;
use std::fmt;

/// The meaning of an error, independent of where it arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request itself is wrong: a bad flag, an unknown field, a value out of range.
    Invalid,
    /// The caller is not who they must be, or may not do this.
    Denied,
    /// A precondition failed and nothing was changed.
    Refused,
    /// Stopped on request.
    Cancelled,
    /// The named thing does not exist.
    NotFound,
    /// Something else holds the name, or a newer attempt fenced this one.
    Conflict,
    /// A peer, a region or a disk cannot be reached or is out of room now; the same call may pass later.
    Unavailable,
    /// Bytes are not what was written, or a check found damage.
    Corrupt,
    /// Part of the work was done; the rest is named in the message.
    Partial,
    /// None of the others; a defect of this program until shown otherwise.
    Internal,
}

impl ErrorClass {
    /// The exit code of `brctl` for this class (the contract is in `docs/cli.md`).
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorClass::Internal => 1,
            ErrorClass::Invalid => 2,
            ErrorClass::Denied => 3,
            ErrorClass::Refused => 4,
            ErrorClass::Cancelled => 5,
            ErrorClass::NotFound => 6,
            ErrorClass::Conflict => 7,
            ErrorClass::Unavailable => 8,
            ErrorClass::Corrupt => 9,
            ErrorClass::Partial => 10,
        }
    }

    /// Whether the same call may pass if it is made again.
    pub fn is_transient(self) -> bool {
        self == ErrorClass::Unavailable
    }

    /// The word that stands for this class in JSON, traces and job results.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Invalid => "invalid",
            ErrorClass::Denied => "denied",
            ErrorClass::Refused => "refused",
            ErrorClass::Cancelled => "cancelled",
            ErrorClass::NotFound => "not-found",
            ErrorClass::Conflict => "conflict",
            ErrorClass::Unavailable => "unavailable",
            ErrorClass::Corrupt => "corrupt",
            ErrorClass::Partial => "partial",
            ErrorClass::Internal => "internal",
        }
    }

    /// The class that a word written by [`as_str`](Self::as_str) stands for; unknown words are `Internal`.
    pub fn from_word(word: &str) -> ErrorClass {
        match word {
            "invalid" => ErrorClass::Invalid,
            "denied" => ErrorClass::Denied,
            "refused" => ErrorClass::Refused,
            "cancelled" => ErrorClass::Cancelled,
            "not-found" => ErrorClass::NotFound,
            "conflict" => ErrorClass::Conflict,
            "unavailable" => ErrorClass::Unavailable,
            "corrupt" => ErrorClass::Corrupt,
            "partial" => ErrorClass::Partial,
            _ => ErrorClass::Internal,
        }
    }

    /// The class of an I/O error of the local machine.
    pub fn of_io(error: &std::io::Error) -> ErrorClass {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => ErrorClass::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ErrorClass::Denied,
            ErrorKind::AlreadyExists => ErrorClass::Conflict,
            ErrorKind::InvalidInput => ErrorClass::Invalid,
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::BrokenPipe
            | ErrorKind::TimedOut
            | ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown => ErrorClass::Unavailable,
            _ => ErrorClass::Internal,
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shows an error with all its sources on one line: `a: b: c`. Each level's own `Display` describes that level only.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_codes_are_distinct() {
        let all = [
            ErrorClass::Invalid,
            ErrorClass::Denied,
            ErrorClass::Refused,
            ErrorClass::Cancelled,
            ErrorClass::NotFound,
            ErrorClass::Conflict,
            ErrorClass::Unavailable,
            ErrorClass::Corrupt,
            ErrorClass::Partial,
            ErrorClass::Internal,
        ];
        let mut codes = std::collections::BTreeSet::new();
        for class in all {
            assert_eq!(ErrorClass::from_word(class.as_str()), class);
            assert!(codes.insert(class.exit_code()), "{class} shares its exit code");
        }
        assert!(!codes.contains(&0));
    }
}
