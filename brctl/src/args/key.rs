//! Flags of `repository key` and `erase`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Lists who may open the repository, its domains, and what a change of keys left to do
    List,
    /// Lets one more open the repository
    Add(AddArgs),
    /// Takes a recipient's right to open the repository
    Remove(RemoveArgs),
    /// Replaces the restore keys that sessions are sealed to
    Rotate(RotateArgs),
    /// Makes a recipient whose key exists in shares only
    Escrow(EscrowArgs),
    /// Finishes a change that was interrupted, or that a region missed
    Finish(FinishArgs),
    /// Makes a domain: sources with keys of their own, that can be erased by themselves
    Domain {
        /// Its name; a name is used once
        name: String,
        /// New file for the writer key of agents
        #[arg(long, value_name = "FILE")]
        writer_key_out: PathBuf,
    },
    /// Writes the writer key of a domain anew, as agents need it after a rotation
    Writer {
        /// The domain
        #[arg(long, value_name = "NAME", default_value = "default")]
        domain: String,
        /// New file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Makes the key of somebody who is to be granted single snapshots
    Identity {
        /// New file; its public key is printed
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Lets an identity restore one snapshot
    Grant(GrantArgs),
    /// Writes the key of a worker that lists, deletes and collects, and opens nothing
    Reaper {
        /// New file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("held").required(true).args(["key_out", "passphrase_file", "kms"])))]
pub(crate) struct AddArgs {
    /// What the recipient is called
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,

    /// New file for its key
    #[arg(long, value_name = "FILE")]
    pub(crate) key_out: Option<PathBuf>,

    /// File with a passphrase that opens it; the key lies locked in the repository
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// A key service's key that wraps it, like aws-kms:alias/backup; the wrapped key lies in the repository
    #[arg(long, value_name = "URL")]
    pub(crate) kms: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Its name or id
    pub(crate) recipient: String,

    /// Also seal all sessions again, and delete what the removed key opens
    #[arg(long)]
    pub(crate) reseal: bool,

    /// Its name again, so that nothing is asked
    #[arg(long, value_name = "NAME")]
    pub(crate) yes: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RotateArgs {
    /// Also seal all sessions again, and delete what the old restore keys open
    #[arg(long)]
    pub(crate) reseal: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FinishArgs {
    /// Also seal sessions again that are sealed to an older restore key
    #[arg(long)]
    pub(crate) reseal: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EscrowArgs {
    /// What the recipient is called
    #[arg(long, value_name = "NAME", default_value = "escrow")]
    pub(crate) name: String,

    /// How many shares make the key
    #[arg(long, value_name = "K")]
    pub(crate) threshold: u8,

    /// How many shares there are
    #[arg(long, value_name = "N")]
    pub(crate) shares: u8,

    /// Directory for the shares' files; made if absent
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GrantArgs {
    /// The snapshot's id, or enough of its beginning
    #[arg(long, value_name = "ID")]
    pub(crate) snapshot: String,

    /// The identity's public key, as `key identity` printed it
    #[arg(long, value_name = "PUBLIC")]
    pub(crate) to: String,

    /// New file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EraseArgs {
    /// The domain
    pub(crate) domain: String,

    /// Its name again, so that nothing is asked
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) yes: Option<String>,

    /// Go on although a region does not answer; it keeps the keys until this is run again
    #[arg(long)]
    pub(crate) without_silent: bool,

    /// Change nothing: check the proof, and that nothing of the domain's keys is left
    #[arg(long)]
    pub(crate) verify: bool,
}
