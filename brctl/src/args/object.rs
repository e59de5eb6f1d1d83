//! Flags of the commands on declared objects.

use std::path::PathBuf;

use clap::ValueEnum;

/// `apply`
#[derive(Debug, clap::Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) files: FileArgs,

    /// Change nothing: `client` reads the files only, `server` answers with what would follow
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) dry_run: Option<DryRun>,
}

/// The files of `apply` and `diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// YAML file, `-` for standard input, repeated for several
    #[arg(long = "file", short = 'f', required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Where a dry run happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// Here: the documents are read and checked
    Client,
    /// In the controller: the answer says what would follow
    Server,
}

/// `get`
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// repository, source or plan
    pub(crate) kind: String,
    /// Only this one
    pub(crate) name: Option<String>,
}

/// One object.
#[derive(Debug, clap::Args)]
pub(crate) struct NamedArgs {
    /// repository, source or plan
    pub(crate) kind: String,
    /// Its name
    pub(crate) name: String,
}

/// `delete`
#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) object: NamedArgs,

    /// The object's name again, instead of being asked for it
    #[arg(long, value_name = "NAME")]
    pub(crate) yes: Option<String>,
}
