//! `breakwater-controller`: serves agents and people until it is told to stop.

use std::process::ExitCode;

use breakwater_controller::ControllerConfig;
use breakwater_core::Chain;
use breakwater_runtime::telemetry::{self, TelemetryConfig};
use clap::Parser;

/// The controller of Breakwater.
#[derive(Debug, Parser)]
#[command(name = "breakwater-controller", version)]
struct Arguments {
    #[command(flatten)]
    config: ControllerConfig,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let telemetry = telemetry::init(&TelemetryConfig::new("breakwater-controller"));
    let code = match run(arguments.config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the controller does not start");
            ExitCode::from(error.class().exit_code())
        }
    };
    telemetry.shutdown().await;
    code
}

async fn run(config: ControllerConfig) -> Result<(), breakwater_controller::StartError> {
    let store = breakwater_controller::wiring::state_store(&config).await?;
    let running = breakwater_controller::start(config, store).await?;
    let signal = breakwater_runtime::shutdown_signal().await;
    tracing::info!(signal, "stopping");
    if let Err(tasks) = running.stop().await {
        tracing::warn!(?tasks, "some tasks did not stop in time");
    }
    Ok(())
}
