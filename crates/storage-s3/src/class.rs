//! Tiers as storage classes: moves between them and thaws.
//!
//! | tier | class |
//! |---|---|
//! | hot | `STANDARD` |
//! | warm | `STANDARD_IA` |
//! | cold | `GLACIER_IR` |
//! | archive | `DEEP_ARCHIVE`, or `GLACIER` where the URL says so |

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, GlacierJobParameters, MetadataDirective, ObjectLockLegalHoldStatus, RestoreRequest,
    RestoreStatus, StorageClass, Tier as RestoreTier,
};
use breakwater_core::Clock;
use breakwater_runtime::SystemClock;
use breakwater_storage::{Availability, Operation, StorageError, StorageErrorKind, Thaw, ThawSpeed, Tier};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::backend::S3;
use crate::create::lock_of;
use crate::failure::Call;

/// The largest object that one request copies.
const COPY_BYTES_MAX: u64 = 5 << 30;

/// The MD5 of the body of a copy, which has none.
const EMPTY_MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";

/// What is written as it stands in the name of the source of a copy.
const PLAIN_IN_SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The tier of a class, also of classes that others have moved objects to.
pub(crate) fn tier_of(class: Option<&str>) -> Tier {
    match class {
        Some("STANDARD_IA" | "ONEZONE_IA") => Tier::Warm,
        Some("GLACIER_IR") => Tier::Cold,
        Some("GLACIER" | "DEEP_ARCHIVE") => Tier::Archive,
        _ => Tier::Hot,
    }
}

/// Whether an object can be read now, by a HEAD.
pub(crate) fn availability_of(answer: &HeadObjectOutput) -> Availability {
    let is_archived = tier_of(answer.storage_class().map(StorageClass::as_str)) == Tier::Archive
        // Intelligent-Tiering archives by itself, without another class.
        || answer.archive_status().is_some();
    match answer.restore() {
        Some(restore) if restore.contains("ongoing-request=\"true\"") => Availability::Thawing,
        Some(_) => Availability::Ready,
        None if is_archived => Availability::Archived,
        None => Availability::Ready,
    }
}

/// The same by a list.
pub(crate) fn availability_in_list(class: Option<&str>, restore: Option<&RestoreStatus>) -> Availability {
    match restore {
        Some(restore) if restore.is_restore_in_progress() == Some(true) => Availability::Thawing,
        Some(restore) if restore.restore_expiry_date().is_some() => Availability::Ready,
        _ if tier_of(class) == Tier::Archive => Availability::Archived,
        _ => Availability::Ready,
    }
}

impl S3 {
    /// The class of new objects of a tier; none where it is the store's own default, so that stores without classes can be used.
    pub(crate) fn class_of(&self, tier: Tier) -> Option<StorageClass> {
        match tier {
            Tier::Hot => None,
            Tier::Warm => Some(StorageClass::StandardIa),
            Tier::Cold => Some(StorageClass::GlacierIr),
            Tier::Archive => Some(self.options().archive_class.clone()),
        }
    }

    /// Copies the object onto itself in another class, with its lock and its hold. In a bucket with versions the one that was
    /// replaced is deleted, unless its own lock keeps it.
    pub(crate) async fn move_object(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        let call = Call { operation: Operation::SetTier, action: "s3:PutObject", key };
        let look = self.look(call.operation, key).await?;
        if tier_of(look.class.as_ref().map(StorageClass::as_str)) == tier {
            return Ok(());
        }
        if look.availability != Availability::Ready {
            let why = "what is archived cannot be moved (hint: thaw it, and move it when it can be read)";
            return Err(self.error(StorageErrorKind::Archived, call).because(why));
        }
        if look.size > COPY_BYTES_MAX {
            let why = format!("it has {} bytes, and one request moves at most {COPY_BYTES_MAX}", look.size);
            return Err(self.error(StorageErrorKind::Invalid, call).because(why));
        }
        let (lock_mode, lock_until) =
            look.protection.retention.filter(|lock| SystemClock.now() < lock.until).map(lock_of).unzip();
        let hold = look.protection.held.then_some(ObjectLockLegalHoldStatus::On);
        let request = self.client().copy_object().bucket(self.bucket()).key(self.full(key));
        let request = request
            .copy_source(self.copy_source(key, look.version.as_deref()))
            .metadata_directive(MetadataDirective::Copy)
            .storage_class(self.class_of(tier).unwrap_or(StorageClass::Standard))
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .set_object_lock_mode(lock_mode)
            .set_object_lock_retain_until_date(lock_until)
            .set_object_lock_legal_hold_status(hold)
            .set_server_side_encryption(self.encryption().algorithm.clone())
            .set_ssekms_key_id(self.encryption().kms_key.clone());
        // Required beside a lock by stores that treat a copy as they treat a PUT.
        let request = request.customize().mutate_request(|request| {
            request.headers_mut().insert("content-md5", EMPTY_MD5);
        });
        request.send().await.map_err(|error| self.failed(call, &error))?;
        match &look.version {
            Some(replaced) => self.drop_replaced(call, replaced).await,
            None => Ok(()),
        }
    }

