//! A source with two snapshots, and hands that work on its repository with keys of every kind.
//!
//! Invariant: everything that `brctl` says to a hand is kept, so that a test can end by looking for secrets in all of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::process::Finished;
use breakwater_tests::brctl::text;
use breakwater_tests::source::{plan_yaml, sqlite_yaml};
use breakwater_tests::{Brctl, Fleet};
use serde_json::Value;

/// What a database holds: how many rows, and all of them as one text.
pub(crate) type Answer = (i64, String);

/// A fleet with the source `app`, two snapshots of it, and files for keys.
pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    /// In the order in which they were taken.
    pub(crate) snapshots: Vec<String>,
    answers: Vec<Answer>,
    env: BTreeMap<String, String>,
    said: Rc<RefCell<String>>,
}

impl Scene {
    pub(crate) async fn new() -> Result<Scene> {
        let fleet = Fleet::builder().commit(2).start().await?;
        let database = fleet.home().join("app.db");
        fill(&database, 1)?;
        fleet.apply(&format!("{}---\n{}", sqlite_yaml("app", &database), plan_yaml("nightly", &["app"]))).await?;
        let (snapshots, answers, env) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut scene = Scene { fleet, snapshots, answers, env, said: Rc::default() };
        scene.back_up(1).await?;
        scene.back_up(2).await?;
        Ok(scene)
    }

    /// Changes the database and has the agent back it up.
    pub(crate) async fn back_up(&mut self, seed: u64) -> Result<()> {
        let database = self.fleet.home().join("app.db");
        fill(&database, seed)?;
        self.snapshots.push(text(&self.fleet.backup("app").await?, "snapshot_id")?.to_owned());
        self.answers.push(answer(&database)?);
        Ok(())
    }

