//! What the bucket offers, as it is set up. AWS is known; any other store is tried, with uploads that are begun and given up, so that
//! no object ever appears.

use std::sync::OnceLock;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{BucketVersioningStatus, ChecksumAlgorithm, ObjectLockEnabled, StorageClass};
use breakwater_storage::{Features, Operation, StorageError, StorageErrorKind, Tier};
use bytes::Bytes;

use crate::backend::S3;
use crate::create::Keeping;
use crate::failure::Call;
use crate::multipart::Upload;
use crate::refusal::{element, no_locks};
use crate::rope::Rope;

/// The name of uploads that are begun to be given up; no object can have it.
const TRIAL: &str = ".tmp/trial";

/// What was found out about the bucket, as far as it needs not be asked again. Locks do not go away; versions do not either, and
/// that they were switched on since is noticed by what a delete answers.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    versions: OnceLock<bool>,
    locks: OnceLock<()>,
}

impl S3 {
    pub(crate) async fn find_features(&self) -> Result<Features, StorageError> {
        let call = Call { operation: Operation::Features, action: "", key: "" };
        let versions = self.ask_for_versions(call).await?;
        let locks = versions && self.ask_for_locks(call).await?;
        let (tiers, checksums) = match self.options().endpoint {
            None => (Tier::ALL.to_vec(), true),
            Some(_) => (self.try_tiers().await?, self.try_checksums().await?),
        };
        Ok(Features { locks, holds: locks, versions, tiers, checksums })
    }

    /// Whether what is deleted may stay as a version.
    pub(crate) async fn has_versions(&self, call: Call<'_>) -> Result<bool, StorageError> {
        if let Some(known) = self.setup().versions.get() {
            return Ok(*known);
        }
        let versions = self.ask_for_versions(call).await?;
        Ok(*self.setup().versions.get_or_init(|| versions))
    }

    /// `Unsupported` when the bucket has no locks. Those who may not ask are believed, since the store refuses a lock that it
    /// cannot keep.
    pub(crate) async fn must_have_locks(&self, call: Call<'_>) -> Result<(), StorageError> {
        if self.setup().locks.get().is_some() {
            return Ok(());
        }
        match self.ask_for_locks(call).await {
            Ok(false) => Err(self.error(StorageErrorKind::Unsupported, call).because(no_locks(self.bucket()))),
            Err(error) if error.kind != StorageErrorKind::Denied => Err(error),
            Ok(true) | Err(_) => {
                self.setup().locks.get_or_init(|| ());
                Ok(())
            }
        }
    }

    async fn ask_for_versions(&self, call: Call<'_>) -> Result<bool, StorageError> {
        let call = Call { action: "s3:GetBucketVersioning", ..call };
        match self.client().get_bucket_versioning().bucket(self.bucket()).send().await {
            Ok(answer) => Ok(keeps_versions(answer.status().map(BucketVersioningStatus::as_str))),
            Err(error) => match misnamed(&error) {
                Some(body) => Ok(keeps_versions(element(body, "Status"))),
                None => not_offered(self.failed(call, &error)),
            },
        }
    }

    async fn ask_for_locks(&self, call: Call<'_>) -> Result<bool, StorageError> {
        let call = Call { action: "s3:GetBucketObjectLockConfiguration", ..call };
        match self.client().get_object_lock_configuration().bucket(self.bucket()).send().await {
            Ok(answer) => {
                let enabled = answer.object_lock_configuration().and_then(|found| found.object_lock_enabled());
                Ok(enabled == Some(&ObjectLockEnabled::Enabled))
            }
            Err(error) => match misnamed(&error) {
                Some(body) => Ok(element(body, "ObjectLockEnabled") == Some("Enabled")),
                None => not_offered(self.failed(call, &error)),
            },
        }
    }

    /// The tiers whose classes the store takes; none when hot is the only one.
    async fn try_tiers(&self) -> Result<Vec<Tier>, StorageError> {
        let mut tiers = Vec::new();
        for tier in Tier::ALL {
            if let Some(upload) = self.try_upload(self.class_of(tier)).await? {
                upload.give_up().await;
                tiers.push(tier);
            }
        }
        Ok(if tiers == [Tier::Hot] { Vec::new() } else { tiers })
    }

    /// Whether the store refuses content that does not match its checksum.
    async fn try_checksums(&self) -> Result<bool, StorageError> {
        let Some(upload) = self.try_upload(None).await? else { return Ok(false) };
        let other = Rope::new(&[Bytes::from_static(b"other")]).checksum().header();
        let part = self.client().upload_part().bucket(self.bucket()).key(self.full(TRIAL)).upload_id(upload.id());
        let part = part.part_number(1).checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).checksum_crc64_nvme(other);
        let sent = part.body(Bytes::from_static(b"content").into()).send().await;
        upload.give_up().await;
        Ok(sent.is_err())
    }

    /// Begins an upload; none when the store does not take it as it is, or from these credentials.
    async fn try_upload(&self, class: Option<StorageClass>) -> Result<Option<Upload>, StorageError> {
        let call = Call { operation: Operation::Features, action: "s3:PutObject", key: TRIAL };
        let keeping = Keeping { class, lock: None, ..self.keeping(&breakwater_storage::Placement::default()) };
        match self.begin(call, keeping).await {
            Ok(upload) => Ok(Some(upload)),
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(None),
        }
    }
}

/// Suspended leaves the versions that there are.
fn keeps_versions(status: Option<&str>) -> bool {
    matches!(status, Some("Enabled" | "Suspended"))
}

/// The body of a good answer whose root has another name than in the reference, which the SDK refuses and some stores send.
fn misnamed<E>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    let answer = error.raw_response()?;
    let body = answer.status().is_success().then(|| answer.body().bytes())??;
    std::str::from_utf8(body).ok()
}

/// False when a store does not know the question.
fn not_offered(error: StorageError) -> Result<bool, StorageError> {
    match error.kind {
        StorageErrorKind::Unsupported | StorageErrorKind::NotFound => Ok(false),
        _ => Err(error),
    }
}
