//! Deletes, with everything that the account keeps of an object: snapshots, and versions that it had before.
//!
//! A look comes first. Deleting a current version that is locked would make a previous version of it, which is kept but not
//! found; so what is locked is not touched.

use azure_storage_blob::models::{BlobClientDeleteOptions, DeleteSnapshotsOptionType};
use breakwater_storage::{Operation, StorageError, StorageErrorKind};

use crate::backend::Azure;
use crate::failure::locked_until;

impl Azure {
    pub(crate) async fn delete_blob(&self, key: &str) -> Result<(), StorageError> {
        let has_versions = match self.look(Operation::Delete, key).await {
            Ok(look) => {
                let protection = look.protection;
                if protection.held || look.at.is_some_and(|at| protection.binds(at)) {
                    let why = protection.retention.map_or("it is held".to_owned(), |lock| locked_until(lock.until));
                    return Err(self.judge.say(StorageErrorKind::Locked, Operation::Delete, key, &why));
                }
                self.delete_one(
                    key,
                    BlobClientDeleteOptions {
                        delete_snapshots: Some(DeleteSnapshotsOptionType::Include),
                        ..BlobClientDeleteOptions::default()
                    },
                )
                .await?;
                look.version.is_some()
            }
            // A delete that was cut off may have left versions behind.
            Err(error) if error.is_not_found() => true,
            Err(error) => return Err(error),
        };
        if has_versions { self.delete_versions(key).await } else { Ok(()) }
    }

    async fn delete_versions(&self, key: &str) -> Result<(), StorageError> {
        for item in self.versions(Operation::Delete, key).await? {
            if item.is_current_version == Some(true) {
                continue;
            }
            let options = BlobClientDeleteOptions {
                snapshot: item.snapshot,
                version_id: item.version_id,
                ..BlobClientDeleteOptions::default()
            };
            self.delete_one(key, options).await?;
        }
        Ok(())
    }

    /// Deletes what `options` name; one that is not there any more counts.
    async fn delete_one(&self, key: &str, options: BlobClientDeleteOptions<'_>) -> Result<(), StorageError> {
        let deleted = self.blob(key).delete(Some(options)).await;
        match deleted.map_err(|error| self.judge.error(Operation::Delete, key, &error)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