    /// One more environment variable for the hands.
    pub(crate) fn with_env(mut self, name: &str, value: &str) -> Scene {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A key of the fleet: `writer`, `restore` or `recovery`.
    pub(crate) fn key(&self, kind: &str) -> String {
        self.fleet.key(kind).display().to_string()
    }

    /// A file beside the fleet's keys.
    pub(crate) fn file(&self, name: &str) -> String {
        self.fleet.home().join("keys").join(name).display().to_string()
    }

    /// `brctl` on places with keys, and nothing else.
    pub(crate) fn hand(&self, keys: &[&str], places: &str) -> Result<Brctl> {
        let brctl = Brctl::alone()?.env("BRCTL_REPOSITORY", places);
        let brctl = if let [one] = keys { brctl.env("BRCTL_KEY", one) } else { brctl };
        Ok(self.env.iter().fold(brctl, |brctl, (name, value)| brctl.env(name, value)))
    }

    /// Runs a command on both regions. `check`, `gc` and `key` are those of `repository`.
    pub(crate) async fn run(&self, keys: &[&str], words: &[&str]) -> Result<Finished> {
        let regions = self.fleet.regions().iter().map(|region| format!("{}={}", region.name(), region.url()));
        let hand = self.hand(keys, &regions.collect::<Vec<_>>().join(","))?;
        let mut line = vec!["--offline", "--output", "json"];
        if keys.len() > 1 {
            line.extend(keys.iter().flat_map(|key| ["--key", key]));
        }
        if let Some(&("check" | "gc" | "key")) = words.first() {
            line.push("repository");
        }
        line.extend(words);
        let finished = hand.run(&line).await?;
        self.said.borrow_mut().push_str(&format!("{}\n{}\n", finished.stdout, finished.stderr));
        Ok(finished)
    }

    pub(crate) async fn ok(&self, keys: &[&str], words: &[&str]) -> Result<String> {
        self.run(keys, words).await?.success()
    }

    pub(crate) async fn json(&self, keys: &[&str], words: &[&str]) -> Result<Value> {
        self.run(keys, words).await?.json()
    }

    /// Standard error of a command that must fail with `code`; whatever it printed as data stays.
    pub(crate) async fn fails(&self, code: i32, keys: &[&str], words: &[&str]) -> Result<String> {
        let finished = self.run(keys, words).await?;
        ensure!(finished.code()? == code, "wanted exit code {code}: {finished}");
        ensure!(finished.stderr.contains("error: "), "an error is said: {finished}");
        Ok(finished.stderr)
    }

    /// Restores snapshot number `at`, as it ends, into a directory of its own.
    pub(crate) async fn restore(&self, keys: &[&str], at: usize) -> Result<(Finished, PathBuf)> {
        self.restore_id(keys, "app", &self.snapshots[at]).await
    }

    pub(crate) async fn restore_id(&self, keys: &[&str], source: &str, snapshot: &str) -> Result<(Finished, PathBuf)> {
        let number = std::fs::read_dir(self.fleet.home().join("restored"))?.count();
        let target = self.fleet.target(&format!("{number}"));
        let shown = target.display().to_string();
        let words = ["restore", "run", "--source", source, "--snapshot", snapshot, "--target", &shown];
        let finished = self.run(keys, &words).await?;
        // A refused restore leaves nothing, and the next one has a directory of its own all the same.
        let left = std::fs::read_dir(&target).map_or(0, Iterator::count);
        ensure!(finished.status.success() || left == 0, "a refused restore left {left} entries: {finished}");
        Ok((finished, target))
    }

    /// Restores snapshot number `at`, which must give what was in the database then.
    pub(crate) async fn restores(&self, keys: &[&str], at: usize) -> Result<()> {
        let (finished, target) = self.restore(keys, at).await?;
        finished.success()?;
        ensure!(answer(&target.join("app.db"))? == self.answers[at], "snapshot {at} restores as something else");
        Ok(())
    }

    /// Every pack in each region, with its bytes' hash.
    pub(crate) fn packs(&self) -> Vec<BTreeMap<String, (u64, String)>> {
        let packs = |region: &breakwater_tests::Region| {
            let mut objects = region.objects().unwrap_or_default();
            objects.retain(|name, _| name.contains("/pack/"));
            objects
        };
        self.fleet.regions().iter().map(packs).collect()
    }

    /// The name of the recipient that a key file is for.
    pub(crate) fn recipient_of(&self, key: &str) -> Result<String> {
        let value: Value = serde_json::from_slice(&std::fs::read(key)?)?;
        text(&value, "name").map(str::to_owned)
    }

    /// No secret of any key file that was made is in anything that was said.
    pub(crate) fn no_secret_was_said(&self) -> Result<()> {
        let said = self.said.borrow();
        ensure!(said.len() > 200, "much was said");
        let mut secrets = 0;
        let mut waiting = vec![self.fleet.home().join("keys")];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(std::fs::read_dir(&path)?.filter_map(|entry| Some(entry.ok()?.path())));
                continue;
            }
            let bytes = std::fs::read_to_string(&path)?;
            let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(&bytes) else {
                ensure!(!said.contains(bytes.trim()), "a passphrase was said");
                secrets += 1;
                continue;
            };
            let mut found = Vec::new();
            for name in ["secret", "id_key", "structure_root", "data", "domains"] {
                match fields.get(name) {
                    Some(Value::String(secret)) => found.push(secret.clone()),
                    Some(Value::Object(roots)) => {
                        found.extend(roots.values().filter_map(Value::as_str).map(str::to_owned))
                    }
                    _ => {}
                }
            }
            let grant = fields.get("kind").and_then(Value::as_str) == Some("breakwater-grant");
            ensure!(grant || !found.is_empty(), "no secret is known in {}", path.display());
            for secret in found {
                ensure!(secret.len() >= 64 && !said.contains(&secret), "a secret of {} was said", path.display());
                secrets += 1;
            }
        }
        ensure!(secrets >= 4, "only {secrets} secrets were looked for");
        Ok(())
    }
}

/// A database whose content is another one for every `seed`.
pub(crate) fn fill(path: &Path, seed: u64) -> Result<()> {
    let connection = rusqlite::Connection::open(path)?;
    connection.execute_batch(&format!(
        "create table if not exists t (x); delete from t;
         with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
         insert into t select '{seed}-' || i || hex(randomblob(60)) from n;"
    ))?;
    Ok(())
}

/// What a database answers.
pub(crate) fn answer(path: &Path) -> Result<Answer> {
    let connection = rusqlite::Connection::open(path)?;
    let query = "select count(*), group_concat(x) from (select x from t order by rowid)";
    connection
        .query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .with_context(|| format!("read {}", path.display()))
}

/// A new file that only its owner can read; its path.
pub(crate) fn private(path: &str, content: &str) -> Result<String> {
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path.to_owned())
}

/// Lets others on the host read a file.
pub(crate) fn open_to_others(path: &str) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).context("open a file to others")
}
