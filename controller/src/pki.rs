//! The certificate authority of one installation: made once, kept in the controller's data directory, issues server and
//! agent certificates.
//!
//! Who an agent is stands in its certificate as the URI `breakwater://agent/<uid>` which the controller decided at
//! enrolment; the subject that a CSR asks for is ignored.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use breakwater_core::{ErrorClass, Name, Timestamp, Uid};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Days that an agent's certificate is good for; it is renewed from half of this.
pub const AGENT_DAYS: i64 = 7;

/// Days that a server certificate is good for; a controller makes a new one at each start.
const SERVER_DAYS: i64 = 90;

/// Years that the authority is good for.
const AUTHORITY_YEARS: i64 = 10;

const AGENT_URI: &str = "breakwater://agent/";

/// What went wrong with keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key could not be made or read.
    #[error("{what}")]
    Certificate {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A request or certificate from outside is not what it should be.
    #[error("{0}")]
    Refused(&'static str),
}

impl PkiError {
    /// The class.
    pub fn class(&self) -> ErrorClass {
        match self {
            PkiError::File { source, .. } => ErrorClass::of_io(source),
            PkiError::Certificate { .. } => ErrorClass::Internal,
            PkiError::Refused(_) => ErrorClass::Denied,
        }
    }
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// An issued agent certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// When it expires.
    pub expires: Timestamp,
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate_der: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("pin", &self.pin()).finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority whose files lie in `directory`, made now if there is none.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, PkiError> {
        fs::create_dir_all(directory).map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
        let certificate_path = directory.join("ca.crt");
        let key_path = directory.join("ca.key");
        if !certificate_path.exists() {
            let (certificate_pem, key_pem) = make_authority(now)?;
            // The certificate is written last: without it the next start makes both anew.
            write_private(&key_path, &key_pem)?;
            write_private(&certificate_path, &certificate_pem)?;
        }
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source });
        let certificate_pem = read(&certificate_path)?;
        let broken = |what| move |source| PkiError::Certificate { what, source };
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(broken("the authority's private key ca.key"))?;
        let certificate_der = der_of(&certificate_pem)?;
        let issuer =
            Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(broken("the authority's certificate ca.crt"))?;
        Ok(Authority { issuer, certificate_pem, certificate_der })
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What an enrolling agent compares the authority with: `sha256:` and the hash of its certificate.
    pub fn pin(&self) -> String {
        pin_of(&self.certificate_der)
    }

    /// A server certificate for `names` (DNS names and addresses).
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<Identity, PkiError> {
        let broken = |what| move |source| PkiError::Certificate { what, source };
        let mut params =
            CertificateParams::new(names.to_vec()).map_err(broken("the names of the server certificate"))?;
        params.distinguished_name = common_name("breakwater-controller");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, now, Duration::days(SERVER_DAYS));
        let key = KeyPair::generate().map_err(broken("a key for the server certificate"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken("the server certificate"))?;
        // The authority comes along, so that an enrolling agent, which knows only its pin, can compare.
        let chain = certificate.pem() + &self.certificate_pem;
        Ok(Identity { certificate_pem: chain, key_pem: key.serialize_pem() })
    }

    /// A certificate for the agent `uid`, for the key of the request `csr_pem`.
    pub fn issue_agent(&self, csr_pem: &str, uid: Uid, name: &Name, now: Timestamp) -> Result<Issued, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|_| PkiError::Refused("the certificate request cannot be read or its signature is wrong"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name.as_str());
        let uri = format!("{AGENT_URI}{uid}");
        let uri =
            uri.as_str().try_into().map_err(|source| PkiError::Certificate { what: "the agent's URI", source })?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let lifetime = Duration::days(AGENT_DAYS);
        set_validity(&mut params, now, lifetime);
        request.params = params;
        let certificate = request
            .signed_by(&self.issuer)
            .map_err(|source| PkiError::Certificate { what: "the agent's certificate", source })?;
        let lifetime_micros = i64::try_from(lifetime.whole_microseconds()).unwrap_or(i64::MAX);
        Ok(Issued { certificate_pem: certificate.pem(), expires: now.plus_micros(lifetime_micros) })
    }

    /// Whose certificate this is, if the authority issued it. Validity in time is not looked at: TLS does that, and a
    /// renewal may come with an expired one.
    pub fn agent_of(&self, certificate_der: &[u8]) -> Result<Uid, PkiError> {
        let unreadable = |_| PkiError::Refused("the certificate cannot be read");
        let (_, authority) = X509Certificate::from_der(&self.certificate_der).map_err(unreadable)?;
        let (_, certificate) = X509Certificate::from_der(certificate_der).map_err(unreadable)?;
        certificate
            .verify_signature(Some(authority.public_key()))
            .map_err(|_| PkiError::Refused("the certificate was not issued by this installation"))?;
        agent_in(&certificate).ok_or(PkiError::Refused("the certificate names no agent"))
    }

    /// Checks that `signature` over `message` was made with the private key of the certificate `certificate_der`
    /// (ECDSA P-256 with SHA-256, ASN.1).
    pub fn check_possession(certificate_der: &[u8], message: &[u8], signature: &[u8]) -> Result<(), PkiError> {
        let (_, certificate) = X509Certificate::from_der(certificate_der)
            .map_err(|_| PkiError::Refused("the certificate cannot be read"))?;
        let key = &certificate.public_key().subject_public_key.data;
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == rustls::SignatureScheme::ECDSA_NISTP256_SHA256)
            .and_then(|(_, algorithms)| {
                algorithms.iter().find(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
            })
            .map(|_| ())
            .ok_or(PkiError::Refused("the signature does not prove the old key"))
    }
}

