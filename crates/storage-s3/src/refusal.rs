//! What a store answered instead of what was asked, judged: which kind of trouble it is and what the operator is to change. Pure.
//!
//! Codes are those of the S3 API reference, "Error responses", and of stores that add their own. A HEAD has no body, so there the
//! status and the headers must do.

use std::time::Duration;

use breakwater_storage::StorageErrorKind;

/// What is needed of an answer to judge it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// Empty where the answer has no body.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) body: String,
    /// `x-amz-bucket-region`: where the bucket is.
    pub(crate) bucket_region: Option<String>,
    /// `date`: the clock of the store.
    pub(crate) date: Option<String>,
    pub(crate) retry_after: Option<String>,
    /// Of the request, for the provider's support.
    pub(crate) request_id: Option<String>,
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The right that it takes: `s3:PutObject`.
    pub(crate) action: &'static str,
    pub(crate) bucket: &'a str,
    /// The whole key or prefix in the bucket.
    pub(crate) resource: &'a str,
}

/// What to make of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) kind: StorageErrorKind,
    pub(crate) why: String,
    pub(crate) retry_after: Option<Duration>,
}

pub(crate) fn judge(refusal: &Refusal, asked: Asked<'_>) -> Verdict {
    let (kind, hint) = kind_and_hint(refusal, asked);
    let mut why = match (refusal.code.as_str(), refusal.message.trim_end_matches('.')) {
        ("", _) => format!("HTTP status {}", refusal.status),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    if let Some(id) = &refusal.request_id {
        why = format!("{why}, request {id}");
    }
    if let Some(hint) = hint {
        why = format!("{why} (hint: {hint})");
    }
    let retry_after = refusal.retry_after.as_deref().and_then(|text| text.trim().parse().ok().map(Duration::from_secs));
    Verdict { kind, why, retry_after }
}

fn kind_and_hint(refusal: &Refusal, asked: Asked<'_>) -> (StorageErrorKind, Option<String>) {
    use StorageErrorKind as Kind;
    let Asked { action, bucket, resource } = asked;
    if let Some(region) = other_region(refusal) {
        return (
            Kind::Invalid,
            Some(format!("bucket `{bucket}` is in region `{region}`: say region={region} in its URL")),
        );
    }
    let hint = |text: &str| Some(text.to_owned());
    match refusal.code.as_str() {
        "NoSuchBucket" => (
            Kind::Unreachable,
            Some(format!("there is no bucket `{bucket}`: correct the bucket or the endpoint in the URL, or make it")),
        ),
        "NoSuchKey" | "NoSuchVersion" | "NotFound" => (Kind::NotFound, None),
        "PreconditionFailed" => (Kind::AlreadyExists, None),
        "ConditionalRequestConflict" => (Kind::Unreachable, None),
        "InvalidAccessKeyId" => {
            (Kind::Denied, hint("the store does not know this access key: check the credentials in use"))
        }
        "SignatureDoesNotMatch" => (Kind::Denied, hint("the secret is not the one of this access key: correct it")),
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => (
            Kind::Denied,
            hint("these credentials have run out: renew them, or use a profile or role that renews them"),
        ),
        "InvalidToken" => (Kind::Denied, hint("the session token does not belong to these credentials")),
        "RequestTimeTooSkewed" | "RequestExpired" => (Kind::Denied, Some(clocks(refusal))),
        // In the answers of deletes of many, which have no status of their own.
        "AccessDenied" => (Kind::Denied, Some(missing_right(action, bucket, resource))),
        "InternalError" | "ServiceUnavailable" => (Kind::Unreachable, None),
        "InvalidObjectState" => (Kind::Archived, None),
        "InvalidRange" => (Kind::Corrupt, None),
        "InvalidRequest" | "InvalidArgument" | "ObjectLockConfigurationNotFoundError"
            if is_about_locks(&refusal.message) || refusal.code.starts_with("ObjectLock") =>
        {
            (Kind::Unsupported, Some(no_locks(bucket)))
        }
        "InvalidStorageClass" => (Kind::Unsupported, hint("the store does not have this storage class")),
        "NotImplemented" | "MethodNotAllowed" | "XNotImplemented" => (Kind::Unsupported, None),
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "GlacierExpeditedRetrievalNotAvailable" => (Kind::Throttled, None),
        // What arrived is not what was sent; the same content may arrive whole the next time.
        "BadDigest"
        | "XAmzContentChecksumMismatch"
        | "XAmzContentSHA256Mismatch"
        | "IncompleteBody"
        | "RequestTimeout" => (Kind::Unreachable, None),
        "EntityTooLarge" => (Kind::Invalid, hint("say a smaller part-bytes in the URL")),
        "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => {
            (Kind::Full, None)
        }
        code if code.starts_with("KMS.") => {
            (Kind::Denied, hint("the key that the bucket or sse-kms-key names must exist, be enabled and be usable"))
        }
        _ => by_status(refusal, action, bucket, resource),
    }
}

/// What to do about a bucket without locks.
pub(crate) fn no_locks(bucket: &str) -> String {
    format!(
        "bucket `{bucket}` has no Object Lock: make it with Object Lock and versions, or on AWS add Object Lock to a bucket with versions"
    )
}

