//! Vault and OpenBao, the transit engine: `vault:https://HOST:8200/MOUNT/keys/NAME`. The token comes from the file that
//! `VAULT_TOKEN_FILE` names, or from `VAULT_TOKEN`. The context is the associated data of the key's AEAD (Vault 1.9 or newer),
//! so the key must be an AEAD key: `aes256-gcm96`, which is the engine's own default, or `chacha20-poly1305`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use crate::rest;
use crate::service::{KeyContext, KeyService, ServiceError};

const SERVICE: &str = "vault";
/// Words of an answer that says that what was wrapped does not open.
const NOT_OPENED: [&str; 2] = ["message authentication failed", "invalid ciphertext"];

/// One key of a transit engine.
#[derive(Debug)]
pub struct Vault {
    host: String,
    mount: String,
    key: String,
    client: reqwest::Client,
}

impl Vault {
    /// The key at this address.
    pub fn open(address: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        let wrong =
            |problem: &str| ServiceError::Address { url: format!("vault:{address}"), problem: problem.to_owned() };
        let (scheme, rest) =
            address.split_once("://").ok_or_else(|| wrong("it is not vault:https://HOST/MOUNT/keys/NAME"))?;
        let (host, path) = rest.split_once('/').ok_or_else(|| wrong("it names no key"))?;
        let (mount, key) = path.rsplit_once("/keys/").ok_or_else(|| wrong("it has no /keys/NAME"))?;
        let loopback = ["127.0.0.1", "localhost", "[::1]"]
            .iter()
            .any(|local| host.split_once(':').map_or(host, |(name, _)| name) == *local);
        if scheme != "https" && !(scheme == "http" && loopback) {
            return Err(wrong("a token must not go over a wire in the clear: use https"));
        }
        if host.contains('@') || key.is_empty() || key.contains('/') || mount.is_empty() {
            return Err(wrong("it names no key, or holds a credential"));
        }
        let client = rest::client(SERVICE)?;
        Ok(Arc::new(Vault { host: format!("{scheme}://{host}"), mount: mount.to_owned(), key: key.to_owned(), client }))
    }

    async fn call(&self, verb: &str, body: serde_json::Value) -> Result<serde_json::Value, ServiceError> {
        let token = match rest::credential(SERVICE, "VAULT_TOKEN_FILE")? {
            Some(token) => token,
            None => Zeroizing::new(std::env::var("VAULT_TOKEN").unwrap_or_default()),
        };
        if token.is_empty() {
            let problem = "set VAULT_TOKEN_FILE to a file with a token, or VAULT_TOKEN".to_owned();
            return Err(ServiceError::Credentials { service: SERVICE, problem });
        }
        let Vault { host, mount, key, .. } = self;
        let request = self.client.post(format!("{host}/v1/{mount}/{verb}/{key}")).json(&body);
        let words: &[&str] = if verb == "decrypt" { &NOT_OPENED } else { &[] };
        rest::call_to_open(SERVICE, request.header("X-Vault-Token", token.as_str()), words).await
    }
}

#[async_trait]
impl KeyService for Vault {
    async fn wrap(&self, plain: &[u8], context: &KeyContext) -> Result<Vec<u8>, ServiceError> {
        let plain = Zeroizing::new(STANDARD.encode(plain));
        let body = json!({"plaintext": plain.as_str(), "associated_data": STANDARD.encode(context.bytes())});
        let answer = self.call("encrypt", body).await?;
        Ok(rest::text(SERVICE, &answer, "/data/ciphertext")?.as_bytes().to_vec())
    }

    async fn unwrap(&self, wrapped: &[u8], context: &KeyContext) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let wrapped = std::str::from_utf8(wrapped).map_err(|_| ServiceError::DoesNotOpen)?;
        let body = json!({"ciphertext": wrapped, "associated_data": STANDARD.encode(context.bytes())});
        let answer = self.call("decrypt", body).await?;
        let plain = rest::text(SERVICE, &answer, "/data/plaintext")?;
        STANDARD.decode(plain).map(Zeroizing::new).map_err(|_| ServiceError::DoesNotOpen)
    }
}
