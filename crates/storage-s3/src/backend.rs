//! The store itself: one bucket, one prefix. A clone is another handle to the same place.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use breakwater_storage::{
    Backend, Features, Listing, ObjectMeta, Operation, Payload, Placement, Protection, Retention, StorageError, Thaw,
    Tier,
};
use bytes::Bytes;

use crate::features::Setup;
use crate::options::{Encryption, Options};

/// A bucket, or what lies below a prefix in it.
#[derive(Clone, Debug)]
pub struct S3 {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    options: Options,
    setup: Setup,
}

impl S3 {
    pub(crate) fn new(client: Client, options: Options) -> S3 {
        S3 { inner: Arc::new(Inner { client, options, setup: Setup::default() }) }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn bucket(&self) -> &str {
        &self.inner.options.bucket
    }

    pub(crate) fn encryption(&self) -> &Encryption {
        &self.inner.options.encryption
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.inner.setup
    }

    pub(crate) fn location_text(&self) -> &str {
        &self.inner.options.location
    }

    /// The key in the bucket.
    pub(crate) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.inner.options.prefix)
    }

    /// The key below the prefix of this place; none of what lies elsewhere.
    pub(crate) fn relative<'a>(&self, full: &'a str) -> Option<&'a str> {
        full.strip_prefix(self.inner.options.prefix.as_str())
    }
}

#[async_trait]
impl Backend for S3 {
    fn location(&self) -> &str {
        self.location_text()
    }

    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        self.create_object(key, &payload, placement).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.read_whole(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.read_range(key, range).await
    }

    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        self.read_tail(key, length).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        Ok(self.look(Operation::Head, key).await?.meta(key))
    }

    fn list(&self, prefix: &str) -> Listing {
        self.list_objects(prefix)
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.directories(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.delete_object(key).await
    }

    async fn delete_many(&self, keys: &[String]) -> Vec<Result<(), StorageError>> {
        self.delete_objects(keys).await
    }

    async fn features(&self) -> Result<Features, StorageError> {
        self.find_features().await
    }

    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        self.protection_of(key).await
    }

    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        self.lock_object(key, retention).await
    }

    async fn hold(&self, key: &str, held: bool) -> Result<(), StorageError> {
        self.hold_object(key, held).await
    }

    async fn set_tier(&self, key: &str, tier: Tier) -> Result<(), StorageError> {
        self.move_object(key, tier).await
    }

    async fn thaw(&self, key: &str, thaw: Thaw) -> Result<(), StorageError> {
        self.thaw_object(key, thaw).await
    }
}
