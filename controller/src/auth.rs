//! Who is calling: agents by their certificate, people by a bearer token.

use std::path::Path;
use std::sync::Arc;

use breakwater_core::{Entropy, ErrorClass, Uid};
use breakwater_proto::convert;
use sha2::{Digest, Sha256};
use tonic::{Request, Status};

use crate::pki::Authority;

/// Knows callers.
#[derive(Clone, Debug)]
pub struct Doorkeeper {
    authority: Arc<Authority>,
    operator_hash: [u8; 32],
}

impl Doorkeeper {
    /// Knows the agents of `authority` and the holder of `operator_token`.
    pub fn new(authority: Arc<Authority>, operator_token: &str) -> Self {
        Doorkeeper { authority, operator_hash: Sha256::digest(operator_token.as_bytes()).into() }
    }

    /// The agent that calls, from its client certificate. Locks are looked up by the caller.
    pub fn agent<T>(&self, request: &Request<T>) -> Result<Uid, Box<Status>> {
        let denied = |message: &str| Box::new(convert::status(ErrorClass::Denied, message));
        let certificates = request.peer_certs().ok_or_else(|| {
            denied("a client certificate is needed (hint: enrol the agent with `breakwater-agent enrol`)")
        })?;
        let certificate = certificates.first().ok_or_else(|| denied("the client sent an empty certificate chain"))?;
        self.authority.agent_of(certificate).map_err(|error| denied(&error.to_string()))
    }

    /// Checks that an operator calls.
    pub fn operator<T>(&self, request: &Request<T>) -> Result<(), Box<Status>> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        self.bearer(header).map_err(|message| Box::new(convert::status(ErrorClass::Denied, message)))
    }

    /// Checks the `authorization` header of an operator's call.
    pub fn bearer(&self, header: Option<&str>) -> Result<(), &'static str> {
        let header = header
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or("no operator token (hint: set BRCTL_TOKEN or use the controller's context file)")?;
        // Hashes are compared, so the time taken says nothing of the token.
        let hash: [u8; 32] = Sha256::digest(header.trim().as_bytes()).into();
        if hash == self.operator_hash { Ok(()) } else { Err("the operator token is wrong") }
    }
}

/// The operator token in `path`, made now if there is none.
pub fn operator_token(path: &Path, entropy: &dyn Entropy) -> std::io::Result<String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::read_to_string(path) {
        Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut secret = [0; 32];
    entropy.fill(&mut secret);
    let token = format!("bwo-{}", hex::encode(secret));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}
