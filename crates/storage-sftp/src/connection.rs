//! One SSH connection with one SFTP session: the requests, with no more bytes under way than both ends keep up with.
//!
//! A connection on which an answer did not come is broken for good, and whoever still waits on it is told so; the pool makes
//! another. Nothing is asked twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use breakwater_storage::{Payload, StorageErrorKind};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use russh::client::{self, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, Disconnect, Preferred, cipher, compression, kex, mac};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::rawsession::SftpResult;
use russh_sftp::extensions::{FSYNC, HARDLINK, LIMITS, STATVFS, Statvfs};
use russh_sftp::protocol::{FileAttributes, Name, OpenFlags, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::failure::{Failure, Refusal};
use crate::host_key::{HostKeyError, Trust};
use crate::settings::Settings;

/// Bytes of content under way on a connection, in either direction: what OpenSSH lets a channel have. With it a connection
/// moves 20 MB/s over a way of 100 ms.
const WINDOW_BYTES: usize = 2 << 20;
/// Bytes asked for or sent in one request where the server does not say how many it takes: what every server must.
const BLOCK_BYTES_UNSAID: u64 = 32 << 10;
/// The largest block, whatever the server takes: 256 KiB is the largest packet of OpenSSH, and of our side.
const BLOCK_BYTES_MAX: u64 = 255 << 10;
/// Requests for the names in one directory under way at once; OpenSSH answers each with a hundred names.
const NAME_REQUESTS: usize = 4;
/// How much room is made at once for an object whose size only the server says.
const ROOM_BYTES: u64 = 16 << 20;
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

/// A connection that was made.
pub(crate) struct Connection {
    // Before the handle, so that the session is closed while there is a connection to say so on.
    sftp: RawSftpSession,
    ssh: Handle<HostKeyJudge>,
    extensions: Extensions,
    read_bytes: u64,
    write_bytes: u64,
    window: Semaphore,
    broken: AtomicBool,
}

/// What the server offers beyond version 3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extensions {
    pub(crate) hard_links: bool,
    pub(crate) flushes: bool,
    statvfs: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("extensions", &self.extensions)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, in bounded time.
    pub(crate) async fn open(settings: &Settings) -> Result<Connection, Failure> {
        let patience = settings.patience.connect;
        tokio::time::timeout(patience, Connection::open_unbounded(settings)).await.unwrap_or_else(|_| {
            let what = format!(
                "no connection with {} within {} s (hint: is the host up, and does a firewall let us through?)",
                settings.address(),
                patience.as_secs()
            );
            Err(Failure::because(StorageErrorKind::Unreachable, what))
        })
    }

    async fn open_unbounded(settings: &Settings) -> Result<Connection, Failure> {
        let socket = dial(settings).await?;
        let judge = HostKeyJudge { trust: settings.trust.clone(), host: settings.host.clone(), port: settings.port };
        let mut ssh = client::connect_stream(Arc::new(config(settings)), socket, judge)
            .await
            .map_err(|error| not_agreed(settings, error))?;
        settings.credentials.prove(&mut ssh, &settings.user).await?;
        let sftp = session(&ssh, settings).await?;
        let version = sftp.init().await.map_err(|error| no_session(settings, &error.to_string()))?;
        let offers = |name: &str, version_wanted: &str| offers(&version.extensions, name, version_wanted);
        let extensions = Extensions {
            hard_links: offers(HARDLINK, "1"),
            flushes: offers(FSYNC, "1"),
            statvfs: offers(STATVFS, "2"),
        };
        let (mut read_bytes, mut write_bytes) = (BLOCK_BYTES_UNSAID, BLOCK_BYTES_UNSAID);
        if offers(LIMITS, "1") {
            let limits = sftp.limits().await.map_err(Refusal::from)?;
            let block = |said: u64| if said == 0 { BLOCK_BYTES_UNSAID } else { said.min(BLOCK_BYTES_MAX) };
            (read_bytes, write_bytes) = (block(limits.max_read_len), block(limits.max_write_len));
        }
        tracing::debug!(?extensions, read_bytes, write_bytes, "connected");
        Ok(Connection {
            sftp,
            ssh,
            extensions,
            read_bytes,
            write_bytes,
            window: Semaphore::new(WINDOW_BYTES),
            broken: AtomicBool::new(false),
        })
    }

    /// Whether it may still be used.
    pub(crate) fn is_alive(&self) -> bool {
        !self.broken.load(Ordering::Relaxed) && !self.ssh.is_closed()
    }

    pub(crate) fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// Says goodbye, so that the server needs not find out.
    pub(crate) async fn close(&self) {
        // The connection goes in any case.
        self.ssh.disconnect(Disconnect::ByApplication, "", "").await.ok();
    }

    fn answer<T>(&self, answer: SftpResult<T>) -> Result<T, Refusal> {
        answer.map_err(|error| {
            let refusal = Refusal::from(error);
            if matches!(refusal, Refusal::Lost(_)) {
                self.broken.store(true, Ordering::Relaxed);
            }
            refusal
        })
    }

    /// What `path` is, itself.
    pub(crate) async fn lstat(&self, path: &str) -> Result<FileAttributes, Refusal> {
        self.answer(self.sftp.lstat(path).await).map(|answer| answer.attrs)
    }

    /// What `path` leads to.
    pub(crate) async fn stat(&self, path: &str) -> Result<FileAttributes, Refusal> {
        self.answer(self.sftp.stat(path).await).map(|answer| answer.attrs)
    }

    /// How much room there is where `path` lies, if the server says that.
    pub(crate) async fn statvfs(&self, path: &str) -> Option<Statvfs> {
        if !self.extensions.statvfs {
            return None;
        }
        self.answer(self.sftp.statvfs(path).await).ok()
    }

    pub(crate) async fn remove(&self, path: &str) -> Result<(), Refusal> {
        self.answer(self.sftp.remove(path).await).map(drop)
    }

    pub(crate) async fn make_directory(&self, path: &str, mode: u32) -> Result<(), Refusal> {
        let attributes = FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
        self.answer(self.sftp.mkdir(path, attributes).await).map(drop)
    }

    pub(crate) async fn remove_directory(&self, path: &str) -> Result<(), Refusal> {
        self.answer(self.sftp.rmdir(path).await).map(drop)
    }

    pub(crate) async fn hard_link(&self, from: &str, to: &str) -> Result<(), Refusal> {
        self.answer(self.sftp.hardlink(from, to).await).map(drop)
    }

    /// The rename of version 3, which must not replace.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Refusal> {
        self.answer(self.sftp.rename(from, to).await).map(drop)
    }

    /// Opens a file, or for reading a directory, to be flushed.
    pub(crate) async fn open_file(
        self: &Arc<Self>,
        path: &str,
        flags: OpenFlags,
        mode: u32,
    ) -> Result<OpenFile, Refusal> {
        let attributes = FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
        let handle = self.answer(self.sftp.open(path, flags, attributes).await)?.handle;
        Ok(OpenFile { connection: Arc::clone(self), handle })
    }

    /// All that the directory at `path` holds, in no order.
    pub(crate) async fn names(self: &Arc<Self>, path: &str) -> Result<Vec<(String, FileAttributes)>, Refusal> {
        let handle = self.answer(self.sftp.opendir(path).await)?.handle;
        let directory = OpenFile { connection: Arc::clone(self), handle };
        let mut found = Vec::new();
        loop {
            let requests = (0..NAME_REQUESTS).map(|_| self.sftp.readdir(directory.handle.as_str()));
            let mut ended = false;
            for answer in futures::future::join_all(requests).await {
                match answer {
                    Ok(Name { files, .. }) => found.extend(files.into_iter().map(|file| (file.filename, file.attrs))),
                    Err(russh_sftp::client::error::Error::Status(status)) if status.status_code == StatusCode::Eof => {
                        ended = true;
                    }
                    Err(error) => return self.answer(Err(error)),
                }
            }
            if ended {
                return Ok(found);
            }
        }
    }

    /// Waits until so many more bytes may be under way.
    async fn room(&self, bytes: u64) -> Result<tokio::sync::SemaphorePermit<'_>, Refusal> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.window.acquire_many(bytes).await.map_err(|closed| Refusal::Lost(closed.to_string()))
    }
}

