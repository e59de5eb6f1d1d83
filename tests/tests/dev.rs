//! `brctl dev`: everything in one process, and what was backed up is there after a restart.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::process::{Program, Running};
use breakwater_testkit::wait;
use breakwater_tests::Brctl;
use breakwater_tests::brctl::{rows, text};
use breakwater_tests::fleet::only_job;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts it and does what it says to talk to it.
async fn start(dir: &Path) -> Result<(Running, Brctl)> {
    let mut dev =
        Program::brctl()?.args(["dev", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir).start("brctl dev")?;
    let line = dev.wait_for_line("BRCTL_CONTEXT_FILE=", PATIENCE).await;
    let file = line.split("BRCTL_CONTEXT_FILE=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let brctl = Brctl::with_context(Path::new(file.context("the line names a file")?))?;
    let connected = async || {
        let Ok(agents) = brctl.json(&["agent", "list"]).await else { return false };
        rows(&agents, "agents").is_ok_and(|agents| agents.iter().any(|agent| agent["state"] == "connected"))
    };
    wait::until_true("the agent to be connected", PATIENCE, connected).await;
    Ok((dev, brctl))
}

fn values(path: &Path) -> Result<Vec<i64>> {
    let database = rusqlite::Connection::open(path)?;
    let mut statement = database.prepare("select x from t order by x")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn a_snapshot_outlives_the_process() -> Result<()> {
    let dir = temp_dir("dev")?;
    let data = dir.path().join("data");
    let database = dir.path().join("app.db");
    let open = rusqlite::Connection::open(&database)?;
    open.execute_batch("pragma journal_mode = wal; create table t (x); insert into t values (1), (2);")?;

    let (mut dev, brctl) = start(&data).await?;
    let agents = brctl.json(&["agent", "list"]).await?;
    let agent = text(rows(&agents, "agents")?.first().context("there is an agent")?, "name")?.to_owned();
    let repositories = brctl.json(&["get", "repository"]).await?;
    let repository = rows(&repositories, "objects")?.first().context("there is a repository")?;
    let repository = text(&repository["metadata"], "name")?.to_owned();
    let yaml = dir.path().join("app.yaml");
    std::fs::write(
        &yaml,
        format!(
            "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: app}}\nspec: {{agent: {agent}, sqlite: {{path: \
             \"{}\"}}}}\n---\napiVersion: breakwater/v1\nkind: Plan\nmetadata: {{name: nightly}}\nspec: {{repository: \
             {repository}, sources: [app]}}\n",
            database.display()
        ),
    )?;
    brctl.ok(&["apply", "-f", &yaml.display().to_string()]).await?;
    let job = only_job(&brctl.json(&["backup", "run", "nightly", "--wait"]).await?)?;
    let snapshot = text(&job, "snapshot_id")?.to_owned();
    open.execute_batch("insert into t values (3)")?;

    let first = dir.path().join("first");
    let words = ["restore", "run", "--source", "app", "--snapshot", &snapshot, "--wait", "--target"];
    brctl.ok(&[&words[..], &[&first.display().to_string()]].concat()).await?;
    ensure!(values(&the_file(&first)?)? == [1, 2], "the snapshot shows what was there when it was taken");

    ensure!(dev.terminate(PATIENCE).await?.success(), "it ends well when it is asked to");
    let (mut dev, brctl) = start(&data).await?;
    let listed = brctl.json(&["snapshot", "list", "--source", "app"]).await?;
    let listed = rows(&listed, "snapshots")?;
    ensure!(listed.len() == 1 && text(&listed[0], "id")? == snapshot, "{listed:#?}");

    // Also without a goodbye.
    brctl.json(&["backup", "run", "nightly", "--wait"]).await?;
    dev.kill9().await?;
    let (mut dev, brctl) = start(&data).await?;
    let listed = brctl.json(&["snapshot", "list", "--source", "app"]).await?;
    ensure!(rows(&listed, "snapshots")?.len() == 2, "{listed:#}");
    let second = dir.path().join("second");
    let words = ["restore", "run", "--source", "app", "--latest", "--wait", "--target"];
    brctl.ok(&[&words[..], &[&second.display().to_string()]].concat()).await?;
    ensure!(values(&the_file(&second)?)? == [1, 2, 3], "the second snapshot shows the change");
    ensure!(dev.terminate(PATIENCE).await?.success());
    Ok(())
}

/// The only file of a restored SQLite database.
fn the_file(target: &Path) -> Result<std::path::PathBuf> {
    let files: Vec<_> =
        std::fs::read_dir(target)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    ensure!(files.len() == 1, "one file comes back: {files:?}");
    Ok(files[0].clone())
}
