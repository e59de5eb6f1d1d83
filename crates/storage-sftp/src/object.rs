//! Reading and deleting one object.

use std::ops::Range;

use breakwater_core::Timestamp;
use breakwater_storage::backend::range_trouble;
use breakwater_storage::{ObjectMeta, StorageErrorKind};
use bytes::Bytes;
use russh_sftp::protocol::{FileAttributes, OpenFlags};

use crate::call::{Call, Kind, kind_of};
use crate::directory;
use crate::failure::{Failure, Refusal};

pub(crate) async fn read(call: &Call, key: &str) -> Result<Bytes, Failure> {
    let size = meta(call, key).await?.size;
    read_at(call, key, 0, size).await
}

pub(crate) async fn read_range(call: &Call, key: &str, range: &Range<u64>) -> Result<Bytes, Failure> {
    let size = meta(call, key).await?.size;
    if let Some((kind, trouble)) = range_trouble(range, size) {
        return Err(Failure::because(kind, trouble));
    }
    read_at(call, key, range.start, range.end - range.start).await
}

pub(crate) async fn read_tail(call: &Call, key: &str, length: u64) -> Result<(Bytes, u64), Failure> {
    let size = meta(call, key).await?.size;
    let length = length.min(size);
    Ok((read_at(call, key, size - length, length).await?, size))
}

/// A look comes before every read: opening a named pipe that somebody put there would hold up the server's session for ever.
pub(crate) async fn meta(call: &Call, key: &str) -> Result<ObjectMeta, Failure> {
    let attributes = call.connection.lstat(&call.path(key)).await?;
    meta_of(key, &attributes)?.ok_or(Failure::new(StorageErrorKind::NotFound))
}

/// What the attributes say about the object `key`; `None` when it is something else than a regular file.
pub(crate) fn meta_of(key: &str, attributes: &FileAttributes) -> Result<Option<ObjectMeta>, Refusal> {
    if kind_of(attributes)? != Kind::File {
        return Ok(None);
    }
    let (Some(size), Some(modified)) = (attributes.size, attributes.mtime) else {
        return Err(Refusal::Invalid("it says neither the size nor the time of a file".to_owned()));
    };
    let modified = Timestamp::from_micros(i64::from(modified) * 1_000_000);
    Ok(Some(ObjectMeta::new(key, size, modified)))
}

async fn read_at(call: &Call, key: &str, start: u64, length: u64) -> Result<Bytes, Failure> {
    let file = call.connection.open_file(&call.path(key), OpenFlags::READ, 0).await?;
    let content = call.while_wanted(async { Ok(file.read(start, length).await?) }).await?;
    if content.len() as u64 != length {
        // The size was read a moment ago, and objects never change.
        return Err(Failure::because(StorageErrorKind::Corrupt, "the object became shorter"));
    }
    Ok(content)
}

/// Deletes the object and the directories that are empty without it. Flushed at once: what is deleted in an order must not
/// come back in another after a crash.
pub(crate) async fn delete(call: &Call, key: &str) -> Result<(), Failure> {
    match call.connection.remove(&call.path(key)).await {
        Ok(()) => Ok(directory::prune(call, directory::parent(key)).await?),
        // The answer `Ok, it is gone` needs a root that is there.
        Err(Refusal::Missing) => call.root_is_there().await,
        Err(refusal @ Refusal::Lost(_)) => Err(refusal.into()),
        Err(refusal) => match call.kind(key).await? {
            // A directory is no object.
            None | Some(Kind::Directory) => call.root_is_there().await,
            Some(_) => Err(refusal.into()),
        },
    }
}
