//! A controller and one agent in this process, with file-system regions: what `dev` and `demo` are made of.
//!
//! Invariant: a directory that was used before is continued, never made anew: its repository and keys are created once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use breakwater_agent::identity::Identity;
use breakwater_agent::identity::enrol::{EnrolRequest, enrol};
use breakwater_agent::{Agent, AgentConfig};
use breakwater_controller::{ControllerConfig, StartError};
use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use breakwater_repository::CreateOptions;

use crate::client::Client;
use crate::command::policies::Policies;
use crate::command::repository::{declaration, make};
use crate::context;
use crate::failure::Failure;
use crate::fetch;
use crate::output::{say, yaml};
use crate::settings::ContextChoice;

/// The name of the agent.
pub(crate) const AGENT: &str = "local";

/// The name of the Repository object.
pub(crate) const REPOSITORY: &str = "main";

/// How long the agent may take to be connected.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one answer of our own controller may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Both at work.
#[derive(Debug)]
pub(crate) struct Local {
    directory: PathBuf,
    controller: breakwater_controller::Running,
    agent: breakwater_agent::Running,
    client: Client,
}

impl Local {
    /// Starts both in `directory`. On the first start a repository with a region of each name is made there, the agent
    /// is enrolled and the repository declared.
    pub(crate) async fn start(directory: &Path, listen: SocketAddr, regions: &[&str]) -> Result<Self, Failure> {
        let directory = std::path::absolute(directory).map_err(|error| Failure::io(directory.display(), &error))?;
        make_directory(&directory)?;
        let config = ControllerConfig {
            data_dir: directory.clone(),
            listen,
            advertise: Vec::new(),
            etcd: Vec::new(),
            etcd_ca: None,
            etcd_cert: None,
            etcd_key: None,
        };
        let store = breakwater_controller::wiring::state_store(&config)
            .await
            .map_err(|error| Failure::from(error).doing(format!("cannot start in {}", directory.display())))?;
        let controller = breakwater_controller::start(config, store).await.map_err(|error| {
            if let StartError::Listen { address, source } = &error
                && source.kind() == std::io::ErrorKind::AddrInUse
            {
                return Failure::new(ErrorClass::Conflict, format!("something else serves on {address} already"))
                    .hint("--listen 127.0.0.1:0 takes a free port");
            }
            Failure::from(error).doing(format!("cannot start in {}", directory.display()))
        })?;
        match Self::finish(&directory, &controller, regions).await {
            Ok((agent, client)) => Ok(Local { directory, controller, agent, client }),
            Err(failure) => {
                stopped("the controller", controller.stop().await);
                Err(failure)
            }
        }
    }

    /// Everything that needs the controller.
    async fn finish(
        directory: &Path,
        controller: &breakwater_controller::Running,
        regions: &[&str],
    ) -> Result<(breakwater_agent::Running, Client), Failure> {
        let keys = directory.join("keys");
        let made = make_repository(directory, &keys, regions).await?;
        let choice = ContextChoice { file: Some(controller.context_file.clone()), ..ContextChoice::default() };
        let client = Client::new(&context::find(&choice)?, TIMEOUT)?;
        if let Some(regions) = made {
            let documents = yaml(&declaration(REPOSITORY, &regions, 1));
            let request = v1::ApplyRequest { documents, dry_run: false, namespace: String::new() };
            client.call(client.operator().apply(request)).await?;
            // Only now is the first start over: a crash before this declares it again.
            std::fs::write(declared(&keys), "").map_err(|error| Failure::io(keys.display(), &error))?;
        }
        let data_dir = directory.join("agent");
        let url = format!("https://{}", controller.address);
        if Identity::load(&data_dir)?.is_none() {
            let request = v1::CreateTokenRequest { agent_name: AGENT.to_owned(), ttl_seconds: 60 };
            let token = controller.registrar.create_token(request).await?;
            let request = EnrolRequest {
                controller: url.clone(),
                token: token.token,
                ca_pin: token.ca_pin,
                name: Some(AGENT.to_owned()),
            };
            enrol(&data_dir, &request).await?;
        }
        let mut config = AgentConfig::new(data_dir);
        config.keys = Some(keys);
        config.controller = Some(url);
        config.fetch_program = Some(fetch::own_program()?);
        let agent = Agent::start(config).await?;
        wait_connected(&client).await?;
        Ok((agent, client))
    }

    /// The directory that everything lies in.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The context file of the controller.
    pub(crate) fn context_file(&self) -> &Path {
        &self.controller.context_file
    }

    /// The address of the controller.
    pub(crate) fn address(&self) -> SocketAddr {
        self.controller.address
    }

    /// A client for the controller.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Stops both, the agent first so that its last words are heard.
    pub(crate) async fn stop(self) {
        stopped("the agent", self.agent.stop().await);
        stopped("the controller", self.controller.stop().await);
    }
}

/// The place of a region below a directory.
pub(crate) fn region(directory: &Path, name: &str) -> PathBuf {
    directory.join("regions").join(name)
}

/// The key for the safe. Not a `.json` file, so that the agent does not take it.
pub(crate) fn recovery_key(directory: &Path) -> PathBuf {
    directory.join("keys").join("recovery.key")
}

/// Shows that the repository was declared once; whoever deletes the declaration afterwards meant it.
fn declared(keys: &Path) -> PathBuf {
    keys.join("declared")
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|error| Failure::io(path.display(), &error))
}

/// Makes the repository on the first start. Answers its regions as long as it is still to be declared.
async fn make_repository(
    directory: &Path,
    keys: &Path,
    names: &[&str],
) -> Result<Option<Vec<(String, String)>>, Failure> {
    let regions: Vec<(String, String)> = names
        .iter()
        .map(|name| ((*name).to_owned(), format!("file://{}", region(directory, name).display())))
        .collect();
    let paths = [keys.join("writer.json"), keys.join("restore.json"), recovery_key(directory)];
    if !paths.iter().all(|path| path.is_file()) {
        make_directory(&directory.join("regions"))?;
        make_directory(keys)?;
        private(keys)?;
        let arguments: Vec<String> = regions.iter().map(|(name, url)| format!("{name}={url}")).collect();
        let [writer, restore, recovery] = &paths;
        make(&arguments, &Policies::default(), 1, CreateOptions::default(), &[writer, restore, recovery])
            .await
            .map_err(|failure| {
                failure.hint(format!(
                    "an earlier first start was interrupted: remove {} and start again",
                    directory.display()
                ))
            })?;
    }
    Ok((!declared(keys).exists()).then_some(regions))
}

/// Closes a directory to other users.
fn private(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .map_err(|error| Failure::io(path.display(), &error))
}

async fn wait_connected(client: &Client) -> Result<(), Failure> {
    let connected = async {
        loop {
            let request = v1::ListAgentsRequest { name: AGENT.to_owned() };
            let agents = client.call(client.operator().list_agents(request)).await?.agents;
            match agents.first().map(|agent| agent.state.as_str()) {
                Some("connected") => return Ok(()),
                Some("locked") => {
                    say(format!("agent `{AGENT}` is locked (hint: brctl agent unlock {AGENT})"));
                    return Ok(());
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, connected).await {
        Ok(connected) => connected,
        Err(_) => {
            Err(Failure::new(ErrorClass::Unavailable, format!("agent `{AGENT}` did not connect within {PATIENCE:?}")))
        }
    }
}

fn stopped(what: &str, outcome: Result<(), Vec<String>>) {
    if let Err(tasks) = outcome {
        tracing::warn!(what, ?tasks, "some tasks did not stop in time");
    }
}
