//! Flags of `repository`, `region` and `storage`.

use std::path::PathBuf;

use breakwater_core::{BadByteCount, ByteCount, Timestamp};
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
    /// Removes what no snapshot needs any more
    Gc(GcArgs),
    /// Puts back what a region lost
    Repair(RepairArgs),
    /// Makes the locks of what snapshots need longer before they run out; `repository gc` does the same at its end
    Renew(RenewArgs),
    /// Moves data to colder tiers: as the regions declare, or as is said here
    Tier(TierArgs),
    /// Who may open a repository, and how that changes
    #[command(subcommand)]
    Key(super::key::KeyCommand),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// A region and its place, which must be empty; repeated for several
    #[arg(long = "region", required = true, value_name = "NAME=URL")]
    pub(crate) regions: Vec<String>,

    /// Lock what is written into a region, like east=compliance:60d; the place is tried, and refused where that does not bind
    #[arg(long = "lock", value_name = "NAME=MODE:DAYS")]
    pub(crate) locks: Vec<String>,

    /// The tier that data of a region is written to, like west=archive
    #[arg(long = "tier", value_name = "NAME=TIER")]
    pub(crate) tiers: Vec<String>,

    /// Sync regions that must hold an object before it counts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) commit: u32,

    /// Name of the domain of dedup and keys
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) domain: String,

    /// Name of the Repository object that is printed
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub(crate) name: String,

    /// How chunks are named and sealed: `fast` where the processor has AES, `nist` where rules ask for it
    #[arg(long, value_name = "standard|fast|nist", default_value = "standard")]
    pub(crate) suite: String,

    /// Size of a file's extent, like 128KiB: a power of two from 4KiB to 4MiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "128KiB")]
    pub(crate) extent_size: u32,

    /// Size of a pack, like 64MiB: from 1MiB to 1GiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    pub(crate) pack_size: u32,

    /// Let sources of a domain lean on each other's chunks once somebody vouches for them (`snapshot verify --vouch`)
    #[arg(long)]
    pub(crate) verified_chunks: bool,

    /// New file for the key of agents: adds backups, opens none
    #[arg(long, value_name = "FILE")]
    pub(crate) writer_key_out: PathBuf,

    /// New file for the key of daily restores
    #[arg(long, value_name = "FILE")]
    pub(crate) key_out: PathBuf,

    /// New file for the key that goes into the safe
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_key_out: PathBuf,

    /// One more recipient, whose key a key service wraps, like aws-kms:alias/backup; repeated for several
    #[arg(long, value_name = "URL")]
    pub(crate) kms: Vec<String>,

    /// One more recipient, whose key the passphrase in this file opens
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Reads `65536`, `64KiB` or `1MiB`, of at most 4 GiB.
pub(crate) fn size(text: &str) -> Result<u32, String> {
    let bytes: ByteCount = text.parse().map_err(|error: BadByteCount| error.to_string())?;
    u32::try_from(bytes.as_u64()).map_err(|_| format!("`{text}` is not a size like 64KiB or 1MiB, less than 4 GiB"))
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Its name; not with --offline
    pub(crate) name: Option<String>,

    /// Also read and verify all data
    #[arg(long)]
    pub(crate) read_data: bool,

    /// Also read and verify a part of the data: the Nth of M parts, or so many percent
    #[arg(long, value_name = "N/M|P%", conflicts_with = "read_data")]
    pub(crate) read_data_subset: Option<String>,

    /// Only this region, repeated for several
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GcArgs {
    /// Its name; not with --offline
    pub(crate) name: Option<String>,

    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Rewrite packs of deleted snapshots of which less than this is still needed; 0: none
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) repack_below: u32,

    /// With --offline: the regions that are named are all that the repository has
    #[arg(long)]
    pub(crate) all_regions: bool,

    /// Also give up unfinished backups of which the controller knows nothing
    #[arg(long)]
    pub(crate) fence_unknown: bool,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RenewArgs {
    /// Its name
    pub(crate) name: Option<String>,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TierArgs {
    /// Its name; not with --offline
    pub(crate) name: Option<String>,

    /// Only in this region, repeated for several
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,

    /// Where data goes: warm, cold or archive; left out: as the regions declare
    #[arg(long, value_name = "TIER", requires = "older_than")]
    pub(crate) to: Option<String>,

    /// What has been in the region for at least so long, like 30d
    #[arg(long, value_name = "DAYS", requires = "to", value_parser = days)]
    pub(crate) older_than: Option<u32>,

    /// What snapshots need which show this moment or a later one stays
    #[arg(long, value_name = "RFC3339", value_parser = Timestamp::parse)]
    pub(crate) unneeded_since: Option<Timestamp>,

    /// Say what would be moved, and move nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// Reads `30d`.
fn days(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('d').unwrap_or_default();
    number.parse().map_err(|_| format!("`{text}` is not a number of days like 30d"))
}

#[derive(Debug, clap::Args)]
pub(crate) struct RepairArgs {
    /// Its name; not with --offline
    pub(crate) name: Option<String>,

    /// Say what would be repaired, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Read all data to find damage inside packs too
    #[arg(long)]
    pub(crate) read_data: bool,

    /// Only make this region whole, repeated for several
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// How work on a repository runs.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct WorkArgs {
    /// Run on this agent [default: one that reaches all regions]
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,

    /// Wait for the end and exit with the outcome
    #[arg(long)]
    pub(crate) wait: bool,

    /// The same id starts the same job once, however often it is sent
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Lists the regions of all repositories: what is said of them, by whom, and how they answer
    List,
    /// Counts what lies in the regions of a repository, by tier, and how fast that grows
    Usage(UsageArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct UsageArgs {
    /// The repository; not with --offline
    pub(crate) name: Option<String>,

    /// Only this region, repeated for several
    #[arg(long = "region", value_name = "REGION")]
    pub(crate) regions: Vec<String>,

    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Finds out whether a place keeps the promises that a region needs, how fast it is, and what it would cost
    Check(StorageCheckArgs),
    /// Shows the table of prices that estimates use, to be changed and given to `storage check --prices`
    Prices,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StorageCheckArgs {
    /// The place, as in a repository's region; a corner of its own is made inside and emptied again
    pub(crate) url: String,

    /// MiB that are written and read to measure the speed, twice
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) size: u32,

    /// Also try locks, whose objects stay for two days, holds and tiers, which may be charged
    #[arg(long)]
    pub(crate) extras: bool,

    /// A table of prices instead of the sample
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,

    /// How much would be kept there, for the estimate of costs
    #[arg(long, value_name = "SIZE", default_value = "1TiB")]
    pub(crate) stored: ByteCount,

    /// How much would come to it each day
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    pub(crate) daily: ByteCount,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_a_field_of_the_format() {
        for (text, bytes) in [("64KiB", 65536), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["KiB", "4GiB"] {
            assert!(size(bad).unwrap_err().contains("64KiB"), "{bad}");
        }
    }
}
