//! OpenSSH's server, on a port of its own and with keys of its own: it serves SFTP to the user of this process, and to
//! accounts that a test puts before it.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::dirs::{tail, temp_dir};
use crate::port::free_port;
use crate::user::is_root;

const PROGRAM: &str = "/usr/sbin/sshd";
/// Where the program of root wants to be able to shut itself in.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a start on a fresh port is tried, should somebody else take it first.
const TRIES: u32 = 3;

/// What a server is to be like.
#[derive(Clone, Debug)]
pub struct SshdSetup {
    /// What serves SFTP: `internal-sftp` and its arguments, or a command.
    pub subsystem: String,
    /// More lines of `sshd_config`.
    pub lines: Vec<String>,
    /// A line of shell that is run before the server in a mount namespace of its own, for root alone: other accounts, small
    /// volumes.
    pub before: Option<String>,
}

impl Default for SshdSetup {
    fn default() -> SshdSetup {
        SshdSetup { subsystem: "internal-sftp".to_owned(), lines: Vec::new(), before: None }
    }
}

/// A running server. Killed with all its sessions when dropped.
#[derive(Debug)]
pub struct Sshd {
    dir: TempDir,
    port: u16,
    setup: SshdSetup,
    child: Option<Child>,
}

impl Sshd {
    /// Starts a server and waits until it answers.
    pub async fn start(setup: SshdSetup) -> Result<Sshd> {
        ensure!(Path::new(PROGRAM).is_file(), "openssh-server is not installed\nhint: run tests/setup");
        if is_root() {
            fs::create_dir_all(PRIVILEGE_SEPARATION).context("make sshd's empty directory")?;
        }
        let dir = temp_dir("sshd")?;
        for key in ["host_key", "identity"] {
            make_key(&dir.path().join(key), "")?;
        }
        fs::copy(dir.path().join("identity.pub"), dir.path().join("authorized_keys")).context("authorize the key")?;
        let mut sshd = Sshd { dir, port: 0, setup, child: None };
        let mut last = None;
        for _ in 0..TRIES {
            sshd.port = free_port();
            match sshd.resume().await {
                Ok(()) => return Ok(sshd),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("sshd found no free port")?)
    }

    /// Starts the server again after [`stop`](Sshd::stop), on the same port and with the same keys.
    pub async fn resume(&mut self) -> Result<()> {
        self.stop();
        fs::write(self.known_hosts(), format!("[127.0.0.1]:{} {}\n", self.port, self.host_key()?))
            .context("write the known hosts")?;
        let configuration = self.dir.path().join("sshd_config");
        fs::write(&configuration, self.configuration()).context("write sshd's configuration")?;
        let log = File::create(self.log()).context("make sshd's log")?;
        let mut command = match &self.setup.before {
            None => Command::new(PROGRAM),
            Some(before) => {
                let mut command = Command::new("unshare");
                let script = format!("{before} && exec {PROGRAM} \"$@\"");
                command.args(["--mount", "--", "sh", "-c", &script, "sh"]);
                command
            }
        };
        command.args(["-D", "-e", "-f"]).arg(&configuration);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("start sshd")?);
        let start = Instant::now();
        while !self.answers().await {
            let exited = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if exited.is_some() || start.elapsed() > PATIENCE {
                bail!("sshd did not come up ({exited:?}); its log ends:\n{}", tail(&self.log(), 15));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn answers(&self) -> bool {
        let greeting = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await?;
            std::io::Result::Ok(&greeting == b"SSH-")
        };
        tokio::time::timeout(Duration::from_secs(5), greeting).await.is_ok_and(|answer| answer.unwrap_or(false))
    }

    fn configuration(&self) -> String {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let mut lines = vec![
            format!("ListenAddress 127.0.0.1:{}", self.port),
            format!("HostKey {}", file("host_key")),
            format!("AuthorizedKeysFile {}", file("authorized_keys")),
            "PidFile none".to_owned(),
            "StrictModes no".to_owned(),
            "UsePAM no".to_owned(),
            "PermitRootLogin yes".to_owned(),
            "KbdInteractiveAuthentication no".to_owned(),
            "MaxStartups 200".to_owned(),
            "LogLevel VERBOSE".to_owned(),
            format!("Subsystem sftp {}", self.setup.subsystem),
        ];
        lines.extend(self.setup.lines.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// The port on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the server's files, which has room for more.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the server has to say.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The private key that the server takes.
    pub fn identity(&self) -> PathBuf {
        self.dir.path().join("identity")
    }

    /// A file that knows the server's key.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// The server's public key: `ssh-ed25519 AAAA…`.
    pub fn host_key(&self) -> Result<String> {
        let text = fs::read_to_string(self.dir.path().join("host_key.pub")).context("read the host key")?;
        Ok(text.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }

    /// The URL of the directory `root` with these options, which begin with `?` unless there are none.
    pub fn url_with(&self, user: &str, root: &Path, options: &str) -> String {
        format!("sftp://{user}@127.0.0.1:{}{}{options}", self.port, root.display())
    }

    /// The URL of the directory `root` with all that it takes to be let in as the user of this process.
    pub fn url(&self, root: &Path) -> Result<String> {
        let options = format!("?identity={}&known-hosts={}", self.identity().display(), self.known_hosts().display());
        Ok(self.url_with(&own_name()?, root, &options))
    }

    /// The processes that serve connections now.
    pub fn sessions(&self) -> Vec<u32> {
        self.child.as_ref().map(|child| descendants(child.id())).unwrap_or_default()
    }

    /// Kills whatever serves a connection now; the server itself goes on. Gives how many processes that were.
    pub fn kill_sessions(&self) -> usize {
        signal(&self.sessions(), Signal::KILL)
    }

    /// Stops the server and all its sessions in their tracks, like a host that hangs.
    pub fn freeze(&self) {
        let own = self.child.as_ref().map(Child::id);
        signal(&own.into_iter().chain(self.sessions()).collect::<Vec<_>>(), Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        let own = self.child.as_ref().map(Child::id);
        signal(&own.into_iter().chain(self.sessions()).collect::<Vec<_>>(), Signal::CONT);
    }

    /// Ends the server and all its sessions.
    pub fn stop(&mut self) {
        self.kill_sessions();
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it is gone after the wait.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes an Ed25519 key at `path`, and its public half beside it. An empty passphrase is none.
pub fn make_key(path: &Path, passphrase: &str) -> Result<()> {
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", passphrase, "-f"]).arg(path))
}

/// The name of the user of this process.
pub fn own_name() -> Result<String> {
    let output = Command::new("id").arg("-un").output().context("start id")?;
    Ok(String::from_utf8(output.stdout).context("the name of the user")?.trim().to_owned())
}

/// An SSH agent that holds one private key. Killed when dropped.
#[derive(Debug)]
pub struct SshAgent {
    dir: TempDir,
    child: Child,
}

impl SshAgent {
    /// Starts an agent and gives it the key at `identity`.
    pub async fn start(identity: &Path) -> Result<SshAgent> {
        let dir = temp_dir("agent")?;
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(dir.path().join("socket")).stdin(Stdio::null()).stdout(Stdio::null());
        let agent = SshAgent { child: command.spawn().context("start ssh-agent")?, dir };
        let start = Instant::now();
        while !agent.socket().exists() {
            ensure!(start.elapsed() < PATIENCE, "ssh-agent did not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        run(Command::new("ssh-add").arg("-q").arg(identity).env("SSH_AUTH_SOCK", agent.socket()))?;
        Ok(agent)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Writes a file that is its owner's alone.
pub fn write_secret(path: &Path, content: &str) -> Result<()> {
    fs::write(path, format!("{content}\n")).context("write a secret")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("keep a secret")
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}\nhint: run tests/setup"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Sends `signal` to the processes; gives how many there were. One may have ended meanwhile.
fn signal(processes: &[u32], signal: Signal) -> usize {
    let pids = processes.iter().filter_map(|id| Pid::from_raw(i32::try_from(*id).ok()?));
    pids.filter(|pid| kill_process(*pid, signal).is_ok()).count()
}

/// The children of a process, their children, and so on.
fn descendants(of: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The program's name is in parentheses and may contain anything; behind it come the state and the parent.
        let parent: u32 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some((id, parent))
    });
    let processes: Vec<(u32, u32)> = processes.collect();
    let mut found = vec![of];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        at += 1;
    }
    found.split_off(1)
}
