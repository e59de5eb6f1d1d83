//! Creating an object: one conditional PUT that streams the payload's parts as they lie in memory. Larger ones go in parts
//! ([`multipart`](crate::multipart)).
//!
//! The store refuses the PUT when the name is taken, verifies the content against the checksum sent along, and keeps tier and lock
//! from the first moment. A create is one request.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ChecksumAlgorithm, ObjectLockMode, ServerSideEncryption, StorageClass};
use breakwater_storage::{LockMode, Operation, Payload, Placement, Retention, StorageError, StorageErrorKind};

use crate::backend::S3;
use crate::failure::Call;
use crate::rope::{Checksum, Rope};

/// The condition that nothing has the name.
pub(crate) const NOTHING_THERE: &str = "*";

/// The code of a create that met another create of the same name under way.
const CONFLICT: &str = "ConditionalRequestConflict";

/// How an object is to be kept, in the words of S3.
#[derive(Clone, Debug)]
pub(crate) struct Keeping {
    pub(crate) class: Option<StorageClass>,
    pub(crate) lock: Option<(ObjectLockMode, DateTime)>,
    pub(crate) encryption: Option<ServerSideEncryption>,
    pub(crate) kms_key: Option<String>,
}

impl S3 {
    pub(crate) async fn create_object(
        &self,
        key: &str,
        payload: &Payload,
        placement: &Placement,
    ) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Create, action: "s3:PutObject", key };
        if placement.retention.is_some() {
            self.must_have_locks(call).await?;
        }
        let keeping = self.keeping(placement);
        let rope = Rope::new(payload.parts());
        if payload.len() > self.options().part_bytes {
            self.put_in_parts(call, rope, keeping).await?;
            return self.make_sure_of(key, placement.retention).await;
        }
        self.put(call, rope, keeping).await
    }

    /// That what came in parts is locked as asked: some stores take the lock of such an upload and forget it.
    async fn make_sure_of(&self, key: &str, asked: Option<Retention>) -> Result<(), StorageError> {
        let Some(asked) = asked else { return Ok(()) };
        let lock = self.protection_of(key).await?.retention;
        if lock.is_some_and(|lock| lock.mode >= asked.mode && lock.until >= asked.until) {
            return Ok(());
        }
        tracing::warn!(
            location = self.location_text(),
            key,
            "the store forgot the lock of an upload in parts; it is set afterwards"
        );
        self.lock_object(key, asked).await
    }

    async fn put(&self, call: Call<'_>, rope: Rope, keeping: Keeping) -> Result<(), StorageError> {
        let checksum = rope.checksum();
        let (lock_mode, lock_until) = keeping.lock.unzip();
        let request = self.client().put_object().bucket(self.bucket()).key(self.full(call.key));
        let request = request
            .if_none_match(NOTHING_THERE)
            // Required beside a lock.
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_crc64_nvme(checksum.header())
            .content_length(i64::try_from(rope.len()).unwrap_or(i64::MAX))
            .set_storage_class(keeping.class)
            .set_object_lock_mode(lock_mode)
            .set_object_lock_retain_until_date(lock_until)
            .set_server_side_encryption(keeping.encryption)
            .set_ssekms_key_id(keeping.kms_key)
            .body(rope.into_body());
        match request.send().await {
            Ok(answer) => self.agree(call, checksum, answer.checksum_crc64_nvme()),
            Err(error) => Err(self.not_created(call, error).await),
        }
    }

    /// That the store's own checksum, where it has one, is that of what was sent.
    pub(crate) fn agree(&self, call: Call<'_>, sent: Checksum, kept: Option<&str>) -> Result<(), StorageError> {
        match kept {
            Some(kept) if kept != sent.header() => {
                let why = format!("the store answered checksum {kept} for content with {}", sent.header());
                Err(self.error(StorageErrorKind::Corrupt, call).because(why))
            }
            _ => Ok(()),
        }
    }

    /// Why nothing was created. Another create under way may have won, which a look tells; where it cannot be told, this one may be
    /// tried again.
    pub(crate) async fn not_created<E>(&self, call: Call<'_>, error: SdkError<E, HttpResponse>) -> StorageError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let trouble = self.failed(call, &error);
        if error.code() == Some(CONFLICT) && self.look(Operation::Create, call.key).await.is_ok() {
            return StorageError { kind: StorageErrorKind::AlreadyExists, ..trouble };
        }
        trouble
    }

    pub(crate) fn keeping(&self, placement: &Placement) -> Keeping {
        Keeping {
            class: self.class_of(placement.tier),
            lock: placement.retention.map(lock_of),
            encryption: self.encryption().algorithm.clone(),
            kms_key: self.encryption().kms_key.clone(),
        }
    }
}

/// A lock in the words of S3, which keeps whole seconds: rounded up, so that it is never shorter than asked.
pub(crate) fn lock_of(retention: Retention) -> (ObjectLockMode, DateTime) {
    let mode = match retention.mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    };
    let micros = retention.until.as_micros();
    (mode, DateTime::from_secs(micros.div_euclid(1_000_000) + i64::from(micros.rem_euclid(1_000_000) > 0)))
}