    async fn drop_replaced(&self, call: Call<'_>, version: &str) -> Result<(), StorageError> {
        match self.delete_version(call.operation, call.key, version).await {
            // It goes with the object, or by the bucket's lifecycle when its lock has run out.
            Err(error) if error.kind == StorageErrorKind::Locked => Ok(()),
            outcome => outcome,
        }
    }

    fn copy_source(&self, key: &str, version: Option<&str>) -> String {
        let full = self.full(key);
        let source = format!("{}/{}", self.bucket(), utf8_percent_encode(&full, PLAIN_IN_SOURCE));
        match version {
            Some(version) => format!("{source}?versionId={}", utf8_percent_encode(version, PLAIN_IN_SOURCE)),
            None => source,
        }
    }

    pub(crate) async fn thaw_object(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Thaw, action: "s3:RestoreObject", key };
        let job = GlacierJobParameters::builder().tier(self.restore_tier(call, thaw.speed).await?).build();
        let job = job.map_err(|error| self.error(StorageErrorKind::Other, call).because(error.to_string()))?;
        let days = i32::try_from(thaw.days).unwrap_or(i32::MAX);
        let order = RestoreRequest::builder().days(days).glacier_job_parameters(job).build();
        let request = self.client().restore_object().bucket(self.bucket()).key(self.full(key)).restore_request(order);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if is_under_way(&error) => Ok(()),
            // Refused because of its state: what was never archived can be read.
            Err(error) if error.code() == Some("InvalidObjectState") => {
                let look = self.look(call.operation, key).await?;
                if look.availability == Availability::Ready { Ok(()) } else { Err(self.failed(call, &error)) }
            }
            Err(error) => Err(self.failed(call, &error)),
        }
    }

    /// Deep archive has no fast retrieval, so what it has is the fastest there.
    async fn restore_tier(&self, call: Call<'_>, speed: ThawSpeed) -> Result<RestoreTier, StorageError> {
        Ok(match speed {
            ThawSpeed::Bulk => RestoreTier::Bulk,
            ThawSpeed::Standard => RestoreTier::Standard,
            ThawSpeed::Fast => match self.look(call.operation, call.key).await?.class {
                Some(StorageClass::DeepArchive) => RestoreTier::Standard,
                _ => RestoreTier::Expedited,
            },
        })
    }
}

fn is_under_way<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    matches!(error.code(), Some("RestoreAlreadyInProgress" | "ObjectAlreadyInActiveTierError"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_headers_say_what_can_be_read() {
        let check = |class: StorageClass, restore: Option<&str>, expected| {
            let answer =
                HeadObjectOutput::builder().storage_class(class).set_restore(restore.map(str::to_owned)).build();
            assert_eq!(availability_of(&answer), expected, "{restore:?}");
        };
        // As the API reference of HeadObject prints them.
        let ready = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
        check(StorageClass::Glacier, Some("ongoing-request=\"true\""), Availability::Thawing);
        check(StorageClass::DeepArchive, Some(ready), Availability::Ready);
        check(StorageClass::DeepArchive, None, Availability::Archived);
        check(StorageClass::GlacierIr, None, Availability::Ready);
    }

    #[test]
    fn restores_in_lists_too() {
        let thawing = RestoreStatus::builder().is_restore_in_progress(true).build();
        assert_eq!(availability_in_list(Some("GLACIER"), Some(&thawing)), Availability::Thawing);
        assert_eq!(availability_in_list(Some("GLACIER"), None), Availability::Archived);
        assert_eq!(availability_in_list(Some("STANDARD_IA"), None), Availability::Ready);
    }
}
