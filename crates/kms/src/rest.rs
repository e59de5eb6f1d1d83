//! Calls of services that speak JSON over HTTPS.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::service::ServiceError;

const PATIENCE: Duration = Duration::from_secs(20);

/// A client with a deadline. It follows no redirects: a key service does not send its callers elsewhere.
pub(crate) fn client(service: &'static str) -> Result<Client, ServiceError> {
    let built = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
    built.map_err(|error| ServiceError::Unusable { service, problem: error.to_string() })
}

/// Sends a request and reads the JSON of its answer. Addresses in errors hold no credentials, since these go in headers.
pub(crate) async fn call(service: &'static str, request: reqwest::RequestBuilder) -> Result<Value, ServiceError> {
    call_to_open(service, request, &[]).await
}

/// The same where something is to be unwrapped: a bad request (400) whose answer has one of these words in it means that what
/// was wrapped does not open.
pub(crate) async fn call_to_open(
    service: &'static str,
    request: reqwest::RequestBuilder,
    words: &[&str],
) -> Result<Value, ServiceError> {
    let unusable = |error: reqwest::Error| ServiceError::Unusable { service, problem: chain(&error) };
    let answer = request.send().await.map_err(unusable)?;
    let status = answer.status();
    let body = answer.text().await.map_err(unusable)?;
    if status.is_success() {
        return serde_json::from_str(&body)
            .map_err(|_| ServiceError::Unusable { service, problem: "its answer is no JSON".to_owned() });
    }
    let said: String = body.chars().filter(|c| !c.is_control()).take(300).collect();
    let problem = format!("{status}: {said}");
    match status {
        StatusCode::BAD_REQUEST if words.iter().any(|word| body.contains(word)) => Err(ServiceError::DoesNotOpen),
        StatusCode::NOT_FOUND => Err(ServiceError::NoKey { service, problem }),
        StatusCode::TOO_MANY_REQUESTS => Err(ServiceError::Unusable { service, problem }),
        status if status.is_server_error() => Err(ServiceError::Unusable { service, problem }),
        _ => Err(ServiceError::Refused { service, problem }),
    }
}

fn chain(error: &reqwest::Error) -> String {
    breakwater_core::Chain(error).to_string()
}

/// A text field of an answer.
pub(crate) fn text<'a>(service: &'static str, value: &'a Value, pointer: &str) -> Result<&'a str, ServiceError> {
    let problem = || format!("its answer has no text at {pointer}");
    value.pointer(pointer).and_then(Value::as_str).ok_or_else(|| ServiceError::Unusable { service, problem: problem() })
}

/// A credential out of the file that an environment variable names.
pub(crate) fn credential(service: &'static str, variable: &str) -> Result<Option<Zeroizing<String>>, ServiceError> {
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else { return Ok(None) };
    let path = Path::new(&path);
    let text = std::fs::read_to_string(path).map_err(|error| ServiceError::Credentials {
        service,
        problem: format!("{variable} names {}, which cannot be read: {error}", path.display()),
    })?;
    let text = Zeroizing::new(text);
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}
