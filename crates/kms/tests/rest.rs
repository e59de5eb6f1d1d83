//! The services that speak JSON over HTTP, against fakes written from their reference documents: paths, headers, kinds of base64,
//! what is authenticated with the key, and how each says no. They are not the real services, which nobody has tried yet.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test may panic anywhere")]

#[path = "shared/child.rs"]
mod child;
#[path = "shared/fake.rs"]
mod fake;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use breakwater_core::ErrorClass;
use breakwater_kms::azure::AzureKeyVault;
use breakwater_kms::gcp::GcpKms;
use breakwater_kms::vault::Vault;
use breakwater_kms::{KeyService, ServiceError};
use serde_json::json;

use crate::child::context;

const TOKEN: &str = "s.a-token";
const PLAIN: [u8; 64] = [7; 64];

/// What a fake has wrapped: the ciphertext, and what it was authenticated with and holds.
#[derive(Default)]
struct Wrapped(Mutex<BTreeMap<Vec<u8>, (String, String)>>);

impl Wrapped {
    fn wrap(&self, bound: &str, plain: &str) -> Vec<u8> {
        let mut all = self.0.lock().unwrap();
        let ciphertext = format!("ciphertext {}, which shows nothing", all.len()).into_bytes();
        all.insert(ciphertext.clone(), (bound.to_owned(), plain.to_owned()));
        ciphertext
    }

    fn unwrap(&self, bound: &str, ciphertext: &[u8]) -> Option<String> {
        let all = self.0.lock().unwrap();
        all.get(ciphertext).filter(|(with, _)| with == bound).map(|(_, plain)| plain.clone())
    }
}

/// Runs a test again with a token in a file; a second time with another one, so that it must be refused.
fn with_tokens(name: &str, variable: &str) {
    let dir = tempfile::tempdir().unwrap();
    for token in [TOKEN, "another"] {
        let file = dir.path().join(token);
        std::fs::write(&file, format!("{token}\n")).unwrap();
        child::run(name, &[], &[(variable, file.to_str().unwrap()), ("TEST_TOKEN", token)]);
    }
}