/// An open file or directory on the server, closed with this value.
#[derive(Debug)]
pub(crate) struct OpenFile {
    connection: Arc<Connection>,
    handle: String,
}

impl OpenFile {
    /// Writes all of `payload` from the beginning on.
    pub(crate) async fn write(&self, payload: &Payload) -> Result<(), Refusal> {
        let connection = &self.connection;
        let writes = blocks(payload, connection.write_bytes).into_iter().map(|block| async move {
            let _room = connection.room(block.bytes).await?;
            connection.answer(connection.sftp.write(self.handle.as_str(), block.offset, block.content()).await)
        });
        let at_once = WINDOW_BYTES / usize::try_from(connection.write_bytes).unwrap_or(WINDOW_BYTES) + 1;
        futures::stream::iter(writes).buffer_unordered(at_once).try_for_each(|_| async { Ok(()) }).await
    }

    /// The `length` bytes from `start` on; fewer when the file ends before.
    pub(crate) async fn read(&self, start: u64, length: u64) -> Result<Bytes, Refusal> {
        let block = self.connection.read_bytes;
        let end = start.saturating_add(length);
        let count = length.div_ceil(block);
        let reads = (0..count).map(|index| {
            let from = start + index * block;
            self.read_block(from, (end - from).min(block))
        });
        let at_once = WINDOW_BYTES / usize::try_from(block).unwrap_or(WINDOW_BYTES) + 1;
        let content = Vec::with_capacity(usize::try_from(length.min(ROOM_BYTES)).unwrap_or(0));
        let content = futures::stream::iter(reads)
            .buffered(at_once)
            .try_fold(content, |mut content, block| async move {
                content.extend_from_slice(&block);
                Ok(content)
            })
            .await?;
        Ok(content.into())
    }

