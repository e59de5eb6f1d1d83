//! Directories below the root: made on the way to an object, flushed, and removed when nothing is left in them.

use breakwater_storage::StorageErrorKind;
use russh_sftp::protocol::OpenFlags;

use crate::call::{Call, Kind};
use crate::failure::{Failure, Refusal};

/// Only the owner; the same for directories and, without `x`, for files.
pub(crate) const DIRECTORY_MODE: u32 = 0o700;
/// Room that a directory needs, at most.
const DIRECTORY_BYTES: u64 = 4096;

/// The key of the directory that holds `key`; empty for the root.
pub(crate) fn parent(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The directory `key` and all above it, the lowest first, the root last.
fn upwards(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| (!key.is_empty()).then(|| parent(key)))
}

/// Makes the directory `key` and those above it below the root, as far as they are missing. `NotFound` when one was pruned
/// meanwhile, or the root is gone.
pub(crate) async fn make(call: &Call, key: &str) -> Result<(), Failure> {
    let mut wanted: Vec<&str> = upwards(key).filter(|key| !key.is_empty()).collect();
    wanted.reverse();
    let kinds = futures::future::try_join_all(wanted.iter().map(|key| call.kind(key))).await?;
    for (key, kind) in wanted.into_iter().zip(kinds) {
        match kind {
            Some(Kind::Directory) => {}
            Some(_) => return Err(nested()),
            None => make_one(call, key).await?,
        }
    }
    Ok(())
}

async fn make_one(call: &Call, key: &str) -> Result<(), Failure> {
    match call.connection.make_directory(&call.path(key), DIRECTORY_MODE).await {
        Ok(()) => Ok(()),
        // Perhaps another made it first.
        Err(Refusal::Failed(said)) => match call.kind(key).await? {
            Some(Kind::Directory) => Ok(()),
            Some(_) => Err(nested()),
            None => Err(call.explained(Refusal::Failed(said), DIRECTORY_BYTES).await),
        },
        Err(refusal) => Err(refusal.into()),
    }
}

/// Flushes the directory `key`, if it is there. One that was removed meanwhile has nothing in it to be flushed.
pub(crate) async fn flush(call: &Call, key: &str) -> Result<(), Refusal> {
    match flush_path(call, &call.path(key)).await {
        Err(Refusal::Missing) => Ok(()),
        flushed => flushed,
    }
}

/// Flushes the directory at `path`. SFTP has no word for it; a server on a Unix opens a directory like a file.
pub(crate) async fn flush_path(call: &Call, path: &str) -> Result<(), Refusal> {
    call.connection.open_file(path, OpenFlags::READ, DIRECTORY_MODE).await?.flush().await
}

/// Flushes the directory `key` and all above it. Those that another process made and has not flushed yet are so too before
/// this one promises anything.
pub(crate) async fn flush_upwards(call: &Call, key: &str) -> Result<(), Refusal> {
    futures::future::try_join_all(upwards(key).map(|key| flush(call, key))).await.map(drop)
}

/// Removes the directory `key` and those above it as far as they are empty, and flushes the first that stays.
pub(crate) async fn prune(call: &Call, key: &str) -> Result<(), Refusal> {
    for key in upwards(key) {
        if !key.is_empty() {
            match call.connection.remove_directory(&call.path(key)).await {
                Ok(()) | Err(Refusal::Missing) => continue,
                Err(Refusal::Lost(why)) => return Err(Refusal::Lost(why)),
                // Not empty, or a mount point: it stays.
                Err(_) => {}
            }
        }
        return flush(call, key).await;
    }
    Ok(())
}

/// That a file system cannot hold the object.
pub(crate) fn nested() -> Failure {
    Failure::because(
        StorageErrorKind::Invalid,
        "another object lies above or below this name, and a file system cannot hold both",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upwards_ends_with_the_root() {
        assert_eq!(upwards("a/b/c").collect::<Vec<_>>(), ["a/b/c", "a/b", "a", ""]);
        assert_eq!(upwards("").collect::<Vec<_>>(), [""]);
    }
}
