//! Flags of `repository`, `snapshot`, `region` and `storage`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum RepositoryCommand {
    /// Makes a repository and its keys
    Create(CreateArgs),
    /// Shows a repository and its regions
    Show {
        /// Its name; not with --offline
        name: Option<String>,
    },
    /// Checks that what is in a repository is whole
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// A region and its place, which must be empty; repeated for several
    #[arg(long = "region", required = true, value_name = "NAME=URL")]
    pub(crate) regions: Vec<String>,

    /// Sync regions that must hold an object before it counts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) commit: u32,

    /// Name of the domain of dedup and keys
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) domain: String,

    /// Name of the Repository object that is printed
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub(crate) name: String,

    /// New file for the key of agents: adds backups, opens none
    #[arg(long, value_name = "FILE")]
    pub(crate) writer_key_out: PathBuf,

    /// New file for the key of daily restores
    #[arg(long, value_name = "FILE")]
    pub(crate) key_out: PathBuf,

    /// New file for the key that goes into the safe
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_key_out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Its name; not with --offline
    pub(crate) name: Option<String>,

    /// Also read and verify all data
    #[arg(long)]
    pub(crate) read_data: bool,

    /// Wait for the end and exit with the outcome
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Lists snapshots, newest first
    List(SnapshotListArgs),
    /// Shows one snapshot
    Show {
        /// Its id, or enough of its beginning
        id: String,
    },
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

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Lists the regions of all repositories
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Finds out whether a place keeps the promises that a region needs, and how fast it is
    Check {
        /// file:///path or an absolute path; a directory of its own is made inside and removed again
        url: String,
        /// MiB that are written and read to measure the speed
        #[arg(long, value_name = "MIB", default_value_t = 256)]
        size: u32,
    },
}
