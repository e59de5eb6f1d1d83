//! The place itself: a container, and a prefix in it.

use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_storage_blob::models::{
    BlobClientDownloadOptions, BlobClientSetImmutabilityPolicyOptions, BlobClientSetTierOptions,
    BlobContainerClientGetAccountInfoResultHeaders, BlobContainerClientGetPropertiesResultHeaders, HttpRange, SkuName,
};
use azure_storage_blob::{BlobClient, BlobContainerClient};
use breakwater_core::Entropy;
use breakwater_storage::{
    Availability, Backend, Features, Listing, ObjectMeta, Operation, Payload, Placement, Protection, Retention,
    StorageError, StorageErrorKind, Thaw, Tier,
};
use bytes::Bytes;

use crate::failure::{Judge, locked_until};
use crate::properties::{self, Look};

/// Where one request for a whole object ends and blocks begin. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest object that is created by one request. The service takes 5000 MiB; what fails near its end is sent again from its start.
    pub single: u64,
    /// The length of the blocks of longer ones. The service takes 50,000 of at most 4000 MiB.
    pub block: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { single: 256 << 20, block: 64 << 20 }
    }
}

/// Objects are read by one request each, however long they are: a piece larger than any object keeps the SDK from splitting.
const PIECE: NonZero<usize> = NonZero::new(1 << 62).expect("not zero");

/// A container of Azure Blob Storage, or what lies below a prefix in it.
#[derive(Clone)]
pub struct Azure {
    pub(crate) container: Arc<BlobContainerClient>,
    /// Empty, or ends with `/`.
    pub(crate) prefix: String,
    pub(crate) limits: Limits,
    pub(crate) judge: Arc<Judge>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Azure").field("location", &self.judge.location).finish_non_exhaustive()
    }
}

impl Azure {
    /// The same place with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Azure {
        Azure { limits, ..self }
    }

    pub(crate) fn blob(&self, key: &str) -> BlobClient {
        self.container.blob_client(&format!("{}{key}", self.prefix))
    }

    pub(crate) async fn look(&self, operation: Operation, key: &str) -> Result<Look, StorageError> {
        let trouble = |error| self.judge.error(operation, key, &error);
        let found = self.blob(key).get_properties(None).await.map_err(trouble)?;
        properties::look(key, &found).map_err(trouble)?.ok_or_else(|| {
            let why = "the answer lacks a length or a time of creation (hint: does something else answer there?)";
            self.judge.say(StorageErrorKind::Unreachable, operation, key, why)
        })
    }

    async fn read(&self, key: &str, range: Option<HttpRange>) -> azure_core::Result<Bytes> {
        let options = BlobClientDownloadOptions {
            range,
            parallel: Some(NonZero::<usize>::MIN),
            partition_size: Some(PIECE),
            ..BlobClientDownloadOptions::default()
        };
        self.blob(key).download(Some(options)).await?.body.collect().await
    }

    /// Reads `range`, which is not empty.
    async fn read_range(&self, operation: Operation, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        match self.read(key, Some(HttpRange::from(range.clone()))).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Ok(bytes) => Err(self.short(operation, key, &range, range.start.saturating_add(bytes.len() as u64))),
            // An empty blob answers a range of one byte with a range that ends before it begins, which the SDK does not read.
            Err(error) if matches!(error.kind(), ErrorKind::DataConversion) => {
                match self.look(operation, key).await?.meta.size {
                    size if range.end > size => Err(self.short(operation, key, &range, size)),
                    _ => Err(self.judge.error(operation, key, &error)),
                }
            }
            Err(error) => Err(self.judge.error(operation, key, &error)),
        }
    }

    /// The error of a lock or hold that was refused: with the hint, where it can only mean that the container has none.
    pub(crate) fn no_locks(&self, error: StorageError) -> StorageError {
        if !matches!(error.kind, StorageErrorKind::Invalid | StorageErrorKind::Other | StorageErrorKind::Unsupported) {
            return error;
        }
        let said = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
        StorageError { kind: StorageErrorKind::Unsupported, ..error }.because(format!(
            "{said} (hint: locks and holds need versioning of the account and a container made with support for version-level immutability)"
        ))
    }

    fn short(&self, operation: Operation, key: &str, range: &Range<u64>, size: impl fmt::Display) -> StorageError {
        let why = format!("bytes {} to {} were asked of an object of {size} bytes", range.start, range.end);
        self.judge.say(StorageErrorKind::Corrupt, operation, key, &why)
    }
}

