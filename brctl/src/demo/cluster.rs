//! A throw-away PostgreSQL cluster: made, started on a private socket and stopped, as another user where this is root.
//!
//! Invariant: a server that was started here is dead once its handle is gone.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use breakwater_core::ErrorClass;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

use super::story::{PATIENCE, POLL, set_mode};
use crate::failure::Failure;
use crate::output::say;

/// The superuser of our clusters.
const SUPERUSER: &str = "postgres";

/// The port is only a part of the socket's name: nothing listens on the network.
const PORT: u16 = 5432;

/// The oldest version that can be backed up.
const OLDEST: u32 = 13;

/// Whose servers we run where this is root, which PostgreSQL refuses to be.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The programs of one installed PostgreSQL, and the user that they run as.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    directory: PathBuf,
    major: u32,
    user: Option<(u32, u32)>,
}

impl Programs {
    /// The newest installed version.
    pub(super) fn find() -> Result<Self, Failure> {
        let user = server_user()?;
        let mut found: Option<(u32, PathBuf)> = None;
        for directory in places() {
            let complete = ["initdb", "postgres"].iter().all(|name| directory.join(name).is_file());
            let Some(major) = complete.then(|| version(&directory)).flatten() else { continue };
            if major >= OLDEST && found.as_ref().is_none_or(|(best, _)| major > *best) {
                found = Some((major, directory));
            }
        }
        let (major, directory) = found.ok_or_else(|| {
            Failure::refused(format!("no PostgreSQL {OLDEST} or newer is installed on this machine"))
                .hint("install it (Debian: apt install postgresql), or --engine sqlite, which needs nothing")
        })?;
        Ok(Programs { directory, major, user })
    }

    /// The major version.
    pub(super) fn major(&self) -> u32 {
        self.major
    }

    /// Whether the server's user can reach what lies in `place`.
    pub(super) fn can_reach(&self, place: &Path) -> Result<(), Failure> {
        if self.user.is_none() {
            return Ok(());
        }
        for directory in place.ancestors() {
            let mode = std::fs::metadata(directory).map_err(|error| Failure::io(directory.display(), &error))?.mode();
            if mode & 0o001 == 0 {
                return Err(Failure::refused(format!(
                    "the user that PostgreSQL runs as cannot reach {}: {} is closed to it",
                    place.display(),
                    directory.display()
                ))
                .hint("set TMPDIR, or --keep DIR, to a place that every user can reach"));
            }
        }
        Ok(())
    }

    /// One of the programs, if it is installed.
    pub(super) fn program(&self, name: &str) -> Option<Command> {
        let path = self.directory.join(name);
        if !path.is_file() {
            return None;
        }
        let mut command = Command::new(path);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/").stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid).env("HOME", "/");
        }
        Some(command)
    }

    /// A directory that belongs to the server's user.
    pub(super) fn own_directory(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::io(path.display(), &error);
        std::fs::create_dir_all(path).map_err(failed)?;
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).map_err(failed)?;
        }
        set_mode(path, 0o700)
    }
}

