//! One operation of the contract on its way: its connection, the place it is about, and whether anybody still wants it.
//!
//! What is not there may be so because the whole root went away. That must never read as `NotFound` or as an empty list, so
//! the root is looked at before such an answer is given.

use breakwater_storage::StorageErrorKind;
use russh_sftp::protocol::FileAttributes;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Refusal};
use crate::pool::Lease;

/// The part of a mode that says what kind of file it is, and two of its values.
const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// The flag of `statvfs@openssh.com` for a file system that is mounted read-only.
const READ_ONLY: u64 = 1;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    /// A symbolic link, a pipe, a device.
    Other,
}

/// What kind of file has these attributes.
pub(crate) fn kind_of(attributes: &FileAttributes) -> Result<Kind, Refusal> {
    match attributes.permissions.map(|mode| mode & KIND) {
        Some(DIRECTORY) => Ok(Kind::Directory),
        Some(REGULAR) => Ok(Kind::File),
        Some(kind) if kind != 0 => Ok(Kind::Other),
        _ => Err(Refusal::Invalid("it does not say what is a file and what is a directory".to_owned())),
    }
}

/// One operation on its way.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) connection: Lease,
    root: String,
    abandoned: CancellationToken,
}

impl Call {
    pub(crate) fn new(connection: Lease, root: &str, abandoned: CancellationToken) -> Call {
        Call { connection, root: root.to_owned(), abandoned }
    }

    /// Where `key` lies on the server; the root itself when that is empty.
    pub(crate) fn path(&self, key: &str) -> String {
        if key.is_empty() { self.root.clone() } else { format!("{}/{key}", self.root) }
    }

    /// Fails unless the root is there now.
    pub(crate) async fn root_is_there(&self) -> Result<(), Failure> {
        let gone = |what: &'static str| Failure::because(StorageErrorKind::Unreachable, what);
        match self.connection.stat(&self.root).await {
            Ok(attributes) if kind_of(&attributes)? == Kind::Directory => Ok(()),
            Ok(_) => Err(gone("the path is not a directory (hint: name one, or move away what is there)")),
            Err(Refusal::Missing) => Err(gone(
                "the directory does not exist (hint: is what should be mounted there mounted? Below a ChrootDirectory the path \
                 begins there)",
            )),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// What `key` stands for, if anything.
    pub(crate) async fn kind(&self, key: &str) -> Result<Option<Kind>, Refusal> {
        match self.connection.lstat(&self.path(key)).await {
            Ok(attributes) => kind_of(&attributes).map(Some),
            Err(Refusal::Missing) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// What a refusal without a word means where `bytes` were to be written: no room, no writing, or nobody knows.
    pub(crate) async fn explained(&self, refusal: Refusal, bytes: u64) -> Failure {
        if !matches!(refusal, Refusal::Failed(_)) {
            return refusal.into();
        }
        match self.connection.statvfs(&self.root).await {
            Some(volume) if volume.flags & READ_ONLY != 0 => {
                Failure::because(StorageErrorKind::Denied, "the file system is mounted read-only")
            }
            Some(volume) if volume.blocks_avail.saturating_mul(volume.fragment_size) < bytes => {
                Failure::new(StorageErrorKind::Full)
            }
            Some(volume) if volume.inodes > 0 && volume.inodes_avail == 0 => {
                Failure::because(StorageErrorKind::Full, "the file system has no inodes left")
            }
            _ => refusal.into(),
        }
    }

    /// Does `work`, unless nobody wants it any more. Only for work that may stop at any point.
    pub(crate) async fn while_wanted<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.abandoned.cancelled() => Err(Failure::new(StorageErrorKind::Cancelled)),
            done = work => done,
        }
    }
}
