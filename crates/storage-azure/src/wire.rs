//! How requests leave: one HTTP client for each place, and what a request says that the SDK's methods have no parameter for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{ClientOptions, Context, Request, RetryOptions, Transport};

/// How long a connection may take to come up. How long an operation may take is not decided here.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// After how much silence the kernel asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What the HTTP client is told.
#[derive(Debug, Default)]
pub(crate) struct Route<'a> {
    /// Certificates to trust beside those of the system, in PEM.
    pub(crate) ca: Option<&'a Path>,
    /// Where requests go instead of straight to the endpoint.
    pub(crate) proxy: Option<&'a str>,
    /// Whether the proxies that the environment names are left alone.
    pub(crate) direct: bool,
    /// The longest wait for a connection, where it is not the usual one.
    pub(crate) connect: Option<Duration>,
}

/// An HTTP client for `route`. It follows no redirects: storage does not send its callers elsewhere.
pub(crate) fn transport(route: &Route<'_>) -> Result<Transport, String> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(route.connect.unwrap_or(CONNECT_PATIENCE))
        .tcp_keepalive(KEEPALIVE)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = route.ca {
        let pem = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let found = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if found.is_empty() {
            return Err(format!("{} has no certificate in PEM", path.display()));
        }
        builder = builder.tls_certs_merge(found);
    }
    if route.direct {
        builder = builder.no_proxy();
    }
    if let Some(proxy) = route.proxy {
        let proxy = reqwest::Proxy::all(proxy).map_err(|_| format!("`{proxy}` is no address of a proxy"))?;
        builder = builder.proxy(proxy);
    }
    let client = builder.build().map_err(|error| format!("no HTTP client can be made: {error}"))?;
    Ok(Transport::new(Arc::new(client)))
}

/// The SDK's options for requests by `transport`, with `policies` applied last.
pub(crate) fn options(transport: Transport, policies: Vec<Arc<dyn Policy>>) -> ClientOptions {
    ClientOptions {
        transport: Some(transport),
        retry: RetryOptions::none(),
        per_call_policies: vec![Arc::new(AddExtras)],
        per_try_policies: policies,
        ..ClientOptions::default()
    }
}

/// What goes into a request beside the SDK's parameters; put into the context of a call.
#[derive(Clone, Debug)]
pub(crate) enum Extra {
    /// The checksum of the body, base64, with which the service compares what it received.
    Crc64(String),
    /// Names below the next `/` are answered once, as directories.
    Directories,
}

/// A context that carries `extra`.
pub(crate) fn with(extra: Extra) -> Context<'static> {
    Context::new().with_value(extra)
}

#[derive(Debug)]
struct AddExtras;

#[async_trait]
impl Policy for AddExtras {
    #[expect(elided_lifetimes_in_paths, reason = "the macro needs the lifetimes as the trait has them")]
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        match context.value::<Extra>() {
            Some(Extra::Crc64(sum)) => request.insert_header("x-ms-content-crc64", sum.clone()),
            Some(Extra::Directories) => {
                request.url_mut().query_pairs_mut().append_pair("delimiter", "/");
            }
            None => {}
        }
        next[0].send(context, request, &next[1..]).await
    }
}
