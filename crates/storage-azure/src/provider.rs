//! Opens `azure://ACCOUNT/CONTAINER[/PREFIX]`. Whatever is wrong with the URL or its options is said here, before any request.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::Url;
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use breakwater_core::{Clock, Entropy, PlaceUrl};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::places::{UseAs, invalid};
use breakwater_storage::{Backend, Provider, StorageError};

use crate::backend::{Azure, Limits};
use crate::credentials::{self, Chosen, Surroundings, Variables, Way};
use crate::failure::{Judge, reasons};
use crate::wire::{self, Route};

/// The options of a URL.
const OPTIONS: [&str; 9] =
    ["endpoint", "allow-http", "api-version", "key-file", "sas-file", "tenant", "client-id", "ca", "proxy"];

/// Opens places on Azure Blob Storage.
#[derive(Clone)]
pub struct AzureProvider {
    variables: Variables,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Default for AzureProvider {
    fn default() -> AzureProvider {
        AzureProvider::with_variables(|name| std::env::var(name).ok())
    }
}

impl fmt::Debug for AzureProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AzureProvider")
    }
}

impl AzureProvider {
    /// One that sees these variables instead of those of the process.
    pub fn with_variables(variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> AzureProvider {
        AzureProvider { variables: Arc::new(variables), clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> AzureProvider {
        AzureProvider { clock, ..self }
    }

    /// The place that `url` names.
    pub async fn place(&self, url: &PlaceUrl) -> Result<Azure, StorageError> {
        let wrong = |why: String| invalid(url, why);
        url.only_options(&OPTIONS).map_err(|error| invalid(url, error))?;
        let (account, address) = (url.host(), Address::of(url).map_err(wrong)?);
        let endpoint = endpoint(url, account)?;
        let is_loopback = is_loopback(&endpoint);
        let route = Route {
            ca: url.option("ca").map(Path::new),
            proxy: url.option("proxy"),
            direct: is_loopback,
            connect: None,
        };
        if route.proxy.is_some_and(|proxy| proxy.contains('@')) {
            return Err(wrong(
                "a proxy's password in a URL would be shown (hint: the variable HTTPS_PROXY)".to_owned(),
            ));
        }
        let around =
            Surroundings { url, route: &route, variables: &self.variables, clock: &self.clock, entropy: &self.entropy };
        let Chosen { name, way } = credentials::choose(&around).await.map_err(wrong)?;
        let (policies, token) = match way {
            Way::Policy(policy) => (vec![policy], None),
            Way::Token(token) => (Vec::new(), Some(token)),
        };
        let mut options = BlobContainerClientOptions {
            client_options: wire::options(wire::transport(&route).map_err(wrong)?, policies),
            ..BlobContainerClientOptions::default()
        };
        if let Some(version) = url.option("api-version") {
            version.clone_into(&mut options.version);
        }
        let container = container_url(endpoint, address.container).map_err(wrong)?;
        let client = BlobContainerClient::new(container, token, Some(options));
        let location = format!("azure://{account}/{}{}", address.container, address.shown_prefix());
        Ok(Azure {
            container: Arc::new(client.map_err(|error| wrong(reasons(&error)))?),
            prefix: address.prefix,
            limits: Limits::default(),
            judge: Arc::new(Judge {
                location,
                account: account.to_owned(),
                container: address.container.to_owned(),
                credential: name,
                clock: Arc::clone(&self.clock),
            }),
            entropy: Arc::clone(&self.entropy),
        })
    }
}

#[async_trait]
impl Provider for AzureProvider {
    fn scheme(&self) -> &'static str {
        "azure"
    }

    fn form(&self) -> &'static str {
        "azure://ACCOUNT/CONTAINER[/PREFIX]"
    }

    async fn open(&self, url: &PlaceUrl, _: UseAs) -> Result<Arc<dyn Backend>, StorageError> {
        Ok(Arc::new(self.place(url).await?))
    }
}

/// What stands in a URL behind the account.
struct Address<'a> {
    container: &'a str,
    prefix: String,
}

impl Address<'_> {
    /// Source of the rules: "Naming and referencing containers, blobs, and metadata", and "Storage account name".
    fn of(url: &PlaceUrl) -> Result<Address<'_>, String> {
        let account = url.host();
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !(3..=24).contains(&account.len()) || !account.bytes().all(lower) {
            return Err(format!(
                "`{account}` is no account: 3 to 24 small letters and digits (hint: azure://ACCOUNT/CONTAINER)"
            ));
        }
        let path = url.path().trim_start_matches('/');
        let (container, inner) = path.split_once('/').unwrap_or((path, ""));
        let is_container = (3..=63).contains(&container.len())
            && container.bytes().all(|byte| lower(byte) || byte == b'-')
            && container.split('-').all(|part| !part.is_empty());
        if !is_container {
            return Err(format!(
                "`{container}` is no container: 3 to 63 small letters, digits and single hyphens (hint: azure://ACCOUNT/CONTAINER)"
            ));
        }
        let inner = inner.trim_matches('/');
        if !inner.is_empty() {
            breakwater_storage::key::check_key(inner).map_err(|error| format!("the prefix `{inner}`: {error}"))?;
        }
        let prefix = if inner.is_empty() { String::new() } else { format!("{inner}/") };
        Ok(Address { container, prefix })
    }

    fn shown_prefix(&self) -> String {
        self.prefix.strip_suffix('/').map(|prefix| format!("/{prefix}")).unwrap_or_default()
    }
}

/// The address of the account's blob service.
fn endpoint(url: &PlaceUrl, account: &str) -> Result<Url, StorageError> {
    let Some(said) = url.option("endpoint") else {
        return Url::parse(&format!("https://{account}.blob.core.windows.net"))
            .map_err(|error| invalid(url, format!("`{account}` makes no address: {error}")));
    };
    let wrong = |why: &str| invalid(url, format!("the endpoint `{said}` {why}"));
    let endpoint = Url::parse(said).map_err(|_| wrong("is no URL"))?;
    let is_plain = endpoint.query().is_none() && endpoint.fragment().is_none() && endpoint.username().is_empty();
    if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() || !is_plain {
        return Err(wrong("is no address of a blob service (hint: https://ACCOUNT.blob.core.usgovcloudapi.net)"));
    }
    let allows_http = url.flag("allow-http").map_err(|error| invalid(url, error))?;
    if endpoint.scheme() == "http" && !is_loopback(&endpoint) && !allows_http {
        return Err(wrong("is not encrypted (hint: https, or the option `allow-http`)"));
    }
    Ok(endpoint)
}

fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn container_url(mut endpoint: Url, container: &str) -> Result<Url, String> {
    let pushed = endpoint.path_segments_mut().map(|mut segments| {
        segments.pop_if_empty().push(container);
    });
    pushed.map(|()| endpoint).map_err(|()| "nothing can lie below the endpoint".to_owned())
}
