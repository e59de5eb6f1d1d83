//! One PostgreSQL cluster and what a test does to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::builder::{Builder, Existing, append, setting_line};
use super::version::Version;
use crate::dirs::{tail, temp_dir};
use crate::port::free_port;
use crate::user::ServerUser;

/// How long a server may take to start (recovery included) or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Connections are cut, a shutdown checkpoint is written.
    Fast,
    /// No checkpoint: the next start recovers from WAL.
    Immediate,
}

/// A PostgreSQL cluster. Dropping it kills the server and removes the directory, unless the directory was given.
#[derive(Debug)]
pub struct Cluster {
    version: Version,
    user: ServerUser,
    // Socket, log and, unless it was given, the data directory.
    root: TempDir,
    data: PathBuf,
    port: u16,
    overrides: Vec<(String, String)>,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// A new cluster, to be configured further.
    pub fn builder(version: Version) -> Builder {
        Builder::new(version)
    }

    /// A data directory that exists already, run on a port of its own without changing its files.
    pub fn open(version: Version, data: &Path) -> Existing {
        Existing::new(version, data)
    }

    pub(super) fn assemble(version: Version, user: ServerUser, root: TempDir, data: PathBuf, port: u16) -> Cluster {
        Cluster { version, user, root, data, port, overrides: Vec::new(), server: Mutex::new(None) }
    }

    pub(super) fn override_setting(&mut self, name: &str, value: &str) {
        self.overrides.push((name.to_owned(), value.to_owned()));
    }

