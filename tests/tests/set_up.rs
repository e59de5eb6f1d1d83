//! From nothing to a protected cluster by what the programs print, on a server as Debian sets it up: only the system user of
//! the same name gets in, and nobody has made a role.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::ledger::{Ledger, Moment, now};
use breakwater_testkit::postgres::{Cluster, Version};
use breakwater_testkit::wait;
use breakwater_tests::brctl::{rows, text};
use breakwater_tests::fleet::AGENT;
use breakwater_tests::source::plan_yaml;
use breakwater_tests::{Fleet, restored};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// What was found at the socket of a cluster; others may run on this machine too.
fn found_at<'a>(answer: &'a Value, cluster: &Cluster) -> Option<&'a Value> {
    let socket = cluster.socket_dir().canonicalize().ok()?;
    let location = format!("{}:{}", socket.display(), cluster.port());
    let agents = answer.as_array()?;
    agents.iter().filter_map(|agent| agent["sources"].as_array()).flatten().find(|one| one["location"] == *location)
}

#[tokio::test]
async fn what_the_programs_print_protects_a_cluster() -> Result<()> {
    let cluster = Cluster::builder(Version::V15).hba("local all all peer\n").start().await?;
    let mut fleet = Fleet::builder().without_restore_key().start().await?;
    let brctl = fleet.brctl().clone();
    let status = brctl.ok(&["status", "-o", "table"]).await?;
    ensure!(status.contains("agent discover"), "an empty installation says what to do: {status}");

    let answer = brctl.json(&["agent", "discover", "--agent", AGENT]).await?;
    let found = found_at(&answer, &cluster).with_context(|| format!("the cluster is found: {answer:#}"))?;
    ensure!(found["ready"] == false, "nobody made a role yet: {found:#}");
    let name = text(found, "name")?;
    let for_people = brctl.ok(&["agent", "discover", "-o", "table"]).await?;
    ensure!(for_people.contains("CREATE ROLE breakwater") && for_people.contains("kind: Plan"), "{for_people}");
    fleet.apply(text(found, "suggestion_yaml")?).await?;
    fleet.apply(&plan_yaml("nightly", &[name])).await?;

    // Declared, but not protected: no word for that is a good one.
    let protection = async || -> Result<String> {
        let status = brctl.json(&["status"]).await?;
        Ok(text(rows(&status["sources"], "sources")?.first().context("the source is shown")?, "protection")?.to_owned())
    };
    ensure!(protection().await? != "protected");
    let early = brctl.run(&["backup", "run", "nightly", "--wait"]).await?;
    ensure!([3, 4].contains(&early.code()?) && early.stderr.contains("hint:"), "{early}");
    fleet.grant_what_is_missing(name, &cluster).await?;

    let mut ledger = Ledger::start(&cluster, 2, Duration::from_millis(10)).await?;
    ledger.wait_for_more(50).await;
    fleet.backup("nightly").await?;
    wait::until_true("the source to be protected", PATIENCE, async || {
        protection().await.is_ok_and(|word| word == "protected")
    })
    .await;
    ledger.stop().await?;
    let moment = now();
    fleet.recoverable_until(name, "east", moment).await;

    // Restoring takes the other key, which says where it belongs.
    let said = fleet.restore_fails(3, name, &["--latest"], &fleet.target("keyless")).await?;
    ensure!(said.contains("keys") && said.contains("hint:"), "{said}");
    install(&fleet.key("restore"), &fleet.agent_dir(AGENT).join("keys/restore.json"))?;
    let target = fleet.target("latest");
    fleet.restore(name, &["--latest"], &target).await?;
    let verdict = restored::check(Version::V15, &target, &ledger, Moment::at_least(moment)).await?;
    ensure!(verdict.required >= 50, "{verdict:?}");
    fleet.agent().stop().await
}

fn install(key: &Path, place: &Path) -> Result<()> {
    std::fs::copy(key, place).map(drop).context("give the agent a key")
}
