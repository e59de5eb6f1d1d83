//! The agent's settings: flags, with the environment behind them.

use std::path::PathBuf;

/// Settings of one agent.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentConfig {
    /// Where its identity, journal, spool and last assignment lie.
    #[arg(long, env = "BREAKWATER_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Where its key files lie; `keys` in the data directory unless said.
    #[arg(long, env = "BREAKWATER_KEYS", value_name = "DIR")]
    pub keys: Option<PathBuf>,

    /// The controller to dial, instead of the one that it enrolled with: `https://host:port`.
    #[arg(long, env = "BREAKWATER_CONTROLLER", value_name = "URL")]
    pub controller: Option<String>,

    /// Bytes that buffers may take, all sources and jobs together, in MiB.
    #[arg(long, env = "BREAKWATER_BUFFER_MIB", default_value_t = 192, value_name = "MIB")]
    pub buffer_mib: u64,

    /// Bytes of log that one source may spool while no region takes them, in MiB.
    #[arg(long, env = "BREAKWATER_SPOOL_MIB", default_value_t = 4096, value_name = "MIB")]
    pub spool_mib: u64,

    /// Jobs that run at once.
    #[arg(long, env = "BREAKWATER_JOBS", default_value_t = 2, value_name = "N")]
    pub jobs: usize,

    /// The program that serves `wal-fetch` to restored servers; this one unless said.
    #[arg(long, env = "BREAKWATER_FETCH_PROGRAM", value_name = "PATH")]
    pub fetch_program: Option<PathBuf>,
}

impl AgentConfig {
    /// The settings of an agent in `data_dir`, everything else as most people want it.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        AgentConfig {
            data_dir: data_dir.into(),
            keys: None,
            controller: None,
            buffer_mib: 192,
            spool_mib: 4096,
            jobs: 2,
            fetch_program: None,
        }
    }

    /// Where the key files lie.
    pub fn keys_dir(&self) -> PathBuf {
        self.keys.clone().unwrap_or_else(|| self.data_dir.join("keys"))
    }
}
