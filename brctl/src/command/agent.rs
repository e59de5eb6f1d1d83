//! `agent`: who looks after sources, and how they join.

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::args::agent::{AgentCommand, TokenCommand};
use crate::command::{Desk, Ended, Ending, source};
use crate::failure::Failure;
use crate::output::moment::rfc3339;
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;
use crate::view;

const AGENTS: Listing = Listing {
    columns: &[
        Column::new("NAME", "/name", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("LAST SEEN", "/last_seen", Kind::Age),
        Column::new("SOURCES", "/sources", Kind::Text),
        Column::new("JOBS", "/running_jobs", Kind::Text),
        Column::new("HOST", "/host", Kind::Text),
        Column::new("VERSION", "/version", Kind::Text),
        Column::wide("CERTIFICATE EXPIRES", "/certificate_expires", Kind::Moment),
        Column::wide("UID", "/uid", Kind::Id),
    ],
    name: "/name",
    empty: "no agent is enrolled (brctl agent token create makes a token for one)",
};

const TOKENS: Listing = Listing {
    columns: &[
        Column::new("ID", "/id", Kind::Text),
        Column::new("AGENT", "/agent_name", Kind::Text),
        Column::new("STATE", "/state", Kind::Text),
        Column::new("EXPIRES", "/expires", Kind::Age),
    ],
    name: "/id",
    empty: "no token",
};

pub(super) async fn run(desk: &Desk, command: AgentCommand) -> Ended {
    match command {
        AgentCommand::Discover { agent } => source::discover(desk, agent.unwrap_or_default()).await,
        AgentCommand::List => {
            let agents = agents(desk, "").await?;
            desk.output.list(&AGENTS, &agents.iter().map(view::agent).collect::<Vec<_>>())?;
            Ok(Ending::OK)
        }
        AgentCommand::Show { name } => {
            let agents = agents(desk, &name).await?;
            let value = agents.first().map(view::agent).unwrap_or_default();
            desk.output.item(&value, &name, || yaml(&value))?;
            Ok(Ending::OK)
        }
        AgentCommand::Lock { name, reason } => lock(desk, name, true, reason).await,
        AgentCommand::Unlock { name } => lock(desk, name, false, String::new()).await,
        AgentCommand::Token(command) => token(desk, command).await,
    }
}

/// All agents, or the one of that name.
pub(super) async fn agents(desk: &Desk, name: &str) -> Result<Vec<v1::Agent>, Failure> {
    let client = desk.client()?;
    let request = v1::ListAgentsRequest { name: name.to_owned() };
    Ok(client.call(client.operator().list_agents(request)).await?.agents)
}

async fn lock(desk: &Desk, name: String, locked: bool, reason: String) -> Ended {
    let client = desk.client()?;
    let request = v1::SetAgentLockRequest { name, locked, reason };
    let agent = client.call(client.operator().set_agent_lock(request)).await?;
    let value = view::agent(&agent);
    desk.output.item(&value, &agent.name, || AGENTS.table(std::slice::from_ref(&value), false))?;
    Ok(Ending::OK)
}

async fn token(desk: &Desk, command: TokenCommand) -> Ended {
    let client = desk.client()?;
    match command {
        TokenCommand::Create { name, ttl } => {
            let ttl_seconds = match ttl {
                // Nothing said is 0 on the wire, so less than a second is one.
                Some(ttl) => u32::try_from(ttl.as_secs().max(1))
                    .map_err(|_| Failure::new(ErrorClass::Invalid, "--ttl: too long"))?,
                None => 0,
            };
            let request = v1::CreateTokenRequest { agent_name: name.unwrap_or_default(), ttl_seconds };
            let created = client.call(client.operator().create_token(request)).await?;
            let value = json!({
                "id": created.id,
                "token": created.token,
                "ca_pin": created.ca_pin,
                "expires": rfc3339(created.expires),
                "controller": client.address(),
            });
            desk.output.item(&value, &created.id, || enrolment(&value))?;
        }
        TokenCommand::List => {
            let tokens = client.call(client.operator().list_tokens(v1::ListTokensRequest {})).await?.tokens;
            desk.output.list(&TOKENS, &tokens.iter().map(view::token).collect::<Vec<_>>())?;
        }
        TokenCommand::Revoke { id } => {
            client.call(client.operator().revoke_token(v1::RevokeTokenRequest { id: id.clone() })).await?;
            desk.output.item(&json!({"id": id, "state": "revoked"}), &id, || format!("revoked token {id}\n"))?;
        }
    }
    Ok(Ending::OK)
}

fn enrolment(value: &Value) -> String {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    format!(
        "token:    {}\nexpires:  {}\n\nOn the agent's host:\n  breakwater-agent enrol --controller {} --ca-pin {} --token {} \\\n    --data-dir /var/lib/breakwater-agent\n",
        text("token"),
        text("expires"),
        text("controller"),
        text("ca_pin"),
        text("token"),
    )
}
