//! A server of our own on restored files: started on a private socket, watched, stopped.
//!
//! Invariant: the server never outlives its value: dropping it ends the server at once, without a checkpoint.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use breakwater_engine::{EngineError, EngineErrorKind};
use rustix::process::{Pid, Signal, kill_process};

use crate::target::{Owner, tail};

const POLL: Duration = Duration::from_millis(50);
/// Lines of the server's log that an error shows.
const LOG_LINES: usize = 25;

/// A running `postgres`.
#[derive(Debug)]
pub(crate) struct Postmaster {
    child: Option<Child>,
    log: PathBuf,
}

impl Postmaster {
    /// Starts the program with `settings` on its command line, where they outrank every file. It runs as `owner` when we
    /// are root, and apart from our terminal.
    pub(crate) fn start(
        program: &Path,
        data: &Path,
        settings: &[(&str, String)],
        log: PathBuf,
        owner: Owner,
    ) -> Result<Postmaster, EngineError> {
        let wrap = |error| EngineError::io(format!("cannot start {}", program.display()), error);
        let output = File::create(&log).map_err(wrap)?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.arg("-D").arg(data);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // An error shows lines of the log, and what ended a replay is looked up in it, so it is never translated.
        command.env("LC_ALL", "C").current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(wrap)?).stderr(output);
        if owner.is_other() {
            command.uid(owner.uid).gid(owner.gid);
        }
        Ok(Postmaster { child: Some(command.spawn().map_err(wrap)?), log })
    }

    /// How it ended, once it has.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>, EngineError> {
        let Some(child) = self.child.as_mut() else {
            return Err(EngineError::new(EngineErrorKind::Internal, "the recovering server was waited for twice"));
        };
        let status =
            child.try_wait().map_err(|error| EngineError::io("cannot look after the recovering server", error))?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Bytes of log, and CPU ticks of the processes that replay and write: both stand still only when nothing is done.
    pub(crate) fn effort(&self) -> (u64, u64) {
        let logged = std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        let Some(pid) = self.child.as_ref().map(Child::id) else { return (logged, 0) };
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        (logged, children.split_whitespace().filter_map(working_ticks).sum())
    }

    /// The end of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log, LOG_LINES)
    }

    /// The whole log.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Shuts the server down cleanly and waits for its end, at most `patience` long.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Result<(), EngineError> {
        self.signal(Signal::INT);
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Some(status) = self.exited()? {
                if status.success() {
                    return Ok(());
                }
                let what = format!("the restored server did not shut down cleanly: {status}\n{}", self.log_tail());
                return Err(EngineError::new(EngineErrorKind::Internal, what));
            }
            if tokio::time::Instant::now() >= deadline {
                let what = format!(
                    "the restored server did not shut down within {} s\n{}",
                    patience.as_secs(),
                    self.log_tail()
                );
                return Err(EngineError::new(EngineErrorKind::Unreachable, what));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child
            && let Err(error) = kill_process(Pid::from_child(child), signal)
        {
            tracing::debug!(%error, "the restored server was gone before it was told to stop");
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        if let Some(mut child) = self.child.take() {
            // Somebody has to collect it; how long that takes must not hold us up.
            std::thread::spawn(move || child.wait().ok());
        }
    }
}

/// User and system time of a process that works on the recovery; others tick also when nothing happens.
fn working_ticks(pid: &str) -> Option<u64> {
    let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    if !title.contains("startup") && !title.contains("checkpointer") {
        return None;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted from behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}
