//! The stores that the campaign runs on.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use breakwater_core::Clock as _;
use breakwater_runtime::SystemClock;
use breakwater_storage::{Places, Storage};
use breakwater_storage_azure::AzureProvider;
use breakwater_storage_gcs::GcsProvider;
use breakwater_storage_s3::S3Provider;
use breakwater_testkit::azurite::{self, Azurite};
use breakwater_testkit::gcs::{BucketSettings, Gcs, Grant};
use breakwater_testkit::lying_s3::LyingS3;
use breakwater_testkit::moto::Moto;
use tempfile::TempDir;

const BUCKET: &str = "campaign";

/// A running store with an empty bucket.
pub(crate) struct Store {
    endpoint: String,
    secrets: TempDir,
    /// Stops when dropped.
    server: Server,
}

enum Server {
    Small(LyingS3),
    Moto(Moto),
    Azurite(Azurite),
    Google(Gcs),
}

impl Store {
    /// A store in this process that keeps all promises.
    pub(crate) async fn small_s3() -> Store {
        Store::over(Server::Small(LyingS3::start(&[]).await.unwrap()))
    }

    pub(crate) async fn moto() -> Store {
        let server = Moto::start().await.unwrap();
        server.create_bucket(BUCKET).await.unwrap();
        Store::over(Server::Moto(server))
    }

    pub(crate) async fn azurite() -> Store {
        let server = Azurite::start().await.unwrap();
        server.create_container(BUCKET, SystemClock.now()).await.unwrap();
        Store::over(Server::Azurite(server))
    }

    pub(crate) async fn google() -> Store {
        let server = Gcs::start().await.unwrap();
        server.set_bucket(BUCKET, BucketSettings::default());
        Store::over(Server::Google(server))
    }

    fn over(server: Server) -> Store {
        let (endpoint, secret) = match &server {
            Server::Small(server) => (server.endpoint(), KEYS.to_owned()),
            Server::Moto(server) => (server.endpoint(), KEYS.to_owned()),
            Server::Azurite(server) => (format!("http://127.0.0.1:{}", server.port()), azurite::KEY.to_owned()),
            Server::Google(server) => (
                server.endpoint(),
                server.service_account("campaign@test.iam.gserviceaccount.com", &[Grant::all()]).unwrap(),
            ),
        };
        let store = Store { endpoint, secrets: tempfile::tempdir().unwrap(), server };
        std::fs::write(store.secret(), secret).unwrap();
        std::fs::set_permissions(store.secret(), std::fs::Permissions::from_mode(0o600)).unwrap();
        store
    }

    /// The file with what opens the store.
    fn secret(&self) -> PathBuf {
        self.secrets.path().join("secret")
    }

    /// `http://127.0.0.1:port`
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The store as a place, reached through `endpoint`.
    pub(crate) async fn open(&self, endpoint: &str) -> Storage {
        let secret = self.secret().display().to_string();
        let url = match &self.server {
            Server::Small(_) | Server::Moto(_) => {
                format!("s3://{BUCKET}?region=us-east-1&path-style&endpoint={endpoint}&credentials={secret}")
            }
            Server::Azurite(_) => {
                let account = azurite::ACCOUNT;
                format!("azure://{account}/{BUCKET}?endpoint={endpoint}/{account}&key-file={secret}")
            }
            Server::Google(_) => format!("gs://{BUCKET}?endpoint={endpoint}&credentials={secret}"),
        };
        let places = Places::local().with(Arc::new(S3Provider)).with(Arc::new(GcsProvider));
        places.with(Arc::new(AzureProvider::default())).open_existing(&url).await.unwrap()
    }
}

const KEYS: &str = "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n";
