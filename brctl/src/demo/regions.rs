//! What the story does with regions: show how far they are, take one away, bring it back, and do without the rest.

use std::path::{Path, PathBuf};

use breakwater_core::{ErrorClass, Timestamp};
use breakwater_proto::v1;
use breakwater_proto::v1::restore_point::Point;
use serde_json::Value;

use super::story::{PATIENCE, POLL, REGIONS, SOURCE, Story};
use crate::args::snapshot::SnapshotListArgs;
use crate::command::{LAG, SNAPSHOTS};
use crate::failure::Failure;
use crate::local::{recovery_key, region};
use crate::offline::{self, Glass, Wanted};
use crate::output::Output;
use crate::settings::OfflineSettings;
use crate::view;

impl Story {
    /// The rows of the lag of all regions.
    pub(super) async fn lag(&self) -> Result<Vec<Value>, Failure> {
        let client = self.client()?;
        let request = v1::LagRequest { namespace: String::new(), source: String::new() };
        let lag = client.call(client.operator().lag(request)).await?;
        Ok(lag.rows.iter().map(view::lag_row).collect())
    }

    /// Shows the lag of all regions.
    pub(super) async fn show_lag(&self) -> Result<(), Failure> {
        self.narrator.command("lag");
        self.narrator.say(&LAG.table(&self.lag().await?, false));
        Ok(())
    }

    /// Waits until the lag is as `wanted` says; `what` names that for the error.
    pub(super) async fn wait_lag(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Result<(), Failure> {
        let begun = std::time::Instant::now();
        loop {
            let rows = self.lag().await?;
            if wanted(&rows) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let message = format!("{what} did not happen within {PATIENCE:?}:\n{}", LAG.table(&rows, false));
                return Err(Failure::new(ErrorClass::Unavailable, message));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until every region is whole.
    pub(super) async fn wait_whole(&self) -> Result<(), Failure> {
        self.wait_lag("every region being whole", |rows| {
            rows.len() == REGIONS.len() && rows.iter().all(|row| row["state"] == "ok" && row["pending_items"] == 0)
        })
        .await
    }

    /// Waits until `region` holds everything up to `moment`.
    pub(super) async fn wait_recoverable(&self, region: &str, moment: Timestamp) -> Result<(), Failure> {
        let what = format!("region `{region}` holding everything up to {moment}");
        self.wait_lag(&what, |rows| {
            rows.iter().filter(|row| row["region"] == region).any(|row| {
                let recoverable = row["recoverable"].as_str().and_then(|text| Timestamp::parse(text).ok());
                recoverable.is_some_and(|recoverable| recoverable >= moment)
            })
        })
        .await
    }

    /// Lists the snapshots.
    pub(super) async fn show_snapshots(&self) -> Result<(), Failure> {
        self.narrator.command("snapshot list");
        let client = self.client()?;
        let documents = client.documents(client.operator().snapshots(v1::SnapshotsRequest::default())).await?;
        let mut snapshots: Vec<Value> = Vec::new();
        for document in documents {
            snapshots.extend(document["snapshots"].as_array().cloned().unwrap_or_default());
        }
        snapshots.iter_mut().for_each(view::readable);
        self.narrator.say(&SNAPSHOTS.table(&snapshots, false));
        Ok(())
    }

    /// Takes a region away, as a lost network or an unmounted disk would.
    pub(super) fn take_away(&self, name: &str) -> Result<(), Failure> {
        let place = region(&self.directory, name);
        std::fs::rename(&place, away(&place)).map_err(|error| Failure::io(place.display(), &error))
    }

    /// Brings it back.
    pub(super) fn give_back(&self, name: &str) -> Result<(), Failure> {
        let place = region(&self.directory, name);
        std::fs::rename(away(&place), &place).map_err(|error| Failure::io(place.display(), &error))
    }

    /// Ends controller and agent, deletes all that they knew, takes one region away, and restores from the other with
    /// the recovery key alone.
    pub(super) async fn break_glass(&mut self, target: &Path) -> Result<(), Failure> {
        let [gone, left] = REGIONS;
        self.narrator.step("The worst day: controller, agent and one region are gone");
        self.stop().await;
        for path in ["state.redb", "pki", "operator.token", "brctl.json", "agent"] {
            remove(&self.directory.join(path))?;
        }
        self.take_away(gone)?;
        self.narrator.say(&format!(
            "The controller's and the agent's whole state is deleted, region `{gone}` is away.\n\
             Left are region `{left}`, the recovery key and this program."
        ));
        let place = region(&self.directory, left);
        let key = recovery_key(&self.directory);
        let words = format!("--offline --repository {} --key {}", place.display(), key.display());
        let settings = OfflineSettings {
            regions: vec![(left.to_owned(), place.display().to_string())],
            keys: vec![key.display().to_string()],
            identity: None,
            passphrase_file: None,
        };
        let output = Output::new(None, true);
        let glass = Glass::open(&settings, &output).await?;
        self.narrator.command(&format!("{words} snapshot list"));
        let all = SnapshotListArgs { source: None, status: None, limit: 0 };
        let snapshots = offline::list(&glass, &all).await?["snapshots"].take();
        self.narrator.say(&SNAPSHOTS.table(snapshots.as_array().map_or(&[], Vec::as_slice), false));
        self.narrator.command(&format!("{words} restore run --latest --target {}", target.display()));
        let wanted = Wanted {
            source: Some(SOURCE.to_owned()),
            point: Some(Point::Latest(true)),
            target: target.to_owned(),
            recover: true,
            ..Wanted::default()
        };
        offline::restore(&glass, &output, &wanted).await?;
        Ok(())
    }
}

/// The path of a region that is away.
fn away(place: &Path) -> PathBuf {
    place.with_extension("away")
}

fn remove(path: &Path) -> Result<(), Failure> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.map_err(|error| Failure::io(path.display(), &error))
}
