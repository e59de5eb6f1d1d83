//! What went wrong, in the words of the storage contract, with what to change. An answer of the service is judged by its status
//! and its error code; a missing object is only believed when the service says `BlobNotFound`.
//!
//! Source of the codes: "Blob Storage error codes", <https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>,
//! and "Common REST API error codes" beside it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::RawResponse;
use azure_core::http::headers::{HeaderName, Headers};
use breakwater_core::{Clock, Timestamp};
use breakwater_storage::{Operation, StorageError, StorageErrorKind};
use serde::Deserialize;

use crate::properties::service_time;

/// Signatures are refused when the clocks differ by more than a quarter of an hour; a third of that is worth a word.
const SKEW_WORTH_A_WORD: i64 = 5 * 60 * 1_000_000;

/// How much of what the service said is shown, in characters.
const SHOWN: usize = 400;

/// Turns errors of one place into those of the contract.
#[derive(Debug)]
pub(crate) struct Judge {
    /// The place, as it is shown.
    pub(crate) location: String,
    /// The account.
    pub(crate) account: String,
    /// The container.
    pub(crate) container: String,
    /// What requests are authorized with, for people: `the key of AZURE_STORAGE_KEY`.
    pub(crate) credential: String,
    /// This host's clock, to tell a wrong one.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Judge {
    /// The error of `operation` on the object `key`.
    pub(crate) fn error(&self, operation: Operation, key: &str, error: &azure_core::Error) -> StorageError {
        let ErrorKind::HttpResponse { status, error_code, raw_response } = error.kind() else {
            return self.without_answer(operation, key, error);
        };
        let code = error_code.as_deref().unwrap_or_default();
        let (kind, advice) = verdict(u16::from(*status), code);
        let said = raw_response.as_deref().map(said).unwrap_or_default();
        let mut text = format!("the service answered {} {code}", u16::from(*status));
        if !said.is_empty() {
            text.push_str(&format!(": {said}"));
        }
        let headers = raw_response.as_deref().map(RawResponse::headers);
        if let Some(hint) = self.hint(kind, code, advice, headers) {
            text.push_str(&format!(" (hint: {hint})"));
        }
        StorageError::new(kind, operation, &self.location, key).because(text).after(headers.and_then(retry_after))
    }

    /// The error of `operation` on the object `key` of which this place says `kind`, for the reason `why`.
    pub(crate) fn say(&self, kind: StorageErrorKind, operation: Operation, key: &str, why: &str) -> StorageError {
        StorageError::new(kind, operation, &self.location, key).because(why.to_owned())
    }

    /// No answer came: the way there is broken, there are no credentials, or what came makes no sense.
    fn without_answer(&self, operation: Operation, key: &str, error: &azure_core::Error) -> StorageError {
        let text = reasons(error);
        let (kind, hint) = match error.kind() {
            ErrorKind::Credential if !lost_the_way(error) => (
                StorageErrorKind::Denied,
                Some("the documentation of this backend says where credentials are looked for".to_owned()),
            ),
            ErrorKind::Other => (StorageErrorKind::Other, None),
            ErrorKind::DataConversion => (
                StorageErrorKind::Unreachable,
                Some("does something else answer there? see `endpoint` and `proxy`".to_owned()),
            ),
            _ => (StorageErrorKind::Unreachable, self.way(&text)),
        };
        let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        StorageError::new(kind, operation, &self.location, key).because(format!("{text}{hint}"))
    }

    /// What to look at when the way there is broken.
    fn way(&self, text: &str) -> Option<String> {
        if text.contains("dns error") || text.contains("lookup address") {
            Some(format!("is `{}` the name of the account? accounts have a DNS name each", self.account))
        } else if text.contains("certificate") {
            Some("`ca` names a file with a private authority's certificate".to_owned())
        } else {
            None
        }
    }

