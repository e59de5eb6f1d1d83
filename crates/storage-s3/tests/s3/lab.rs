//! One server, the credentials to use it, and an administrator's client beside the store under test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, VersioningConfiguration,
};
use breakwater_core::Chain;
use breakwater_storage::places::UseAs;
use breakwater_storage::{Places, Storage, StorageError};
use breakwater_storage_s3::S3Provider;
use tempfile::TempDir;

pub(crate) const REGION: &str = "eu-central-1";

/// How a bucket is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Versioned,
    Locking,
}

pub(crate) struct Lab {
    endpoint: String,
    directory: TempDir,
    pub(crate) admin: Client,
    next: AtomicU32,
}

impl Lab {
    pub(crate) fn new(endpoint: &str) -> Lab {
        let directory = tempfile::tempdir().unwrap();
        credentials_file(&directory.path().join("keys"), "testing", "testing");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new("testing", "testing", None, None, "tests"))
            .endpoint_url(endpoint)
            .force_path_style(true);
        let admin = Client::from_conf(config.build());
        Lab { endpoint: endpoint.to_owned(), directory, admin, next: AtomicU32::new(0) }
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.directory.path().join("keys")
    }

    /// Makes a bucket with a name of its own.
    pub(crate) async fn bucket(&self, kind: Kind) -> String {
        let name = format!("bucket-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let place = CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(REGION));
        let request = self.admin.create_bucket().bucket(&name).create_bucket_configuration(place.build());
        request.object_lock_enabled_for_bucket(kind == Kind::Locking).send().await.unwrap();
        if kind == Kind::Versioned {
            self.switch_versions_on(&name).await;
        }
        name
    }

    pub(crate) async fn switch_versions_on(&self, bucket: &str) {
        let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        self.admin.put_bucket_versioning().bucket(bucket).versioning_configuration(on).send().await.unwrap();
    }

    /// The URL of `place` (a bucket, or a prefix in one) with the options that lead here, and `more` (`&name=value`).
    pub(crate) fn url(&self, place: &str, more: &str) -> String {
        let (endpoint, keys) = (&self.endpoint, self.keys());
        format!("s3://{place}?region={REGION}&endpoint={endpoint}&path-style&credentials={}{more}", keys.display())
    }

    pub(crate) async fn open(&self, place: &str, more: &str) -> Storage {
        open(&self.url(place, more)).await.unwrap()
    }

    /// A store of its own in `bucket`.
    pub(crate) async fn store(&self, bucket: &str) -> Storage {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open(&format!("{bucket}/stores/{number}"), "").await
    }
}

/// Opens a URL as programs do.
pub(crate) async fn open(url: &str) -> Result<Storage, StorageError> {
    Places::local().with(Arc::new(S3Provider)).open(url, UseAs::Existing).await
}

/// Writes a file of credentials that only its owner reads.
pub(crate) fn credentials_file(path: &Path, key: &str, secret: &str) {
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// All that an error says.
pub(crate) fn said(error: &StorageError) -> String {
    Chain(error).to_string()
}
