//! What the service says when it does not do what was asked, and what that means to the one who has to act on it. Sources:
//! <https://cloud.google.com/storage/docs/json_api/v1/status-codes> and, where answers of the real service are known to differ
//! from it, those (docs/storage/gcs.md).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use breakwater_core::Timestamp;
use breakwater_storage::StorageErrorKind;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;

/// How much of an answer's text is kept, in characters.
const TEXT_MAX: usize = 400;
/// From how many seconds on a difference between two clocks is worth a word. Tokens allow for five minutes.
const SKEW_SECONDS: i64 = 120;

/// An answer that is not the one that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The first of the reasons, as the reference spells it; empty where the answer has none, as those to reads of content.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
    /// How many seconds the clock of the service is ahead of this host's.
    skew: i64,
}

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Trouble of this kind.
    Trouble(StorageErrorKind, Option<Hint>),
    /// A precondition did not hold.
    Precondition,
    /// Something is not there, and the answer does not say whether that is the object or the bucket.
    Missing,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    Bucket,
    Token,
    Permission,
    QuotaProject,
    Billing,
    ObjectRetention,
    Clock,
    Damaged,
}

impl Refusal {
    /// What an answer says. `now` is this host's time.
    pub(crate) fn new(status: u16, headers: &HeaderMap, body: &str, now: Timestamp) -> Refusal {
        let (reason, message) = match serde_json::from_str::<ErrorBody>(body) {
            Ok(ErrorBody { error }) => {
                let reason = error.errors.into_iter().next().map(|detail| detail.reason);
                (reason.unwrap_or_default(), error.message)
            }
            Err(_) => (String::new(), body.to_owned()),
        };
        let message = message.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let date = text(DATE).and_then(|text| httpdate::parse_http_date(text).ok());
        let skew = date.map_or(0, |date| seconds(date) - now.as_micros().div_euclid(1_000_000));
        let retry_after = text(RETRY_AFTER).and_then(|text| delay(text, date));
        Refusal { status, reason, message, retry_after, skew }
    }

    /// What it means.
    pub(crate) fn meaning(&self) -> Meaning {
        use StorageErrorKind as Kind;
        let says = |words: &[&str]| words.iter().any(|word| self.message.contains(word));
        let trouble = |kind, hint| Meaning::Trouble(kind, Some(hint));
        match (self.status, self.reason.as_str()) {
            (400 | 403, _) if says(&["user project", "UserProject", "serviceusage.services.use"]) => {
                trouble(Kind::Denied, Hint::QuotaProject)
            }
            (400, _) if says(&["bject retention is not enabled"]) => trouble(Kind::Unsupported, Hint::ObjectRetention),
            (400, _) if says(&["doesn't match calculated"]) => trouble(Kind::Unreachable, Hint::Damaged),
            (400, _) if says(&["cannot be in the past"]) => trouble(Kind::Invalid, Hint::Clock),
            (401, _) => trouble(Kind::Denied, Hint::Token),
            (403 | 429, "rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded") | (429 | 503, _) => {
                Meaning::Trouble(Kind::Throttled, None)
            }
            (403, "retentionPolicyNotMet" | "objectUnderActiveHold") => Meaning::Trouble(Kind::Locked, None),
            // The real service gives holds and locks of objects the reason that a missing permission has.
            (403, _) if says(&["is under active ", "object retention"]) => Meaning::Trouble(Kind::Locked, None),
            (403, "accountDisabled" | "billingNotEnabled") => trouble(Kind::Denied, Hint::Billing),
            (403, _) if says(&["billing"]) => trouble(Kind::Denied, Hint::Billing),
            (403, _) => trouble(Kind::Denied, Hint::Permission),
            (404, _) if says(&["No such object"]) => Meaning::Trouble(Kind::NotFound, None),
            (404, _) if says(&["bucket does not exist"]) => trouble(Kind::Unreachable, Hint::Bucket),
            (404, _) => Meaning::Missing,
            // A session of an upload that is gone (410) or was cancelled (499) is begun anew by the next try.
            (408 | 410 | 499 | 500 | 502 | 504, _) => Meaning::Trouble(Kind::Unreachable, None),
            (412, _) => Meaning::Precondition,
            (416, _) => Meaning::Trouble(Kind::Corrupt, None),
            (501, _) => Meaning::Trouble(Kind::Unsupported, None),
            (400 | 405 | 411 | 413, _) => Meaning::Trouble(Kind::Invalid, None),
            _ => Meaning::Trouble(Kind::Other, None),
        }
    }

