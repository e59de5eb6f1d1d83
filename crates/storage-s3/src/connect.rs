//! The client of one place: which way requests go, in which region, with which credentials. Makes no call.

use std::path::Path;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::{ProxyConfig, ProxyError};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::credentials::{BadCredentialsFile, CredentialsFile};
use crate::options::{Options, Role};

/// How long a connection may take to come up. How long an operation may take is the business of decorators.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The region that requests to other stores than AWS are signed for when none is said; most of them ignore it.
const REGION_ELSEWHERE: &str = "us-east-1";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no region is said (hint: add region=REGION to the URL, or set AWS_REGION)")]
    NoRegion,
    #[error(transparent)]
    Credentials(#[from] BadCredentialsFile),
    #[error("the certificate file {path} cannot be read")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path} holds no certificate in PEM form")]
    NoCertificate { path: String },
    #[error("option `proxy` is no address of a proxy")]
    Proxy(#[source] ProxyError),
    #[error("the TLS settings cannot be used: {0}")]
    Tls(String),
}

pub(crate) async fn client(options: &Options) -> Result<Client, ConnectError> {
    let http = http_client(options)?;
    let region = region(options).await?;
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(region)
        // `Retry` around the backend is the one policy.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(path) = &options.credentials {
        let file = CredentialsFile::new(path, options.profile.as_deref())?;
        loader = loader.credentials_provider(file);
    } else if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    let mut shared = loader.load().await;
    if let Some(role) = &options.role {
        shared = in_role(shared, role).await;
    }
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(options.path_style)
        // Creates bring their checksum along and whole reads ask for it; the SDK adds what the protocol requires.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

/// From the URL, the environment or the profile. The metadata service of a host is not asked: this may not wait for the network.
async fn region(options: &Options) -> Result<Region, ConnectError> {
    if let Some(region) = &options.region {
        return Ok(Region::new(region.clone()));
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &options.profile {
        profile = profile.profile_name(name);
    }
    let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new()).or_else(profile.build());
    let elsewhere = options.endpoint.is_some().then(|| Region::new(REGION_ELSEWHERE));
    chain.region().await.or(elsewhere).ok_or(ConnectError::NoRegion)
}

/// The same with the credentials of `role`, which the SDK renews before they run out.
async fn in_role(shared: SdkConfig, role: &Role) -> SdkConfig {
    let mut sts = shared.clone().into_builder();
    if let Some(endpoint) = &role.sts_endpoint {
        sts = sts.endpoint_url(endpoint);
    }
    let mut provider = AssumeRoleProvider::builder(&role.arn).session_name(&role.session_name).configure(&sts.build());
    if let Some(id) = &role.external_id {
        provider = provider.external_id(id);
    }
    let provider = SharedCredentialsProvider::new(provider.build().await);
    // The cache of what the role builds upon must not be asked for the role's own credentials.
    shared.into_builder().credentials_provider(provider).identity_cache(IdentityCache::lazy().build()).build()
}

fn http_client(options: &Options) -> Result<SharedHttpClient, ConnectError> {
    let mut trust = TrustStore::default();
    if let Some(path) = &options.ca {
        trust = trust.with_pem_certificate(certificates(path)?);
    }
    let trust = TlsContext::builder().with_trust_store(trust).build();
    let trust = trust.map_err(|error| ConnectError::Tls(error.to_string()))?;
    let proxy = match &options.proxy {
        Some(proxy) => ProxyConfig::all(proxy).map_err(ConnectError::Proxy)?,
        None => ProxyConfig::from_env(),
    };
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = ConnectorBuilder::default().tls_provider(tls::Provider::rustls(CryptoMode::AwsLc));
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.set_proxy_config(Some(proxy.clone()));
        connector.tls_context(trust.clone()).build()
    }))
}

/// The text of a file of certificates, which the SDK takes for granted to be one.
fn certificates(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let shown = path.display().to_string();
    let text = std::fs::read(path).map_err(|source| ConnectError::Unreadable { path: shown.clone(), source })?;
    let mut found = CertificateDer::pem_slice_iter(&text).peekable();
    if found.peek().is_none() || !found.all(|certificate| certificate.is_ok()) {
        return Err(ConnectError::NoCertificate { path: shown });
    }
    Ok(text)
}
