//! `breakwater-agent`: looks after the databases of a host until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use breakwater_agent::identity::enrol::{EnrolRequest, enrol};
use breakwater_agent::{Agent, AgentConfig, AgentError, wiring};
use breakwater_core::Chain;
use breakwater_runtime::telemetry::{self, TelemetryConfig};
use clap::{Parser, Subcommand};

/// The agent of Breakwater.
#[derive(Debug, Parser)]
#[command(name = "breakwater-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look after this host's databases.
    Run {
        #[command(flatten)]
        config: AgentConfig,
    },
    /// Make this host an agent of a controller, once.
    Enrol {
        /// The controller: `https://host:7443`.
        #[arg(long, env = "BREAKWATER_CONTROLLER", value_name = "URL")]
        controller: String,
        /// The token that `brctl agent token create` printed.
        #[arg(long, env = "BREAKWATER_TOKEN", value_name = "TOKEN", hide_env_values = true)]
        token: String,
        /// The pin that it printed.
        #[arg(long, env = "BREAKWATER_CA_PIN", value_name = "sha256:HEX")]
        ca_pin: String,
        /// Where the agent keeps its state.
        #[arg(long, env = "BREAKWATER_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// The agent's name, unless the token fixes it.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Deliver a piece of log to a recovering server: PostgreSQL's `restore_command` calls it.
    WalFetch {
        /// The socket of the restore that serves it.
        #[arg(long, env = "BREAKWATER_FETCH_SOCKET", value_name = "PATH")]
        socket: Option<PathBuf>,
        /// The file that the server wants.
        #[arg(value_name = "%f")]
        name: String,
        /// Where it is to lie.
        #[arg(value_name = "%p")]
        destination: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let help = !error.use_stderr();
            // Nobody reads what cannot be printed.
            error.print().ok();
            let fetching = std::env::args().nth(1).is_some_and(|first| first == "wal-fetch");
            return match (help, fetching) {
                (true, _) => ExitCode::SUCCESS,
                // A code below 126 would tell a recovering server that its log ends here.
                (false, true) => ExitCode::from(wiring::WAL_FETCH_FAILED),
                (false, false) => ExitCode::from(2),
            };
        }
    };
    match arguments.command {
        Command::WalFetch { socket, name, destination } => {
            let Some(socket) = socket else {
                eprintln!("breakwater: no restore serves this server (hint: run the restore without --no-recover)");
                return ExitCode::from(wiring::WAL_FETCH_FAILED);
            };
            ExitCode::from(wiring::wal_fetch(&socket, &name, &destination))
        }
        Command::Run { config } => in_runtime(run(config)),
        Command::Enrol { controller, token, ca_pin, data_dir, name } => in_runtime(async move {
            let about = enrol(&data_dir, &EnrolRequest { controller, token, ca_pin, name }).await?;
            println!("enrolled as {} ({})", about.name, about.uid);
            Ok(())
        }),
    }
}

fn in_runtime(work: impl Future<Output = Result<(), AgentError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("breakwater-agent: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let telemetry = telemetry::init(&TelemetryConfig::new("breakwater-agent"));
        let code = match work.await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("breakwater-agent: {}", Chain(&error));
                ExitCode::from(error.class().exit_code())
            }
        };
        telemetry.shutdown().await;
        code
    })
}

async fn run(config: AgentConfig) -> Result<(), AgentError> {
    let running = Agent::start(config).await?;
    let signal = breakwater_runtime::shutdown_signal().await;
    tracing::info!(signal, "stopping");
    if let Err(tasks) = running.stop().await {
        tracing::warn!(?tasks, "some tasks did not stop in time");
    }
    Ok(())
}
