//! Becoming an agent of an installation: a token that works once, for a certificate.

use std::path::Path;
use std::time::Duration;

use breakwater_proto::v1;
use breakwater_proto::v1::enrolment_client::EnrolmentClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::pinned::{Pin, authority_of};
use super::{About, Identity, new_request};
use crate::error::AgentError;

/// How long a call of the enrolment may take.
const CALL: Duration = Duration::from_secs(15);

/// What a person says to enrol this host.
#[derive(Clone, Debug)]
pub struct EnrolRequest {
    /// `https://host:port`.
    pub controller: String,
    /// The token that `brctl agent token create` printed.
    pub token: String,
    /// The pin that it printed: `sha256:<hex>`.
    pub ca_pin: String,
    /// The wanted name; the token may fix it.
    pub name: Option<String>,
}

/// Enrols the agent whose state is to lie in `data_dir`. An identity that is there already is kept and refused to be
/// replaced, since jobs and assignments are in its name.
pub async fn enrol(data_dir: &Path, request: &EnrolRequest) -> Result<About, AgentError> {
    if let Some(present) = Identity::load(data_dir)? {
        return Err(AgentError::Refused(format!(
            "agent `{}` is enrolled here already (hint: remove {} to enrol anew)",
            present.about.name,
            super::directory(data_dir).display()
        )));
    }
    let pin = Pin::parse(&request.ca_pin)?;
    let ca_pem = authority_of(&request.controller, pin).await?;
    let (key_pem, csr_pem) = new_request()?;
    let message = v1::EnrolRequest {
        token: request.token.clone(),
        csr_pem,
        name: request.name.clone().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut client = EnrolmentClient::new(dial(&request.controller, &ca_pem).await?);
    let answer = client.enrol(message).await.map_err(AgentError::controller("enrolment"))?.into_inner();
    let identity = Identity {
        about: About { uid: answer.agent_uid, name: answer.agent_name, controller: request.controller.clone() },
        key_pem,
        certificate_pem: answer.certificate_pem,
        // Of all authorities only the pinned one is trusted, whatever the answer says.
        ca_pem,
    };
    identity.store(data_dir)?;
    tracing::info!(agent.name = identity.about.name, agent.uid = identity.about.uid, "enrolled");
    Ok(identity.about)
}

/// A connection to the controller that shows no certificate.
pub(super) async fn dial(controller: &str, ca_pem: &str) -> Result<Channel, AgentError> {
    let bad = |_| AgentError::Invalid(format!("`{controller}` is not the address of a controller"));
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
    let endpoint = Endpoint::from_shared(controller.to_owned()).map_err(bad)?.tls_config(tls).map_err(bad)?;
    let endpoint = endpoint.connect_timeout(CALL).timeout(CALL);
    endpoint.connect().await.map_err(|source| AgentError::Dial { address: controller.to_owned(), source })
}
