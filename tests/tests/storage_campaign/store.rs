//! The stores that the campaign runs on.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use breakwater_storage::{Places, Storage};
use breakwater_storage_s3::S3Provider;
use breakwater_testkit::lying_s3::LyingS3;
use breakwater_testkit::moto::Moto;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A running store with an empty bucket.
pub(crate) struct Store {
    endpoint: String,
    credentials: TempDir,
    /// Stops when dropped.
    _server: Server,
}

#[expect(dead_code, reason = "held for its drop alone")]
enum Server {
    Small(LyingS3),
    Moto(Moto),
}

impl Store {
    /// A store in this process that keeps all promises.
    pub(crate) async fn small_s3() -> Store {
        let server = LyingS3::start(&[]).await.unwrap();
        Store::over(server.endpoint(), Server::Small(server))
    }

    pub(crate) async fn moto() -> Store {
        let server = Moto::start().await.unwrap();
        let endpoint = server.endpoint();
        make_bucket(&endpoint).await;
        Store::over(endpoint, Server::Moto(server))
    }

    fn over(endpoint: String, server: Server) -> Store {
        let credentials = tempfile::tempdir().unwrap();
        let path = credentials.path().join("keys");
        std::fs::write(&path, "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Store { endpoint, credentials, _server: server }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The store as a place, reached through `endpoint`.
    pub(crate) async fn open(&self, endpoint: &str) -> Storage {
        let keys = self.credentials.path().join("keys");
        let url =
            format!("s3://campaign?region=us-east-1&path-style&endpoint={endpoint}&credentials={}", keys.display());
        Places::local().with(Arc::new(S3Provider)).open_existing(&url).await.unwrap()
    }
}

async fn make_bucket(endpoint: &str) {
    let address = endpoint.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("PUT /campaign HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
}
