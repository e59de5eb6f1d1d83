//! Who may do what: tokens that were issued here, tokens that service accounts sign themselves, and what is granted to each.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use breakwater_core::Timestamp;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::answer::{Answer, Refused, refuse};

/// How long a token lasts, in seconds.
const LIFETIME: i64 = 3600;
/// How far a signer's clock may be off, in seconds.
const SKEW: i64 = 300;
const CLOUD: &str = "https://www.googleapis.com/auth/cloud-platform";
const FULL_CONTROL: &str = "https://www.googleapis.com/auth/devstorage.full_control";

/// Permissions below a prefix of names, as a role with a condition on `resource.name` (and on the prefix of a list) gives them.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Permissions by their names: `storage.objects.create`.
    pub permissions: Vec<String>,
    /// What names of objects must begin with; empty for all, and for permissions on the bucket.
    pub prefix: String,
}

impl Grant {
    /// `permissions` below `prefix`.
    pub fn new(permissions: &[&str], prefix: &str) -> Grant {
        Grant { permissions: permissions.iter().map(|name| (*name).to_owned()).collect(), prefix: prefix.to_owned() }
    }

    /// Everything that Breakwater can use.
    pub fn all() -> Grant {
        let objects = ["create", "delete", "get", "list", "update", "setRetention", "overrideUnlockedRetention"];
        let mut permissions: Vec<String> = objects.iter().map(|name| format!("storage.objects.{name}")).collect();
        permissions.push("storage.buckets.get".to_owned());
        Grant { permissions, prefix: String::new() }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Access {
    pub(crate) open: bool,
    pub(crate) host: Option<Vec<Grant>>,
    tokens: BTreeMap<String, (Vec<Grant>, Timestamp)>,
    accounts: BTreeMap<String, Account>,
    federated: BTreeMap<String, Vec<Grant>>,
}

#[derive(Debug)]
struct Account {
    public_key: Vec<u8>,
    grants: Vec<Grant>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    name: String,
    /// `None` may do everything.
    grants: Option<Vec<Grant>>,
}

impl Caller {
    pub(crate) fn may(&self, permission: &str, name: &str) -> bool {
        let gives =
            |grant: &Grant| name.starts_with(&grant.prefix) && grant.permissions.iter().any(|p| p == permission);
        self.grants.as_ref().is_none_or(|grants| grants.iter().any(gives))
    }

    pub(crate) fn must(&self, permission: &str, name: &str) -> Result<(), Refused> {
        if self.may(permission, name) {
            return Ok(());
        }
        let on = if permission.starts_with("storage.buckets.") { "bucket" } else { "object" };
        let message = format!(
            "{} does not have {permission} access to the Google Cloud Storage {on}. Permission '{permission}' denied on resource \
             (or it may not exist).",
            self.name
        );
        Err(refuse(403, "forbidden", message))
    }
}

impl Access {
    pub(crate) fn issue(&mut self, grants: Vec<Grant>, now: Timestamp) -> String {
        let token = format!("ya29.test-{}", self.tokens.len());
        self.tokens.insert(token.clone(), (grants, now.plus_micros(LIFETIME * 1_000_000)));
        token
    }

    pub(crate) fn service_account(&mut self, email: &str, grants: Vec<Grant>) -> Result<String> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).context("make an RSA key")?;
        let der: Pkcs8V1Der<'_> = pair.as_der().context("encode an RSA key")?;
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        self.accounts.insert(email.to_owned(), Account { public_key: pair.public_key().as_ref().to_vec(), grants });
        let key = json!({
            "type": "service_account", "project_id": "test", "private_key_id": "k1", "private_key": pem,
            "client_email": email, "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token",
            "universe_domain": "googleapis.com",
        });
        Ok(key.to_string())
    }

    pub(crate) fn federate(&mut self, endpoint: &str, subject: &str, file: &str, grants: Vec<Grant>) -> String {
        self.federated.insert(subject.to_owned(), grants);
        json!({
            "type": "external_account", "audience": AUDIENCE, "subject_token_type": SUBJECT_TOKEN_TYPE,
            "token_url": format!("{endpoint}/v1/token"), "credential_source": {"file": file},
        })
        .to_string()
    }