/// A cluster that runs.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The directory of its socket.
    pub(super) socket: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Cluster {
    /// Makes a new cluster in `data`.
    pub(super) async fn create(programs: &Programs, data: &Path) -> Result<(), Failure> {
        programs.own_directory(data)?;
        let mut command = programs.program("initdb").ok_or_else(|| Failure::internal("initdb is gone"))?;
        command.arg("-D").arg(data).args(["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale"]);
        command.args(["--data-checksums", "--no-sync"]);
        run("initdb", command).await.map(drop)
    }

    /// Starts the cluster in `data` with its socket and log in `place`, and waits until it answers.
    pub(super) async fn start(programs: &Programs, data: &Path, place: &Path) -> Result<Self, Failure> {
        programs.own_directory(place)?;
        let mut command = programs.program("postgres").ok_or_else(|| Failure::internal("postgres is gone"))?;
        let log = place.join("server.log");
        let file = std::fs::File::create(&log).map_err(|error| Failure::io(log.display(), &error))?;
        let also = file.try_clone().map_err(|error| Failure::io(log.display(), &error))?;
        command.arg("-D").arg(data).stdout(file).stderr(also);
        for (name, value) in [
            ("listen_addresses", String::new()),
            ("unix_socket_directories", place.display().to_string()),
            ("port", PORT.to_string()),
            ("shared_buffers", "32MB".to_owned()),
            ("wal_level", "replica".to_owned()),
            ("max_wal_senders", "10".to_owned()),
            ("max_slot_wal_keep_size", "1GB".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("logging_collector", "off".to_owned()),
        ] {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let child = command.spawn().map_err(|error| Failure::io("cannot start postgres", &error))?;
        let mut cluster = Cluster { socket: place.to_owned(), log, child };
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    async fn wait_ready(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            if self.connect().await.is_ok() {
                return Ok(());
            }
            let ended = self.child.try_wait().map_err(|error| Failure::io("postgres", &error))?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                let message = format!("postgres does not start:\n{}", last.join("\n"));
                return Err(Failure::new(ErrorClass::Unavailable, message));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A connection as the superuser.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket).port(PORT).user(SUPERUSER).dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.map_err(|error| sql(&error))?;
        tokio::spawn(async move {
            // Its end is seen by the next use of the client.
            drop(connection.await);
        });
        Ok(client)
    }

    /// How an agent reaches it.
    pub(super) fn connection(&self, role: &str) -> String {
        format!("host={} port={PORT} user={role} dbname=postgres", self.socket.display())
    }

    /// Looks at every page and index of all databases; `None` where the program for it is not installed.
    pub(super) async fn amcheck(&self, programs: &Programs) -> Result<Option<()>, Failure> {
        let Some(mut command) = programs.program("pg_amcheck") else { return Ok(None) };
        command.arg("-h").arg(&self.socket).args([
            "-p",
            &PORT.to_string(),
            "-U",
            SUPERUSER,
            "--install-missing",
            "--all",
        ]);
        run("pg_amcheck", command).await.map(|_| Some(()))
    }

    /// Stops it in an orderly way.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.signal(Signal::INT);
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::io("postgres", &error)),
            Err(_) => Err(Failure::new(ErrorClass::Unavailable, "postgres does not stop")),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // An error means that it is gone already.
            kill_process(pid, signal).ok();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let is_gone = |child: &mut Child| child.try_wait().is_ok_and(|ended| ended.is_some());
        if is_gone(&mut self.child) {
            return;
        }
        // Immediate: its files are thrown away, and its children end with it.
        self.signal(Signal::QUIT);
        let begun = Instant::now();
        while !is_gone(&mut self.child) {
            if begun.elapsed() > Duration::from_secs(10) {
                say(format!("postgres (process {}) does not end", self.child.id().unwrap_or_default()));
                self.signal(Signal::KILL);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The failure of a statement.
pub(super) fn sql(error: &tokio_postgres::Error) -> Failure {
    Failure::of(ErrorClass::Internal, error).doing("PostgreSQL")
}

async fn run(what: &str, mut command: Command) -> Result<String, Failure> {
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .map_err(|_| Failure::new(ErrorClass::Unavailable, format!("{what} did not end within {PATIENCE:?}")))?
        .map_err(|error| Failure::io(format!("cannot start {what}"), &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(Failure::new(ErrorClass::Corrupt, format!("{what} failed ({}): {}", output.status, said.trim())))
}

/// Where PostgreSQL's programs usually lie.
fn places() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).filter(|place| place.is_absolute()));
    places
}

fn version(directory: &Path) -> Option<u32> {
    let output = std::process::Command::new(directory.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The user that servers run as: this one, or where this is root an unprivileged one that exists.
fn server_user() -> Result<Option<(u32, u32)>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").map_err(|error| Failure::io("/etc/passwd", &error))?;
    let found = USERS.iter().find_map(|wanted| {
        accounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields.as_slice() {
                [name, _, uid, gid, ..] if name == wanted => Some((uid.parse().ok()?, gid.parse().ok()?)),
                _ => None,
            }
        })
    });
    found.map(Some).ok_or_else(|| {
        Failure::refused("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as")
            .hint("run the demo as another user, or --engine sqlite")
    })
}