/// What holds for each service. `absent` is a key that it does not have.
async fn try_out(service: Arc<dyn KeyService>, absent: Arc<dyn KeyService>) {
    if child::variable("TEST_TOKEN") != TOKEN {
        let error = service.wrap(&PLAIN, &context(1)).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Denied, "{error}");
        assert!(!error.to_string().contains("another"), "the token is shown: {error}");
        return;
    }
    let wrapped = service.wrap(&PLAIN, &context(1)).await.unwrap();
    assert_eq!(*service.unwrap(&wrapped, &context(1)).await.unwrap(), PLAIN);
    let mut changed = wrapped.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut changed_inside = wrapped.clone();
    changed_inside[30] ^= 1;
    for (what, wrapped, context) in [
        ("another context", wrapped, context(2)),
        ("a changed end", changed, context(1)),
        ("a changed middle", changed_inside, context(1)),
        ("nothing", Vec::new(), context(1)),
    ] {
        let error = service.unwrap(&wrapped, &context).await.unwrap_err();
        assert!(matches!(error, ServiceError::DoesNotOpen), "{what}: {error}");
    }
    let error = absent.wrap(&PLAIN, &context(1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
}

#[tokio::test]
async fn vault_transit() {
    if !child::inside() {
        return with_tokens("vault_transit", "VAULT_TOKEN_FILE");
    }
    let keys = Wrapped::default();
    let host = fake::serve(move |request| {
        let errors = |status: u16, text: &str| (status, json!({"errors": [text]}));
        if request.headers.get("x-vault-token").is_none_or(|token| token != TOKEN) {
            return errors(403, "permission denied");
        }
        match request.path.as_str() {
            "/v1/team/transit/encrypt/backup" => {
                let Some([plain, bound]) = request.texts(["plaintext", "associated_data"]) else {
                    return errors(400, "missing plaintext or associated_data");
                };
                if STANDARD.decode(&plain).is_err() || STANDARD.decode(&bound).is_err() {
                    return errors(400, "failed to base64-decode plaintext");
                }
                let ciphertext = format!("vault:v1:{}", STANDARD.encode(keys.wrap(&bound, &plain)));
                (200, json!({"request_id": "1", "data": {"ciphertext": ciphertext, "key_version": 1}}))
            }
            "/v1/team/transit/decrypt/backup" => {
                let Some([ciphertext, bound]) = request.texts(["ciphertext", "associated_data"]) else {
                    return errors(400, "missing ciphertext to decrypt");
                };
                let Some(wrapped) = ciphertext.strip_prefix("vault:v1:") else {
                    return errors(400, "invalid ciphertext: no prefix");
                };
                let Ok(wrapped) = STANDARD.decode(wrapped) else {
                    return errors(400, "invalid ciphertext: could not decode base64");
                };
                match keys.unwrap(&bound, &wrapped) {
                    Some(plain) => (200, json!({"request_id": "2", "data": {"plaintext": plain}})),
                    None => errors(400, "cipher: message authentication failed"),
                }
            }
            _ => errors(404, "no handler for route"),
        }
    });
    let host = host.await;
    let open = |key: &str| Vault::open(&format!("http://{host}/team/transit/keys/{key}")).unwrap();
    try_out(open("backup"), open("absent")).await;
}

#[tokio::test]
async fn google_cloud_kms() {
    if !child::inside() {
        return with_tokens("google_cloud_kms", "BREAKWATER_GCP_TOKEN_FILE");
    }
    const KEY: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/backup";
    let keys = Wrapped::default();
    let host = fake::serve(move |request| {
        let error = |code: u16, status: &str, message: &str| {
            (code, json!({"error": {"code": code, "message": message, "status": status}}))
        };
        let invalid = |message: &str| error(400, "INVALID_ARGUMENT", message);
        if request.headers.get("authorization").is_none_or(|token| *token != format!("Bearer {TOKEN}")) {
            return error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.");
        }
        let Some(verb) = request.path.strip_prefix(&format!("/v1/{KEY}:")) else {
            return error(404, "NOT_FOUND", "CryptoKey not found.");
        };
        if verb == "encrypt" {
            let Some([plain, bound]) = request.texts(["plaintext", "additionalAuthenticatedData"]) else {
                return invalid("Invalid JSON payload received. Unknown name");
            };
            if STANDARD.decode(&plain).is_err() || STANDARD.decode(&bound).is_err() {
                return invalid("Invalid value (TYPE_BYTES)");
            }
            let ciphertext = STANDARD.encode(keys.wrap(&bound, &plain));
            return (200, json!({"name": format!("{KEY}/cryptoKeyVersions/1"), "ciphertext": ciphertext}));
        }
        let Some([ciphertext, bound]) = request.texts(["ciphertext", "additionalAuthenticatedData"]) else {
            return invalid("Invalid JSON payload received. Unknown name");
        };
        match STANDARD.decode(ciphertext).ok().and_then(|wrapped| keys.unwrap(&bound, &wrapped)) {
            Some(plain) => (200, json!({"plaintext": plain, "usedPrimary": true})),
            None => invalid("Decryption failed: verify that 'name' refers to the correct CryptoKey."),
        }
    });
    let host = format!("http://{}", host.await);
    let absent = KEY.replace("backup", "absent");
    try_out(GcpKms::at(&host, KEY).unwrap(), GcpKms::at(&host, &absent).unwrap()).await;
}

#[tokio::test]
async fn azure_key_vault() {
    if !child::inside() {
        return with_tokens("azure_key_vault", "BREAKWATER_AZURE_TOKEN_FILE");
    }
    let keys = Wrapped::default();
    let host = fake::serve(move |request| {
        let error = |status: u16, code: &str| (status, json!({"error": {"code": code, "message": "no"}}));
        if request.headers.get("authorization").is_none_or(|token| *token != format!("Bearer {TOKEN}")) {
            return error(401, "Unauthorized");
        }
        let Some((path, "api-version=7.4")) = request.path.split_once('?') else {
            return error(400, "MissingApiVersionParameter");
        };
        let Some([algorithm, value]) = request.texts(["alg", "value"]) else { return error(400, "BadParameter") };
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(&value) else { return error(400, "BadParameter") };
        if algorithm != "RSA-OAEP-256" {
            return error(400, "BadParameter");
        }
        let kid = "https://vault.example/keys/backup/78deebed173b48e4";
        match path {
            // The service binds nothing: what is wrapped must be a key and nothing longer.
            "/keys/backup/wrapkey" if bytes.len() == 32 => {
                (200, json!({"kid": kid, "value": URL_SAFE_NO_PAD.encode(keys.wrap("", &value))}))
            }
            "/keys/backup/wrapkey" => error(400, "BadParameter"),
            "/keys/backup/78deebed173b48e4/unwrapkey" => match keys.unwrap("", &bytes) {
                Some(plain) => (200, json!({"kid": kid, "value": plain})),
                None => error(400, "BadParameter"),
            },
            _ => error(404, "KeyNotFound"),
        }
    });
    let host = format!("http://{}", host.await);
    let open = |key: &str| AzureKeyVault::at(&format!("{host}/keys/{key}")).unwrap();
    try_out(open("backup"), open("absent")).await;
}

#[test]
fn tokens_go_over_no_wire_in_the_clear() {
    let classes = [
        Vault::open("http://vault.example:8200/transit/keys/k").map(drop).unwrap_err(),
        Vault::open("http://127.0.0.1.example/transit/keys/k").map(drop).unwrap_err(),
        Vault::open("http://localhost@vault.example/transit/keys/k").map(drop).unwrap_err(),
        AzureKeyVault::open("http://vault.example/keys/k").map(drop).unwrap_err(),
        AzureKeyVault::open("https://user@vault.example/keys/k").map(drop).unwrap_err(),
        GcpKms::open("projects/p/keyRings/r/cryptoKeys/k").map(drop).unwrap_err(),
    ];
    for error in classes {
        assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    }
}
