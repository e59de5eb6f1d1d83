//! What can be typed. Nothing is decided here: [`crate::settings`] turns global flags and the environment into
//! settings, each command takes its own flags as they are.

pub(crate) mod agent;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod local;
pub(crate) mod object;
pub(crate) mod repository;
pub(crate) mod restore;
pub(crate) mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const ENVIRONMENT: &str = "\
Environment: BRCTL_CONTROLLER, BRCTL_CONTEXT, BRCTL_CONTEXT_FILE, BRCTL_TOKEN, BRCTL_CA, BRCTL_NAMESPACE, BRCTL_OUTPUT,
BRCTL_TIMEOUT, BRCTL_REPOSITORY, BRCTL_KEY and BRCTL_IDENTITY stand behind the flags of the same name; BRCTL_PASSPHRASE_FILE
names the file with the passphrase for `--key passphrase`, which is asked for on a terminal otherwise.

Exit codes: 0 ok, 1 unclassified, 2 usage, 3 authentication or authorisation, 4 refused before any change, 5 aborted,
6 not found, 7 conflict or fenced, 8 unreachable and safe to retry, 9 verification failed, 10 partial success,
11 waiting for approval, 12 objective missed, 20 `diff` found changes.";

/// Drives Breakwater: backup and disaster recovery for databases.
#[derive(Debug, Parser)]
#[command(name = "brctl", version, after_help = ENVIRONMENT, infer_subcommands = false)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct GlobalArgs {
    /// Address of the controller, like https://backup.example:7443
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) controller: Option<String>,

    /// Name of a context in the contexts file
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) context: Option<String>,

    /// File with one context, as a controller writes it, or with several
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) context_file: Option<PathBuf>,

    /// Certificate authority of the controller, PEM
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) ca: Option<PathBuf>,

    /// Namespace of objects and jobs [default: default]
    #[arg(long, short = 'n', global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) namespace: Option<String>,

    /// Form of the output [default: table on a terminal, json otherwise]
    #[arg(long, short = 'o', global = true, value_enum, value_name = "FORM", help_heading = "Global options")]
    pub(crate) output: Option<Format>,

    /// How long one answer may take, like 10s or 2m [default: 30s]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration, help_heading = "Global options")]
    pub(crate) timeout: Option<Duration>,

    /// Say only what was asked for
    #[arg(long, short = 'q', global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub(crate) quiet: bool,

    /// Say more; twice: everything
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,

    /// Break glass: work on the repository itself, without controller and agent
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) offline: bool,

    /// With --offline: a region of the repository, [NAME=]URL, repeated for several. Else: the name of a repository
    #[arg(long, global = true, value_name = "REPOSITORY", help_heading = "Global options")]
    pub(crate) repository: Vec<String>,

    /// With --offline: what opens the repository: a key file, each of several shares' files, a grant, `passphrase`, or a key service's key like aws-kms:alias/backup
    #[arg(long, global = true, value_name = "KEY", help_heading = "Global options")]
    pub(crate) key: Vec<String>,

    /// With --offline and a grant as the key: the identity's file that it was made for
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) identity: Option<PathBuf>,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// YAML; of declared objects such that it can be applied again
    Yaml,
    /// One JSON document a line
    Ndjson,
    /// Names only
    Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the whole story on this machine: back up a real database into two regions, change it, restore it, verify
    Demo(local::DemoArgs),
    /// Runs a controller and an agent in one process, with file-system regions
    Dev(local::DevArgs),
    /// One screen: what is protected, what is not, how exposed, what failed, what to do next
    Status,
    /// Declares what the files say
    Apply(object::ApplyArgs),
    /// Shows what `apply` would change; exit code 20 when it would
    Diff(object::FileArgs),
    /// Shows declared objects
    Get(object::GetArgs),
    /// Shows everything about one declared object
    Describe(object::NamedArgs),
    /// Takes a declaration back; what is in repositories stays
    Delete(object::DeleteArgs),
    /// Sources that can be declared
    #[command(subcommand)]
    Source(agent::SourceCommand),
    /// Agents and how they join
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Backups
    #[command(subcommand)]
    Backup(job::BackupCommand),
    /// What was backed up
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Restores
    #[command(subcommand)]
    Restore(restore::RestoreCommand),
    /// What can be restored, to when and from where
    #[command(subcommand)]
    Recovery(restore::RecoveryCommand),
    /// How far each region is behind each source
    Lag(job::LagArgs),
    /// Regions of repositories
    #[command(subcommand)]
    Region(repository::RegionCommand),
    /// Work that runs or ran
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Repositories themselves
    #[command(subcommand)]
    Repository(repository::RepositoryCommand),
    /// Destroys the keys of a domain: nothing in it can ever be read again
    Erase(key::EraseArgs),
    /// Places that can hold a region
    #[command(subcommand)]
    Storage(repository::StorageCommand),
    /// Checks the way to the controller, its agents and regions
    Doctor,
    /// Prints a completion script for a shell
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Writes the manual pages
    Man {
        /// Directory for them, made if absent; `man -M` and MANPATH want it called `man1` below theirs
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Prints the version, and the controller's if one is named
    Version,
    /// Serves PostgreSQL's `restore_command` during a restore
    #[command(hide = true)]
    WalFetch(local::WalFetchArgs),
}

