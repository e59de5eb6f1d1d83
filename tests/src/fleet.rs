//! A whole small installation in one temporary directory: regions, keys, a controller, agents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use breakwater_core::Timestamp;
use breakwater_testkit::dirs::temp_dir;
use breakwater_testkit::port::free_port;
use breakwater_testkit::process::Program;
use breakwater_testkit::wait;
use serde_json::Value;
use tempfile::TempDir;

use crate::brctl::{Brctl, moment, rows, text};
use crate::part::Part;
use crate::region::Region;

/// How long a part may take to be ready, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent that every fleet has.
pub const AGENT: &str = "db-1";

/// How a fleet is to be.
#[derive(Clone, Debug)]
pub struct Builder {
    regions: Vec<String>,
    places: BTreeMap<String, PathBuf>,
    remote: BTreeMap<String, String>,
    commit: u32,
    etcd: Option<String>,
    env: Vec<(String, String)>,
    restore_key: bool,
    verified_chunks: bool,
}

/// The programs at work, and where everything lies. Dropping it kills them and removes the directory.
#[derive(Debug)]
pub struct Fleet {
    /// The controller.
    pub controller: Part,
    agents: BTreeMap<String, Part>,
    brctl: Brctl,
    regions: Vec<Region>,
    env: Vec<(String, String)>,
    restore_key: bool,
    port: u16,
    // Last, so that the programs are dead before their files go.
    home: TempDir,
}

impl Builder {
    /// The names of the regions; `east` and `west` otherwise.
    pub fn regions(mut self, names: &[&str]) -> Builder {
        self.regions = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Puts a region into a directory of yours instead of one of the fleet's.
    pub fn place(mut self, region: &str, dir: &Path) -> Builder {
        self.places.insert(region.to_owned(), dir.to_owned());
        self
    }

    /// Puts a region where `url` says, on a server that the test has started.
    pub fn remote(mut self, region: &str, url: &str) -> Builder {
        self.remote.insert(region.to_owned(), url.to_owned());
        self
    }

    /// How many sync regions must hold an object; 1 otherwise.
    pub fn commit(mut self, commit: u32) -> Builder {
        self.commit = commit;
        self
    }

    /// Keeps the controller's state in etcd instead of its own file.
    pub fn etcd(mut self, endpoint: String) -> Builder {
        self.etcd = Some(endpoint);
        self
    }

    /// An environment variable for every program.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps the key that restores away from the agents.
    pub fn without_restore_key(mut self) -> Builder {
        self.restore_key = false;
        self
    }

    /// Lets sources lean on each other's chunks.
    pub fn verified_chunks(mut self) -> Builder {
        self.verified_chunks = true;
        self
    }

    /// Makes the repository, starts the controller and one agent, [`AGENT`], and declares the repository as `main`.
    pub async fn start(self) -> Result<Fleet> {
        let home = temp_dir("fleet")?;
        let place = |name: &String| match self.places.get(name) {
            Some(dir) => dir.clone(),
            None => home.path().join("regions").join(name),
        };
        let region = |name: &String| match self.remote.get(name) {
            Some(url) => Region::remote(name, url),
            None => Region::new(name, place(name)),
        };
        let regions: Vec<Region> = self.regions.iter().map(region).collect();
        for place in ["regions", "keys", "restored"] {
            std::fs::create_dir(home.path().join(place)).with_context(|| format!("make a place for the {place}"))?;
        }

        let port = free_port();
        let controller_dir = home.path().join("controller");
        let mut controller = Program::controller()?.arg("--data-dir").arg(&controller_dir);
        controller = controller.args(["--listen", &format!("127.0.0.1:{port}")]);
        if let Some(etcd) = &self.etcd {
            controller = controller.args(["--etcd", etcd]);
        }
        let controller = Part::new("the controller", with_env(controller, &self.env));
        let brctl = Brctl::with_context(&controller_dir.join("brctl.json"))?;
        let brctl = self.env.iter().fold(brctl, |brctl, (name, value)| brctl.env(name, value));
        let (env, restore_key) = (self.env, self.restore_key);
        let mut fleet = Fleet { controller, agents: BTreeMap::new(), brctl, regions, env, restore_key, port, home };

        fleet.create_repository(self.commit, self.verified_chunks).await?;
        fleet.controller.start()?;
        fleet.controller_is_ready().await;
        fleet.add_agent(AGENT).await?;
        fleet.apply(&fleet.repository_yaml("main", self.commit)).await?;
        Ok(fleet)
    }
}

impl Fleet {
    /// Two regions, `commit: 1`, the embedded store, the key that restores on the agent.
    pub fn builder() -> Builder {
        let regions = vec!["east".to_owned(), "west".to_owned()];
        Builder {
            regions,
            places: BTreeMap::new(),
            remote: BTreeMap::new(),
            commit: 1,
            etcd: None,
            env: Vec::new(),
            restore_key: true,
            verified_chunks: false,
        }
    }

