//! Azure Key Vault: `azure-kv:https://VAULT.vault.azure.net/keys/NAME`, an RSA key of 2048 bits or more. An access token
//! comes from the file that `BREAKWATER_AZURE_TOKEN_FILE` names, or from the machine's managed identity. Standard vaults have
//! no symmetric keys and RSA-OAEP-256 binds nothing, so the service wraps the key of an [`crate::envelope`].

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use breakwater_crypto::Secret;
use serde_json::json;
use zeroize::Zeroizing;

use crate::service::{KeyContext, KeyService, ServiceError};
use crate::{envelope, pkcs11, rest};

const SERVICE: &str = "azure-kv";
const VERSION: &str = "7.4";
const ALGORITHM: &str = "RSA-OAEP-256";
const IDENTITY: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
/// Words of an answer that says that what was wrapped does not open.
const NOT_OPENED: [&str; 1] = ["BadParameter"];

/// One key of Azure Key Vault.
#[derive(Debug)]
pub struct AzureKeyVault {
    /// Address of the vault, and the path of the key without a version.
    host: String,
    path: String,
    client: reqwest::Client,
}

impl AzureKeyVault {
    /// The key at this address.
    pub fn open(address: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        if !address.starts_with("https://") {
            let problem = "it is not azure-kv:https://VAULT/keys/NAME".to_owned();
            return Err(ServiceError::Address { url: format!("azure-kv:{address}"), problem });
        }
        AzureKeyVault::at(address)
    }

    /// The same, where the address need not be https, for tests.
    pub fn at(address: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        let wrong = || ServiceError::Address {
            url: format!("azure-kv:{address}"),
            problem: "it is not azure-kv:https://VAULT/keys/NAME".to_owned(),
        };
        let (host, name) = address.split_once("/keys/").ok_or_else(wrong)?;
        if name.is_empty() || name.contains('/') || host.contains('@') {
            return Err(wrong());
        }
        let client = rest::client(SERVICE)?;
        Ok(Arc::new(AzureKeyVault { host: host.to_owned(), path: format!("/keys/{name}"), client }))
    }

    async fn call(&self, path: &str, verb: &str, value: &[u8]) -> Result<serde_json::Value, ServiceError> {
        let token = match rest::credential(SERVICE, "BREAKWATER_AZURE_TOKEN_FILE")? {
            Some(token) => token,
            None => {
                let answer = rest::call(SERVICE, self.client.get(IDENTITY).header("Metadata", "true")).await?;
                Zeroizing::new(rest::text(SERVICE, &answer, "/access_token")?.to_owned())
            }
        };
        let url = format!("{}{path}/{verb}?api-version={VERSION}", self.host);
        let value = Zeroizing::new(URL_SAFE_NO_PAD.encode(value));
        let request = self.client.post(url).bearer_auth(token.as_str());
        let words: &[&str] = if verb == "unwrapkey" { &NOT_OPENED } else { &[] };
        rest::call_to_open(SERVICE, request.json(&json!({"alg": ALGORITHM, "value": value.as_str()})), words).await
    }
}

#[async_trait]
impl KeyService for AzureKeyVault {
    async fn wrap(&self, plain: &[u8], context: &KeyContext) -> Result<Vec<u8>, ServiceError> {
        let sealed = envelope::seal(plain, context, Secret::generate(&pkcs11::Os));
        let answer = self.call(&self.path, "wrapkey", sealed.key.expose()).await?;
        // The version of the key, which unwrapping must name, stands at the end of the `kid`.
        let kid = rest::text(SERVICE, &answer, "/kid")?;
        let version = kid.rsplit('/').next().unwrap_or_default();
        let value = rest::text(SERVICE, &answer, "/value")?;
        Ok(envelope::join(format!("{version} {value}").as_bytes(), &sealed.sealed))
    }

    async fn unwrap(&self, wrapped: &[u8], context: &KeyContext) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let (key, sealed) = envelope::split(wrapped)?;
        let key = std::str::from_utf8(key).map_err(|_| ServiceError::DoesNotOpen)?;
        let (version, value) = key.split_once(' ').ok_or(ServiceError::DoesNotOpen)?;
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(ServiceError::DoesNotOpen);
        }
        let value = URL_SAFE_NO_PAD.decode(value).map_err(|_| ServiceError::DoesNotOpen)?;
        let answer = self.call(&format!("{}/{version}", self.path), "unwrapkey", &value).await?;
        let key = URL_SAFE_NO_PAD.decode(rest::text(SERVICE, &answer, "/value")?).map(Zeroizing::new);
        envelope::open(sealed, context, &key.map_err(|_| ServiceError::DoesNotOpen)?)
    }
}
