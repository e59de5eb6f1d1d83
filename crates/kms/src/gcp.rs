//! Google Cloud KMS: `gcp-kms:projects/P/locations/L/keyRings/R/cryptoKeys/K`. An access token comes from the file that
//! `BREAKWATER_GCP_TOKEN_FILE` names, or from the metadata server of the machine. The context is the additional
//! authenticated data.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use crate::rest;
use crate::service::{KeyContext, KeyService, ServiceError};

const SERVICE: &str = "gcp-kms";
const HOST: &str = "https://cloudkms.googleapis.com";
const METADATA: &str = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token";
/// Words of an answer that says that what was wrapped does not open.
const NOT_OPENED: [&str; 1] = ["INVALID_ARGUMENT"];

/// One key of Google Cloud KMS.
#[derive(Debug)]
pub struct GcpKms {
    host: String,
    key: String,
    client: reqwest::Client,
}

impl GcpKms {
    /// The key of this resource name.
    pub fn open(key: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        GcpKms::at(HOST, key)
    }

    /// The same at another address, for tests.
    pub fn at(host: &str, key: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        let parts: Vec<&str> = key.split('/').collect();
        let fits = matches!(parts.as_slice(),
            ["projects", p, "locations", l, "keyRings", r, "cryptoKeys", k] if [p, l, r, k].iter().all(|part| !part.is_empty()));
        if !fits {
            let problem = "it is not projects/P/locations/L/keyRings/R/cryptoKeys/K".to_owned();
            return Err(ServiceError::Address { url: format!("gcp-kms:{key}"), problem });
        }
        Ok(Arc::new(GcpKms { host: host.to_owned(), key: key.to_owned(), client: rest::client(SERVICE)? }))
    }

    async fn call(&self, verb: &str, body: serde_json::Value) -> Result<serde_json::Value, ServiceError> {
        let token = match rest::credential(SERVICE, "BREAKWATER_GCP_TOKEN_FILE")? {
            Some(token) => token,
            None => {
                let answer = rest::call(SERVICE, self.client.get(METADATA).header("Metadata-Flavor", "Google")).await?;
                Zeroizing::new(rest::text(SERVICE, &answer, "/access_token")?.to_owned())
            }
        };
        let request = self.client.post(format!("{}/v1/{}:{verb}", self.host, self.key)).bearer_auth(token.as_str());
        let words: &[&str] = if verb == "decrypt" { &NOT_OPENED } else { &[] };
        rest::call_to_open(SERVICE, request.json(&body), words).await
    }
}

#[async_trait]
impl KeyService for GcpKms {
    async fn wrap(&self, plain: &[u8], context: &KeyContext) -> Result<Vec<u8>, ServiceError> {
        let plain = Zeroizing::new(STANDARD.encode(plain));
        let aad = STANDARD.encode(context.bytes());
        let answer =
            self.call("encrypt", json!({"plaintext": plain.as_str(), "additionalAuthenticatedData": aad})).await?;
        let wrapped = STANDARD.decode(rest::text(SERVICE, &answer, "/ciphertext")?);
        wrapped
            .map_err(|_| ServiceError::Unusable { service: SERVICE, problem: "its ciphertext is no base64".to_owned() })
    }

    async fn unwrap(&self, wrapped: &[u8], context: &KeyContext) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let aad = STANDARD.encode(context.bytes());
        let body = json!({"ciphertext": STANDARD.encode(wrapped), "additionalAuthenticatedData": aad});
        let answer = self.call("decrypt", body).await?;
        let plain = STANDARD.decode(rest::text(SERVICE, &answer, "/plaintext")?);
        plain.map(Zeroizing::new).map_err(|_| ServiceError::DoesNotOpen)
    }
}