fn by_status(refusal: &Refusal, action: &str, bucket: &str, resource: &str) -> (StorageErrorKind, Option<String>) {
    use StorageErrorKind as Kind;
    match refusal.status {
        401 | 403 => (Kind::Denied, Some(missing_right(action, bucket, resource))),
        404 => (Kind::NotFound, None),
        405 | 501 => (Kind::Unsupported, None),
        412 => (Kind::AlreadyExists, None),
        416 => (Kind::Corrupt, None),
        429 => (Kind::Throttled, None),
        507 => (Kind::Full, None),
        408 | 500..=599 => (Kind::Unreachable, None),
        _ => (Kind::Other, None),
    }
}

fn missing_right(action: &str, bucket: &str, resource: &str) -> String {
    format!("these credentials need `{action}` on arn:aws:s3:::{bucket}{}", below(resource))
}

fn below(resource: &str) -> String {
    if resource.is_empty() { String::new() } else { format!("/{resource}") }
}

/// The region in which the bucket is, when the refusal says that it was asked in another one.
fn other_region(refusal: &Refusal) -> Option<&str> {
    let redirects = matches!(
        refusal.code.as_str(),
        "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
    );
    let silent = refusal.code.is_empty() && matches!(refusal.status, 301 | 307 | 400);
    let named = || refusal.bucket_region.as_deref().or_else(|| element(&refusal.body, "Region"));
    if redirects || silent { named().filter(|region| !region.is_empty()) } else { None }
}

fn clocks(refusal: &Refusal) -> String {
    let ours = element(&refusal.body, "RequestTime");
    let theirs = element(&refusal.body, "ServerTime").or(refusal.date.as_deref());
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => {
            format!("this host's clock said {ours} and the store's {theirs}: set this host's clock")
        }
        (None, Some(theirs)) => format!("the store's clock said {theirs}: set this host's clock"),
        _ => "set this host's clock".to_owned(),
    }
}

/// Whether a message is about a bucket without Object Lock: stores agree on the code of nothing and the words of little.
fn is_about_locks(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("object lock") || message.contains("objectlock")
}

/// The text of the first element of this name in the XML of an error, which has no attributes and no nesting there.
pub(crate) fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'static> = Asked { action: "s3:PutObject", bucket: "b", resource: "p/data/x" };

    fn xml(status: u16, body: &str) -> Refusal {
        let text = |name| element(body, name).unwrap_or_default().to_owned();
        Refusal { status, code: text("Code"), message: text("Message"), body: body.to_owned(), ..Refusal::default() }
    }

    /// Bodies as the API reference and the user guide of S3 print them.
    #[test]
    fn recorded_refusals_say_what_to_change() {
        use StorageErrorKind as Kind;
        let check = |status, body: &str, kind, expected: &str| {
            let verdict = judge(&xml(status, body), ASKED);
            assert_eq!(verdict.kind, kind, "{body}");
            assert!(verdict.why.contains(expected), "{}", verdict.why);
        };
        check(
            404,
            "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message><BucketName>b</BucketName></Error>",
            Kind::Unreachable,
            "there is no bucket `b`",
        );
        check(
            400,
            "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message><Region>eu-west-1</Region></Error>",
            Kind::Invalid,
            "say region=eu-west-1",
        );
        check(
            403,
            "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current time is too large.</Message><RequestTime>20260101T000000Z</RequestTime><ServerTime>2026-01-01T02:00:00Z</ServerTime><MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds></Error>",
            Kind::Denied,
            "this host's clock said 20260101T000000Z and the store's 2026-01-01T02:00:00Z",
        );
        check(
            403,
            "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
            Kind::Denied,
            "`s3:PutObject` on arn:aws:s3:::b/p/data/x",
        );
        check(
            400,
            "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
            Kind::Denied,
            "have run out",
        );
        check(
            403,
            "<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does not match the signature you provided.</Message></Error>",
            Kind::Denied,
            "the secret is not the one",
        );
        check(
            400,
            "<Error><Code>InvalidRequest</Code><Message>Bucket is missing Object Lock Configuration</Message></Error>",
            Kind::Unsupported,
            "has no Object Lock: make it with",
        );
        check(
            409,
            "<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting operation occurred</Message></Error>",
            Kind::Unreachable,
            "conflicting",
        );
        check(
            503,
            "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
            Kind::Throttled,
            "rate",
        );
        check(503, "<Error><Code>ServiceUnavailable</Code></Error>", Kind::Unreachable, "ServiceUnavailable");
        check(403, "<Error><Code>InvalidObjectState</Code></Error>", Kind::Archived, "InvalidObjectState");
        check(400, "<Error><Code>KMS.DisabledException</Code></Error>", Kind::Denied, "be enabled");
        check(400, "<Error><Code>InvalidRequest</Code><Message>Other</Message></Error>", Kind::Other, "Other");
    }

    #[test]
    fn answers_without_a_body_are_judged_by_status_and_headers() {
        let bare = |status| Refusal { status, ..Refusal::default() };
        let verdict = judge(&Refusal { bucket_region: Some("eu-west-1".to_owned()), ..bare(301) }, ASKED);
        assert!(verdict.why.contains("region=eu-west-1"), "{}", verdict.why);
        assert_eq!(judge(&bare(404), ASKED).kind, StorageErrorKind::NotFound);
        assert_eq!(judge(&bare(403), ASKED).kind, StorageErrorKind::Denied);
        assert_eq!(judge(&bare(502), ASKED).kind, StorageErrorKind::Unreachable);
        let waits = judge(&Refusal { retry_after: Some("7".to_owned()), ..bare(429) }, ASKED);
        assert_eq!((waits.kind, waits.retry_after), (StorageErrorKind::Throttled, Some(Duration::from_secs(7))));
    }
}
