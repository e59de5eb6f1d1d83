//! A PostgreSQL cluster as a source: a role with the rights that `brctl source check` asks for and no others.

use std::path::Path;

use anyhow::{Context, Result, bail};
use breakwater_testkit::postgres::Cluster;
use serde_json::Value;

use crate::brctl::{rows, text};
use crate::fleet::{AGENT, Fleet};

/// The role as which agents connect.
pub const ROLE: &str = "breakwater";

/// How often the lines of a check are followed before the test gives up: each round may uncover more.
const ROUNDS: usize = 4;

/// The declaration of a PostgreSQL source of the agent [`AGENT`], with more lines for its `postgres` section.
pub fn source_yaml(name: &str, cluster: &Cluster, more: &[&str]) -> String {
    let connection =
        format!("host={} port={} user={ROLE} dbname=postgres", cluster.socket_dir().display(), cluster.port());
    let mut yaml = format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: {name}}}\nspec:\n  agent: {AGENT}\n  postgres:\n    \
         connection: \"{connection}\"\n"
    );
    for line in more {
        yaml.push_str(&format!("    {line}\n"));
    }
    // Where the tests unpack a version, nobody but they would look.
    if let Ok(programs) = cluster.version().bin_dir() {
        yaml.push_str(&format!("    programDirectory: {}\n", programs.display()));
    }
    yaml
}

/// The declaration of a plan that takes sources to the repository `main`.
pub fn plan_yaml(name: &str, sources: &[&str]) -> String {
    format!(
        "apiVersion: breakwater/v1\nkind: Plan\nmetadata: {{name: {name}}}\nspec: {{repository: main, sources: [{}]}}\n",
        sources.join(", ")
    )
}

/// The declaration of a SQLite source of the agent [`AGENT`].
pub fn sqlite_yaml(name: &str, path: &Path) -> String {
    format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: {name}}}\nspec: {{agent: {AGENT}, sqlite: {{path: \
         \"{}\"}}}}\n",
        path.display()
    )
}

impl Fleet {
    /// Declares `cluster` as the source `name` of a plan `<name>-plan`, after giving it a role with exactly the rights that the
    /// check of the source asks for.
    pub async fn protect(&self, name: &str, cluster: &Cluster) -> Result<()> {
        cluster.psql(&format!("create role {ROLE} login")).await?;
        self.apply(&source_yaml(name, cluster, &[])).await?;
        self.grant_what_is_missing(name, cluster).await?;
        self.apply(&plan_yaml(&format!("{name}-plan"), &[name])).await
    }

    /// Follows the lines of `brctl source check` until nothing blocks any more; the role must not end as a superuser.
    pub async fn grant_what_is_missing(&self, source: &str, cluster: &Cluster) -> Result<()> {
        for _ in 0..ROUNDS {
            let blocking = self.blocking(source).await?;
            if blocking.is_empty() {
                let superuser = format!("select rolsuper from pg_roles where rolname = '{ROLE}'");
                anyhow::ensure!(cluster.psql(&superuser).await? == "f", "the role became a superuser");
                return Ok(());
            }
            for finding in &blocking {
                let lines = rows(finding, "lines")?;
                anyhow::ensure!(!lines.is_empty(), "what blocks comes with no line that mends it: {finding:#}");
                for line in lines {
                    follow(cluster, text(finding, "next_step")?, line.as_str().context("a line is text")?).await?;
                }
            }
        }
        bail!("still blocked after {ROUNDS} rounds: {:#?}", self.blocking(source).await?)
    }

    /// Gives the role on another cluster the same rights, and its server the same bound, as the check asks for.
    pub async fn grant(&self, cluster: &Cluster) -> Result<()> {
        self.apply(&source_yaml("for-its-rights", cluster, &[])).await?;
        self.grant_what_is_missing("for-its-rights", cluster).await?;
        self.brctl().ok(&["delete", "source", "for-its-rights", "--yes=for-its-rights"]).await.map(drop)
    }

    /// What stands in the way of protecting a source, as `brctl source check` says.
    pub async fn blocking(&self, source: &str) -> Result<Vec<Value>> {
        // The command itself refuses while anything blocks; the answer is there all the same.
        let run = self.brctl().run(&["source", "check", source, "--output", "json"]).await?;
        let answer: Value =
            serde_json::from_str(&run.stdout).with_context(|| format!("not JSON: the answer of the check\n{run}"))?;
        let findings = rows(answer.get("probe").context("the check says what it found")?, "findings")?;
        let blocking: Vec<Value> =
            findings.iter().filter(|one| text(one, "severity").is_ok_and(|word| word == "blocking")).cloned().collect();
        let expected = if blocking.is_empty() { 0 } else { 4 };
        anyhow::ensure!(run.status.code() == Some(expected), "the exit code does not fit the answer: {run}");
        Ok(blocking)
    }
}

/// Does what a line says: SQL as a superuser, or a line at the head of one of the files that say who gets in.
async fn follow(cluster: &Cluster, next_step: &str, line: &str) -> Result<()> {
    let rule = line.starts_with("local ") || line.starts_with("host ");
    let file = match (rule, next_step.contains("pg_ident.conf") && !line.ends_with(';')) {
        (true, _) => "pg_hba.conf",
        (false, true) => "pg_ident.conf",
        (false, false) => {
            return cluster.psql(line).await.map(drop).with_context(|| format!("follow the line of the check: {line}"));
        }
    };
    let path = cluster.data_dir().join(file);
    let before = std::fs::read_to_string(&path).with_context(|| format!("read {file}"))?;
    std::fs::write(&path, format!("{line}\n{before}")).with_context(|| format!("add a line to {file}"))
}
