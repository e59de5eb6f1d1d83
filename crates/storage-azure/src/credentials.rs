//! What requests are authorized with. The first that is said is taken, in this order: files that the URL names, a key or a SAS of the
//! environment, an application's secret or certificate, a workload's identity, and where nothing is said the host's own identity and
//! then the developer's command-line tools.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::ClientOptions;
use azure_core::http::policies::Policy;
use azure_identity::{
    ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use breakwater_core::{Clock, Entropy, PlaceUrl};

use crate::certificate::Certificate;
use crate::failure::reasons;
use crate::sas::{self, Sas};
use crate::secret;
use crate::shared_key::SharedKey;
use crate::wire::{self, Route};

/// Where Entra is asked, unless `AZURE_AUTHORITY_HOST` names another place.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// How long a host's identity service is waited for. It is on the host itself, or there is none.
const HOST_PATIENCE: Duration = Duration::from_secs(1);

/// The variables of the environment.
pub(crate) type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What a choice depends on.
pub(crate) struct Surroundings<'a> {
    pub(crate) url: &'a PlaceUrl,
    pub(crate) route: &'a Route<'a>,
    pub(crate) variables: &'a Variables,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) entropy: &'a Arc<dyn Entropy>,
}

/// What was chosen.
pub(crate) struct Chosen {
    /// What it is, for people.
    pub(crate) name: String,
    /// How it is applied.
    pub(crate) way: Way,
}

/// How requests are authorized.
pub(crate) enum Way {
    /// The request itself is signed or carries a signature.
    Policy(Arc<dyn Policy>),
    /// The request carries a token of Entra.
    Token(Arc<dyn TokenCredential>),
}

/// Chooses. Asks nothing of the network.
pub(crate) async fn choose(around: &Surroundings<'_>) -> Result<Chosen, String> {
    let option = |name: &str| around.url.option(name);
    match (option("key-file"), option("sas-file")) {
        (Some(_), Some(_)) => return Err("`key-file` and `sas-file` exclude each other".to_owned()),
        (Some(path), None) => {
            return around.shared_key(format!("the key in {path}"), &secret::read(Path::new(path)).await?);
        }
        (None, Some(path)) => return around.sas(format!("the SAS in {path}"), Sas::File(path.into())).await,
        (None, None) => {}
    }
    if let Some(key) = around.variable("AZURE_STORAGE_KEY") {
        return around.shared_key("the key of AZURE_STORAGE_KEY".to_owned(), &key);
    }
    if let Some(token) = around.variable("AZURE_STORAGE_SAS_TOKEN") {
        let token = sas::checked(&token).map_err(|why| format!("AZURE_STORAGE_SAS_TOKEN: {why}"))?;
        return around.sas("the SAS of AZURE_STORAGE_SAS_TOKEN".to_owned(), Sas::Fixed(token)).await;
    }
    if let Some(secret) = around.variable("AZURE_CLIENT_SECRET") {
        return around.client_secret(secret);
    }
    if let Some(path) = around.variable("AZURE_CLIENT_CERTIFICATE_PATH") {
        return around.client_certificate(&path).await;
    }
    if let Some(path) = around.variable("AZURE_FEDERATED_TOKEN_FILE") {
        return around.workload(&path);
    }
    around.host_or_developer()
}