#[async_trait]
impl Backend for Azure {
    fn location(&self) -> &str {
        &self.judge.location
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        self.create_blob(key, &payload, placement).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.read(key, None).await.map_err(|error| self.judge.error(Operation::Get, key, &error))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        let operation = Operation::GetRange;
        if range.start > range.end {
            let why = format!("a range cannot begin at {} and end at {}", range.start, range.end);
            return Err(self.judge.say(StorageErrorKind::Invalid, operation, key, &why));
        }
        // The service has no ranges without bytes.
        if range.is_empty() {
            let size = self.look(operation, key).await?.meta.size;
            return if range.end <= size { Ok(Bytes::new()) } else { Err(self.short(operation, key, &range, size)) };
        }
        self.read_range(operation, key, range).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        // The service has no ranges from the end.
        let look = self.look(Operation::GetTail, key).await?;
        let size = look.meta.size;
        if look.meta.availability != Availability::Ready {
            return Err(self.judge.say(
                StorageErrorKind::Archived,
                Operation::GetTail,
                key,
                "it is in the archive tier",
            ));
        }
        let range = size.saturating_sub(length)..size;
        if range.is_empty() {
            return Ok((Bytes::new(), size));
        }
        Ok((self.read_range(Operation::GetTail, key, range).await?, size))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        Ok(self.look(Operation::Head, key).await?.meta)
    }

    fn list(&self, prefix: &str) -> Listing {
        self.list_blobs(prefix)
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.directories(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.delete_blob(key).await
    }

    async fn features(&self) -> Result<Features, StorageError> {
        let trouble = |error| self.judge.error(Operation::Features, "", &error);
        let account = self.container.get_account_info(None).await.map_err(trouble)?;
        if account.is_hierarchical_namespace_enabled().map_err(trouble)? == Some(true) {
            let why = "the account has a hierarchical namespace, which lists in another order and has no version-level locks \
                       (hint: a general-purpose v2 account without it)";
            return Err(self.judge.say(StorageErrorKind::Unsupported, Operation::Features, "", why));
        }
        let tiers = match account.sku_name().map_err(trouble)? {
            Some(SkuName::PremiumLrs | SkuName::PremiumZrs) => Vec::new(),
            Some(SkuName::StandardZrs | SkuName::StandardGzrs | SkuName::StandardRagzrs) => {
                vec![Tier::Hot, Tier::Warm, Tier::Cold]
            }
            _ => Tier::ALL.to_vec(),
        };
        let locks = match self.container.get_properties(None).await {
            Ok(container) => container.is_immutable_storage_with_versioning_enabled().map_err(trouble)? == Some(true),
            // A SAS for a container may not ask for its properties. Locks that are not known are not promised.
            Err(error) => match trouble(error) {
                denied if denied.kind() == StorageErrorKind::Denied => false,
                other => return Err(other),
            },
        };
        Ok(Features { locks, holds: locks, versions: locks || self.keeps_versions().await?, tiers, checksums: true })
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        Ok(self.look(Operation::Protection, key).await?.protection)
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        let options = BlobClientSetImmutabilityPolicyOptions {
            immutability_policy_mode: Some(properties::policy_mode(retention.mode)),
            ..BlobClientSetImmutabilityPolicyOptions::default()
        };
        let date = properties::date(retention.until);
        let Err(error) = self.blob(key).set_immutability_policy(&date, Some(options)).await else { return Ok(()) };
        let error = self.judge.error(Operation::Retain, key, &error);
        if error.is_transient() || matches!(error.kind(), StorageErrorKind::NotFound | StorageErrorKind::Denied) {
            return Err(error);
        }
        // Why a policy was refused has no code of its own; the policy that is there tells.
        let kept = self.look(Operation::Retain, key).await?.protection.retention;
        Err(match kept {
            Some(kept)
                if (retention.mode, retention.until) < (kept.mode, kept.until) || retention.until < kept.until =>
            {
                self.judge.say(StorageErrorKind::Locked, Operation::Retain, key, &locked_until(kept.until))
            }
            _ => self.no_locks(error),
        })
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        let set = self.blob(key).set_legal_hold(held, None).await;
        set.map(drop).map_err(|error| self.no_locks(self.judge.error(Operation::Hold, key, &error)))
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        let set = self.blob(key).set_tier(properties::access_tier(tier), None).await;
        set.map(drop).map_err(|error| self.judge.error(Operation::SetTier, key, &error))
    }

    /// Lasts, whatever `thaw.days` says: the service moves the object into the hot tier.
    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        if self.look(Operation::Thaw, key).await?.meta.availability != Availability::Archived {
            return Ok(());
        }
        let options = BlobClientSetTierOptions {
            rehydrate_priority: Some(properties::priority(thaw.speed)),
            ..BlobClientSetTierOptions::default()
        };
        let set = self.blob(key).set_tier(properties::access_tier(Tier::Hot), Some(options)).await;
        set.map(drop).map_err(|error| self.judge.error(Operation::Thaw, key, &error))
    }
}
