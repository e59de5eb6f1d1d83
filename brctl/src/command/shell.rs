//! `completion`, `man` and `version`.

use std::path::Path;

use breakwater_proto::v1;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Args;
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::yaml;

pub(super) fn completion(desk: &Desk, shell: Shell) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "brctl", &mut script);
    desk.output.text(&String::from_utf8_lossy(&script))?;
    Ok(Ending::OK)
}

pub(super) fn man(desk: &Desk, out: &Path) -> Ended {
    pages(out)?;
    let value = json!({ "directory": out });
    desk.output.item(&value, &out.display().to_string(), || yaml(&value))?;
    Ok(Ending::OK)
}

/// Writes one page for each command that is shown.
fn pages(out: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(out).and_then(|()| clap_mangen::generate_to(Args::command(), out));
    written.map_err(|error| Failure::io(out.display(), &error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("man1");
        pages(&out).unwrap();
        let page = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        assert!(page("brctl.1").contains("brctl"));
        assert!(page("brctl-snapshot-delete.1").contains("yes"));
        assert!(page("brctl-repository-gc.1").contains("repack"));
        assert!(!out.join("brctl-wal-fetch.1").exists(), "hidden commands are no business of people");
    }
}
