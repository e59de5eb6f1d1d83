//! A tree of which the agent may not read everything: the backup is partial and says so everywhere, what it could read restores,
//! and it is whole again once the agent may.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use breakwater_crypto::WriterKey;
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::regions::Role;
use breakwater_repository::{Access, Place, Repository, Selector};
use breakwater_runtime::{SystemClock, SystemEntropy};
use breakwater_storage::Places;
use breakwater_testkit::process::{Program, bin_dir};
use breakwater_testkit::tree::tree_hash;
use breakwater_testkit::user::is_root;
use breakwater_tests::brctl::{rows, text};
use breakwater_tests::fleet::{AGENT, only_job};
use breakwater_tests::part::Part;
use breakwater_tests::source::plan_yaml;
use breakwater_tests::{Brctl, Fleet};
use serde_json::Value;

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// An agent that modes hold back. Root is held back by none, unless it lacks the capabilities for that.
fn agent_held_back(fleet: &Fleet) -> Result<Part> {
    let program = if is_root() {
        let lack = "-dac_override,-dac_read_search";
        Program::new("setpriv")
            .args(["--inh-caps=-all", &format!("--bounding-set={lack}")])
            .arg(bin_dir()?.join("breakwater-agent"))
    } else {
        Program::agent()?
    };
    Ok(Part::new("an agent that modes hold back", program.args(["run", "--data-dir"]).arg(fleet.agent_dir(AGENT))))
}

/// The manifest of the newest snapshot, read from one region with the writer key.
async fn newest_manifest(fleet: &Fleet, region: &str) -> Result<Manifest> {
    let storage = Places::local().open_existing(&fleet.region(region).url()).await.context("open a region")?;
    let places = vec![Place::new(region, Role::Sync, storage)];
    let access = Access::Writer(WriterKey::read(&fleet.key("writer")).context("read the writer key")?);
    let repository = Repository::open(places, access, Arc::new(SystemClock), Arc::new(SystemEntropy)).await?;
    let order = repository.read_order();
    let found = repository.find_snapshot(&order, None, &Selector::Latest).await?;
    Ok(repository.manifest(&order, found.source.uid, found.id, found.session).await?)
}

/// How the source stands, as `brctl status` says.
async fn standing(brctl: &Brctl) -> Result<Value> {
    let run = brctl.run(&["--output", "json", "status"]).await?;
    let status: Value = serde_json::from_str(&run.stdout).with_context(|| format!("not JSON: {run}"))?;
    let docs = rows(&status, "sources")?.iter().find(|source| source["name"] == "docs").cloned();
    docs.with_context(|| format!("no source `docs` in {status:#}"))
}

#[tokio::test]
async fn a_backup_without_what_cannot_be_read_is_partial_and_says_so() -> Result<()> {
    let mut fleet = Fleet::builder().commit(2).start().await?;
    let brctl = fleet.brctl().clone();
    fleet.agent().stop().await?;
    let mut agent = agent_held_back(&fleet)?;
    agent.start()?;
    fleet.agent_is(AGENT, "connected").await;

    let root = fleet.home().join("docs");
    std::fs::create_dir_all(root.join("open"))?;
    std::fs::create_dir_all(root.join("closed"))?;
    for (name, content) in [("open/a", "a"), ("open/secret", "secret"), ("closed/b", "b"), ("z", "z")] {
        std::fs::write(root.join(name), content.repeat(5000))?;
    }
    let whole = fleet.home().join("whole");
    copy(&root, &whole)?;
    set_mode(&root.join("open/secret"), 0)?;
    set_mode(&root.join("closed"), 0)?;
    fleet
        .apply(&format!(
            "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: docs}}\nspec:\n  agent: {AGENT}\n  files: {{paths: [\"{}\"]}}\n---\n{}",
            root.display(),
            plan_yaml("docs-plan", &["docs"])
        ))
        .await?;

    // The job has succeeded, in part, and every answer says what is missing.
    let ended = brctl.run(&["--output", "json", "backup", "run", "docs-plan", "--wait"]).await?;
    ensure!(ended.code()? == 10, "{ended}");
    ensure!(ended.stderr.contains("docs/open/secret") && ended.stderr.contains("hint:"), "{ended}");
    let job = only_job(&serde_json::from_str(&ended.stdout)?)?;
    ensure!(text(&job, "state")? == "succeeded" && text(&job, "outcome")? == "partial", "{job:#}");
    ensure!(job["failure"]["class"] == "partial", "{job:#}");
    let shown = brctl.json(&["job", "show", text(&job, "id")?]).await?;
    ensure!(text(&shown, "outcome")? == "partial", "{shown:#}");
    ensure!(shown["summary"]["unreadable"]["count"] == 2, "{shown:#}");
    let docs = standing(&brctl).await?;
    ensure!(text(&docs, "protection")? == "at-risk" && docs.to_string().contains("docs/open/secret"), "{docs:#}");

    // So does the snapshot itself, in every region, whatever becomes of the controller.
    for region in ["east", "west"] {
        let unreadable = newest_manifest(&fleet, region).await?.unreadable;
        let mut paths: Vec<&str> = unreadable.paths.iter().map(|one| one.path.as_str()).collect();
        paths.sort_unstable();
        ensure!(paths == ["docs/closed", "docs/open/secret"], "{region}: {unreadable:?}");
        ensure!(unreadable.count == 2 && unreadable.paths.iter().all(|one| !one.reason.is_empty()), "{unreadable:?}");
    }

    // Everything else restores; of what was missed nothing is made up.
    let target = fleet.target("partial");
    fleet.restore("docs", &["--latest"], &target).await?;
    let restored = target.join("docs");
    for name in ["open/a", "z"] {
        ensure!(std::fs::read(restored.join(name))? == std::fs::read(whole.join(name))?, "{name}");
    }
    ensure!(restored.join("open/secret").symlink_metadata().is_err(), "an unread file is not made up");
    ensure!(restored.join("closed/b").symlink_metadata().is_err(), "nothing of a closed directory is made up");

    // Once the agent may, the next backup has all of it.
    set_mode(&root.join("open/secret"), 0o644)?;
    set_mode(&root.join("closed"), 0o755)?;
    let job = fleet.backup("docs-plan").await?;
    ensure!(text(&job, "outcome")? == "complete", "{job:#}");
    ensure!(newest_manifest(&fleet, "east").await?.unreadable.is_none());
    let docs = standing(&brctl).await?;
    ensure!(text(&docs, "protection")? == "protected", "{docs:#}");
    let target = fleet.target("whole");
    fleet.restore("docs", &["--latest"], &target).await?;
    ensure!(tree_hash(&target.join("docs"))? == tree_hash(&whole)?, "all of it is back");
    agent.stop().await
}

/// Copies a tree with everything in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().context("run cp")?;
    ensure!(status.success(), "cp -a {} {}", from.display(), to.display());
    Ok(())
}