impl Surroundings<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.trim().is_empty())
    }

    /// An option, or else the variable that stands for it.
    fn said(&self, option: &str, variable: &str, for_what: &str) -> Result<String, String> {
        let said = self.url.option(option).map(str::to_owned).or_else(|| self.variable(variable));
        said.ok_or_else(|| format!("{for_what} also needs the option `{option}` or {variable}"))
    }

    fn authority(&self) -> String {
        let authority = self.variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| AUTHORITY.to_owned());
        authority.trim_end_matches('/').to_owned()
    }

    /// Options for asking Entra, by the same way that requests to the place take.
    fn client_options(&self) -> Result<ClientOptions, String> {
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = self.authority();
        let options = wire::options(wire::transport(self.route)?, Vec::new());
        Ok(ClientOptions { cloud: Some(Arc::new(cloud.into())), ..options })
    }

    fn shared_key(&self, name: String, key: &str) -> Result<Chosen, String> {
        let key = SharedKey::new(self.url.host(), key.trim(), Arc::clone(self.clock));
        let key = key.ok_or_else(|| format!("{name} is no key: it is not base64"))?;
        Ok(Chosen { name, way: Way::Policy(Arc::new(key)) })
    }

    async fn sas(&self, name: String, sas: Sas) -> Result<Chosen, String> {
        sas.check().await?;
        Ok(Chosen { name, way: Way::Policy(Arc::new(sas)) })
    }

    fn client_secret(&self, secret: String) -> Result<Chosen, String> {
        let what = "AZURE_CLIENT_SECRET";
        let tenant = self.said("tenant", "AZURE_TENANT_ID", what)?;
        let client = self.said("client-id", "AZURE_CLIENT_ID", what)?;
        let name = format!("the secret of the application {client}");
        let options = ClientSecretCredentialOptions { client_options: self.client_options()? };
        let credential = ClientSecretCredential::new(&tenant, client, Secret::new(secret), Some(options));
        Ok(Chosen { name, way: Way::Token(credential.map_err(|error| reasons(&error))?) })
    }

    async fn client_certificate(&self, path: &str) -> Result<Chosen, String> {
        let what = "AZURE_CLIENT_CERTIFICATE_PATH";
        let tenant = self.said("tenant", "AZURE_TENANT_ID", what)?;
        let client = self.said("client-id", "AZURE_CLIENT_ID", what)?;
        let name = format!("the certificate of the application {client}");
        let pem = secret::read(Path::new(path)).await?;
        let audience = format!("{}/{tenant}/oauth2/v2.0/token", self.authority());
        let certificate = Certificate::new(&pem, &client, audience, Arc::clone(self.clock), Arc::clone(self.entropy))
            .map_err(|why| format!("{path}: {why}"))?;
        let options = ClientAssertionCredentialOptions { client_options: self.client_options()? };
        let credential = ClientAssertionCredential::new(tenant, client, certificate, Some(options));
        Ok(Chosen { name, way: Way::Token(credential.map_err(|error| reasons(&error))?) })
    }

    fn workload(&self, path: &str) -> Result<Chosen, String> {
        let what = "AZURE_FEDERATED_TOKEN_FILE";
        let tenant = self.said("tenant", "AZURE_TENANT_ID", what)?;
        let client = self.said("client-id", "AZURE_CLIENT_ID", what)?;
        let name = format!("the workload identity {client}");
        let options = WorkloadIdentityCredentialOptions {
            credential_options: ClientAssertionCredentialOptions { client_options: self.client_options()? },
            client_id: Some(client),
            tenant_id: Some(tenant),
            token_file_path: Some(path.into()),
        };
        let credential = WorkloadIdentityCredential::new(Some(options)).map_err(|error| reasons(&error))?;
        Ok(Chosen { name, way: Way::Token(credential) })
    }

    fn host_or_developer(&self) -> Result<Chosen, String> {
        let route = Route { direct: true, connect: Some(HOST_PATIENCE), ..Route::default() };
        let options = ManagedIdentityCredentialOptions {
            user_assigned_id: self.url.option("client-id").map(|id| UserAssignedId::ClientId(id.to_owned())),
            client_options: wire::options(wire::transport(&route)?, Vec::new()),
        };
        let host = ManagedIdentityCredential::new(Some(options)).map_err(|error| reasons(&error))?;
        let developer = DeveloperToolsCredential::new(None).map_err(|error| reasons(&error))?;
        let first = FirstThatAnswers(vec![("the host's managed identity", host), ("az and azd", developer)]);
        Ok(Chosen { name: "the host's identity or the developer's".to_owned(), way: Way::Token(Arc::new(first)) })
    }
}

/// Several sources of tokens, of which the first that gives one is taken.
struct FirstThatAnswers(Vec<(&'static str, Arc<dyn TokenCredential>)>);

impl fmt::Debug for FirstThatAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[async_trait]
impl TokenCredential for FirstThatAnswers {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let mut troubles = vec![
            "no credentials are said, and none come from this host: set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, \
             or the variables of an application"
                .to_owned(),
        ];
        for (name, source) in &self.0 {
            match source.get_token(scopes, options.clone()).await {
                Ok(token) => return Ok(token),
                Err(error) => troubles.push(format!("{name}: {}", reasons(&error))),
            }
        }
        Err(azure_core::Error::with_message(ErrorKind::Credential, troubles.join("; ")))
    }
}
