//! Flags of `restore` and `recovery`.

use std::path::PathBuf;

use breakwater_core::{Lsn, Timestamp};
use breakwater_proto::v1::restore_point::Point;
use clap::{ArgGroup, Subcommand, ValueEnum};

use crate::args::job::{CancelArgs, JobArgs, JobListArgs};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum RestoreCommand {
    /// Brings a source back, to the newest state or to a chosen moment
    Run(Box<RestoreArgs>),
    /// Lists restores, newest first
    List(JobListArgs),
    /// Shows one restore
    Show(JobArgs),
    /// Stops a restore
    Cancel(CancelArgs),
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("point").required(true).multiple(false)
    .args(["latest", "snapshot", "to_time", "to_lsn", "to_gtid", "to_name", "to_xid"]))]
pub(crate) struct RestoreArgs {
    /// Name of the source, or its uid; with --offline it may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,

    #[command(flatten)]
    pub(crate) point: PointArgs,

    /// Directory to restore into, on the agent's host: absent or empty, but with --delta or --resume
    #[arg(long, value_name = "PATH_OR_URL")]
    pub(crate) target: String,

    /// Onto an older or damaged copy: what is right there stays, only what differs is fetched. Changes what lies there
    #[arg(long)]
    pub(crate) delta: bool,

    /// With --delta: remove what the snapshot does not have
    #[arg(long, requires = "delta")]
    pub(crate) delete_extra: bool,

    /// Continue a restore that was interrupted in this directory
    #[arg(long, conflicts_with = "delta")]
    pub(crate) resume: bool,

    /// Whom restored files belong to
    #[arg(long, value_enum, value_name = "RULE", default_value = "number")]
    pub(crate) owner: Owner,

    /// Read from this region only
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,

    /// Only paths that match, repeated for several; implies --no-recover
    #[arg(long, value_name = "PATTERN")]
    pub(crate) only: Vec<String>,

    /// How many readers at once
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) parallel: u32,

    /// How the result is checked
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "quick")]
    pub(crate) verify: Verify,

    /// Show what would be done, and refuse what cannot be; write nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) preview: bool,

    /// Thaw data that lies in an archive, at this speed, and wait for it; --preview shows how much and how long
    #[arg(long, value_enum, value_name = "SPEED")]
    pub(crate) thaw: Option<Speed>,

    /// How many days thawed data stays readable
    #[arg(long, value_name = "DAYS", default_value_t = 7, requires = "thaw", value_parser = clap::value_parser!(u32).range(1..=365))]
    pub(crate) thaw_days: u32,

    /// Lay the files only; recovery is yours
    #[arg(long)]
    pub(crate) no_recover: bool,

    /// Restore on this agent's host instead of the source's own
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,

    /// Where the database's programs lie
    #[arg(long, value_name = "DIR")]
    pub(crate) program_directory: Option<PathBuf>,

    /// Wait for the end and exit with the outcome
    #[arg(long)]
    pub(crate) wait: bool,

    /// The same id starts the restore once, however often it is sent
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

impl RestoreArgs {
    /// The protocol's word for what may lie in the target.
    pub(crate) fn onto(&self) -> &'static str {
        match (self.delta, self.resume) {
            (true, _) => "delta",
            (_, true) => "resume",
            _ => "",
        }
    }
}

/// How fast archived data is made readable, which is a matter of price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speed {
    /// Cheapest, up to two days
    Bulk,
    /// The provider's usual one, up to half a day
    Standard,
    /// Minutes to an hour, where the provider has that
    Fast,
}

impl Speed {
    /// The word of the protocol.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Speed::Bulk => "bulk",
            Speed::Standard => "standard",
            Speed::Fast => "fast",
        }
    }
}

/// Whom restored files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Owner {
    /// The numbers that the snapshot holds
    Number,
    /// The users and groups that have the names of the snapshot on this host
    Name,
    /// Whoever runs the restore
    Nobody,
}

impl Owner {
    /// The word of the protocol.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Owner::Number => "number",
            Owner::Name => "name",
            Owner::Nobody => "nobody",
        }
    }
}

/// The moment; exactly one.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct PointArgs {
    /// The newest state that can be restored
    #[arg(long)]
    pub(crate) latest: bool,
    /// The state that a snapshot shows
    #[arg(long, value_name = "ID")]
    pub(crate) snapshot: Option<String>,
    /// The state at this moment, like 2026-11-20T12:50:38Z
    #[arg(long, value_name = "RFC3339", value_parser = Timestamp::parse)]
    pub(crate) to_time: Option<Timestamp>,
    /// The state at this position of the log, like 0/16B3748
    #[arg(long, value_name = "LSN")]
    pub(crate) to_lsn: Option<Lsn>,
    /// The state after this transaction set (not in this version)
    #[arg(long, value_name = "GTID")]
    pub(crate) to_gtid: Option<String>,
    /// The state at this restore point
    #[arg(long, value_name = "NAME")]
    pub(crate) to_name: Option<String>,
    /// The state after this transaction
    #[arg(long, value_name = "XID")]
    pub(crate) to_xid: Option<u64>,
}

impl PointArgs {
    /// The moment as the protocol says it.
    pub(crate) fn resolve(&self) -> Result<Point, Failure> {
        if self.to_gtid.is_some() {
            return Err(Failure::refused(
                "--to-gtid is not in this version: no engine with GTIDs is (hint: --latest, --snapshot, --to-time, --to-lsn, --to-xid or --to-name)",
            ));
        }
        let point = if self.latest { Some(Point::Latest(true)) } else { None };
        point
            .or_else(|| self.snapshot.clone().map(Point::Snapshot))
            .or_else(|| self.to_time.map(|time| Point::Time(time.as_micros())))
            .or_else(|| self.to_lsn.map(|lsn| Point::Lsn(lsn.0)))
            .or_else(|| self.to_xid.map(Point::Xid))
            .or_else(|| self.to_name.clone().map(Point::Name))
            .ok_or_else(|| Failure::usage("no moment given (hint: --latest)"))
    }
}

/// How a restore is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verify {
    /// What was laid is what was stored, and the database starts, answers and stops with it
    Quick,
    /// And more, where the engine offers more; the summary says what was done
    Standard,
    /// Also every page and index (not in this version)
    Comprehensive,
}

impl Verify {
    /// The word of the protocol.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verify::Quick => "quick",
            Verify::Standard => "standard",
            Verify::Comprehensive => "comprehensive",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecoveryCommand {
    /// For each source: from when to when it can be restored, and when that was last proven
    Status(RecoveryArgs),
    /// For each source and region: the spans of time that can be restored
    Windows(RecoveryArgs),
    /// What can be named in a restore: snapshots and the ends of the log
    Points(RecoveryArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecoveryArgs {
    /// Only of this source
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
}
