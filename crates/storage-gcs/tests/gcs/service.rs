//! A service with one bucket, and the place in it as an account sees it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use breakwater_storage::places::UseAs;
use breakwater_storage::{Provider as _, Storage};
use breakwater_storage_gcs::GcsProvider;
use breakwater_testkit::gcs::{BucketSettings, Gcs, Grant};
use tempfile::TempDir;

pub(crate) const BUCKET: &str = "region-1";

/// A service and a directory for the keys of its accounts.
pub(crate) struct Service {
    pub(crate) gcs: Gcs,
    pub(crate) directory: TempDir,
}

impl Service {
    pub(crate) async fn start(settings: BucketSettings) -> Service {
        let gcs = Gcs::start().await.unwrap();
        gcs.set_bucket(BUCKET, settings);
        Service { gcs, directory: tempfile::tempdir().unwrap() }
    }

    /// Leaves `text` in a file that is its owner's alone.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The place `gs://BUCKET/below` of an account with these grants.
    pub(crate) async fn place(&self, bucket: &str, below: &str, grants: &[Grant]) -> Storage {
        let email = format!("a{}@test.iam.gserviceaccount.com", self.directory.path().read_dir().unwrap().count());
        let key = self.gcs.service_account(&email, grants).unwrap();
        self.open(bucket, below, &format!("credentials={}", self.file(&email, &key).display())).await
    }

    /// The same with options of one's own.
    pub(crate) async fn open(&self, bucket: &str, below: &str, options: &str) -> Storage {
        let url = format!("gs://{bucket}/{below}?endpoint={}&{options}", self.gcs.endpoint());
        let place = GcsProvider.open(&url.parse().unwrap(), UseAs::Existing).await.unwrap();
        assert!(place.location().starts_with(&format!("gs://{bucket}")) && !place.location().contains('?'));
        Storage::new(place)
    }

    /// The place of an account that may do everything.
    pub(crate) async fn whole(&self) -> Storage {
        self.place(BUCKET, "", &[Grant::all()]).await
    }
}
