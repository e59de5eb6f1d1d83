//! How a connection comes to be: the name, TCP, the host's key, who we are, SFTP; and what is said where it does not.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use breakwater_storage::StorageErrorKind;
use russh::client::{self, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, Preferred, cipher, compression, kex, mac};
use russh_sftp::client::RawSftpSession;
use russh_sftp::protocol::Version;
use tokio::net::TcpStream;

use crate::failure::Failure;
use crate::host_key::{HostKeyError, Trust};
use crate::settings::Settings;

/// Signs of life without an answer before a connection is given up.
const SILENCES: usize = 3;

/// Key exchanges without SHA-1 and without groups below 2048 bits, the one that quantum computers do not break first.
const KEY_EXCHANGES: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::DH_G18_SHA512,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];
/// Ciphers that authenticate first, the one that processors have instructions for before all.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_128_CTR];
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
/// What is stored is sealed, so it does not get smaller.
const COMPRESSIONS: &[compression::Name] = &[compression::NONE];

/// What both ends agreed on: a session of SFTP, its connection, and what the server says it can do.
pub(super) struct Agreed {
    pub(super) sftp: RawSftpSession,
    pub(super) ssh: Handle<HostKeyJudge>,
    pub(super) version: Version,
}

/// Goes all the way to a session.
pub(super) async fn shake_hands(settings: &Settings) -> Result<Agreed, Failure> {
    let socket = dial(settings).await?;
    let judge = HostKeyJudge { trust: settings.trust.clone(), host: settings.host.clone(), port: settings.port };
    let mut ssh = client::connect_stream(Arc::new(config(settings)), socket, judge)
        .await
        .map_err(|error| not_agreed(settings, error))?;
    settings.credentials.prove(&mut ssh, &settings.user).await?;
    let sftp = session(&ssh, settings).await?;
    let version = sftp.init().await.map_err(|error| no_session(settings, &error.to_string()))?;
    Ok(Agreed { sftp, ssh, version })
}

fn config(settings: &Settings) -> client::Config {
    let preferred = Preferred {
        kex: Cow::Borrowed(KEY_EXCHANGES),
        key: Cow::Owned(settings.trust.algorithms(&settings.host, settings.port)),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(COMPRESSIONS),
    };
    client::Config {
        preferred,
        keepalive_interval: Some(settings.patience.silence),
        keepalive_max: SILENCES,
        nodelay: true,
        ..client::Config::default()
    }
}

/// Starts SFTP on a channel of its own.
async fn session(ssh: &Handle<HostKeyJudge>, settings: &Settings) -> Result<RawSftpSession, Failure> {
    let ended = |error: russh::Error| no_session(settings, &error.to_string());
    let mut channel = ssh.channel_open_session().await.map_err(ended)?;
    channel.request_subsystem(true, "sftp").await.map_err(ended)?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure) => {
                let what = "the server has no SFTP (hint: `Subsystem sftp internal-sftp` in its sshd_config)";
                return Err(Failure::because(StorageErrorKind::Unsupported, what));
            }
            Some(_) => {}
            None => return Err(no_session(settings, "it closed the channel")),
        }
    }
    let config = russh_sftp::client::Config {
        request_timeout_secs: settings.patience.answer.max(Duration::from_secs(1)).as_secs(),
        ..russh_sftp::client::Config::default()
    };
    Ok(RawSftpSession::new_with_config(channel.into_stream(), config))
}

fn no_session(settings: &Settings, what: &str) -> Failure {
    let what = format!(
        "the server ended the session of `{}` before it began: {what} (hint: may the account use SFTP? A ChrootDirectory must \
         be root's and writable by nobody else; the server's log says more)",
        settings.user
    );
    Failure::because(StorageErrorKind::Unreachable, what)
}

async fn dial(settings: &Settings) -> Result<TcpStream, Failure> {
    let unconnected = |hint| {
        move |source| {
            let error = Unconnected { address: settings.address(), hint, source };
            Failure::because(StorageErrorKind::Unreachable, error)
        }
    };
    let addresses = tokio::net::lookup_host((settings.host.as_str(), settings.port));
    let addresses: Vec<_> = addresses.await.map_err(unconnected("is the host's name right?"))?.collect();
    let socket = TcpStream::connect(addresses.as_slice()).await.map_err(|source| match source.kind() {
        io::ErrorKind::ConnectionRefused => unconnected("does sshd run there, and on this port?")(source),
        _ => unconnected("is the host up, and does a firewall let us through?")(source),
    })?;
    // Requests are small and waited for.
    socket.set_nodelay(true).map_err(unconnected("try again"))?;
    Ok(socket)
}

/// No TCP connection.
#[derive(Debug, thiserror::Error)]
#[error("no connection with {address} (hint: {hint})")]
struct Unconnected {
    address: String,
    hint: &'static str,
    source: io::Error,
}

/// Why there was no agreement with the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error(transparent)]
    Ssh(#[from] russh::Error),
}

fn not_agreed(settings: &Settings, error: HandshakeError) -> Failure {
    match error {
        HandshakeError::HostKey(error) => Failure::because(StorageErrorKind::Denied, error),
        HandshakeError::Ssh(russh::Error::NoCommonAlgo { kind, ours, theirs }) => {
            let what = format!(
                "{} offers no {kind:?} algorithm that is still safe: it offers {}, we take {} (hint: bring its SSH up to date)",
                settings.address(),
                theirs.join(", "),
                ours.join(", ")
            );
            Failure::because(StorageErrorKind::Unsupported, what)
        }
        HandshakeError::Ssh(error) => Failure::lost(error),
    }
}

/// Compares the server's key with those that are trusted.
pub(crate) struct HostKeyJudge {
    trust: Trust,
    host: String,
    port: u16,
}

impl client::Handler for HostKeyJudge {
    type Error = HandshakeError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, HandshakeError> {
        self.trust.judge(&self.host, self.port, &key.public_key())?;
        Ok(true)
    }
}
