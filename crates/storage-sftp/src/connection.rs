//! One SSH connection with one SFTP session: the requests, with no more bytes under way than both ends keep up with.
//!
//! A connection on which an answer did not come is broken for good, and whoever still waits on it is told so; the pool makes
//! another. Nothing is asked twice.

mod handshake;
mod open_file;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use breakwater_storage::StorageErrorKind;
use russh::Disconnect;
use russh::client::Handle;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::rawsession::SftpResult;
use russh_sftp::extensions::{FSYNC, HARDLINK, LIMITS, STATVFS, Statvfs};
use russh_sftp::protocol::{FileAttributes, Name, OpenFlags};
use tokio::sync::Semaphore;

use crate::failure::{Failure, Refusal};
use crate::settings::Settings;
use handshake::{Agreed, HostKeyJudge, shake_hands};
pub(crate) use open_file::OpenFile;

/// Bytes of content under way on a connection, in either direction: what OpenSSH lets a channel have. With it a connection
/// moves 20 MB/s over a way of 100 ms.
const WINDOW_BYTES: usize = 2 << 20;
/// Bytes asked for or sent in one request where the server does not say how many it takes: what every server must.
const BLOCK_BYTES_UNSAID: u64 = 32 << 10;
/// The largest block, whatever the server takes: 256 KiB is the largest packet of OpenSSH, and of our side.
const BLOCK_BYTES_MAX: u64 = 255 << 10;
/// Requests for the names in one directory under way at once; OpenSSH answers each with a hundred names.
const NAME_REQUESTS: usize = 4;

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
        let Agreed { sftp, ssh, version } = shake_hands(settings).await?;
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

    /// Says goodbye, so that the server needs not find out. Not waited for: a connection that hangs ends by its silence.
    pub(crate) fn close(self: Arc<Self>) {
        drop(tokio::spawn(async move { self.ssh.disconnect(Disconnect::ByApplication, "", "").await.ok() }));
    }

    /// Asks, unless the connection is known to be broken: a session that has ended answers nothing that it is asked later.
    async fn ask<T>(&self, request: impl Future<Output = SftpResult<T>>) -> Result<T, Refusal> {
        if !self.is_alive() {
            return Err(Refusal::Lost("it broke before".to_owned()));
        }
        request.await.map_err(|error| {
            let refusal = Refusal::from(error);
            if matches!(refusal, Refusal::Lost(_)) {
                self.broken.store(true, Ordering::Relaxed);
            }
            refusal
        })
    }

    /// What `path` is, itself.
    pub(crate) async fn lstat(&self, path: &str) -> Result<FileAttributes, Refusal> {
        self.ask(self.sftp.lstat(path)).await.map(|answer| answer.attrs)
    }

    /// What `path` leads to.
    pub(crate) async fn stat(&self, path: &str) -> Result<FileAttributes, Refusal> {
        self.ask(self.sftp.stat(path)).await.map(|answer| answer.attrs)
    }

    /// How much room there is where `path` lies, if the server says that.
    pub(crate) async fn statvfs(&self, path: &str) -> Option<Statvfs> {
        if !self.extensions.statvfs {
            return None;
        }
        self.ask(self.sftp.statvfs(path)).await.ok()
    }

    pub(crate) async fn remove(&self, path: &str) -> Result<(), Refusal> {
        self.ask(self.sftp.remove(path)).await.map(drop)
    }

    pub(crate) async fn make_directory(&self, path: &str, mode: u32) -> Result<(), Refusal> {
        let attributes = FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
        self.ask(self.sftp.mkdir(path, attributes)).await.map(drop)
    }

    pub(crate) async fn remove_directory(&self, path: &str) -> Result<(), Refusal> {
        self.ask(self.sftp.rmdir(path)).await.map(drop)
    }

    pub(crate) async fn hard_link(&self, from: &str, to: &str) -> Result<(), Refusal> {
        self.ask(self.sftp.hardlink(from, to)).await.map(drop)
    }

    /// The rename of version 3, which must not replace.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Refusal> {
        self.ask(self.sftp.rename(from, to)).await.map(drop)
    }

    /// Opens a file, or for reading a directory, to be flushed.
    pub(crate) async fn open_file(
        self: &Arc<Self>,
        path: &str,
        flags: OpenFlags,
        mode: u32,
    ) -> Result<OpenFile, Refusal> {
        let attributes = FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
        let handle = self.ask(self.sftp.open(path, flags, attributes)).await?.handle;
        Ok(OpenFile { connection: Arc::clone(self), handle })
    }

    /// All that the directory at `path` holds, in no order.
    pub(crate) async fn names(self: &Arc<Self>, path: &str) -> Result<Vec<(String, FileAttributes)>, Refusal> {
        let handle = self.ask(self.sftp.opendir(path)).await?.handle;
        let directory = OpenFile { connection: Arc::clone(self), handle };
        let mut found = Vec::new();
        loop {
            let requests = (0..NAME_REQUESTS).map(|_| self.ask(self.sftp.readdir(directory.handle.as_str())));
            let mut ended = false;
            for answer in futures::future::join_all(requests).await {
                match answer {
                    Ok(Name { files, .. }) => found.extend(files.into_iter().map(|file| (file.filename, file.attrs))),
                    Err(Refusal::End) => ended = true,

                    Err(refusal) => return Err(refusal),
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

fn offers(extensions: &HashMap<String, String>, name: &str, version: &str) -> bool {
    extensions.get(name).is_some_and(|offered| offered == version)
}
