//! A SQLite database there and back through the real program: `dev` in the background, everything else as a script types
//! it, and at the end without any of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::process::{Finished, Program, Running};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A home with a database, a running `dev` and a way to talk to it.
struct Bench {
    home: tempfile::TempDir,
    dev: Running,
}

fn program(home: &Path) -> Program {
    Program::new(env!("CARGO_BIN_EXE_brctl")).env("HOME", home).env("XDG_CONFIG_HOME", "")
}

fn start(home: &Path) -> Result<Running> {
    program(home).args(["dev", "--listen", "127.0.0.1:0", "--data-dir"]).arg(home.join("data")).start("dev")
}

impl Bench {
    async fn new() -> Result<Bench> {
        let home = temp_dir("brctl")?;
        let database = rusqlite::Connection::open(home.path().join("app.db"))?;
        database.execute_batch("pragma journal_mode = wal; create table t (x); insert into t values (1), (2);")?;
        let mut dev = start(home.path())?;
        dev.wait_for_line("ready", PATIENCE).await;
        Ok(Bench { home, dev })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    async fn run(&self, words: &[&str]) -> Result<Finished> {
        let context = self.path("data/brctl.json");
        program(self.home.path()).args(words).env("BRCTL_CONTEXT_FILE", context).run().await
    }

    async fn json(&self, words: &[&str]) -> Result<Value> {
        self.run(words).await?.json()
    }

    /// Declares the database.
    async fn declare(&self) -> Result<()> {
        let yaml = format!(
            "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: app}}\nspec: {{agent: local, sqlite: {{path: \"{}\"}}}}\n\
             ---\napiVersion: breakwater/v1\nkind: Plan\nmetadata: {{name: nightly}}\nspec: {{repository: main, sources: [app]}}\n",
            self.path("app.db").display()
        );
        std::fs::write(self.path("app.yaml"), yaml)?;
        let file = self.path("app.yaml").display().to_string();
        let dry = self.json(&["apply", "-f", &file, "--dry-run=server"]).await?;
        ensure!(dry[0]["action"] == "created", "{dry:#}");
        self.run(&["get", "source", "app"]).await?.failure(6)?;
        ensure!(self.run(&["diff", "-f", &file]).await?.code()? == 20);
        self.json(&["apply", "-f", &file]).await?;
        ensure!(self.run(&["diff", "-f", &file]).await?.code()? == 0, "what was applied is not a change any more");
        Ok(())
    }
}

fn values(directory: &Path) -> Result<Vec<i64>> {
    let database = rusqlite::Connection::open(directory.join("app.db"))?;
    let mut statement = database.prepare("select x from t order by x")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn there_and_back_with_a_controller_and_without() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench.declare().await?;
    let status = bench.json(&["status"]).await?;
    ensure!(status["sources"][0]["protection"] == "never", "nothing is green before it is backed up: {status:#}");

    let jobs = bench.json(&["backup", "run", "nightly", "--wait"]).await?;
    ensure!(jobs[0]["state"] == "succeeded", "{jobs:#}");
    let snapshot = jobs[0]["snapshot_id"].as_str().context("the job names its snapshot")?.to_owned();
    let listed = bench.json(&["snapshot", "list", "--source", "app"]).await?;
    ensure!(listed[0]["id"] == snapshot.as_str() && listed[0]["consistent_at"].is_string(), "{listed:#}");
    let shown = bench.json(&["snapshot", "show", &snapshot]).await?;
    ensure!(shown["engine"] == "sqlite", "{shown:#}");

    let target = bench.path("restored").display().to_string();
    let restore = ["restore", "run", "--source", "app", "--latest", "--target", &target];
    let preview = bench.json(&[&restore[..], &["--preview"]].concat()).await?;
    ensure!(preview["refused"].is_null() && preview["base"]["snapshot"] == snapshot.as_str(), "{preview:#}");
    ensure!(!Path::new(&target).exists(), "a preview writes nothing");
    // One event a line, the last one is the end.
    let lines = bench.run(&[&restore[..], &["--wait", "-o", "ndjson"]].concat()).await?.success()?;
    let last: Value = serde_json::from_str(lines.lines().last().context("there are events")?)?;
    ensure!(last["state"] == "succeeded" && last["kind"] == "restore", "{last:#}");
    ensure!(values(Path::new(&target))? == [1, 2]);

    // The same again has its target in the way: the exit code is the job's.
    let again = bench.run(&[&restore[..], &["--wait"]].concat()).await?;
    ensure!(again.code()? == 4 && again.stderr.contains(&target) && again.stderr.contains("hint:"), "{again}");
    let jobs: Value = serde_json::from_str(&again.stdout)?;
    ensure!(jobs[0]["state"] == "failed" && jobs[0]["failure"]["class"] == "refused", "{jobs:#}");

    // What another command may rely on.
    ensure!(bench.run(&["get", "source", "-o", "name"]).await?.success()? == "app\n");
    let yaml = bench.run(&["get", "plan", "nightly", "-o", "yaml"]).await?.success()?;
    std::fs::write(bench.path("again.yaml"), yaml)?;
    let again = bench.json(&["apply", "-f", &bench.path("again.yaml").display().to_string()]).await?;
    ensure!(again[0]["action"] == "unchanged", "what `get -o yaml` prints is what was declared: {again:#}");
    bench.run(&["delete", "source", "app"]).await?.failure(4)?;
    bench.run(&["delete", "source", "app", "--yes=other"]).await?.failure(4)?;
    bench.run(&["get", "source", "app"]).await?.success()?;
    let table = bench.run(&["status", "-o", "table"]).await?.success()?;
    ensure!(table.contains("app") && table.contains("protected"), "{table}");

    ensure!(bench.dev.terminate(PATIENCE).await?.success(), "it ends well when it is asked to");
    without_a_controller(&bench, &snapshot).await
}

/// Controller and agent are gone; a region and the recovery key are left.
async fn without_a_controller(bench: &Bench, snapshot: &str) -> Result<()> {
    for gone in ["agent", "state.redb", "pki"] {
        let path = bench.path("data").join(gone);
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    std::fs::rename(bench.path("data/regions/one"), bench.path("gone"))?;
    let region = bench.path("data/regions/two").display().to_string();
    let offline = async |key: &str, region: &str, words: &[&str]| {
        let program = program(bench.home.path()).env("BRCTL_KEY", bench.path(key)).env("BRCTL_REPOSITORY", region);
        program.arg("--offline").args(words).run().await
    };
    let recovery = "data/keys/recovery.key";
    let listed = offline(recovery, &region, &["snapshot", "list"]).await?.json()?;
    ensure!(listed[0]["id"] == snapshot, "{listed:#}");
    offline(recovery, &region, &["repository", "check", "--read-data"]).await?.success()?;
    let target = bench.path("by-hand").display().to_string();
    let restored = offline(recovery, &region, &["restore", "run", "--latest", "--target", &target]).await?.json()?;
    ensure!(restored["snapshot"] == snapshot && restored["recovered"] == true, "{restored:#}");
    ensure!(values(Path::new(&target))? == [1, 2]);

    let says = |ended: Finished, code: i32, word: &str| -> Result<()> {
        let said = ended.failure(code)?;
        ensure!(said.contains(word), "the error names `{word}`: {said}");
        Ok(())
    };
    let elsewhere = bench.path("elsewhere").display().to_string();
    let latest = ["restore", "run", "--latest", "--target", &elsewhere];
    says(offline(recovery, &region, &["restore", "run", "--latest", "--target", &target]).await?, 4, &target)?;
    says(offline("data/keys/writer.json", &region, &latest).await?, 3, "writer")?;
    says(offline("absent.key", &region, &latest).await?, 6, "absent.key")?;
    says(offline("app.yaml", &region, &latest).await?, 3, "app.yaml")?;
    let unknown = ["restore", "run", "--source", "other", "--latest", "--target", &elsewhere];
    says(offline(recovery, &region, &unknown).await?, 6, "`other`")?;
    let unknown = ["restore", "run", "--snapshot", "00ff00ff", "--target", &elsewhere];
    says(offline(recovery, &region, &unknown).await?, 6, "00ff00ff")?;
    let early = ["restore", "run", "--to-time", "2020-01-01T00:00:00Z", "--target", &elsewhere];
    says(offline(recovery, &region, &early).await?, 4, "2020-01-01")?;
    let nowhere = bench.path("nowhere").display().to_string();
    says(offline(recovery, &nowhere, &latest).await?, 8, "nowhere")?;
    ensure!(!Path::new(&elsewhere).exists(), "what was refused wrote nothing");

    let other = bench.path("other");
    std::fs::create_dir(&other)?;
    let create = program(bench.home.path()).args(["repository", "create", "--region"]);
    let create = create.arg(format!("one={}", other.join("r1").display()));
    let create = ["writer", "key", "recovery"].iter().fold(create, |create, name| {
        let flag = if *name == "key" { "--key-out".to_owned() } else { format!("--{name}-key-out") };
        create.arg(flag).arg(other.join(name))
    });
    create.run().await?.success()?;
    says(offline("other/recovery", &region, &latest).await?, 4, "repository")?;
    Ok(())
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() -> Result<()> {
    let command = format!(
        "for n in 1 2 3; do '{}' completion bash; done | head -c 10; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_brctl")
    );
    let ended = Program::new("/bin/bash").args(["-c", &command]).run().await?;
    ensure!(ended.success().is_ok(), "head has had enough");
    Ok(())
}