    fn hint(
        &self,
        kind: StorageErrorKind,
        code: &str,
        advice: Option<&'static str>,
        headers: Option<&Headers>,
    ) -> Option<String> {
        if kind == StorageErrorKind::Denied {
            let skew = headers.and_then(service_time).map(|there| self.clock.now().micros_since(there));
            if let Some(skew) = skew.filter(|skew| skew.abs() > SKEW_WORTH_A_WORD) {
                let side = if skew > 0 { "ahead of" } else { "behind" };
                return Some(format!("this host's clock is {} s {side} that of the service", skew.abs() / 1_000_000));
            }
            let advice = advice.unwrap_or("it does not allow this");
            return Some(format!("used was {}; {advice}", self.credential));
        }
        if code.starts_with("Container") || code == "ResourceNotFound" {
            return Some(format!("there must be a container `{}` in the account `{}`", self.container, self.account));
        }
        advice.map(str::to_owned)
    }
}

/// The kind of trouble that an answer means, and what to change.
fn verdict(status: u16, code: &str) -> (StorageErrorKind, Option<&'static str>) {
    use StorageErrorKind::{
        AlreadyExists, Archived, Corrupt, Denied, Full, Invalid, Locked, NotFound, Other, Throttled, Unreachable,
        Unsupported,
    };
    match (status, code) {
        (404, "BlobNotFound") => (NotFound, None),
        (404, _) => (Unreachable, Some("is the endpoint that of Blob Storage?")),
        (409, "BlobAlreadyExists" | "ResourceAlreadyExists" | "BlobOverwritten") => (AlreadyExists, None),
        (412, "ConditionNotMet" | "TargetConditionNotMet") => (AlreadyExists, None),
        // What a signature for creating alone says of a name that is taken.
        (403, "UnauthorizedBlobOverwrite") => (AlreadyExists, None),
        (_, "BlobArchived" | "BlobBeingRehydrated") => (Archived, None),
        (_, code) if code.starts_with("BlobImmutable") => (Locked, None),
        (409, "ContainerBeingDeleted" | "ContainerDisabled" | "AccountBeingCreated") => (Unreachable, None),
        (_, "AuthenticationFailed") => (Denied, Some("is it that of this account, whole, and not past its end?")),
        (_, "AuthorizationPermissionMismatch") => (
            Denied,
            Some(
                "it lacks a right for this: a role on data, such as Storage Blob Data Contributor, or a permission of the SAS",
            ),
        ),
        (_, "AuthorizationFailure") => {
            (Denied, Some("it lacks a right for this, or the account's firewall keeps this host out"))
        }
        (_, "AuthorizationSourceIPMismatch") => (Denied, Some("the SAS is for another address than this host's")),
        (_, "AuthorizationProtocolMismatch") => (Denied, Some("the SAS is for https alone")),
        (_, "KeyBasedAuthenticationNotPermitted") => {
            (Denied, Some("this account takes no keys and no SAS made with them, but identities of Entra"))
        }
        (_, "AccountIsDisabled") => (Denied, Some("the account is disabled; its owner can say why")),
        (401, _) => (Denied, Some("is the tenant right, and the identity known in it?")),
        (403, _) => (Denied, None),
        (429, _) | (503, _) => (Throttled, None),
        (_, "IngressIsOverAccountLimit" | "EgressIsOverAccountLimit") => (Throttled, None),
        (416, _) => (Corrupt, None),
        (507, _) => (Full, None),
        (_, "Md5Mismatch" | "Crc64Mismatch") => {
            (Unreachable, Some("what arrived is not what was sent; something on the way damages it"))
        }
        (_, "FeatureVersionMismatch" | "BlobAccessTierNotSupportedForAccountType" | "InvalidBlobTier") => {
            (Unsupported, Some("this kind of account does not offer that"))
        }
        (501, _) => (Unsupported, None),
        (400, "InvalidHeaderValue" | "UnsupportedHeader") => {
            (Invalid, Some("where the service is an older one, `api-version` names a version that it knows"))
        }
        (408 | 500..=599, _) => (Unreachable, None),
        (400 | 405 | 411 | 413 | 414, _) => (Invalid, None),
        _ => (Other, None),
    }
}

/// The body of an error.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "Message")]
    message: Option<String>,
    #[serde(rename = "AuthenticationErrorDetail")]
    detail: Option<String>,
}

