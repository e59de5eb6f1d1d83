//! A create in several requests, for payloads above what goes in one. The last request is the conditional one, so the object
//! appears whole or not at all; parts that were sent for nothing are given up, also when the future is dropped.

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use breakwater_storage::{StorageError, StorageErrorKind};
use futures::{StreamExt, TryStreamExt};

use crate::backend::S3;
use crate::create::{Keeping, NOTHING_THERE};
use crate::failure::Call;
use crate::rope::Rope;

/// How many parts of one object are on their way at once.
const PARTS_AT_ONCE: usize = 4;

impl S3 {
    pub(crate) async fn put_in_parts(&self, call: Call<'_>, rope: Rope, keeping: Keeping) -> Result<(), StorageError> {
        let (checksum, size) = (rope.checksum(), rope.len());
        let upload = self.begin_whole(call, keeping).await?;
        let parts = rope.cut(self.options().part_bytes).into_iter().zip(1..);
        let parts = futures::stream::iter(parts.map(|(part, number)| self.put_part(call, upload.id(), part, number)));
        let parts: Vec<CompletedPart> = parts.buffered(PARTS_AT_ONCE).try_collect().await?;
        let request = self.client().complete_multipart_upload().bucket(self.bucket()).key(self.full(call.key));
        let request = request
            .upload_id(upload.id())
            .if_none_match(NOTHING_THERE)
            .checksum_crc64_nvme(checksum.header())
            .checksum_type(ChecksumType::FullObject)
            .mpu_object_size(i64::try_from(size).unwrap_or(i64::MAX))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        match request.send().await {
            Ok(answer) => {
                upload.completed();
                self.agree(call, checksum, answer.checksum_crc64_nvme())
            }
            Err(error) => Err(self.not_created(call, error).await),
        }
    }

    /// Begins in a task of its own, which goes on when nobody waits any more: only who hears the answer can give the upload up.
    async fn begin_whole(&self, call: Call<'_>, keeping: Keeping) -> Result<Upload, StorageError> {
        let (s3, Call { operation, action, .. }, key) = (self.clone(), call, call.key.to_owned());
        let begun = tokio::spawn(async move { s3.begin(Call { operation, action, key: &key }, keeping).await }).await;
        begun.unwrap_or_else(|error| Err(self.error(StorageErrorKind::Other, call).because(error)))
    }

    pub(crate) async fn begin(&self, call: Call<'_>, keeping: Keeping) -> Result<Upload, StorageError> {
        let (lock_mode, lock_until) = keeping.lock.unzip();
        let request = self.client().create_multipart_upload().bucket(self.bucket()).key(self.full(call.key));
        let request = request
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject)
            .set_storage_class(keeping.class)
            .set_object_lock_mode(lock_mode)
            .set_object_lock_retain_until_date(lock_until)
            .set_server_side_encryption(keeping.encryption)
            .set_ssekms_key_id(keeping.kms_key);
        let answer = request.send().await.map_err(|error| self.failed(call, &error))?;
        match answer.upload_id {
            Some(id) => Ok(Upload { s3: self.clone(), key: call.key.to_owned(), id: Some(id) }),
            None => Err(self.error(StorageErrorKind::Other, call).because("the answer names no upload")),
        }
    }

    async fn put_part(&self, call: Call<'_>, id: &str, part: Rope, number: i32) -> Result<CompletedPart, StorageError> {
        let checksum = part.checksum();
        let request = self.client().upload_part().bucket(self.bucket()).key(self.full(call.key)).upload_id(id);
        let request = request
            .part_number(number)
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_crc64_nvme(checksum.header())
            .content_length(i64::try_from(part.len()).unwrap_or(i64::MAX))
            .body(part.into_body());
        let answer = request.send().await.map_err(|error| self.failed(call, &error))?;
        self.agree(call, checksum, answer.checksum_crc64_nvme())?;
        let part = CompletedPart::builder().part_number(number).checksum_crc64_nvme(checksum.header());
        Ok(part.set_e_tag(answer.e_tag).build())
    }

    /// Nobody waits for this, or is told: what is left ends by the lifecycle rule of the bucket that docs/storage/s3.md asks for.
    async fn give_up(&self, key: &str, id: &str) {
        let request = self.client().abort_multipart_upload().bucket(self.bucket()).key(self.full(key)).upload_id(id);
        if let Err(error) = request.send().await {
            tracing::debug!(key, error = %DisplayErrorContext(&error), "an upload was not given up");
        }
    }
}

/// An upload under way, given up when it is dropped before it is complete.
#[derive(Debug)]
pub(crate) struct Upload {
    s3: S3,
    key: String,
    id: Option<String>,
}

impl Upload {
    pub(crate) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    fn completed(mut self) {
        self.id = None;
    }

    /// Gives it up now.
    pub(crate) async fn give_up(mut self) {
        if let Some(id) = self.id.take() {
            self.s3.give_up(&self.key, &id).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) else { return };
        let (s3, key) = (self.s3.clone(), std::mem::take(&mut self.key));
        drop(runtime.spawn(async move { s3.give_up(&key, &id).await }));
    }
}
