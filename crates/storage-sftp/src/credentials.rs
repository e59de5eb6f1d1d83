//! How we prove who we are: with a private key, with what an SSH agent holds, with a password; in this order, each that the
//! URL and the environment name.
//!
//! A file that holds a secret must be its owner's alone.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_storage::StorageErrorKind;
use russh::client::{AuthResult, Handle, Handler};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// How many keys of an agent are tried: servers end a connection after six attempts by default.
const AGENT_KEYS: usize = 5;

/// What there is to prove who we are.
pub(crate) struct Credentials {
    identity: Option<(PathBuf, Arc<PrivateKey>)>,
    agent: Option<PathBuf>,
    password: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.as_ref().map(|(path, _)| path);
        f.debug_struct("Credentials")
            .field("identity", &identity)
            .field("agent", &self.agent)
            .field("password", &self.password.is_some())
            .finish()
    }
}

/// A file that cannot serve as what it was named for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("`{}` cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("`{path}` can be read by others (hint: chmod 600 {path})", path = path.display())]
    ReadableByOthers { path: PathBuf },
    #[error("`{}` is no private key that can be used (hint: Ed25519 or ECDSA, made by `ssh-keygen -t ed25519`)", path.display())]
    NoKey { path: PathBuf, source: russh::keys::Error },
    #[error(
        "the private key `{}` is encrypted (hint: passphrase-file=/path, or let an SSH agent hold the key)",
        path.display()
    )]
    Encrypted { path: PathBuf },
    #[error("`{}` does not hold the passphrase of the private key `{}`", passphrase.display(), path.display())]
    WrongPassphrase { path: PathBuf, passphrase: PathBuf },
    #[error("option `passphrase-file` is of use with `identity` alone")]
    PassphraseOfNothing,
}

impl Credentials {
    /// Reads the files that were named.
    pub(crate) fn read(
        identity: Option<&Path>,
        passphrase: Option<&Path>,
        password: Option<&Path>,
        agent: &Option<PathBuf>,
    ) -> Result<Credentials, CredentialsError> {
        if identity.is_none() && passphrase.is_some() {
            return Err(CredentialsError::PassphraseOfNothing);
        }
        let identity = match identity {
            Some(path) => Some((path.to_owned(), Arc::new(private_key(path, passphrase)?))),
            None => None,
        };
        let password = password.map(secret).transpose()?;
        Ok(Credentials { identity, agent: agent.clone(), password })
    }

    /// Proves to the server at the other end of `ssh` that we are `user`.
    pub(crate) async fn prove<H: Handler>(&self, ssh: &mut Handle<H>, user: &str) -> Result<(), Failure> {
        let mut tried = Vec::new();
        if let Some((path, key)) = &self.identity {
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
            if is_success(ssh.authenticate_publickey(user, key).await)? {
                return Ok(());
            }
            tried.push(format!("the private key {}", path.display()));
        }
        if let Some(socket) = &self.agent {
            match prove_by_agent(socket, ssh, user).await? {
                Ok(()) => return Ok(()),
                Err(what) => tried.push(what),
            }
        }
        if let Some(password) = &self.password {
            if is_success(ssh.authenticate_password(user, password.as_str()).await)? {
                return Ok(());
            }
            tried.push("the password".to_owned());
        }
        Err(refused(user, &tried))
    }
}

fn refused(user: &str, tried: &[String]) -> Failure {
    let what = if tried.is_empty() {
        "there is nothing to prove who we are (hint: identity=/path, an SSH agent in SSH_AUTH_SOCK, or password-file=/path)"
            .to_owned()
    } else {
        format!(
            "the server does not take `{user}` with any of: {} (hint: the public key belongs into the account's \
             authorized_keys; the server's log says why it refused)",
            tried.join("; ")
        )
    };
    Failure::because(StorageErrorKind::Denied, what)
}

/// Tries the keys of the agent at `socket`; the inner error says what was tried.
async fn prove_by_agent<H: Handler>(
    socket: &Path,
    ssh: &mut Handle<H>,
    user: &str,
) -> Result<Result<(), String>, Failure> {
    let agent = async {
        let mut agent = AgentClient::connect_uds(socket).await?;
        let identities = agent.request_identities().await?;
        Ok::<_, russh::keys::Error>((agent, identities))
    };
    let (mut agent, identities) = match agent.await {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(format!("the SSH agent at {} ({error})", socket.display()))),
    };
    let keys = identities.into_iter().filter_map(|identity| match identity {
        AgentIdentity::PublicKey { key, .. } => Some(key),
        AgentIdentity::Certificate { .. } => None,
    });
    let mut count = 0;
    for key in keys.take(AGENT_KEYS) {
        count += 1;
        let hash = hash_of(&key);
        match ssh.authenticate_publickey_with(user, key, hash, &mut agent).await {
            Ok(AuthResult::Success) => return Ok(Ok(())),
            // A key that the agent does not sign with is passed over like one that the server does not know.
            Ok(AuthResult::Failure { .. }) | Err(_) => {}
        }
    }
    Ok(Err(format!("{count} keys of the SSH agent at {}", socket.display())))
}

/// With which hash an RSA key signs; the others have one of their own.
fn hash_of(key: &PublicKey) -> Option<HashAlg> {
    key.algorithm().is_rsa().then_some(HashAlg::Sha512)
}

fn is_success(answer: Result<AuthResult, russh::Error>) -> Result<bool, Failure> {
    Ok(answer.map_err(Failure::lost)?.success())
}

fn private_key(path: &Path, passphrase: Option<&Path>) -> Result<PrivateKey, CredentialsError> {
    let text = secret(path)?;
    let phrase = passphrase.map(secret).transpose()?;
    russh::keys::decode_secret_key(&text, phrase.as_deref().map(String::as_str)).map_err(|source| {
        match (source, passphrase) {
            (russh::keys::Error::KeyIsEncrypted, None) => CredentialsError::Encrypted { path: path.to_owned() },
            (russh::keys::Error::SshKey(russh::keys::ssh_key::Error::Crypto), Some(passphrase)) => {
                CredentialsError::WrongPassphrase { path: path.to_owned(), passphrase: passphrase.to_owned() }
            }
            (source, _) => CredentialsError::NoKey { path: path.to_owned(), source },
        }
    })
}

/// The content of a file that is its owner's alone, without the line's end.
fn secret(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(CredentialsError::ReadableByOthers { path: path.to_owned() });
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
