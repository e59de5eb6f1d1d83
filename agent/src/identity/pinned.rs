//! Meeting a controller for the first time: all that is known is the hash of its authority's certificate.
//!
//! Invariant: nothing is sent before the server has shown a chain that holds the pinned certificate, and that certificate
//! has issued the one that the server proves to own, for the name that was dialled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::host_and_port;
use crate::error::AgentError;

/// How long the first meeting may take.
const MEETING: Duration = Duration::from_secs(15);

/// The hash of a certificate authority: `sha256:<64 hex digits>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin([u8; 32]);

impl Pin {
    pub(super) fn parse(text: &str) -> Result<Pin, AgentError> {
        let bytes = text.trim().strip_prefix("sha256:").and_then(|digits| hex::decode(digits).ok());
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Pin).ok_or_else(|| {
            AgentError::Invalid(format!(
                "`{text}` is not a pin (hint: sha256: and 64 digits, as token create prints it)"
            ))
        })
    }

    fn fits(self, certificate: &[u8]) -> bool {
        Sha256::digest(certificate)[..] == self.0
    }
}

/// Meets the controller and answers its authority's certificate, PEM, once that fits the pin.
pub(super) async fn authority_of(controller: &str, pin: Pin) -> Result<String, AgentError> {
    let (host, port) = host_and_port(controller)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(PinnedVerifier { pin, provider: Arc::clone(&provider), seen: Mutex::new(Seen::Nothing) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| AgentError::Defect(format!("no TLS version to speak: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(host.clone())
        .map_err(|_| AgentError::Invalid(format!("`{host}` is not the name of a host")))?;
    let meeting = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let met = tokio::time::timeout(MEETING, meeting).await;
    let seen = std::mem::replace(&mut *verifier.seen.lock().unwrap_or_else(PoisonError::into_inner), Seen::Nothing);
    match (met, seen) {
        (Ok(Ok(_)), Seen::Good(authority)) => Ok(pem_of(&authority)),
        (_, Seen::Stranger) => Err(AgentError::Denied(format!(
            "the controller at {controller} is not of the authority that the pin names; nothing was sent to it \
             (hint: compare the pin with the one that `brctl agent token create` printed)"
        ))),
        (Ok(Err(error)), _) => Err(AgentError::Unavailable(format!("no TLS session with {controller}: {error}"))),
        (Err(_), _) => Err(AgentError::Unavailable(format!(
            "the controller at {controller} does not answer within {} s",
            MEETING.as_secs()
        ))),
        (Ok(Ok(_)), Seen::Nothing) => Err(AgentError::Defect("the server showed no certificate".to_owned())),
    }
}

#[derive(Debug)]
enum Seen {
    Nothing,
    /// No certificate of the chain fits the pin.
    Stranger,
    Good(Vec<u8>),
}

#[derive(Debug)]
struct PinnedVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

impl PinnedVerifier {
    fn note(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = intermediates.iter().find(|certificate| self.pin.fits(certificate)) else {
            self.note(Seen::Stranger);
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.note(Seen::Good(authority.to_vec()));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn pem_of(certificate: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, later) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = later;
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_checked() {
        let pin = format!("sha256:{}", hex::encode(Sha256::digest(b"certificate")));
        assert!(Pin::parse(&pin).unwrap().fits(b"certificate"));
        assert!(!Pin::parse(&pin).unwrap().fits(b"another"));
        for bad in ["", "sha256:", "sha256:00", &pin[7..], "md5:00"] {
            assert!(Pin::parse(bad).is_err(), "{bad}");
        }
    }
}
