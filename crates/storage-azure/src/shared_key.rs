//! Signs requests with an account's key, which the SDK does not offer.
//!
//! Source: "Authorize with Shared Key", <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>, in the
//! form of service versions since 2015-02-21.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::headers::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, Headers, MS_DATE};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request, Url};
use azure_core::time::{OffsetDateTime, to_rfc7231};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use breakwater_core::Clock;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The headers whose values are signed by position.
const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// An account's key, and the policy that signs with it.
pub(crate) struct SharedKey {
    account: String,
    key: Zeroizing<Vec<u8>>,
    clock: Arc<dyn Clock>,
}

impl SharedKey {
    /// The key as the portal shows it; `None` when it is not base64.
    pub(crate) fn new(account: &str, key: &str, clock: Arc<dyn Clock>) -> Option<SharedKey> {
        let key = Zeroizing::new(STANDARD.decode(key).ok()?);
        Some(SharedKey { account: account.to_owned(), key, clock })
    }

    /// The value of `Authorization` for a request.
    fn authorization(&self, method: &str, url: &Url, headers: &Headers) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("an HMAC key may have any length");
        mac.update(string_to_sign(&self.account, method, url, headers).as_bytes());
        format!("SharedKey {}:{}", self.account, STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("account", &self.account).finish_non_exhaustive()
    }
}

#[async_trait]
impl Policy for SharedKey {
    #[expect(elided_lifetimes_in_paths, reason = "the macro needs the lifetimes as the trait has them")]
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let seconds = self.clock.now().as_micros().div_euclid(1_000_000);
        let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        request.insert_header(MS_DATE, to_rfc7231(&now));
        // The length is signed, so it must be said here where the SDK leaves it to the HTTP library.
        if let Some(length) = request.body().len().filter(|length| *length > 0) {
            request.insert_header(CONTENT_LENGTH, length.to_string());
        }
        let signed = self.authorization(request.method().as_ref(), request.url(), request.headers());
        request.insert_header(AUTHORIZATION, signed);
        next[0].send(context, request, &next[1..]).await
    }
}

/// What the signature covers: the verb, the known headers by position, all `x-ms-` headers, the path and the query.
fn string_to_sign(account: &str, method: &str, url: &Url, headers: &Headers) -> String {
    let mut text = format!("{method}\n");
    for name in SIGNED {
        let value = headers.get_optional_str(&HeaderName::from_static(name)).unwrap_or_default();
        // A length of zero is signed as nothing.
        if !(name == "content-length" && value == "0") {
            text.push_str(value);
        }
        text.push('\n');
    }
    let own: BTreeMap<&str, &str> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str().trim())).collect();
    for (name, value) in own.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{account}{}", url.path()));
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url.query_pairs() {
        query.entry(name.to_ascii_lowercase()).or_default().push(value.into_owned());
    }
    for (name, values) in &mut query {
        values.sort_unstable();
        text.push_str(&format!("\n{name}:{}", values.join(",")));
    }
    text
}

#[cfg(test)]
mod tests {
    use breakwater_core::Timestamp;

    use super::*;

    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(0)
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.insert(*name, *value);
        }
        headers
    }

    #[test]
    fn the_string_to_sign_is_that_of_the_reference() {
        let url = Url::parse(
            "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20",
        )
        .unwrap();
        let headers = headers(&[("x-ms-version", "2015-02-21"), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT")]);
        assert_eq!(
            string_to_sign("myaccount", "GET", &url, &headers),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
    }

    /// Requests and signatures that Microsoft's .NET library emitted, from the tests of its Dash project.
    #[test]
    fn signatures_of_the_vendors_library_are_met() {
        let key = "8jqRVtXUWiEthgIhR+dFwrB8gh3lFuquvJQ1v4eabObIj7okI1cZIuzY8zZHmEdpcC0f+XlUkbFwAhjTfyrLIg==";
        let key = SharedKey::new("dashstorage1", key, Arc::new(Still)).unwrap();
        let url = Url::parse("https://dashstorage1.blob.core.windows.net/test/test.txt").unwrap();
        let common = [
            ("content-length", "423"),
            ("content-md5", "LHmMkMS8mTXh0bRP4e4Ptw=="),
            ("x-ms-blob-type", "BlockBlob"),
            ("x-ms-version", "2014-02-14"),
            ("host", "dashstorage1.blob.core.windows.net"),
        ];
        let cases: [(&[(&str, &str)], &str); 3] = [
            (
                &[
                    ("x-ms-client-request-id", "82370d95-e820-4817-bd3f-6c266544ee8b"),
                    ("x-ms-date", "Thu, 30 Oct 2014 17:31:22 GMT"),
                ],
                "mDTyDIDy8yt7D81qAmYEYiXH1X/bmBHJF2+ZPn/r74k=",
            ),
            (
                &[
                    ("x-ms-client-request-id", "d0863cd4-ae43-4dd4-aa27-eff01d30b5cf"),
                    ("x-ms-date", "Thu, 30 Oct 2014 20:15:46 GMT"),
                    ("if-modified-since", "Thu, 30 Oct 2014 20:15:41 GMT"),
                ],
                "21rAYhnoRQQu6MmxXj6W5Rx3YWI8OCjO50CNNniohAA=",
            ),
            (
                &[
                    ("content-type", "application/octet-stream"),
                    ("content-language", "EN-US"),
                    ("content-encoding", "gzip"),
                    ("if-match", "DummyETag"),
                    ("x-ms-client-request-id", "93399f8e-6ce2-4020-81a4-4f1f53f427fd"),
                    ("x-ms-date", "Thu, 30 Oct 2014 20:46:48 GMT"),
                ],
                "ZBQYgC9dgzldVfH6t06qIYZujSz/3blWrinuYePTMv8=",
            ),
        ];
        for (more, signature) in cases {
            let all: Vec<_> = common.iter().chain(more).copied().collect();
            let authorization = key.authorization("PUT", &url, &headers(&all));
            assert_eq!(authorization, format!("SharedKey dashstorage1:{signature}"));
        }
    }

    #[test]
    fn a_key_is_base64_and_is_not_shown() {
        assert!(SharedKey::new("a", "not base64!", Arc::new(Still)).is_none());
        let key = SharedKey::new("account", "c2VjcmV0", Arc::new(Still)).unwrap();
        assert_eq!(format!("{key:?}"), "SharedKey { account: \"account\", .. }");
    }
}
