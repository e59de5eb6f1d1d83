//! `demo`: the whole story, on this machine.

use breakwater_runtime::telemetry::{self, TelemetryConfig};

use crate::args::local::DemoArgs;
use crate::command::{Desk, Ended, Ending};

pub(super) async fn run(desk: &Desk, args: DemoArgs) -> Ended {
    let mut config = TelemetryConfig::new("brctl-demo");
    // Regions that go away on purpose are warnings that would only worry.
    config.level = if desk.settings.verbose == 0 { tracing::Level::ERROR } else { desk.log_level() };
    let telemetry = telemetry::init(&config);
    let told = crate::demo::tell(&args, desk.settings.quiet).await;
    telemetry.shutdown().await;
    told.map(|()| Ending::OK)
}