/// Reads `10`, `10s`, `500ms`, `2m` or `1h`; a plain number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is not a time like 10s, 500ms, 2m or 1h"))?;
    let millis = match unit.trim() {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    match millis {
        Some(0) => Err("a time of 0 would never allow an answer".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(format!("`{text}` is not a time like 10s, 500ms, 2m or 1h")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let check = |text: &str, millis: u64| assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        check("10", 10_000);
        check("10s", 10_000);
        check("500ms", 500);
        check("2m", 120_000);
        check("1h", 3_600_000);
        for bad in ["", "s", "0", "-1s", "1d", "1.5s", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_words_of_the_contract_are_read() {
        let good = [
            "demo --engine sqlite --keep /x",
            "status",
            "agent discover",
            "source check app",
            "dev --data-dir /x --listen 127.0.0.1:0",
            "apply -f - --dry-run=server",
            "diff -f a.yaml",
            "get source app -o yaml",
            "describe plan nightly",
            "delete source app --yes=app",
            "backup run app --type full --mode emergency --wait",
            "snapshot list --source app --status committed --limit 3",
            "snapshot show 0199",
            "snapshot verify 0199 --level forensic --wait",
            "snapshot delete 0199 --yes=0199 --request-id r --wait",
            "backup run app --compression zstd:9",
            "repository gc main --dry-run --repack-below 30",
            "repository repair main --dry-run --wait",
            "repository check main --read-data-subset 1/8 --region east --agent b",
            "--offline --repository /a --key k repository gc",
            "--offline --repository /a --key k snapshot delete 0199 --yes=0199",
            "repository create --region a=/a --writer-key-out w --key-out k --recovery-key-out r --suite fast --pack-size 8MiB",
            "restore run --source app --to-time 2026-11-20T12:00:00Z --target /r --region east --only base/* --parallel 2 --wait",
            "restore run --source app --to-lsn 0/16B3748 --target /r --preview",
            "restore run --source app --latest --target /r --no-recover --agent b",
            "restore cancel 0199",
            "recovery points --source app",
            "lag --watch",
            "region list",
            "job watch 0199",
            "agent token create --name b",
            "repository create --region a=/a --region b=/b --writer-key-out w --key-out k --recovery-key-out r",
            "--offline --repository /a --key k repository key list",
            "--offline --repository /a --key k repository key add --name x --key-out f",
            "--offline --repository /a --key k repository key add --name x --kms aws-kms:alias/backup",
            "repository create --region a=/a --writer-key-out w --key-out k --recovery-key-out r --kms aws-kms:a --passphrase-file p",
            "--offline --repository /a --key k repository key remove x --reseal --yes=x",
            "--offline --repository /a --key k repository key escrow --threshold 2 --shares 3 --out d",
            "--offline --repository /a --key k repository key grant --snapshot 01 --to ab --out g",
            "--offline --repository /a --key s1 --key s2 erase tenant --yes=tenant",
            "--offline --repository /a --key g --identity i snapshot list",
            "repository check main --read-data",
            "storage check /srv/r1",
            "--offline --repository /a --repository /b --key k snapshot list",
            "--offline --repository /a --key k restore run --latest --target /r",
            "doctor",
            "completion bash",
            "man --out /x",
            "version",
        ];
        for line in good {
            let words = std::iter::once("brctl").chain(line.split(' '));
            if let Err(error) = Args::try_parse_from(words) {
                panic!("`{line}`: {error}");
            }
        }
        let bad = [
            "",
            "nonsense",
            "schedule explain x",
            "restore run --source app --target /r",
            "restore run --source app --latest --to-xid 3 --target /r",
            "restore run --source app --latest",
            "restore run --source app --to-time yesterday --target /r",
            "delete source",
            "get",
            "apply",
            "backup run app --mode sometimes",
            "snapshot verify 0199 --level deep",
            "snapshot delete",
            "repository gc main --repack-below 101",
            "status --output xml",
            "repository key add --name x",
            "repository key add --name x --key-out f --passphrase-file p",
            "repository key add --name x --key-out f --kms aws-kms:a",
            "repository key add --name x",
            "erase",
        ];
        for line in bad {
            let words = std::iter::once("brctl").chain(line.split(' ').filter(|word| !word.is_empty()));
            let error = Args::try_parse_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
