//! Errors of the operating system as kinds of trouble.

use std::error::Error;
use std::io;

use rustix::io::Errno;

use crate::StorageErrorKind;

/// A [`StorageError`](crate::StorageError) that does not know yet where it happened.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: StorageErrorKind,
    pub(super) source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub(super) fn new(kind: StorageErrorKind) -> Failure {
        Failure { kind, source: None }
    }

    pub(super) fn because(kind: StorageErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { kind, source: Some(source.into()) }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::because(kind(errno), io::Error::from(errno))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let kind = Errno::from_io_error(&error).map_or(StorageErrorKind::Other, kind);
        Failure::because(kind, error)
    }
}

fn kind(errno: Errno) -> StorageErrorKind {
    match errno {
        Errno::NOENT => StorageErrorKind::NotFound,
        Errno::EXIST => StorageErrorKind::AlreadyExists,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StorageErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT => StorageErrorKind::Full,
        Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL | Errno::FBIG => {
            StorageErrorKind::Invalid
        }
        // A disk or server that fails to answer, or a machine out of handles or memory: not the object's fault, and the
        // same call may pass later or in another region.
        Errno::IO
        | Errno::STALE
        | Errno::NXIO
        | Errno::NODEV
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::NOTCONN
        | Errno::CONNREFUSED
        | Errno::CONNRESET
        | Errno::CONNABORTED
        | Errno::REMOTEIO
        | Errno::SHUTDOWN
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM
        | Errno::AGAIN
        | Errno::BUSY
        | Errno::INTR => StorageErrorKind::Unreachable,
        _ => StorageErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_keep_their_meaning() {
        let check = |errno: Errno, expected| {
            assert_eq!(Failure::from(errno).kind, expected, "{errno:?}");
            assert_eq!(Failure::from(io::Error::from(errno)).kind, expected, "{errno:?}");
        };
        check(Errno::NOSPC, StorageErrorKind::Full);
        check(Errno::DQUOT, StorageErrorKind::Full);
        check(Errno::IO, StorageErrorKind::Unreachable);
        check(Errno::STALE, StorageErrorKind::Unreachable);
        check(Errno::ACCESS, StorageErrorKind::Denied);
        check(Errno::ROFS, StorageErrorKind::Denied);
        check(Errno::NOENT, StorageErrorKind::NotFound);
        check(Errno::NOSYS, StorageErrorKind::Other);
    }
}
