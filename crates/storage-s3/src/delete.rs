//! Deleting. In a bucket with versions an object is gone when all versions of exactly its key are, so those are found first; in any
//! other bucket a delete is one call.

use aws_sdk_s3::types::{Delete, DeleteMarkerEntry, ObjectIdentifier, ObjectVersion};
use breakwater_core::Clock;
use breakwater_runtime::SystemClock;
use breakwater_storage::{Operation, Protection, StorageError, StorageErrorKind};
use futures::StreamExt;

use crate::backend::S3;
use crate::failure::Call;
use crate::refusal::Refusal;

/// The most that one DeleteObjects takes.
const BATCH: usize = 1000;

/// How many calls for single keys are under way at once, where many are deleted from a bucket with versions.
const AT_ONCE: usize = 16;

/// One thing for a batch to delete: a key, and in a bucket with versions which of them.
#[derive(Clone, Debug)]
struct Target<'a> {
    /// Which of the keys that were asked for.
    index: usize,
    key: &'a str,
    version: Option<String>,
}

impl S3 {
    pub(crate) async fn delete_object(&self, key: &str) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Delete, action: "s3:DeleteObject", key };
        if self.has_versions(call).await? {
            return self.delete_versions(call).await;
        }
        let request = self.client().delete_object().bucket(self.bucket()).key(self.full(key));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return gone_is_fine(self.failed(call, &error)),
        };
        match answer.version_id() {
            // Versions were switched on since this place was opened, and the object was only hidden.
            Some(marker) if answer.delete_marker() == Some(true) => self.unhide_and_delete(call, marker).await,
            _ => Ok(()),
        }
    }

    async fn unhide_and_delete(&self, call: Call<'_>, marker: &str) -> Result<(), StorageError> {
        self.delete_version(call.operation, call.key, marker).await?;
        self.delete_versions(call).await
    }

    /// Deletes all versions of the key, the oldest first, so that one which the store keeps leaves the newest to be read.
    async fn delete_versions(&self, call: Call<'_>) -> Result<(), StorageError> {
        for version in self.versions(call).await? {
            self.delete_version(call.operation, call.key, &version).await?;
        }
        Ok(())
    }

    /// Deletes one version; `Ok` also when there was none.
    pub(crate) async fn delete_version(
        &self,
        operation: Operation,
        key: &str,
        version: &str,
    ) -> Result<(), StorageError> {
        let call = Call { operation, action: "s3:DeleteObjectVersion", key };
        let request = self.client().delete_object().bucket(self.bucket()).key(self.full(key)).version_id(version);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => gone_is_fine(self.kept(call, Some(version), self.failed(call, &error)).await),
        }
    }

    /// All versions of exactly this key in the order in which they are deleted: content, the oldest first, then the markers that
    /// hide it.
    async fn versions(&self, call: Call<'_>) -> Result<Vec<String>, StorageError> {
        let full = self.full(call.key);
        let call = Call { action: "s3:ListBucketVersions", ..call };
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        let (mut next_key, mut next_version) = (None, None);
        loop {
            let request = self.client().list_object_versions().bucket(self.bucket()).prefix(&full);
            let request = request.set_key_marker(next_key.take()).set_version_id_marker(next_version.take());
            let page = request.send().await.map_err(|error| self.failed(call, &error))?;
            let of_version = |one: &ObjectVersion| Some((one.key()? == full).then(|| one.version_id())??.to_owned());
            let of_marker = |one: &DeleteMarkerEntry| Some((one.key()? == full).then(|| one.version_id())??.to_owned());
            versions.extend(page.versions().iter().filter_map(of_version));
            markers.extend(page.delete_markers().iter().filter_map(of_marker));
            // The key itself sorts before all that it is a prefix of.
            if page.is_truncated() != Some(true) || page.next_key_marker() != Some(full.as_str()) {
                break;
            }
            (next_key, next_version) = (page.next_key_marker, page.next_version_id_marker);
        }
        versions.reverse();
        versions.append(&mut markers);
        Ok(versions)
    }

    /// The error of a delete that was refused: `Locked`, and until when, where a lock is the reason.
    async fn kept(&self, call: Call<'_>, version: Option<&str>, error: StorageError) -> StorageError {
        if error.kind != StorageErrorKind::Denied {
            return error;
        }
        match self.look_at(call.operation, call.key, version).await {
            Ok(look) if look.protection.binds(SystemClock.now()) => {
                self.error(StorageErrorKind::Locked, call).because(what_keeps(look.protection))
            }
            _ => error,
        }
    }

    pub(crate) async fn delete_objects(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        let call = Call { operation: Operation::DeleteMany, action: "s3:DeleteObject", key: "" };
        if keys.is_empty() {
            return Vec::new();
        }
        let mut outcomes: Vec<Result<(), StorageError>> = keys.iter().map(|_| Ok(())).collect();
        let targets: Vec<Target<'_>> = match self.has_versions(call).await {
            Err(error) => return keys.iter().map(|key| Err(self.again(&error, key))).collect(),
            Ok(false) => keys.iter().enumerate().map(|(index, key)| Target { index, key, version: None }).collect(),
            Ok(true) => self.single_versions(keys, &mut outcomes).await,
        };
        for batch in targets.chunks(BATCH) {
            self.delete_batch(batch, &mut outcomes).await;
        }
        outcomes
    }

    /// Those of the keys that still have a version, for batches; what became of others is in `outcomes`.
    async fn single_versions<'a>(
        &self,
        keys: &'a [String],
        outcomes: &mut [Result<(), StorageError>],
    ) -> Vec<Target<'a>> {
        // Made here and not as they are polled, which is more than the compiler can follow.
        let lookups: Vec<_> = keys.iter().map(|key| self.single_version(key)).collect();
        let found: Vec<_> = futures::stream::iter(lookups).buffered(AT_ONCE).collect().await;
        let mut targets = Vec::new();
        for (index, (key, version)) in keys.iter().zip(found).enumerate() {
            match version {
                Ok(version) => targets.extend(version.map(|one| Target { index, key, version: Some(one) })),
                Err(error) => outcomes[index] = Err(error),
            }
        }
        targets
    }

    /// The version of a key that has but one. What has more is deleted here; none is left then, or where there was none.
    async fn single_version(&self, key: &str) -> Result<Option<String>, StorageError> {
        let call = Call { operation: Operation::DeleteMany, action: "s3:DeleteObjectVersion", key };
        let mut versions = self.versions(call).await?;
        if versions.len() < 2 {
            return Ok(versions.pop());
        }
        self.delete_versions(call).await.map(|()| None)
    }

    async fn delete_batch(&self, batch: &[Target<'_>], outcomes: &mut [Result<(), StorageError>]) {
        let call = Call { operation: Operation::DeleteMany, action: "s3:DeleteObject", key: "" };
        let answer = match self.ask_for_batch(call, batch).await {
            Ok(answer) => answer,
            Err(error) => {
                for target in batch {
                    outcomes[target.index] = Err(self.again(&error, target.key));
                }
                return;
            }
        };
        for target in batch {
            let full = self.full(target.key);
            let call = Call { key: target.key, ..call };
            let deleted = answer.deleted().iter().find(|one| one.key() == Some(full.as_str()));
            let refused = answer.errors().iter().find(|one| one.key() == Some(full.as_str()));
            outcomes[target.index] = match (deleted, refused) {
                (_, Some(error)) => {
                    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                    let refusal =
                        Refusal { code: text(error.code()), message: text(error.message()), ..Refusal::default() };
                    let error = self.refused(call, &refusal);
                    gone_is_fine(self.kept(call, target.version.as_deref(), error).await)
                }
                (Some(deleted), None) => match deleted.delete_marker_version_id() {
                    Some(marker) if target.version.is_none() => self.unhide_and_delete(call, marker).await,
                    _ => Ok(()),
                },
                (None, None) => {
                    let why = "the store does not say what became of it";
                    Err(self.error(StorageErrorKind::Unreachable, call).because(why))
                }
            };
        }
    }

    async fn ask_for_batch(
        &self,
        call: Call<'_>,
        batch: &[Target<'_>],
    ) -> Result<aws_sdk_s3::operation::delete_objects::DeleteObjectsOutput, StorageError> {
        let mut delete = Delete::builder();
        for target in batch {
            let object = ObjectIdentifier::builder().key(self.full(target.key)).set_version_id(target.version.clone());
            delete = delete.objects(object.build().map_err(|error| self.defect(call, error))?);
        }
        let delete = delete.build().map_err(|error| self.defect(call, error))?;
        let request = self.client().delete_objects().bucket(self.bucket()).delete(delete);
        request.send().await.map_err(|error| self.failed(call, &error))
    }

    fn defect(&self, call: Call<'_>, error: impl std::error::Error + Send + Sync + 'static) -> StorageError {
        self.error(StorageErrorKind::Other, call).because(error)
    }

    /// The same error for one of the keys that it stopped.
    fn again(&self, error: &StorageError, key: &str) -> StorageError {
        let why = error.source.as_ref().map_or_else(String::new, ToString::to_string);
        StorageError::new(error.kind, Operation::DeleteMany, self.location_text(), key)
            .because(why)
            .after(error.retry_after)
    }
}

fn gone_is_fine(error: StorageError) -> Result<(), StorageError> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}

fn what_keeps(protection: Protection) -> String {
    match (protection.held, protection.retention) {
        (true, _) => "it is held (hint: lift its hold first)".to_owned(),
        (false, Some(retention)) => format!("it is locked until {} ({})", retention.until, retention.mode),
        (false, None) => "it is locked".to_owned(),
    }
}
