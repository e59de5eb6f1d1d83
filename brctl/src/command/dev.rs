//! `dev`: a controller and an agent in one process, for trying things out.

use breakwater_runtime::telemetry::{self, TelemetryConfig};

use crate::args::local::DevArgs;
use crate::command::{Desk, Ended, Ending};
use crate::local::{AGENT, Local, REPOSITORY};
use crate::output::say;

/// The names of the regions.
const REGIONS: [&str; 2] = ["one", "two"];

pub(super) async fn run(desk: &Desk, args: DevArgs) -> Ended {
    let mut config = TelemetryConfig::new("brctl-dev");
    config.level = desk.log_level();
    let telemetry = telemetry::init(&config);
    let ended = serve(desk, args).await;
    telemetry.shutdown().await;
    ended
}

async fn serve(desk: &Desk, args: DevArgs) -> Ended {
    let local = tokio::select! {
        local = Local::start(&args.data_dir, args.listen, &REGIONS) => local?,
        _ = breakwater_runtime::shutdown_signal() => return Ok(Ending::OK),
    };
    desk.output.text(&introduction(&local))?;
    say("ready");
    let signal = breakwater_runtime::shutdown_signal().await;
    desk.output.note(format!("stopping ({signal})"));
    local.stop().await;
    Ok(Ending::OK)
}

fn introduction(local: &Local) -> String {
    format!(
        "a controller serves on https://{address}, agent `{AGENT}` works for it, repository `{REPOSITORY}` has the \
         regions `{one}` and `{two}`; everything lies in {directory}\n\
         \n\
         in another shell:\n\
         \n\
         \x20 export BRCTL_CONTEXT_FILE={context}\n\
         \x20 brctl status\n\
         \x20 brctl agent discover                 # databases of this host, as YAML\n\
         \x20 brctl apply -f FILE                  # a Source with `agent: {AGENT}`, and a Plan with `repository: {REPOSITORY}`\n\
         \x20 brctl backup run SOURCE --wait\n\
         \x20 brctl restore run --source SOURCE --latest --target DIR --wait\n\
         \n",
        address = local.address(),
        one = REGIONS[0],
        two = REGIONS[1],
        directory = local.directory().display(),
        context = local.context_file().display(),
    )
}
