//! LocalStack, which plays AWS more strictly than moto in what it stores: checksums, locks, encodings. S3 only.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::dirs::{caches, tail, temp_dir};
use crate::port::free_port;

/// How long it may take to start; it reads and checks much before it listens.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a start on a fresh port is tried, should somebody else take it first.
const TRIES: u32 = 3;

/// What it is started with: S3 alone, in memory, and nothing fetched or told over the network.
const SETTINGS: [(&str, &str); 9] = [
    ("SERVICES", "s3"),
    ("STRICT_SERVICE_LOADING", "1"),
    ("EAGER_SERVICE_LOADING", "1"),
    ("DISABLE_EVENTS", "1"),
    ("SKIP_SSL_CERT_DOWNLOAD", "1"),
    ("DNS_ADDRESS", "0"),
    ("ALLOW_NONSTANDARD_REGIONS", "1"),
    ("PERSISTENCE", "0"),
    ("LS_LOG", "warning"),
];

/// A running LocalStack. Killed when dropped.
#[derive(Debug)]
pub struct LocalStack {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl LocalStack {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Result<LocalStack> {
        let found = caches().into_iter().map(|cache| cache.join("localstack/bin/python")).find(|path| path.exists());
        let python = found.context("LocalStack is not installed\nhint: run tests/setup")?;
        let mut last = None;
        for _ in 0..TRIES {
            let dir = temp_dir("localstack")?;
            let port = free_port();
            let log = File::create(dir.path().join("log")).context("make LocalStack's log")?;
            let mut command = Command::new(&python);
            command.args(["-m", "localstack.runtime.main"]).current_dir(dir.path());
            command.envs(SETTINGS).env("GATEWAY_LISTEN", format!("127.0.0.1:{port}"));
            command.env("LOCALSTACK_VOLUME_DIR", dir.path()).env("FILESYSTEM_ROOT", dir.path());
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child = command.spawn().context("start LocalStack")?;
            let mut server = LocalStack { dir, port, child };
            match server.wait().await {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("LocalStack found no free port")?)
    }

    async fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.is_up().await.unwrap_or(false) {
            let exited = self.child.try_wait()?;
            if exited.is_some() || start.elapsed() > PATIENCE {
                let log = tail(&self.dir.path().join("log"), 15);
                bail!("LocalStack did not come up ({exited:?}); its log ends:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn is_up(&self) -> Result<bool> {
        let talk = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(b"GET /_localstack/health HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer.split(' ').nth(1) == Some("200") && answer.contains("\"s3\""))
        };
        tokio::time::timeout(Duration::from_secs(10), talk).await.context("no answer to a look at its health")?
    }

    /// Where it listens: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for LocalStack {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
