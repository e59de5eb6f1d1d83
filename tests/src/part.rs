//! One long-running program of a fleet, which is killed, stopped and started again.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use breakwater_testkit::process::{Program, Running};

/// How long a program may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A controller or an agent. Earlier runs are kept, so that their logs are shown too when a test fails.
#[derive(Debug)]
pub struct Part {
    label: String,
    program: Program,
    running: Option<Running>,
    earlier: Vec<Running>,
}

impl Part {
    /// A program that is not running yet.
    pub fn new(label: &str, program: Program) -> Part {
        Part { label: label.to_owned(), program, running: None, earlier: Vec::new() }
    }

    /// Starts it.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("{} runs already", self.label);
        }
        let label = format!("{}, run {}", self.label, self.earlier.len() + 1);
        self.running = Some(self.program.start(&label)?);
        Ok(())
    }

    /// Kills it with SIGKILL, as a crash would.
    pub async fn kill9(&mut self) -> Result<()> {
        let mut running = self.take()?;
        let killed = running.kill9().await;
        self.earlier.push(running);
        killed
    }

    /// Asks it to end. An error when it ends with anything but success.
    pub async fn stop(&mut self) -> Result<()> {
        let mut running = self.take()?;
        let ended = running.terminate(PATIENCE).await;
        self.earlier.push(running);
        let status = ended?;
        if !status.success() {
            bail!("{} ended with {status}", self.label);
        }
        Ok(())
    }

    /// The run at present.
    pub fn running(&mut self) -> Result<&mut Running> {
        self.running.as_mut().with_context(|| format!("{} does not run", self.label))
    }

    /// What it wrote to standard error in all its runs.
    pub fn log(&self) -> String {
        self.earlier.iter().chain(&self.running).map(Running::stderr).collect()
    }

    fn take(&mut self) -> Result<Running> {
        self.running.take().with_context(|| format!("{} does not run", self.label))
    }
}
