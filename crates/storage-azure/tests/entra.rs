//! Identities of Entra: an application's secret, its certificate, a workload's token. Azurite speaks TLS with a private authority's
//! certificate here and checks the claims of tokens; who gives them out is a small stand-in that says what it was shown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test may panic anywhere")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use breakwater_core::{Chain, Clock};
use breakwater_runtime::SystemClock;
use breakwater_storage::{Backend, Placement, StorageErrorKind};
use breakwater_storage_azure::AzureProvider;
use breakwater_testkit::azurite::{ACCOUNT, Azurite};
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

const TENANT: &str = "0a0a0a0a-tenant";

/// A token as Entra gives them out for storage, without a signature: Azurite checks none.
fn token() -> String {
    let now = SystemClock.now().as_micros() / 1_000_000;
    let claims = json!({
        "aud": "https://storage.azure.com", "iss": format!("https://sts.windows.net/{TENANT}/"),
        "iat": now - 60, "nbf": now - 60, "exp": now + 3600,
    });
    let parts = [json!({"alg": "RS256", "typ": "JWT"}), claims];
    format!("{}.c2ln", parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join("."))
}

/// A private authority's certificate for this host, in files.
struct Tls {
    dir: tempfile::TempDir,
    config: Arc<ServerConfig>,
}

impl Tls {
    fn new() -> Tls {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], private).unwrap();
        Tls { dir, config: Arc::new(config) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// What gives out tokens: keeps what it was shown, and gives one to all but `wrong`.
struct Entra {
    host: String,
    shown: Arc<Mutex<Vec<String>>>,
}

impl Entra {
    async fn start(tls: &Tls) -> Entra {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (acceptor, shown) = (TlsAcceptor::from(Arc::clone(&tls.config)), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&shown);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut bytes = Vec::new();
                // The form is the only thing with a grant in it, and that is not its last field.
                let request = loop {
                    stream.read_buf(&mut bytes).await.unwrap();
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head
                        .lines()
                        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    if length == Some(body.len()) {
                        break text;
                    }
                };
                let (status, body) = if request.contains("client_secret=wrong") {
                    (
                        401,
                        json!({"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}),
                    )
                } else {
                    (200, json!({"token_type": "Bearer", "expires_in": 3600, "access_token": token()}))
                };
                seen.lock().unwrap().push(request);
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.ok();
            }
        });
        Entra { host, shown }
    }

    fn last(&self) -> String {
        self.shown.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

/// Makes a container, as its owner.
async fn make(azurite: &Azurite, tls: &Tls, name: &str) {
    let pem = std::fs::read(tls.path("cert.pem")).unwrap();
    let trusted = reqwest::Certificate::from_pem(&pem).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_merge([trusted]).build().unwrap();
    let request = client.put(format!("{}/{name}?restype=container", azurite.endpoint())).bearer_auth(token());
    let answer = request.header("x-ms-version", "2021-12-02").header("content-length", "0").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_and_workloads_are_known_by_their_tokens() {
    let tls = Tls::new();
    let azurite = Azurite::start_tls(&tls.path("cert.pem"), &tls.path("key.pem")).await.unwrap();
    let entra = Entra::start(&tls).await;
    make(&azurite, &tls, "box").await;

    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap().self_signed(&key).unwrap();
    let certificate = tls.secret("app.pem", &format!("{}{}", certificate.pem(), key.serialize_pem()));
    let federated = tls.secret("token", "the-workload's-token");
    let cases = [
        ("secret", "AZURE_CLIENT_SECRET", "right".to_owned(), "client_secret=right"),
        ("certificate", "AZURE_CLIENT_CERTIFICATE_PATH", certificate, "client_assertion=ey"),
        ("workload", "AZURE_FEDERATED_TOKEN_FILE", federated, "client_assertion=the-workload%27s-token"),
    ];
    let url = |ca: bool| {
        let ca = if ca { format!("&ca={}", tls.path("cert.pem").display()) } else { String::new() };
        format!("azure://{ACCOUNT}/box?endpoint={}&tenant={TENANT}&client-id=app{ca}", azurite.endpoint())
    };
    let open = async |ca: bool, variable: &'static str, value: String| {
        let host = entra.host.clone();
        let provider = AzureProvider::with_variables(move |name| match name {
            "AZURE_AUTHORITY_HOST" => Some(host.clone()),
            name if name == variable => Some(value.clone()),
            _ => None,
        });
        provider.place(&url(ca).parse().unwrap()).await.unwrap()
    };
    for (key, variable, value, shown) in cases {
        let place = open(true, variable, value).await;
        place
            .create(key, vec![1].into(), &Placement::default())
            .await
            .unwrap_or_else(|error| panic!("{}", Chain(&error)));
        assert_eq!(place.get(key).await.unwrap(), [1][..]);
        let request = entra.last();
        assert!(request.starts_with(&format!("POST /{TENANT}/oauth2/v2.0/token ")), "{request}");
        assert!(request.contains(shown) && request.contains("client_id=app"), "{request}");
    }
    assert_eq!(entra.shown.lock().unwrap().len(), 3, "a token is asked for once and used until it ends");

    let error = open(true, "AZURE_CLIENT_SECRET", "wrong".to_owned()).await.get("secret").await.unwrap_err();
    let said = Chain(&error).to_string();
    assert!(error.kind() == StorageErrorKind::Denied && said.contains("AADSTS7000215"), "{said}");
    // Without the option the private authority is not trusted.
    let error = open(false, "AZURE_STORAGE_KEY", "c2VjcmV0".to_owned()).await.get("secret").await.unwrap_err();
    let said = Chain(&error).to_string();
    assert!(error.kind() == StorageErrorKind::Unreachable && said.contains("`ca`"), "{said}");
}