    /// The directory that holds everything.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The controller's data directory.
    pub fn controller_dir(&self) -> PathBuf {
        self.home().join("controller")
    }

    /// The data directory of an agent.
    pub fn agent_dir(&self, name: &str) -> PathBuf {
        self.home().join(format!("agent-{name}"))
    }

    /// The address of the controller.
    pub fn controller_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A key file: `writer`, `restore` or `recovery`.
    pub fn key(&self, kind: &str) -> PathBuf {
        self.home().join("keys").join(format!("{kind}.key"))
    }

    /// The operator's `brctl`.
    pub fn brctl(&self) -> &Brctl {
        &self.brctl
    }

    /// The regions, in the order in which they were named.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// One region. Panics when there is none of that name, which is a mistake of the test.
    pub fn region(&self, name: &str) -> &Region {
        self.regions.iter().find(|region| region.name() == name).expect("the test names one of its regions")
    }

    /// The agent that every fleet has.
    pub fn agent(&mut self) -> &mut Part {
        self.agent_named(AGENT)
    }

    /// An agent. Panics when there is none of that name, which is a mistake of the test.
    pub fn agent_named(&mut self, name: &str) -> &mut Part {
        self.agents.get_mut(name).expect("the test names one of its agents")
    }

    async fn create_repository(&self, commit: u32, verified_chunks: bool) -> Result<()> {
        let mut words = vec!["repository".to_owned(), "create".to_owned(), format!("--commit={commit}")];
        words.extend(verified_chunks.then(|| "--verified-chunks".to_owned()));
        words.extend(self.regions.iter().map(|region| format!("--region={}={}", region.name(), region.url())));
        for (flag, kind) in [("writer-key-out", "writer"), ("key-out", "restore"), ("recovery-key-out", "recovery")] {
            words.push(format!("--{flag}={}", self.key(kind).display()));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.brctl.ok(&words).await.map(drop).context("create the repository")
    }

    /// The fleet's repository as a declaration of the name `name`.
    pub fn repository_yaml(&self, name: &str, commit: u32) -> String {
        let regions: String = self
            .regions
            .iter()
            .map(|region| format!("    - {{name: {}, url: \"{}\"}}\n", region.name(), region.url()))
            .collect();
        format!(
            "apiVersion: breakwater/v1\nkind: Repository\nmetadata: {{name: {name}}}\nspec:\n  commit: {commit}\n  \
             regions:\n{regions}"
        )
    }

    /// Enrols an agent with a new token, gives it the keys and starts it.
    pub async fn add_agent(&mut self, name: &str) -> Result<()> {
        self.enrol(name).await?;
        self.install_keys(name)?;
        let program = Program::agent()?.args(["run", "--data-dir"]).arg(self.agent_dir(name));
        let mut agent = Part::new(&format!("agent {name}"), with_env(program, &self.env));
        agent.start()?;
        self.agents.insert(name.to_owned(), agent);
        self.agent_is(name, "connected").await;
        Ok(())
    }

    /// Enrols an agent with a new token; it has no keys and does not run yet.
    pub async fn enrol(&self, name: &str) -> Result<()> {
        let token = self.brctl.json(&["agent", "token", "create", "--name", name]).await?;
        let program = self.enrolment(name, text(&token, "token")?, text(&token, "ca_pin")?)?;
        program.run().await?.success().map(drop).with_context(|| format!("enrol agent {name}"))
    }

    /// The command that enrols an agent.
    pub fn enrolment(&self, name: &str, token: &str, pin: &str) -> Result<Program> {
        let program = Program::agent()?.args(["enrol", "--controller", &self.controller_url(), "--token", token]);
        Ok(program.args(["--ca-pin", pin, "--data-dir"]).arg(self.agent_dir(name)))
    }

    fn install_keys(&self, agent: &str) -> Result<()> {
        let dir = self.agent_dir(agent).join("keys");
        std::fs::create_dir_all(&dir).context("make the directory of the agent's keys")?;
        let kinds: &[&str] = if self.restore_key { &["writer", "restore"] } else { &["writer"] };
        for kind in kinds {
            // A copy keeps the mode of a file, which is 0600.
            std::fs::copy(self.key(kind), dir.join(format!("{kind}.json")))
                .with_context(|| format!("give the agent its {kind} key"))?;
        }
        Ok(())
    }

    /// Declares objects.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let file = self.home().join("apply.yaml");
        std::fs::write(&file, yaml).context("write the declaration")?;
        self.brctl.ok(&["apply", "-f", &file.display().to_string()]).await.map(drop)
    }

