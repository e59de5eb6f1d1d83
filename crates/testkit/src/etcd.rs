//! A real etcd of one member, in a directory and on ports of its own.
//!
//! It keeps its ports and its data when it is stopped and started again, so that clients can be watched through it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::dirs::{tail, temp_dir};
use crate::port::free_port;

/// How long etcd may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a start on fresh ports is tried, should somebody else take them first.
const TRIES: u32 = 3;

/// The certificates of a server that speaks TLS and asks its clients for theirs: paths of PEM files.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Who must have signed the clients' certificates.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A running, or stopped, etcd. Killed and removed when dropped.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    tls: Option<ServerTls>,
    flags: Vec<String>,
    client_port: u16,
    peer_port: u16,
    /// Where the server tells about its health, without TLS in any case.
    health_port: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Starts an etcd without TLS and waits until it answers.
    pub async fn start() -> Result<Etcd> {
        Etcd::start_with(None, &[]).await
    }

    /// Starts an etcd with TLS if it is given, and with more command-line flags.
    pub async fn start_with(tls: Option<ServerTls>, flags: &[&str]) -> Result<Etcd> {
        let mut last = None;
        for _ in 0..TRIES {
            let mut etcd = Etcd {
                dir: temp_dir("etcd")?,
                tls: tls.clone(),
                flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
                client_port: free_port(),
                peer_port: free_port(),
                health_port: free_port(),
                child: None,
            };
            match etcd.resume().await {
                Ok(()) => return Ok(etcd),
                Err(error) if etcd.log().contains("address already in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("etcd found no free ports")?)
    }

    /// The address for clients: `http://127.0.0.1:port`, or `https` with TLS.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// Where the server keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the stopped server again and waits until it answers.
    pub async fn resume(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("etcd on port {} runs already", self.client_port);
        }
        let program = find_program()?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = File::options().create(true).append(true).open(self.log_path()).context("open etcd's log")?;
        let mut command = Command::new(program);
        // Settings of a system-wide etcd must not reach this one.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ETCD") {
                command.env_remove(name);
            }
        }
        command
            .args(["--name", "test", "--data-dir"])
            .arg(self.data_dir())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{}", self.health_port)])
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.flags);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("start etcd")?);
        let start = Instant::now();
        while !self.is_ready().await {
            let exited = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if exited.is_some() || start.elapsed() > PATIENCE {
                self.kill();
                bail!("etcd did not come up ({exited:?}); its log ends:\n{}", tail(&self.log_path(), 15));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Asks the server to stop and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill_process(Pid::from_child(&child), Signal::TERM).context("stop etcd")?;
        let start = Instant::now();
        while child.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                self.child = Some(child);
                bail!("etcd did not stop within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Kills the server, which stays resumable.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have exited by itself; either way it is gone after the wait.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Stops the process without ending it: connections stay open and nothing answers. [`thaw`](Self::thaw) undoes it.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("etcd does not run")?;
        kill_process(Pid::from_child(child), signal).context("signal etcd")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log(&self) -> String {
        tail(&self.log_path(), 200)
    }

    /// Whether the server has a leader and answers.
    async fn is_ready(&self) -> bool {
        let health = tokio::time::timeout(Duration::from_secs(2), self.health()).await;
        matches!(health, Ok(Ok(answer)) if answer.contains(r#""health":"true""#))
    }

    async fn health(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health_port)).await?;
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn find_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain([PathBuf::from("/usr/bin")]).map(|dir| dir.join("etcd"));
    let found = found.into_iter().find(|program: &PathBuf| Path::is_file(program));
    found.context("etcd is not on the PATH\nhint: run tests/setup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_starts_stops_and_starts_again_on_the_same_port() {
        let mut etcd = Etcd::start().await.unwrap();
        let endpoint = etcd.endpoint();
        assert!(etcd.is_ready().await);
        etcd.stop().await.unwrap();
        assert!(!etcd.is_ready().await);
        etcd.resume().await.unwrap();
        assert_eq!(etcd.endpoint(), endpoint);
        assert!(etcd.resume().await.unwrap_err().to_string().contains("runs already"));
        let data = etcd.data_dir();
        drop(etcd);
        assert!(!data.exists());
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_says_why() {
        let error = Etcd::start_with(None, &["--auto-compaction-mode", "nonsense"]).await.unwrap_err();
        assert!(format!("{error:#}").contains("nonsense"), "{error:#}");
    }
}