/// The DER of the first certificate in a PEM text.
pub fn der_of(pem: &str) -> Result<Vec<u8>, PkiError> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|_| PkiError::Refused("no certificate in the PEM text"))?;
    Ok(block.contents)
}

/// The pin of a certificate: `sha256:<hex>`.
pub fn pin_of(certificate_der: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(certificate_der)))
}

fn agent_in(certificate: &X509Certificate<'_>) -> Option<Uid> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(AGENT_URI)?.parse().ok(),
        _ => None,
    })
}

fn make_authority(now: Timestamp) -> Result<(String, String), PkiError> {
    let broken = |source| PkiError::Certificate { what: "a new authority", source };
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("breakwater authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, Duration::days(365 * AUTHORITY_YEARS));
    let key = KeyPair::generate().map_err(broken)?;
    let certificate = params.self_signed(&key).map_err(broken)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Valid from an hour ago, because clocks differ.
fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) {
    let now = OffsetDateTime::UNIX_EPOCH + Duration::microseconds(now.as_micros());
    params.not_before = now - Duration::hours(1);
    params.not_after = now + lifetime;
}

fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), source };
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-20T12:00:00Z").expect("a moment")
    }

    fn request() -> String {
        let key = KeyPair::generate().expect("a key");
        CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("pem")
    }

    #[test]
    fn an_agent_is_known_by_what_the_authority_wrote() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open(directory.path(), now()).expect("a new authority");
        let uid = Uid([7; 16]);
        let name = Name::new("host-a").expect("a name");
        let issued = authority.issue_agent(&request(), uid, &name, now()).expect("issued");
        let der = der_of(&issued.certificate_pem).expect("der");
        assert_eq!(authority.agent_of(&der).expect("known"), uid);
        assert_eq!(issued.expires.micros_since(now()), AGENT_DAYS * 86_400_000_000);

        let reopened = Authority::open(directory.path(), now()).expect("the same authority");
        assert_eq!(reopened.pin(), authority.pin());
        assert_eq!(reopened.agent_of(&der).expect("still known"), uid);

        let elsewhere = tempfile::tempdir().expect("a directory");
        let other = Authority::open(elsewhere.path(), now()).expect("another authority");
        assert!(other.agent_of(&der).is_err(), "another installation does not know it");
    }

    #[test]
    fn possession_is_proven_by_the_old_key_only() {
        use rcgen::SigningKey;
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open(directory.path(), now()).expect("a new authority");
        let key = KeyPair::generate().expect("a key");
        let csr = CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("pem");
        let name = Name::new("host-a").expect("a name");
        let issued = authority.issue_agent(&csr, Uid([1; 16]), &name, now()).expect("issued");
        let der = der_of(&issued.certificate_pem).expect("der");
        let good = key.sign(b"message").expect("signed");
        Authority::check_possession(&der, b"message", &good).expect("proven");
        assert!(Authority::check_possession(&der, b"another", &good).is_err());
        let stranger = KeyPair::generate().expect("a key").sign(b"message").expect("signed");
        assert!(Authority::check_possession(&der, b"message", &stranger).is_err());
    }

    #[test]
    fn rubbish_requests_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open(directory.path(), now()).expect("a new authority");
        let name = Name::new("host-a").expect("a name");
        assert!(matches!(authority.issue_agent("rubbish", Uid([1; 16]), &name, now()), Err(PkiError::Refused(_))));
    }
}