    /// Waits until the controller answers.
    pub async fn controller_is_ready(&self) {
        let ready = async || self.brctl.run(&["agent", "list"]).await.is_ok_and(|answer| answer.status.success());
        wait::until_true("the controller to answer", PATIENCE, ready).await;
    }

    /// Waits until the controller says that an agent is in `state`.
    pub async fn agent_is(&self, name: &str, state: &str) {
        let description = format!("agent {name} to be {state}");
        wait::until_true(&description, PATIENCE, async || {
            let Ok(agents) = self.brctl.json(&["agent", "list"]).await else { return false };
            let Ok(agents) = rows(&agents, "agents") else { return false };
            agents
                .iter()
                .any(|agent| text(agent, "name").ok() == Some(name) && text(agent, "state").ok() == Some(state))
        })
        .await;
    }

    /// Runs a backup of a plan or source to its end, which must be success, and gives its job.
    pub async fn backup(&self, what: &str) -> Result<Value> {
        let answer = self.brctl.json(&["backup", "run", what, "--wait"]).await?;
        only_job(&answer)
    }

    /// The newest job of a source. An error when there is none.
    pub async fn last_job(&self, source: &str) -> Result<Value> {
        let answer = self.brctl.json(&["job", "list", "--source", source, "--limit", "1"]).await?;
        rows(&answer, "jobs")?.first().cloned().with_context(|| format!("source {source} has no job"))
    }

    /// Restores a source with the words that name the moment, for example `["--latest"]`, to its end, which must be success.
    pub async fn restore(&self, source: &str, moment: &[&str], target: &Path) -> Result<Value> {
        let target = target.display().to_string();
        let words = [&["restore", "run", "--source", source, "--target", &target, "--wait"], moment].concat();
        let answer = self.brctl.json(&words).await?;
        only_job(&answer)
    }

    /// A restore that must fail with `code` and leave nothing at its target; what it said.
    pub async fn restore_fails(&self, code: i32, source: &str, moment: &[&str], target: &Path) -> Result<String> {
        let shown = target.display().to_string();
        let words = [&["restore", "run", "--source", source, "--target", &shown, "--wait"], moment].concat();
        let said = self.brctl.fails(code, &words).await?;
        let left = std::fs::read_dir(target).map_or(0, Iterator::count);
        anyhow::ensure!(left == 0, "the refused restore left {left} entries in {shown}");
        Ok(said)
    }

    /// The rows of `brctl lag` for a source by region.
    pub async fn lag(&self, source: &str) -> Result<BTreeMap<String, Value>> {
        let answer = self.brctl.json(&["lag", "--source", source]).await?;
        let rows = rows(&answer, "rows")?.iter().map(|row| Ok((text(row, "region")?.to_owned(), row.clone())));
        rows.collect()
    }

    /// Waits until a region's recoverable point of a source has reached a time.
    pub async fn recoverable_until(&self, source: &str, region: &str, time: Timestamp) {
        let description = format!("the recoverable point of {source} in {region} to reach {time}");
        wait::until_true(&description, PATIENCE, async || {
            let Ok(rows) = self.lag(source).await else { return false };
            rows.get(region).and_then(|row| moment(row, "recoverable").ok()).is_some_and(|at| at >= time)
        })
        .await;
    }

    /// A fresh directory for a restore, below one that the database's user can reach. It is not there yet.
    pub fn target(&self, name: &str) -> PathBuf {
        self.home().join("restored").join(name)
    }
}

fn with_env(program: Program, env: &[(String, String)]) -> Program {
    env.iter().fold(program, |program, (name, value)| program.env(name, value))
}

/// The job of an answer that is about exactly one.
pub fn only_job(answer: &Value) -> Result<Value> {
    if answer.get("id").is_some() {
        return Ok(answer.clone());
    }
    let jobs = rows(answer, "jobs")?;
    anyhow::ensure!(jobs.len() == 1, "wanted one job: {answer:#}");
    Ok(jobs[0].clone())
}
