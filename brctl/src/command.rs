//! The commands: one module a noun. Each takes the desk with its settings and ends with an exit code or a failure.

mod agent;
mod apply;
mod backup;
mod demo;
mod dev;
mod doctor;
mod get;
mod holder;
mod job;
mod key;
mod lag;
pub(crate) mod policies;
mod recovery;
mod region;
pub(crate) mod repository;
mod restore;
mod shell;
mod snapshot;
mod source;
mod status;
mod storage;
mod work;

pub(crate) use lag::LAG;
pub(crate) use snapshot::SNAPSHOTS;

use breakwater_core::ErrorClass;

use crate::args::Command;
use crate::client::Client;
use crate::context;
use crate::failure::Failure;
use crate::offline::Glass;
use crate::output::Output;
use crate::settings::Settings;

/// An exit code of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending(pub(crate) u8);

impl Ending {
    /// Done.
    pub(crate) const OK: Ending = Ending(0);
    /// `diff` found changes.
    pub(crate) const CHANGES: Ending = Ending(20);

    /// The code for `class`.
    pub(crate) fn of(class: ErrorClass) -> Self {
        Ending(class.exit_code())
    }
}

/// How a command ends.
pub(crate) type Ended = Result<Ending, Failure>;

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Desk {
    /// What holds for this run.
    pub(crate) settings: Settings,
    /// Where to show things.
    pub(crate) output: Output,
}

impl Desk {
    /// A client for the controller that was chosen.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(&context::find(&self.settings.choice)?, self.settings.timeout)
    }

    /// The repository, where work is to be done without a controller.
    pub(crate) async fn glass(&self) -> Result<Option<Glass>, Failure> {
        match &self.settings.offline {
            Some(settings) => Glass::open(settings, &self.output).await.map(Some),
            None => Ok(None),
        }
    }

    /// The least severe level of logs.
    pub(crate) fn log_level(&self) -> tracing::Level {
        match (self.settings.quiet, self.settings.verbose) {
            (true, _) => tracing::Level::ERROR,
            (false, 0) => tracing::Level::WARN,
            (false, 1) => tracing::Level::INFO,
            (false, _) => tracing::Level::DEBUG,
        }
    }

    /// The namespace of requests.
    pub(crate) fn namespace(&self) -> String {
        self.settings.namespace.clone()
    }
}

/// Runs one command.
pub(crate) async fn run(command: Command, settings: Settings) -> Ended {
    let output = Output::new(settings.format, settings.quiet);
    let desk = Desk { settings, output };
    if desk.settings.offline.is_some() && !works_offline(&command) {
        return Err(Failure::usage("this command needs a controller, and --offline means that there is none")
            .hint("--offline works with snapshot list|show|files|versions|verify|delete, restore run, recovery points and repository show|check|gc|repair|key, region usage, storage and erase"));
    }
    match command {
        Command::Status => status::run(&desk).await,
        Command::Apply(args) => apply::apply(&desk, args).await,
        Command::Diff(args) => apply::diff(&desk, args).await,
        Command::Get(args) => get::get(&desk, args).await,
        Command::Describe(args) => get::describe(&desk, args).await,
        Command::Delete(args) => get::delete(&desk, args).await,
        Command::Source(command) => source::run(&desk, command).await,
        Command::Agent(command) => agent::run(&desk, command).await,
        Command::Backup(command) => backup::run(&desk, command).await,
        Command::Snapshot(command) => snapshot::run(&desk, command).await,
        Command::Restore(command) => restore::run(&desk, command).await,
        Command::Recovery(command) => recovery::run(&desk, command).await,
        Command::Lag(args) => lag::run(&desk, args).await,
        Command::Region(command) => region::run(&desk, command).await,
        Command::Job(command) => job::run(&desk, command).await,
        Command::Repository(command) => repository::run(&desk, command).await,
        Command::Erase(args) => key::erase(&desk, args).await,
        Command::Storage(command) => storage::run(&desk, command).await,
        Command::Doctor => doctor::run(&desk).await,
        Command::Completion { shell } => shell::completion(&desk, shell),
        Command::Man { out } => shell::man(&desk, &out),
        Command::Version => shell::version(&desk).await,
        Command::Demo(args) => demo::run(&desk, args).await,
        Command::Dev(args) => dev::run(&desk, args).await,
        Command::WalFetch(args) => Ok(Ending(crate::fetch::serve(args.words.into_iter()))),
    }
}

fn works_offline(command: &Command) -> bool {
    use crate::args::repository::{RegionCommand, RepositoryCommand};
    use crate::args::restore::{RecoveryCommand, RestoreCommand};
    matches!(
        command,
        Command::Snapshot(_)
            | Command::Restore(RestoreCommand::Run(_))
            | Command::Recovery(RecoveryCommand::Points(_))
            | Command::Repository(
                RepositoryCommand::Check(_)
                    | RepositoryCommand::Show { .. }
                    | RepositoryCommand::Gc(_)
                    | RepositoryCommand::Repair(_)
                    | RepositoryCommand::Key(_)
            )
            | Command::Region(RegionCommand::Usage(_))
            | Command::Storage(_)
            | Command::Erase(_)
            | Command::Version
            | Command::Completion { .. }
            | Command::Man { .. }
    )
}
