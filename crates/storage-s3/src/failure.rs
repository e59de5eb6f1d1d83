//! From an error of the SDK to one of ours: what the store refused goes to [`judge`](crate::refusal::judge); what never reached it
//! (no credentials, no name, no trust) is told apart here.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use breakwater_storage::{Operation, StorageError, StorageErrorKind};

use crate::backend::S3;
use crate::refusal::{Asked, Refusal, judge};

/// A call of the S3 API within an operation of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) operation: Operation,
    /// The right that it takes: `s3:PutObject`.
    pub(crate) action: &'static str,
    /// The object or prefix; empty when it is the place itself.
    pub(crate) key: &'a str,
}

impl S3 {
    pub(crate) fn error(&self, kind: StorageErrorKind, call: Call<'_>) -> StorageError {
        StorageError::new(kind, call.operation, self.location_text(), call.key)
    }

    /// The error of a call that failed.
    pub(crate) fn failed<E>(&self, call: Call<'_>, error: &SdkError<E, HttpResponse>) -> StorageError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let Some(response) = error.raw_response() else {
            let (kind, why) = way_trouble(error);
            return self.error(kind, call).because(why);
        };
        if response.status().is_success() && error.code().is_none() {
            let why = format!("the answer is not understood: {}", chain_text(error));
            return self.error(StorageErrorKind::Other, call).because(why);
        }
        let header = |name: &str| response.headers().get(name).map(str::to_owned);
        let metadata = error.as_service_error();
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let refusal = Refusal {
            status: response.status().as_u16(),
            code: text(metadata.and_then(ProvideErrorMetadata::code)),
            message: text(metadata.and_then(ProvideErrorMetadata::message)),
            body: response.body().bytes().map(|body| String::from_utf8_lossy(body).into_owned()).unwrap_or_default(),
            bucket_region: header("x-amz-bucket-region"),
            date: header("date"),
            retry_after: header("retry-after"),
            request_id: response.request_id().map(str::to_owned),
        };
        self.refused(call, &refusal)
    }

    /// The error of a call that the store refused.
    pub(crate) fn refused(&self, call: Call<'_>, refusal: &Refusal) -> StorageError {
        let resource = self.full(call.key);
        let verdict = judge(refusal, Asked { action: call.action, bucket: self.bucket(), resource: &resource });
        self.error(verdict.kind, call).because(verdict.why).after(verdict.retry_after)
    }

    /// The error of an answer that ended early or did not match its checksum.
    pub(crate) fn cut_off(&self, call: Call<'_>, error: &(dyn Error + 'static)) -> StorageError {
        let text = chain_text(error);
        let kind =
            if text.contains("checksum mismatch") { StorageErrorKind::Corrupt } else { StorageErrorKind::Unreachable };
        self.error(kind, call).because(text)
    }
}

/// What was wrong on the way to the store.
fn way_trouble(error: &(dyn Error + 'static)) -> (StorageErrorKind, String) {
    if let Some(credentials) = chain(error).find_map(|level| level.downcast_ref::<CredentialsError>()) {
        return credentials_trouble(credentials);
    }
    let text = chain_text(error);
    let hint = if text.contains("invalid peer certificate") {
        " (hint: name the certificate of its authority by ca=/PATH in the URL, and check the host's name)"
    } else if text.contains("dns error") {
        " (hint: check the endpoint and the region in the URL, and DNS)"
    } else {
        ""
    };
    (StorageErrorKind::Unreachable, format!("{text}{hint}"))
}

/// What was wrong where credentials come from.
fn credentials_trouble(error: &CredentialsError) -> (StorageErrorKind, String) {
    let text = chain_text(error);
    // A provider that asks over the network tells by the text alone that nobody was there.
    let is_away = matches!(error, CredentialsError::ProviderTimedOut(_)) || text.contains("dispatch failure");
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            let why = "no credentials were found (hint: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                       say credentials=/PATH in the URL)";
            (StorageErrorKind::Denied, why.to_owned())
        }
        _ if is_away => (StorageErrorKind::Unreachable, format!("what gives credentials does not answer: {text}")),
        _ => (StorageErrorKind::Denied, format!("no credentials were given: {text}")),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |level| (*level).source())
}

/// All levels of an error, without those that say what the level above has said.
fn chain_text(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for level in chain(error).map(ToString::to_string) {
        if !text.contains(&level) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&level);
        }
    }
    text
}
