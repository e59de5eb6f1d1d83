//! Who this agent is: a key that never leaves the host, the certificate for it, and the authority that issued it.
//!
//! Invariant: key and certificate on disk always belong together. They change as one directory: the new one is written
//! whole beside the old one, which then makes room for it; a start after a crash in between finishes the move.

pub mod enrol;
mod pinned;
pub mod renew;

use std::fs;
use std::path::{Path, PathBuf};

use breakwater_core::{ErrorClass, Timestamp};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::durable;
use crate::error::AgentError;

/// The agent's identity, as it lies in its data directory.
#[derive(Clone)]
pub struct Identity {
    /// What the controller calls it.
    pub about: About,
    /// Its private key, PEM.
    pub key_pem: String,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The authority's certificate, PEM.
    pub ca_pem: String,
}

/// The public part that people may look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The id that the controller gave it.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Where it dials: `https://host:port`.
    pub controller: String,
}

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub begins: Timestamp,
    /// Not after this.
    pub ends: Timestamp,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("about", &self.about).finish_non_exhaustive()
    }
}

/// Where the identity lies below a data directory.
fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

impl Identity {
    /// Reads the identity of the agent in `data_dir`; `None` when it is not enrolled yet.
    pub fn load(data_dir: &Path) -> Result<Option<Identity>, AgentError> {
        let current = directory(data_dir);
        let next = current.with_extension("new");
        if !current.exists() {
            if !next.join(ABOUT).exists() {
                return Ok(None);
            }
            fs::rename(&next, &current).map_err(AgentError::file("cannot take over", &next))?;
            durable::sync_parent(&current)?;
        }
        let read = |name: &str| {
            let path = current.join(name);
            fs::read_to_string(&path).map_err(AgentError::file("cannot read", &path))
        };
        let about: About = serde_json::from_str(&read(ABOUT)?).map_err(|error| {
            let path = current.join(ABOUT);
            AgentError::Invalid(format!(
                "{} is not what enrolment wrote: {error} (hint: remove {} and enrol again)",
                path.display(),
                current.display()
            ))
        })?;
        let identity =
            Identity { about, key_pem: read("key.pem")?, certificate_pem: read("cert.pem")?, ca_pem: read("ca.pem")? };
        identity.key_pair()?;
        identity.validity()?;
        Ok(Some(identity))
    }

    /// Puts the identity into `data_dir`, in place of the one that is there.
    pub fn store(&self, data_dir: &Path) -> Result<(), AgentError> {
        durable::make_private_directory(data_dir)?;
        let current = directory(data_dir);
        let (next, old) = (current.with_extension("new"), current.with_extension("old"));
        for stale in [&next, &old] {
            match fs::remove_dir_all(stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(AgentError::file("cannot remove", stale)(error));
                }
                _ => {}
            }
        }
        durable::make_private_directory(&next)?;
        let about = serde_json::to_string_pretty(&self.about).expect("plain fields become JSON");
        durable::write_new(&next.join("key.pem"), self.key_pem.as_bytes())?;
        durable::write_new(&next.join("cert.pem"), self.certificate_pem.as_bytes())?;
        durable::write_new(&next.join("ca.pem"), self.ca_pem.as_bytes())?;
        // Last: a directory without it was never complete.
        durable::write_new(&next.join(ABOUT), about.as_bytes())?;
        durable::sync_parent(&next.join(ABOUT))?;
        if current.exists() {
            fs::rename(&current, &old).map_err(AgentError::file("cannot set aside", &current))?;
        }
        fs::rename(&next, &current).map_err(AgentError::file("cannot put in place", &current))?;
        durable::sync_parent(&current)?;
        fs::remove_dir_all(&old).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(AgentError::file("cannot remove", &old)(error)),
        })
    }

    /// From when to when the certificate is good.
    pub fn validity(&self) -> Result<Validity, AgentError> {
        let unreadable = || {
            AgentError::Invalid(format!(
                "the certificate of agent `{}` cannot be read (hint: enrol again)",
                self.about.name
            ))
        };
        let (_, block) = x509_parser::pem::parse_x509_pem(self.certificate_pem.as_bytes()).map_err(|_| unreadable())?;
        let (_, certificate) = X509Certificate::from_der(&block.contents).map_err(|_| unreadable())?;
        let moment = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        let validity = certificate.validity();
        Ok(Validity { begins: moment(validity.not_before.timestamp()), ends: moment(validity.not_after.timestamp()) })
    }

    fn key_pair(&self) -> Result<KeyPair, AgentError> {
        KeyPair::from_pem(&self.key_pem).map_err(|_| {
            AgentError::Invalid(format!("the key of agent `{}` cannot be read (hint: enrol again)", self.about.name))
        })
    }
}

const ABOUT: &str = "agent.json";

/// A new key and a request for a certificate for it, both PEM.
fn new_request() -> Result<(String, String), AgentError> {
    let failed = |error: rcgen::Error| AgentError::Defect(format!("no key could be made: {error}"));
    let key = KeyPair::generate().map_err(failed)?;
    let request = rcgen::CertificateParams::default().serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), request.pem().map_err(failed)?))
}

/// The host and port of `https://host:port`.
pub(crate) fn host_and_port(controller: &str) -> Result<(String, u16), AgentError> {
    let bad =
        || AgentError::Invalid(format!("`{controller}` is not the address of a controller (hint: https://host:7443)"));
    let uri: tonic::transport::Uri = controller.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("https") {
        return Err(bad());
    }
    let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
    Ok((host, uri.port_u16().unwrap_or(7443)))
}

/// The class decides whether waiting helps: an agent that is refused asks again only after a while.
pub(crate) fn is_shut_out(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::Denied | ErrorClass::Refused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn identity(name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        Identity {
            about: About { uid: "u".into(), name: name.into(), controller: "https://localhost:1".into() },
            key_pem: key.serialize_pem(),
            certificate_pem: certificate.pem(),
            ca_pem: certificate.pem(),
        }
    }

    #[test]
    fn an_identity_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        assert!(Identity::load(&data).unwrap().is_none());
        identity("one").store(&data).unwrap();
        let second = identity("two");
        second.store(&data).unwrap();
        let loaded = Identity::load(&data).unwrap().unwrap();
        assert_eq!((loaded.about, loaded.key_pem), (second.about, second.key_pem));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&data.join("identity")), 0o700);
        assert_eq!(mode(&data.join("identity/key.pem")), 0o600);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_crash_between_the_two_renames_is_finished_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        identity("old").store(data).unwrap();
        fs::rename(data.join("identity"), data.join("identity.old")).unwrap();
        let other = tempfile::tempdir().unwrap();
        identity("new").store(other.path()).unwrap();
        fs::rename(other.path().join("identity"), data.join("identity.new")).unwrap();
        assert_eq!(Identity::load(data).unwrap().unwrap().about.name, "new");
        identity("newer").store(data).unwrap();
        assert_eq!(Identity::load(data).unwrap().unwrap().about.name, "newer");
    }

    #[test]
    fn addresses_are_read_and_bad_ones_refused() {
        assert_eq!(host_and_port("https://db-7:99").unwrap(), ("db-7".to_owned(), 99));
        assert_eq!(host_and_port("https://[::1]:7").unwrap(), ("::1".to_owned(), 7));
        assert_eq!(host_and_port("https://host").unwrap().1, 7443);
        for bad in ["http://host:1", "host:1", ""] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