    /// Who shows `authorization`.
    pub(crate) fn caller(&self, authorization: Option<&str>, now: Timestamp) -> Result<Caller, Refused> {
        let Some(authorization) = authorization else {
            if self.open {
                return Ok(Caller { name: "Anonymous caller".to_owned(), grants: None });
            }
            return Err(unauthorized("required", "Login Required"));
        };
        let token =
            authorization.strip_prefix("Bearer ").ok_or_else(|| unauthorized("authError", "Invalid Credentials"))?;
        if let Some((grants, expires)) = self.tokens.get(token) {
            if now < *expires {
                return Ok(Caller {
                    name: "test@test.iam.gserviceaccount.com".to_owned(),
                    grants: Some(grants.clone()),
                });
            }
        } else if let Some(caller) = self.signed(token, now) {
            return Ok(caller);
        }
        Err(unauthorized("authError", "Invalid Credentials"))
    }

    /// Who signed `token` (<https://google.aip.dev/auth/4111>); `None` when it is not good.
    fn signed(&self, token: &str, now: Timestamp) -> Option<Caller> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let parse = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (header, claims) = (parse(header)?, parse(claims)?);
        let email = claims["iss"].as_str()?;
        let account = self.accounts.get(email)?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &account.public_key);
        key.verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let (issued, expires) = (claims["iat"].as_i64()?, claims["exp"].as_i64()?);
        let seconds = now.as_micros().div_euclid(1_000_000);
        let in_time = issued <= seconds + SKEW && seconds <= expires + SKEW && expires - issued <= LIFETIME + 2 * SKEW;
        let scope = claims["scope"].as_str()?;
        let in_scope = scope.split(' ').any(|scope| scope == CLOUD || scope == FULL_CONTROL);
        let good = header["alg"] == "RS256" && header["kid"] == "k1" && in_time && in_scope;
        good.then(|| Caller { name: email.to_owned(), grants: Some(account.grants.clone()) })
    }

    /// The exchange of a foreign token (<https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>).
    pub(crate) fn exchange(&mut self, body: &[u8], now: Timestamp) -> Result<Answer, Refused> {
        let form: BTreeMap<String, String> = form_urlencoded::parse(body).into_owned().collect();
        let is = |name: &str, value: &str| form.get(name).is_some_and(|given| given == value);
        let grants = form.get("subject_token").and_then(|subject| self.federated.get(subject)).cloned();
        let good = is("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            && is("audience", AUDIENCE)
            && is("subject_token_type", SUBJECT_TOKEN_TYPE)
            && is("requested_token_type", ACCESS_TOKEN_TYPE)
            && form.contains_key("scope");
        let Some(grants) = grants.filter(|_| good) else {
            let body = json!({"error": "invalid_grant", "error_description": "The subject token is not accepted."});
            return Err(Box::new(Answer { status: 400, ..Answer::json(&body) }));
        };
        let token = self.issue(grants, now);
        Ok(Answer::json(&json!({
            "access_token": token, "issued_token_type": ACCESS_TOKEN_TYPE, "token_type": "Bearer", "expires_in": LIFETIME,
        })))
    }

    /// A token of the host (<https://cloud.google.com/compute/docs/access/authenticate-workloads>).
    pub(crate) fn of_host(&mut self, flavor: Option<&str>, now: Timestamp) -> Result<Answer, Refused> {
        if flavor != Some("Google") {
            return Err(refuse(403, "forbidden", "Missing Metadata-Flavor:Google header."));
        }
        let grants = self.host.clone().ok_or_else(|| refuse(404, "notFound", "no service account"))?;
        let token = self.issue(grants, now);
        let body = json!({"access_token": token, "expires_in": LIFETIME, "token_type": "Bearer"});
        Ok(Answer::json(&body).with("metadata-flavor", "Google"))
    }
}

const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/test";
const SUBJECT_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

fn unauthorized(reason: &str, message: &str) -> Refused {
    let mut refused = refuse(401, reason, message);
    refused.headers.push(("www-authenticate", "Bearer realm=\"https://accounts.google.com/\"".to_owned()));
    refused
}
