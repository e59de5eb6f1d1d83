//! A program at work.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::dirs::{tail, temp_dir};

/// How long a program may take to die after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// A started program with its children. When dropped, all of them are killed; when the test fails, the end of the output is
/// shown.
#[derive(Debug)]
pub struct Running {
    label: String,
    command: String,
    child: Child,
    status: Option<ExitStatus>,
    output: TempDir,
}

impl Running {
    pub(super) fn start(label: &str, shown: String, mut command: Command) -> Result<Running> {
        let output = temp_dir("out")?;
        let file = |name: &str| File::create(output.path().join(name)).context("make a file for the output");
        // A group of its own, so that its children can be killed with it.
        command.process_group(0).stdin(Stdio::null()).stdout(file("stdout")?).stderr(file("stderr")?);
        let child = command.spawn().with_context(|| format!("start {shown}"))?;
        Ok(Running { label: label.to_owned(), command: shown, child, status: None, output })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("stdout")).unwrap_or_default()).into_owned()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("stderr")).unwrap_or_default()).into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.output.path().join(name)
    }

    /// Its exit status if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("look after {}", self.label))?;
        }
        Ok(self.status)
    }

    /// Waits for a whole line that contains `text`, on either output, and gives it. Panics when the program ends without
    /// it, or at the deadline.
    pub async fn wait_for_line(&mut self, text: &str, deadline: Duration) -> String {
        let start = Instant::now();
        loop {
            // Asked before the output is read, so that what a program wrote at its very end is seen.
            let exited = self.exited().expect("a child of ours can be waited for");
            for output in [self.stdout(), self.stderr()] {
                let whole = output.rfind('\n').map_or("", |end| &output[..end]);
                if let Some(line) = whole.lines().find(|line| line.contains(text)) {
                    return line.to_owned();
                }
            }
            if let Some(status) = exited {
                panic!("{} ended ({status}) without a line with `{text}`", self.label);
            }
            assert!(start.elapsed() < deadline, "{} wrote no line with `{text}` within {deadline:?}", self.label);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if start.elapsed() > deadline {
                bail!("{} did not end within {deadline:?}: {}", self.label, self.command);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it and its children with SIGKILL, as a crash would, and waits until it is gone.
    pub async fn kill9(&mut self) -> Result<()> {
        self.signal_group(Signal::KILL)?;
        self.wait(PATIENCE).await.map(drop)
    }

    /// Freezes it with its children (SIGSTOP), as a paused machine would.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal_group(Signal::STOP)
    }

    /// Lets a frozen program go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal_group(Signal::CONT)
    }

    /// Asks it to end (SIGTERM, to the program alone) and waits.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if self.exited()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)
                .with_context(|| format!("signal {}", self.label))?;
        }
        self.wait(deadline).await
    }

    fn signal_group(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("{} has ended already: {status}", self.label);
        }
        kill_process_group(Pid::from_child(&self.child), signal).with_context(|| format!("signal {}", self.label))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Children may outlive the program, so the group is killed also when the program itself has ended. As long as a member
        // lives the number is not given to others; when none lives there is nothing to kill.
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
        if self.status.is_none() {
            self.child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- {} ($ {}), standard output\n{}", self.label, self.command, tail(&self.path("stdout"), 60));
            eprintln!("--- {}, standard error\n{}", self.label, tail(&self.path("stderr"), 120));
        }
    }
}