    /// The permission that is missing, where the answer names one.
    pub(crate) fn permission(&self) -> Option<&str> {
        let start = ["storage.objects.", "storage.buckets."].iter().filter_map(|word| self.message.find(word)).min()?;
        let rest = &self.message[start..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len());
        Some(rest[..end].trim_end_matches('.'))
    }

    /// What to do, for people.
    pub(crate) fn advice(&self, hint: Hint, bucket: &str) -> String {
        match hint {
            Hint::Bucket => {
                format!("hint: is there a bucket `{bucket}`? gcloud storage buckets describe gs://{bucket}")
            }
            Hint::Token if self.skew.abs() >= SKEW_SECONDS => {
                let side = if self.skew > 0 { "behind" } else { "ahead of" };
                format!("hint: this host's clock is {} s {side} that of the service; set it right", self.skew.abs())
            }
            Hint::Token => {
                "hint: the credentials are not valid, or no longer; make new ones, or look whether the service \
                            account is disabled"
                    .to_owned()
            }
            Hint::Permission => match self.permission() {
                Some(permission) => format!("hint: grant {permission} on the bucket to the account of this host"),
                None => "hint: grant the account of this host a role on the bucket".to_owned(),
            },
            Hint::QuotaProject => {
                "hint: name a project that is billed with quota-project=PROJECT, in which the account has \
                                   serviceusage.services.use (roles/serviceusage.serviceUsageConsumer)"
                    .to_owned()
            }
            Hint::Billing => {
                "hint: billing is off for the bucket's project; turn it on in the Cloud console".to_owned()
            }
            Hint::ObjectRetention => {
                "hint: locks need a bucket that was made with object retention: gcloud storage buckets \
                                      create gs://BUCKET --enable-per-object-retention"
                    .to_owned()
            }
            Hint::Clock => {
                "hint: a lock must end in the future, by the service's clock; compare this host's".to_owned()
            }
            Hint::Damaged => {
                "hint: what arrived is not what was sent; if it happens again, look at the network".to_owned()
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service answered {}", self.status)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The time that `text` of a `Retry-After` asks for: seconds, or a moment by the clock that said `date`.
fn delay(text: &str, date: Option<SystemTime>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(date?).ok()
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorText,
}

#[derive(Deserialize)]
struct ErrorText {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<ErrorDetail>,
}

#[derive(Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    reason: String,
}

#[cfg(test)]
mod tests {
    use StorageErrorKind as Kind;

    use super::*;

    fn json(status: u16, reason: &str, message: &str) -> Refusal {
        let body = format!(
            r#"{{"error":{{"code":{status},"message":"{message}","errors":[{{"domain":"global","reason":"{reason}","message":"{message}"}}]}}}}"#
        );
        Refusal::new(status, &HeaderMap::new(), &body, Timestamp::from_micros(0))
    }

    #[test]
    fn every_answer_has_a_meaning() {
        let denied = "me@p.iam.gserviceaccount.com does not have storage.objects.create access to the Google Cloud Storage \
                      object. Permission 'storage.objects.create' denied on resource (or it may not exist).";
        let trouble = |kind, hint: Option<Hint>| Meaning::Trouble(kind, hint);
        let cases = [
            (
                json(400, "invalid", "Object retention is not enabled on the bucket."),
                trouble(Kind::Unsupported, Some(Hint::ObjectRetention)),
            ),
            (
                json(
                    400,
                    "invalid",
                    "Provided CRC32C \\\"AAAAAA==\\\" doesn't match calculated CRC32C \\\"n/7wpQ==\\\".",
                ),
                trouble(Kind::Unreachable, Some(Hint::Damaged)),
            ),
            (
                json(400, "invalid", "Retain until time cannot be in the past."),
                trouble(Kind::Invalid, Some(Hint::Clock)),
            ),
            (
                json(400, "required", "Bucket is a requester pays bucket but no user project provided."),
                trouble(Kind::Denied, Some(Hint::QuotaProject)),
            ),
            (json(400, "invalid", "Invalid argument."), trouble(Kind::Invalid, None)),
            (json(401, "authError", "Invalid Credentials"), trouble(Kind::Denied, Some(Hint::Token))),
            (json(403, "forbidden", denied), trouble(Kind::Denied, Some(Hint::Permission))),
            (
                json(
                    403,
                    "forbidden",
                    "the caller does not have serviceusage.services.use access to the Google Cloud project.",
                ),
                trouble(Kind::Denied, Some(Hint::QuotaProject)),
            ),
            (
                json(403, "accountDisabled", "The billing account for the owning project is disabled in state absent"),
                trouble(Kind::Denied, Some(Hint::Billing)),
            ),
            (
                json(
                    403,
                    "retentionPolicyNotMet",
                    "Object 'b/p' is subject to bucket's retention policy or object retention and cannot be deleted or overwritten until 2026",
                ),
                trouble(Kind::Locked, None),
            ),
            (
                json(
                    403,
                    "objectUnderActiveHold",
                    "Object replacement or deletion is not allowed due to an active hold on the object.",
                ),
                trouble(Kind::Locked, None),
            ),
            (
                json(
                    403,
                    "forbidden",
                    "Object 'b/th' is under active Temporary hold and cannot be deleted, overwritten or archived until hold is removed.",
                ),
                trouble(Kind::Locked, None),
            ),
            (json(403, "forbidden", "The locked object retention cannot be removed."), trouble(Kind::Locked, None)),
            (json(403, "userRateLimitExceeded", "slow"), trouble(Kind::Throttled, None)),
            (json(404, "notFound", "No such object: b/x"), trouble(Kind::NotFound, None)),
            (
                json(404, "notFound", "The specified bucket does not exist."),
                trouble(Kind::Unreachable, Some(Hint::Bucket)),
            ),
            (json(404, "notFound", "Not Found"), Meaning::Missing),
            (
                json(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."),
                Meaning::Precondition,
            ),
            (json(429, "rateLimitExceeded", "slow"), trouble(Kind::Throttled, None)),
            (json(500, "backendError", "oops"), trouble(Kind::Unreachable, None)),
            (json(503, "backendError", "oops"), trouble(Kind::Throttled, None)),
        ];
        for (refusal, expected) in cases {
            assert_eq!(refusal.meaning(), expected, "{refusal}");
        }
        assert_eq!(json(403, "forbidden", denied).permission(), Some("storage.objects.create"));
        // Reads of content answer with plain text.
        let plain = Refusal::new(404, &HeaderMap::new(), "No such object: b/x", Timestamp::from_micros(0));
        assert_eq!(plain.meaning(), Meaning::Trouble(Kind::NotFound, None));
    }

    #[test]
    fn times_of_an_answer_are_read() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let now = Timestamp::from_micros(784_111_777_000_000);
        let with = |retry_after: &str, now: Timestamp| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, date.parse().unwrap());
            headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
            Refusal::new(401, &headers, "", now)
        };
        assert_eq!(with("7", now).retry_after, Some(Duration::from_secs(7)));
        assert_eq!(with("Sun, 06 Nov 1994 08:50:37 GMT", now).retry_after, Some(Duration::from_secs(60)));
        assert_eq!(with("soon", now).retry_after, None);
        assert!(with("7", now).advice(Hint::Token, "b").contains("not valid"));
        let late = with("7", now.plus_micros(-600_000_000)).advice(Hint::Token, "b");
        assert!(late.contains("600 s behind"), "{late}");
        let early = with("7", now.plus_micros(600_000_000)).advice(Hint::Token, "b");
        assert!(early.contains("600 s ahead"), "{early}");
    }
}
