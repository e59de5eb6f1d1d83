//! The tables of the state file, and what an error of the file means.
//!
//! Each key has one row per revision that wrote it, so that the newest value and any older one are found the same way.

use breakwater_core::ErrorClass;
use bytes::Bytes;
use redb::{ReadableTable, StorageError, TableDefinition};

use crate::error::StateError;
use crate::store::{Entry, Revision};

/// The form of the file. A change that older programs would misread counts one up.
pub(super) const FORMAT: u64 = 1;

/// Counters by name; the names are the constants below.
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_REVISION: &str = "revision";
/// The oldest revision that can still be read and watched.
pub(super) const META_OLDEST: &str = "oldest";
/// The bytes of keys and values that the log stands for.
pub(super) const META_LOG_BYTES: &str = "log-bytes";
pub(super) const META_LAST_LEASE: &str = "last-lease";

type VersionKey = (&'static str, u64);
type VersionValue = (u64, u64, i64, Option<&'static [u8]>);

/// (key, revision) -> (created, version, lease or 0, value or none where the key was deleted).
pub(super) const VERSIONS: TableDefinition<'static, VersionKey, VersionValue> = TableDefinition::new("versions");

/// (revision, position in it) -> (is a put, key, bytes): what each revision changed.
pub(super) const LOG: TableDefinition<'static, (u64, u32), (bool, &str, u64)> = TableDefinition::new("log");

/// lease -> seconds to live.
pub(super) const LEASES: TableDefinition<'static, i64, i64> = TableDefinition::new("leases");

/// (lease, key): what a lease takes with it.
pub(super) const LEASE_KEYS: TableDefinition<'static, (i64, &str), ()> = TableDefinition::new("lease-keys");

/// An entry with what only the store needs to know.
pub(super) struct Stored {
    pub(super) entry: Entry,
    /// 0 for none.
    pub(super) lease: i64,
}

/// What `key` held at revision `at`: its newest row up to there.
pub(super) fn read(
    versions: &impl ReadableTable<VersionKey, VersionValue>,
    key: &str,
    at: u64,
) -> Result<Option<Stored>, StorageError> {
    let Some((row, held)) = versions.range((key, 0)..=(key, at))?.next_back().transpose()? else { return Ok(None) };
    let (_, revision) = row.value();
    let (created, version, lease, value) = held.value();
    Ok(value.map(|value| Stored {
        entry: Entry {
            key: key.to_owned(),
            value: Bytes::copy_from_slice(value),
            revision: Revision(revision),
            created: Revision(created),
            version,
        },
        lease,
    }))
}

/// The first key not before `from`, deleted ones included.
pub(super) fn key_from(
    versions: &impl ReadableTable<VersionKey, VersionValue>,
    from: &str,
) -> Result<Option<String>, StorageError> {
    let row = versions.range((from, 0)..)?.next().transpose()?;
    Ok(row.map(|(row, _)| row.value().0.to_owned()))
}

/// The counter of that name; 0 if it was never set.
pub(super) fn meta(table: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, StorageError> {
    Ok(table.get(name)?.map_or(0, |value| value.value()))
}

/// What an error of the file `store` means, met while doing `what`.
pub(super) fn error_of(store: &str, what: &str, error: impl Into<redb::Error>) -> StateError {
    let error = error.into();
    let store = store.to_owned();
    let what = format!("{what} failed");
    let class = match &error {
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => ErrorClass::Corrupt,
        redb::Error::Io(error) if ErrorClass::of_io(error) == ErrorClass::Denied => ErrorClass::Denied,
        // After a failed write the file is closed to further ones until it is opened, and so checked, again.
        redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed => ErrorClass::Unavailable,
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableDoesNotExist(_) => ErrorClass::Corrupt,
        _ => ErrorClass::Internal,
    };
    let cause = Some(error.into());
    match class {
        ErrorClass::Corrupt => StateError::Corrupt { store, what, cause },
        ErrorClass::Denied => StateError::Denied { store, what, cause },
        ErrorClass::Unavailable => StateError::Unavailable { store, what, cause },
        _ => StateError::Internal { store, what, cause },
    }
}