/// What the service said for people, on one line. A SAS is not in it: the service leaves it out.
fn said(response: &RawResponse) -> String {
    let Ok(said) = azure_core::xml::from_xml::<_, Said>(response.body()) else { return String::new() };
    // Behind the first line stand a request's id and a time.
    let message = said.message.as_deref().and_then(|message| message.lines().next()).unwrap_or_default();
    let words = [message, said.detail.as_deref().unwrap_or_default()].join(" ");
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

/// How long the service asked to be left alone.
fn retry_after(headers: &Headers) -> Option<Duration> {
    let number = |name: &'static str| -> Option<u64> {
        headers.get_optional_str(&HeaderName::from_static(name))?.trim().parse().ok()
    };
    number("x-ms-retry-after-ms").map(Duration::from_millis).or_else(|| number("retry-after").map(Duration::from_secs))
}

/// The reasons behind an error, the nearest first. Layers that would show an address, and with it a signature, are left out.
pub(crate) fn reasons(error: &azure_core::Error) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut link: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = link {
        let text = current.to_string();
        let repeats = reasons.last().is_some_and(|last| last.contains(&text));
        if !current.is::<reqwest::Error>() && !text.is_empty() && !repeats {
            reasons.push(text);
        }
        link = current.source();
    }
    reasons.join(": ").chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Whether what gives out credentials could not be reached, so that nothing was refused.
fn lost_the_way(error: &azure_core::Error) -> bool {
    let mut link: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = link {
        let kind = current.downcast_ref::<azure_core::Error>().map(azure_core::Error::kind);
        if matches!(kind, Some(ErrorKind::Connection | ErrorKind::Io)) {
            return true;
        }
        link = current.source();
    }
    false
}

/// For how long a lock binds after the moment `at`, for people.
pub(crate) fn locked_until(until: Timestamp) -> String {
    format!("locked until {until}")
}

#[cfg(test)]
mod tests {
    use breakwater_runtime::SystemClock;

    use super::*;

    fn judge() -> Judge {
        Judge {
            location: "azure://acc/box".to_owned(),
            account: "acc".to_owned(),
            container: "box".to_owned(),
            credential: "the key of AZURE_STORAGE_KEY".to_owned(),
            clock: Arc::new(SystemClock),
        }
    }

    #[test]
    fn only_the_service_itself_says_that_an_object_is_not_there() {
        assert_eq!(verdict(404, "BlobNotFound").0, StorageErrorKind::NotFound);
        for code in ["ContainerNotFound", "ResourceNotFound", "", "404"] {
            assert_eq!(verdict(404, code).0, StorageErrorKind::Unreachable, "{code}");
        }
    }

    #[test]
    fn what_passes_later_is_transient_and_what_does_not_is_not() {
        let transient = |status, code| {
            matches!(verdict(status, code).0, StorageErrorKind::Throttled | StorageErrorKind::Unreachable)
        };
        for (status, code) in
            [(503, "ServerBusy"), (429, ""), (500, "InternalError"), (500, "OperationTimedOut"), (502, "")]
        {
            assert!(transient(status, code), "{status} {code}");
        }
        for (status, code) in [
            (403, "AuthenticationFailed"),
            (409, "BlobImmutableDueToPolicy"),
            (400, ""),
            (501, ""),
            (409, "LeaseIdMissing"),
        ] {
            assert!(!transient(status, code), "{status} {code}");
        }
    }

    #[tokio::test]
    async fn addresses_are_not_shown() {
        // Nobody listens on this port.
        let broken = reqwest::Client::builder().no_proxy().build().unwrap();
        let broken = broken.get("http://127.0.0.1:1/c?sig=secret").send().await.unwrap_err();
        assert!(broken.to_string().contains("secret"), "the library shows it: {broken}");
        let error = azure_core::Error::with_error(ErrorKind::Io, broken, "failed to execute the request");
        let shown = judge().error(Operation::Get, "k", &error);
        let shown = breakwater_core::Chain(&shown).to_string();
        assert!(!shown.contains("secret") && shown.contains("Connection refused"), "{shown}");
    }

    #[test]
    fn a_wait_is_read_from_either_header() {
        let headers = |name: &'static str, value: &'static str| {
            let mut headers = Headers::new();
            headers.insert(name, value);
            headers
        };
        assert_eq!(retry_after(&headers("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&headers("x-ms-retry-after-ms", "250")), Some(Duration::from_millis(250)));
        assert_eq!(retry_after(&headers("retry-after", "soon")), None);
    }
}
