//! Flags of `backup`, `job` and `lag`.

use clap::{Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Starts a backup of a source, or of all sources of a plan
    Run(BackupArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// Name of a plan or a source
    #[arg(value_name = "PLAN|SOURCE")]
    pub(crate) name: String,

    /// How the source is read; every snapshot restores by itself
    #[arg(long = "type", value_name = "TYPE", default_value = "full")]
    pub(crate) read: String,

    /// Why it runs
    #[arg(long, value_enum, default_value = "manual")]
    pub(crate) mode: Mode,

    /// How what is new is compressed: none, low, medium, high, or a codec and level like zstd:9 [default: the plan's]
    #[arg(long, value_name = "WORD")]
    pub(crate) compression: Option<String>,

    /// Packs that are on their way into the regions at once [default: the plan's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uploads: Option<u32>,

    /// Check level after the backup
    #[arg(long, value_name = "LEVEL")]
    pub(crate) verify: Option<String>,

    /// Only into these regions
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,

    /// Wait for the end and exit with the outcome
    #[arg(long)]
    pub(crate) wait: bool,

    /// The same id starts the same jobs once, however often it is sent
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

/// Why a backup runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Somebody asked
    Manual,
    /// A schedule asked
    Scheduled,
    /// Something is about to happen
    Emergency,
}

impl Mode {
    /// The word of the protocol.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Mode::Manual => "manual",
            Mode::Scheduled => "scheduled",
            Mode::Emergency => "emergency",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Lists jobs, newest first
    List(JobListArgs),
    /// Shows one job
    Show(JobArgs),
    /// Stops a job
    Cancel(CancelArgs),
    /// Prints what happened to a job
    Logs(JobArgs),
    /// Follows a job to its end and exits with its outcome
    Watch(JobArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct JobListArgs {
    /// Only of this source
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,

    /// Only of this kind
    #[arg(long, value_name = "KIND", value_parser = ["backup", "restore", "check", "verify", "delete", "gc", "repair", "usage"])]
    pub(crate) kind: Option<String>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// Id of the job, or enough of its beginning
    pub(crate) id: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// Id of the job, or enough of its beginning
    pub(crate) id: String,
    /// Why, for whoever wonders later
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// Wait until it has stopped
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LagArgs {
    /// Only of this source
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,

    /// Show it again and again until stopped
    #[arg(long)]
    pub(crate) watch: bool,
}
