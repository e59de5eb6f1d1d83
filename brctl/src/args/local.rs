//! Flags of the commands that do their work in this process: `dev`, `demo`, `wal-fetch`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;

#[derive(Debug, clap::Args)]
pub(crate) struct DevArgs {
    /// Where everything lies; made if absent, kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// Address to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Which database [default: postgres where it is installed, else sqlite]
    #[arg(long, value_enum)]
    pub(crate) engine: Option<DemoEngine>,

    /// Work in this new directory and leave it there
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// A database of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoEngine {
    /// A throw-away cluster of an installed PostgreSQL
    Postgres,
    /// A SQLite file; needs nothing
    Sqlite,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WalFetchArgs {
    /// As `restore_command` gives them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<std::ffi::OsString>,
}
