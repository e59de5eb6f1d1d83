//! Requests to the service and their answers: one HTTP client, no retries, no redirects, and an end to every wait.

use std::error::Error;
use std::time::Duration;

use breakwater_core::{Chain, Clock};
use breakwater_runtime::SystemClock;
use breakwater_storage::StorageErrorKind;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use reqwest::header::{HOST, LOCATION, RANGE};
use reqwest::{Certificate, Client, Method, Proxy, Request, Response, Url};
use serde::de::DeserializeOwned;

use crate::login::Login;
use crate::refusal::Refusal;

/// How long it may take to reach the service.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// How long an answer may keep one waiting, as a whole to begin and then for each next part of it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// The slowest that what is sent may go, in bytes a second: whoever is slower could not store a day's backups in a day.
const SLOWEST: u64 = 64 << 10;

/// Why something was not done.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The service answered otherwise.
    Refused(Refusal),
    /// There is no answer to judge.
    Failed(StorageErrorKind, Box<dyn Error + Send + Sync>),
}

impl Trouble {
    pub(crate) fn failed(kind: StorageErrorKind, why: impl Into<Box<dyn Error + Send + Sync>>) -> Trouble {
        Trouble::Failed(kind, why.into())
    }

    /// An answer that cannot be one of the service's.
    pub(crate) fn nonsense(what: impl std::fmt::Display) -> Trouble {
        let text = format!("{what} (hint: is there something else at the endpoint?)");
        Trouble::failed(StorageErrorKind::Other, text)
    }
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Trouble {
        // The address of an upload's session is as good as a password for it.
        let error = error.without_url();
        let text = Chain(&error).to_string();
        let is_trust = text.contains("certificate") || text.contains("UnknownIssuer");
        let hint = if is_trust {
            " (hint: ca=/PATH names the authority of a private endpoint)"
        } else if error.is_connect() {
            " (hint: is there a way from this host to the endpoint, or by proxy=http://HOST:PORT?)"
        } else {
            ""
        };
        Trouble::failed(StorageErrorKind::Unreachable, format!("{text}{hint}"))
    }
}

/// The way to the service.
#[derive(Debug)]
pub(crate) struct Wire {
    endpoint: Url,
    client: Client,
    login: Login,
}

impl Wire {
    /// The way to `endpoint`. `authorities` are trusted instead of the system's, when there are any.
    pub(crate) fn new(
        endpoint: Url,
        login: Login,
        authorities: Vec<Certificate>,
        proxy: Option<Proxy>,
    ) -> Result<Wire, reqwest::Error> {
        let mut client = Client::builder()
            .user_agent(concat!("breakwater/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never());
        if !authorities.is_empty() {
            client = client.tls_certs_only(authorities);
        }
        if let Some(proxy) = proxy {
            client = client.proxy(proxy);
        }
        Ok(Wire { endpoint, client: client.build()?, login })
    }

    /// The address of `segments`, each percent-encoded, with `query`.
    pub(crate) fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// A request to fill.
    pub(crate) fn request(&self, method: Method, url: Url) -> Request {
        Request::new(method, url)
    }

    /// Where `response` sends an upload; only to the service itself, since what is sent there is the data.
    pub(crate) fn location(&self, response: &Response) -> Result<Url, Trouble> {
        let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let url =
            text.and_then(|text| Url::parse(text).ok()).ok_or_else(|| Trouble::nonsense("an upload got no address"))?;
        if url.origin() != self.endpoint.origin() {
            return Err(Trouble::nonsense(format!(
                "an upload was sent to another host, {}",
                url.origin().ascii_serialization()
            )));
        }
        Ok(url)
    }

    /// Sends `request` as this host, and gives the answer when it is a success.
    pub(crate) async fn send(&self, mut request: Request) -> Result<Response, Trouble> {
        debug_assert!(!request.headers().contains_key(HOST), "the client names the host, with its port");
        request.headers_mut().extend(self.login.headers().await?);
        let response = self.exchange(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let refusal = refusal(response).await;
        if refusal.status == 401 {
            // The next try begins with credentials as they are then.
            self.login.forget();
        }
        Err(Trouble::Refused(refusal))
    }

    /// Sends a piece of an upload: its success, or, when more is expected, the number of bytes that are stored.
    pub(crate) async fn send_piece(&self, request: Request) -> Result<Result<Response, u64>, Trouble> {
        let response = self.exchange(request).await?;
        match response.status().as_u16() {
            200 | 201 => Ok(Ok(response)),
            308 => {
                let range = response.headers().get(RANGE).map(|value| value.to_str().unwrap_or_default());
                let stored = range.map_or(Some(0), stored_bytes);
                stored.map(Err).ok_or_else(|| Trouble::nonsense("an upload stores no understandable range"))
            }
            _ => Err(Trouble::Refused(refusal(response).await)),
        }
    }

    async fn exchange(&self, request: Request) -> Result<Response, Trouble> {
        let sent = request.body().and_then(|body| body.size_hint().exact()).unwrap_or(0);
        let patience = ANSWER_PATIENCE + Duration::from_secs(sent / SLOWEST);
        in_time(patience, self.client.execute(request)).await
    }
}

async fn refusal(response: Response) -> Refusal {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    // What cannot be read is still a refusal with a status.
    let body = content(response).await.unwrap_or_default();
    Refusal::new(status, &headers, &String::from_utf8_lossy(&body), SystemClock.now())
}

async fn in_time<T>(patience: Duration, call: impl Future<Output = reqwest::Result<T>>) -> Result<T, Trouble> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Trouble::failed(StorageErrorKind::Unreachable, format!("no answer within {patience:?}"))),
    }
}

/// The content of an answer, which is whole or an error.
pub(crate) async fn content(mut response: Response) -> Result<Bytes, Trouble> {
    let mut whole = BytesMut::new();
    while let Some(part) = in_time(ANSWER_PATIENCE, response.chunk()).await? {
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

/// The JSON of an answer.
pub(crate) async fn json<T: DeserializeOwned>(response: Response) -> Result<T, Trouble> {
    let body = content(response).await?;
    serde_json::from_slice(&body)
        .map_err(|error| Trouble::nonsense(format!("an answer is not what was asked for: {error}")))
}

/// The bytes that `bytes=0-41` says are stored: 42.
fn stored_bytes(range: &str) -> Option<u64> {
    range.strip_prefix("bytes=0-")?.parse::<u64>().ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read() {
        assert_eq!(stored_bytes("bytes=0-41"), Some(42));
        for bad in ["bytes=1-41", "0-41", "bytes=0-", "bytes=0-18446744073709551615"] {
            assert_eq!(stored_bytes(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn names_are_encoded_whole() {
        let endpoint = Url::parse("http://127.0.0.1:9").unwrap();
        let wire = Wire::new(endpoint, Login::anonymous(), Vec::new(), None).unwrap();
        let url = wire.url(&["b", "x", "o", "a/b c?d#e%2F+&=~"], &[("prefix", "a&b=c+d")]);
        assert_eq!(url.as_str(), "http://127.0.0.1:9/b/x/o/a%2Fb%20c%3Fd%23e%252F+&=~?prefix=a%26b%3Dc%2Bd");
    }
}
