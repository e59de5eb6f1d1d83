//! A small object that only the holder of the repository's root can have written: HPKE's base mode does not say who sealed.

use breakwater_crypto::{Secret, derive, sha256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::FormatError;
use super::record::read_json;

/// The object: the body's JSON text as a string, so that there is one reading of what the code authenticates.
#[derive(Serialize, Deserialize)]
struct Signed {
    body: String,
    mac: String,
}

/// The bytes of the object with this body, authenticated under the repository's root for the use that `label` names.
pub(super) fn encode(label: &str, root: &Secret, body: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_string(body).expect("the body has text keys only");
    let mac = hex::encode(mac(label, root, &body).expose());
    serde_json::to_vec(&Signed { body, mac }).expect("a signed object has text keys only")
}

/// Reads the object and checks that the holder of the repository's root wrote it for the use that `label` names.
pub(super) fn decode<T: DeserializeOwned>(
    what: &'static str,
    label: &str,
    root: &Secret,
    bytes: &[u8],
) -> Result<T, FormatError> {
    let signed: Signed = read_json(what, bytes)?;
    // The code comes in one spelling only, so that not even the case of a digit can change unnoticed.
    let found = Secret::from_hex(&signed.mac).filter(|_| !signed.mac.bytes().any(|byte| byte.is_ascii_uppercase()));
    if found != Some(mac(label, root, &signed.body)) {
        return Err(FormatError::Unsealed { what });
    }
    read_json(what, signed.body.as_bytes())
}

/// Reads the body without asking who wrote it: for what must be known before the root is.
pub(super) fn peek<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    let signed: Signed = read_json(what, bytes)?;
    read_json(what, signed.body.as_bytes())
}

fn mac(label: &str, root: &Secret, body: &str) -> Secret {
    derive(root, label, &[&sha256(body.as_bytes())])
}
