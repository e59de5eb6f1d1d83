//! Load by `pgbench`.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};

use super::cluster::{Cluster, run};

/// A running `pgbench`; killed when dropped.
#[derive(Debug)]
pub struct Pgbench {
    child: Child,
}

impl Cluster {
    /// Fills the tables of pgbench at `scale` (about 15 MB each).
    pub async fn pgbench_init(&self, scale: u32) -> Result<()> {
        let mut command = self.client_command("pgbench")?;
        command.args(["-i", "-q", "-s", &scale.to_string(), "postgres"]);
        run(command).await.map(drop)
    }

    /// Starts pgbench in the background, for example with `["-c", "4", "-T", "600"]`.
    pub fn pgbench(&self, args: &[&str]) -> Result<Pgbench> {
        let mut command = self.client_command("pgbench")?;
        command.args(args).arg("postgres").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Pgbench { child: command.spawn().context("start pgbench")? })
    }

    /// Runs pgbench to its end, for example with `["-c", "2", "-t", "500"]`, and gives its report.
    pub async fn pgbench_run(&self, args: &[&str]) -> Result<String> {
        let mut command = self.client_command("pgbench")?;
        command.args(args).arg("postgres");
        run(command).await
    }
}

impl Pgbench {
    /// Ends the load. An error when pgbench had ended before with a failure: then there was no load all the time.
    pub fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("look after pgbench")?
            && !status.success()
        {
            bail!("pgbench ended early: {status}");
        }
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("look after pgbench")?.is_none())
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}