    /// The version it runs.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.root.path()
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string (keywords and values) over TCP for the superuser `postgres`.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// The same over the Unix socket.
    pub fn socket_conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_dir().display(), self.port)
    }

    /// The user under which the server and the programs on its files run.
    pub fn user(&self) -> ServerUser {
        self.user
    }

    /// What the server wrote to its log in this and earlier runs.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join("server.log")
    }

    /// The server's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server().as_ref().map(Child::id)
    }

    fn server(&self) -> MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server and waits until it answers a query. Recovery, also a long one, is waited for.
    pub async fn start(&self) -> Result<()> {
        self.launch()?;
        let start = Instant::now();
        loop {
            let asked = match self.connect().await {
                Ok(client) => client.simple_query("select 1").await.map(drop).map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            let Err(error) = asked else { return Ok(()) };
            if let Some(status) = self.exited()? {
                bail!("{} ended while starting: {status}\n{}", self.version, tail(&self.log_path(), 30));
            }
            if start.elapsed() > PATIENCE {
                return Err(error.context(format!(
                    "{} did not answer within {PATIENCE:?}\n{}",
                    self.version,
                    tail(&self.log_path(), 30)
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a cluster that nobody knows yet: when its port was taken in the meantime, with another one.
    pub(super) async fn start_first(mut self) -> Result<Cluster> {
        for _ in 0..5 {
            match self.start().await {
                Err(_) if self.log().contains("could not bind") => {
                    std::fs::write(self.log_path(), "").context("empty the server's log")?;
                    self.port = free_port();
                }
                other => return other.map(|()| self),
            }
        }
        bail!("found no free port for {} in five tries", self.version)
    }

    /// Starts the server and waits until it ends by itself: for starts that must fail, or recoveries that shut down at
    /// their target. The server's log tells why.
    pub async fn start_until_exit(&self) -> Result<ExitStatus> {
        self.launch()?;
        self.wait_for_exit().await
    }

    fn launch(&self) -> Result<()> {
        let mut server = self.server();
        if server.is_some() {
            bail!("the server runs already: {}", self.data.display());
        }
        let log = File::options().create(true).append(true).open(self.log_path()).context("open the server's log")?;
        let mut command = self.user.command(&self.version.program("postgres")?);
        command.arg("-D").arg(&self.data).arg("-p").arg(self.port.to_string());
        for (name, value) in &self.overrides {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share the server's log")?).stderr(log);
        *server = Some(command.spawn().with_context(|| format!("start {}", self.version))?);
        Ok(())
    }

    fn exited(&self) -> Result<Option<ExitStatus>> {
        let mut server = self.server();
        let Some(child) = server.as_mut() else { bail!("the server was not started: {}", self.data.display()) };
        let status = child.try_wait().context("look after the server")?;
        if status.is_some() {
            *server = None;
        }
        Ok(status)
    }

    async fn wait_for_exit(&self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                bail!("{} did not end within {PATIENCE:?}\n{}", self.version, tail(&self.log_path(), 30));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the server and waits for its end. With [`Stop::Fast`] walsenders are waited for, as PostgreSQL does.
    pub async fn stop(&self, how: Stop) -> Result<()> {
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        self.signal(signal)?;
        self.wait_for_exit().await.map(drop)
    }

    /// Stops the server cleanly and starts it again, on the same port.
    pub async fn restart(&self) -> Result<()> {
        self.stop(Stop::Fast).await?;
        self.start().await
    }

    /// Kills the server and all its processes at once, as a crash of the machine would without loss of what the kernel holds.
    pub async fn kill9(&self) -> Result<()> {
        let Some(pid) = self.pid() else { bail!("the server does not run: {}", self.data.display()) };
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        self.signal(Signal::KILL)?;
        for child in children.split_whitespace().filter_map(|text| text.parse().ok()).filter_map(Pid::from_raw) {
            // It may have ended with its parent.
            kill_process(child, Signal::KILL).ok();
        }
        self.wait_for_exit().await.map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let server = self.server();
        let Some(child) = server.as_ref() else { bail!("the server does not run: {}", self.data.display()) };
        kill_process(Pid::from_child(child), signal).context("signal the server")
    }

    /// A connection of the superuser to the database `postgres` over the Unix socket, which no other test's server can
    /// answer. It ends when the client is dropped.
    pub async fn connect(&self) -> Result<tokio_postgres::Client> {
        self.connect_to("postgres").await
    }

    /// A connection of the superuser to a database.
    pub async fn connect_to(&self, database: &str) -> Result<tokio_postgres::Client> {
        let (client, connection) = self
            .client_config(database)
            .connect(NoTls)
            .await
            .with_context(|| format!("connect to {} on port {}", self.version, self.port))?;
        tokio::spawn(async move {
            // The client's own calls report a broken connection.
            connection.await.ok();
        });
        Ok(client)
    }

    /// How the superuser connects to a database.
    pub fn client_config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_dir()).port(self.port).user("postgres").dbname(database);
        config.connect_timeout(Duration::from_secs(10));
        config
    }

    /// Runs SQL with psql in the database `postgres` and gives what it prints: rows as lines, columns parted by `|`.
    pub async fn psql(&self, sql: &str) -> Result<String> {
        let mut command = self.client_command("psql")?;
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql]);
        Ok(run(command).await?.trim_end().to_owned())
    }

    /// A client program of this version with host, port and user set in its environment.
    pub fn client_command(&self, program: &str) -> Result<Command> {
        let mut command = self.user.command(&self.version.program(program)?);
        command.env("PGHOST", self.socket_dir()).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        Ok(command)
    }

    /// Checks every table and index of every database against its own rules (`pg_amcheck`), installing the extension where it
    /// is missing. An error carries what was found.
    pub async fn pg_amcheck(&self) -> Result<()> {
        let mut command = self.client_command("pg_amcheck")?;
        command.args(["--all", "--install-missing", "--heapallindexed", "--parent-check"]);
        run(command).await.map(drop)
    }

    /// Checks the checksum of every page (`pg_checksums --check`). The server must be stopped.
    pub async fn pg_checksums_check(&self) -> Result<()> {
        let mut command = self.user.command(&self.version.program("pg_checksums")?);
        command.arg("--check").arg("-D").arg(&self.data);
        run(command).await.map(drop)
    }

    /// One value of `pg_controldata`, for example of `Database system identifier`.
    pub async fn control_data(&self, name: &str) -> Result<String> {
        let mut command = self.user.command(&self.version.program("pg_controldata")?);
        command.arg("-D").arg(&self.data);
        let report = run(command).await?;
        let value = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).with_context(|| format!("pg_controldata shows no `{name}`"))
    }

    /// Makes a standby the primary of a new timeline and waits until it is.
    pub async fn promote(&self) -> Result<()> {
        let client = self.connect().await?;
        let row = client.query_one("select pg_promote(true, 60)", &[]).await.context("promote")?;
        if row.get::<_, bool>(0) { Ok(()) } else { bail!("the server was not promoted within 60 s") }
    }

    /// A streaming standby of this cluster, made by `pg_basebackup -R`, started and answering queries.
    pub async fn standby(&self) -> Result<Cluster> {
        let root = temp_dir(&format!("pg{}", self.version.major()))?;
        self.user.own(root.path())?;
        let data = root.path().join("data");
        let mut command = self.client_command("pg_basebackup")?;
        command.arg("-D").arg(&data).args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        run(command).await.context("make a standby")?;
        let socket_dir = root.path().display().to_string();
        append(&data.join("postgresql.conf"), &setting_line("unix_socket_directories", &socket_dir))?;
        Cluster::assemble(self.version, self.user, root, data, free_port()).start_first().await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let log = self.log_path();
        let server = self.server.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = server {
            // An immediate shutdown takes the server's children along; kill is for a server that does not obey.
            kill_process(Pid::from_child(child), Signal::QUIT).ok();
            let start = Instant::now();
            while matches!(child.try_wait(), Ok(None)) {
                if start.elapsed() > Duration::from_secs(10) {
                    child.kill().ok();
                    child.wait().ok();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of {} on port {}\n{}", self.version, self.port, tail(&log, 40));
        }
    }
}

/// Runs a command to its end and gives its standard output. A failure carries all that it wrote.
pub(super) async fn run(mut command: Command) -> Result<String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("start {name}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{name} failed: {}\n{}{}", output.status, stdout, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout.into_owned())
}
