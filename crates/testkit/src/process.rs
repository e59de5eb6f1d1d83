//! Our own programs, run as an operator would run them, and what a test does to them.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use breakwater_testkit::process::Program;
//! let version = Program::brctl()?.arg("version").run().await?.success()?;
//! let mut dev = Program::brctl()?.args(["dev", "--data-dir", "/srv/dev"]).start("dev")?;
//! dev.wait_for_line("ready", Duration::from_secs(30)).await;
//! dev.kill9().await?;
//! # Ok(()) }
//! ```

mod binaries;
mod running;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use binaries::bin_dir;
pub use running::Running;

use crate::user::ServerUser;

/// How long a program that is run to its end may take, unless [`Program::time_limit`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program with its arguments and environment, to be started any number of times.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<std::ffi::OsString>,
    env: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    dir: Option<PathBuf>,
    user: Option<ServerUser>,
    file_size_limit: Option<u64>,
    time_limit: Duration,
}

/// How a program ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Program {
    /// Any program by its path.
    pub fn new(path: impl Into<PathBuf>) -> Program {
        Program {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            user: None,
            file_size_limit: None,
            time_limit: PATIENCE,
        }
    }

    /// `brctl`, built from the present sources.
    pub fn brctl() -> Result<Program> {
        Ok(Program::new(bin_dir()?.join("brctl")))
    }

    /// `breakwater-agent`, built from the present sources.
    pub fn agent() -> Result<Program> {
        Ok(Program::new(bin_dir()?.join("breakwater-agent")))
    }

    /// `breakwater-controller`, built from the present sources.
    pub fn controller() -> Result<Program> {
        Ok(Program::new(bin_dir()?.join("breakwater-controller")))
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Program {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// One more environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Where it runs; the test's own directory otherwise.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Program {
        self.dir = Some(dir.into());
        self
    }

    /// As whom it runs; as the test's user otherwise.
    pub fn as_user(mut self, user: ServerUser) -> Program {
        self.user = Some(user);
        self
    }

    /// No file may grow beyond `bytes`: writing more fails with EFBIG. It needs no privilege, unlike
    /// [`SmallDisk`](crate::fault::SmallDisk), which fails with ENOSPC as a full disk does.
    pub fn file_size_limit(mut self, bytes: u64) -> Program {
        self.file_size_limit = Some(bytes);
        self
    }

    /// How long [`run`](Self::run) waits for the end; 120 s by default.
    pub fn time_limit(mut self, limit: Duration) -> Program {
        self.time_limit = limit;
        self
    }

    /// Starts it in the background. `label` names its output in the report of a failed test.
    pub fn start(&self, label: &str) -> Result<Running> {
        Running::start(label, self.shown(), self.command())
    }

    /// Runs it to its end, whatever its status is.
    pub async fn run(&self) -> Result<Finished> {
        let mut command = self.command();
        command.stdin(Stdio::null());
        let output = tokio::process::Command::from(command).kill_on_drop(true).output();
        let output = tokio::time::timeout(self.time_limit, output)
            .await
            .with_context(|| format!("did not end within {:?}: {}", self.time_limit, self.shown()))?
            .with_context(|| format!("start {}", self.path.display()))?;
        Ok(Finished {
            command: self.shown(),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn shown(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        let args = self.args.iter().map(|arg| arg.to_string_lossy().into_owned());
        std::iter::once(name).chain(args).collect::<Vec<_>>().join(" ")
    }

    fn command(&self) -> Command {
        // Beyond the limit the kernel sends SIGXFSZ, which ends a program; ignored, the write fails instead.
        let (program, before): (&Path, Vec<String>) = match self.file_size_limit {
            None => (&self.path, Vec::new()),
            Some(bytes) => {
                let limit = format!("--fsize={bytes}:{bytes}");
                (Path::new("/usr/bin/prlimit"), vec![limit, "env".to_owned(), "--ignore-signal=XFSZ".to_owned()])
            }
        };
        let mut command = match self.user {
            Some(user) => user.command(program),
            None => Command::new(program),
        };
        command.args(before);
        if self.file_size_limit.is_some() {
            command.arg(&self.path);
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }
}

impl Finished {
    /// The exit code; an error when a signal ended the program.
    pub fn code(&self) -> Result<i32> {
        self.status.code().with_context(|| format!("{}\n{self}", self.status))
    }

    /// Standard output of a program that ended with 0; an error with all that it wrote otherwise.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("{}\n{self}", self.status);
        }
        Ok(self.stdout)
    }

    /// Standard error of a program that ended with exactly `code`; an error with all that it wrote otherwise.
    pub fn failure(self, code: i32) -> Result<String> {
        if self.status.code() != Some(code) {
            bail!("wanted exit code {code}, got {}\n{self}", self.status);
        }
        Ok(self.stderr)
    }

    /// Standard output of a successful program as JSON.
    pub fn json(self) -> Result<serde_json::Value> {
        let command = self.command.clone();
        let stdout = self.success()?;
        serde_json::from_str(&stdout).with_context(|| format!("not JSON: the output of {command}:\n{stdout}"))
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "$ {}\n{}{}", self.command, self.stdout, self.stderr)
    }
}
