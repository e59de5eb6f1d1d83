//! Flags of `snapshot`.

use clap::{Subcommand, ValueEnum};

use super::repository::WorkArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Lists snapshots, newest first
    List(SnapshotListArgs),
    /// Shows one snapshot
    Show {
        /// Its id, or enough of its beginning
        id: String,
    },
    /// Lists the files in a snapshot
    Files(FilesArgs),
    /// Lists the snapshots in which a file is another than in the one before
    Versions(VersionsArgs),
    /// Checks that one snapshot is there and whole
    Verify(VerifyArgs),
    /// Deletes a snapshot for good; `repository gc` frees what nothing else needs
    Delete(DeleteArgs),
    /// Keeps a snapshot whatever retention says, until it is unheld
    Hold(HoldArgs),
    /// Lifts all holds of a snapshot
    Unhold(UnholdArgs),
    /// Shows until when a snapshot is locked in each region, asked of the place object by object
    Locks(LocksArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct HoldArgs {
    /// Its id, or enough of its beginning
    pub(crate) id: String,

    /// Why, for whoever wants to delete it
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnholdArgs {
    /// Its id, or enough of its beginning
    pub(crate) id: String,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LocksArgs {
    /// Its id, or enough of its beginning
    pub(crate) id: String,

    /// Only in this region, repeated for several
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotListArgs {
    /// Only of this source: name or uid
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,

    /// Only in this state
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<String>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FilesArgs {
    /// Its id, or enough of its beginning
    pub(crate) id: String,

    /// Only paths like these: `*` and `?` within a name, `**` for any directories; a directory stands for all in it
    #[arg(value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,

    /// At most so many [default: 1000]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) limit: u32,

    /// Go on behind this path
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    pub(crate) after: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VersionsArgs {
    /// The path, as `snapshot files` shows it
    pub(crate) path: String,

    /// The source: its name; with --offline also its uid
    #[arg(long, value_name = "NAME")]
    pub(crate) source: String,

    /// Look into the newest N snapshots at most [default: 500]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Its id, or enough of its beginning
    pub(crate) id: String,

    /// How deep to look
    #[arg(long, value_enum, default_value = "standard")]
    pub(crate) level: Level,

    /// Only in this region, repeated for several
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,

    /// If it is sound, read what it stored in every region and vouch for it, so that other sources of the domain need not
    /// store it again
    #[arg(long, conflicts_with = "regions")]
    pub(crate) vouch: bool,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// How deep a snapshot is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Everything it names is there, of the right size
    Basic,
    /// And its structure was opened and followed
    Standard,
    /// And a sample of its data was opened and proven
    Thorough,
    /// And all of its data
    Forensic,
}

impl Level {
    /// The word of the protocol.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Level::Basic => "basic",
            Level::Standard => "standard",
            Level::Thorough => "thorough",
            Level::Forensic => "forensic",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// Its id, or enough of its beginning
    pub(crate) id: String,

    /// The id again, instead of being asked for it
    #[arg(long, value_name = "ID")]
    pub(crate) yes: Option<String>,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}