    /// A server may answer with less than was asked for.
    async fn read_block(&self, mut from: u64, mut length: u64) -> Result<Vec<u8>, Refusal> {
        let connection = &self.connection;
        let _room = connection.room(length).await?;
        let mut content = Vec::new();
        while length > 0 {
            let asked = u32::try_from(length).unwrap_or(u32::MAX);
            match connection.sftp.read(self.handle.as_str(), from, asked).await {
                Ok(data) if data.data.is_empty() || data.data.len() as u64 > length => {
                    return Err(Refusal::Invalid("it answers a read with a wrong number of bytes".to_owned()));
                }
                Ok(data) => {
                    from += data.data.len() as u64;
                    length -= data.data.len() as u64;
                    content.extend(data.data);
                }
                Err(russh_sftp::client::error::Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return connection.answer(Err(error)),
            }
        }
        Ok(content)
    }

    /// Flushes what was written to the disk of the server.
    pub(crate) async fn flush(&self) -> Result<(), Refusal> {
        self.connection.answer(self.connection.sftp.fsync(self.handle.as_str()).await).map(drop)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Nobody waits for it: a handle that is not closed ends with the session. Without a runtime that has happened.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && self.connection.is_alive()
        {
            let (connection, handle) = (Arc::clone(&self.connection), std::mem::take(&mut self.handle));
            drop(runtime.spawn(async move { connection.answer(connection.sftp.close(handle).await).ok() }));
        }
    }
}

/// A stretch of a payload that is sent in one request.
struct Block {
    offset: u64,
    bytes: u64,
    parts: Vec<Bytes>,
}

impl Block {
    fn content(self) -> Vec<u8> {
        self.parts.concat()
    }
}

/// Cuts a payload into blocks of `size` bytes, without copying.
fn blocks(payload: &Payload, size: u64) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut offset = 0;
    for part in payload.parts() {
        let mut part = part.clone();
        while !part.is_empty() {
            if blocks.last().is_none_or(|last| last.bytes == size) {
                blocks.push(Block { offset, bytes: 0, parts: Vec::new() });
            }
            let Some(last) = blocks.last_mut() else { break };
            let taken = part.split_to(part.len().min(usize::try_from(size - last.bytes).unwrap_or(usize::MAX)));
            offset += taken.len() as u64;
            last.bytes += taken.len() as u64;
            last.parts.push(taken);
        }
    }
    blocks
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

fn offers(extensions: &HashMap<String, String>, name: &str, version: &str) -> bool {
    extensions.get(name).is_some_and(|offered| offered == version)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_the_payload(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10), size in 1_u64..50) {
            let payload = Payload::from(parts.into_iter().map(Bytes::from).collect::<Vec<_>>());
            let mut content = Vec::new();
            let cut = blocks(&payload, size);
            let count = cut.len() as u64;
            prop_assert_eq!(count, payload.len().div_ceil(size));
            for (index, block) in cut.into_iter().enumerate() {
                prop_assert_eq!(block.offset, content.len() as u64);
                prop_assert!(block.bytes == size || index as u64 == count - 1);
                content.extend(block.content());
            }
            prop_assert_eq!(content, payload.to_bytes());
        }
    }
}
