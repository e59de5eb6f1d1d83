//! `completion` and `version`.

use breakwater_proto::v1;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Args;
use crate::command::{Desk, Ended, Ending};

pub(super) fn completion(desk: &Desk, shell: Shell) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "brctl", &mut script);
    desk.output.text(&String::from_utf8_lossy(&script))?;
    Ok(Ending::OK)
}

pub(super) async fn version(desk: &Desk) -> Ended {
    let ours = env!("CARGO_PKG_VERSION");
    // Without a context, or with one that does not answer, our own version is still the answer.
    let theirs = match desk.client() {
        Ok(client) => match client.call(client.operator().version(v1::VersionRequest {})).await {
            Ok(answer) => Some(answer),
            Err(failure) => {
                desk.output.note(format!("the controller's version is not known: {}", failure.message()));
                None
            }
        },
        Err(_) => None,
    };
    let controller = theirs.map(
        |answer| json!({"version": answer.version, "id": answer.controller_id, "state_store": answer.state_store}),
    );
    let value = json!({"version": ours, "protocol": breakwater_proto::PROTOCOL_VERSION, "controller": controller});
    desk.output.item(&value, ours, || {
        let mut text = format!("brctl {ours}\n");
        if let Some(version) = value["controller"]["version"].as_str() {
            let store = value["controller"]["state_store"].as_str().unwrap_or_default();
            text.push_str(&format!("controller {version} (state store: {store})\n"));
        }
        text
    })?;
    Ok(Ending::OK)
}
