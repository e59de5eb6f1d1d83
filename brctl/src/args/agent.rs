//! Flags of `agent` and `source`.

use std::time::Duration;

use clap::Subcommand;

use crate::args::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Finds the databases on the agents' hosts and prints ready YAML
    Discover {
        /// Only on this agent's host
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Lists agents
    List,
    /// Shows one agent
    Show {
        /// Its name
        name: String,
    },
    /// Shuts an agent out: its certificate is not taken any more
    Lock {
        /// Its name
        name: String,
        /// Why, for whoever wonders later
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Lets a locked agent in again
    Unlock {
        /// Its name
        name: String,
    },
    /// Join tokens: each enrols one agent
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token; it is shown this once
    Create {
        /// The only agent name that it enrols; of an enrolled agent: replaces that one
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// How long it is good for [default: 15m]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        ttl: Option<Duration>,
    },
    /// Lists tokens, without their secrets
    List,
    /// Makes a token worthless
    Revoke {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SourceCommand {
    /// Says whether a path is in the backups of a source of files, and which rule decides
    Explain {
        /// The source's name
        name: String,
        /// An absolute path, or one as `snapshot files` shows it; a slash at the end says that it is a directory
        path: String,
    },
    /// Finds out whether a source can be protected, and prints the exact lines that are missing
    Check {
        /// Its name
        name: String,
    },
}
