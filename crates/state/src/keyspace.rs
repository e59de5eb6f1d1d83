//! Every key of the control plane, in one table. Nothing else builds or takes apart a key.
//!
//! Values are JSON unless said otherwise; their types live with their owners. The root is `/breakwater/v1/`: a change
//! of meaning that older controllers would misread is a new root.
//!
//! | key under the root | holds |
//! |---|---|
//! | `ns/<namespace>/repository/<name>` | a repository: regions, suite, recipients |
//! | `ns/<namespace>/source/<name>` | a source: what it is, its agent, uid, domain |
//! | `ns/<namespace>/plan/<name>` | a plan: sources, schedule, retention, repository |
//! | `ns/<namespace>/job/<job-id>` | a job that is not finished, or one of the last few that are |
//! | `agent/<agent-uid>` | an enrolled agent: name, certificate serial, capabilities, lock |
//! | `agent-name/<name>` | the uid of the agent that has this name (the register of names) |
//! | `token/<token-id>` | a join token: hash, scope, expiry, uses left; never the token |
//! | `ca/<name>` | certificate authorities and what they issue |
//! | `assign/<agent-uid>` | what the agent is to do: streams and jobs |
//! | `source-uid/<source-uid>` | namespace and name of the source that has this uid (the register of uids) |
//! | `removed/<source-uid>` | a source deleted on purpose, until its agent has given up the log's slot |
//! | `summary/<source-uid>` | the last known condition of a source, at most 64 KiB |
//!
//! Names and namespaces are [`Name`]s and ids are hex, so no part of a key can hold a `/`.

use std::fmt;
use std::str::FromStr;

use breakwater_core::{JobId, Name, SourceUid, Uid};

use crate::error::StateError;

/// What every key begins with.
pub const ROOT: &str = "/breakwater/v1/";

/// The most bytes of the summary of one source.
pub const MAX_SUMMARY: usize = 64 << 10;

/// The kinds of objects that people declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A repository.
    Repository,
    /// A source.
    Source,
    /// A plan.
    Plan,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [ObjectKind; 3] = [ObjectKind::Repository, ObjectKind::Source, ObjectKind::Plan];

    /// The word in keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Repository => "repository",
            ObjectKind::Source => "source",
            ObjectKind::Plan => "plan",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key of the table above. `to_string` builds it, `parse` takes it apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `ns/<namespace>/<kind>/<name>`
    Object {
        /// The namespace.
        namespace: Name,
        /// The kind.
        kind: ObjectKind,
        /// The name.
        name: Name,
    },
    /// `ns/<namespace>/job/<job-id>`
    Job {
        /// The namespace.
        namespace: Name,
        /// The job.
        job: JobId,
    },
    /// `agent/<agent-uid>`
    Agent(Uid),
    /// `agent-name/<name>`
    AgentName(Name),
    /// `token/<token-id>`
    Token(Name),
    /// `ca/<name>`
    Ca(Name),
    /// `assign/<agent-uid>`
    Assign(Uid),
    /// `source-uid/<source-uid>`
    SourceUid(SourceUid),
    /// `removed/<source-uid>`
    Removed(SourceUid),
    /// `summary/<source-uid>`
    Summary(SourceUid),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ROOT)?;
        match self {
            Key::Object { namespace, kind, name } => write!(f, "ns/{namespace}/{kind}/{name}"),
            Key::Job { namespace, job } => write!(f, "ns/{namespace}/job/{job}"),
            Key::Agent(agent) => write!(f, "agent/{agent}"),
            Key::AgentName(name) => write!(f, "agent-name/{name}"),
            Key::Token(token) => write!(f, "token/{token}"),
            Key::Ca(name) => write!(f, "ca/{name}"),
            Key::Assign(agent) => write!(f, "assign/{agent}"),
            Key::SourceUid(source) => write!(f, "source-uid/{source}"),
            Key::Removed(source) => write!(f, "removed/{source}"),
            Key::Summary(source) => write!(f, "summary/{source}"),
        }
    }
}

impl FromStr for Key {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        let unknown = || StateError::invalid(format!("`{text}` is not a key of the control plane"));
        let key = text.strip_prefix(ROOT).and_then(parse).ok_or_else(unknown)?;
        // Ids are also read in other spellings (dashes, capitals); as keys those would be different keys.
        if key.to_string() == text { Ok(key) } else { Err(unknown()) }
    }
}

fn parse(rest: &str) -> Option<Key> {
    let parts: Vec<&str> = rest.split('/').collect();
    Some(match parts.as_slice() {
        ["ns", namespace, "job", job] => Key::Job { namespace: namespace.parse().ok()?, job: job.parse().ok()? },
        ["ns", namespace, kind, name] => Key::Object {
            namespace: namespace.parse().ok()?,
            kind: ObjectKind::ALL.into_iter().find(|known| known.as_str() == *kind)?,
            name: name.parse().ok()?,
        },
        ["agent", agent] => Key::Agent(agent.parse().ok()?),
        ["agent-name", name] => Key::AgentName(name.parse().ok()?),
        ["token", token] => Key::Token(token.parse().ok()?),
        ["ca", name] => Key::Ca(name.parse().ok()?),
        ["assign", agent] => Key::Assign(agent.parse().ok()?),
        ["source-uid", source] => Key::SourceUid(source.parse().ok()?),
        ["removed", source] => Key::Removed(source.parse().ok()?),
        ["summary", source] => Key::Summary(source.parse().ok()?),
        _ => return None,
    })
}

/// The prefix of everything in all namespaces.
pub fn all_namespaces() -> String {
    format!("{ROOT}ns/")
}

/// The prefix of everything in one namespace.
pub fn namespace(namespace: &Name) -> String {
    format!("{ROOT}ns/{namespace}/")
}

/// The prefix of the objects of one kind in one namespace.
pub fn objects(namespace: &Name, kind: ObjectKind) -> String {
    format!("{ROOT}ns/{namespace}/{kind}/")
}

/// The prefix of the jobs of one namespace.
pub fn jobs(namespace: &Name) -> String {
    format!("{ROOT}ns/{namespace}/job/")
}

/// The prefix of all agents.
pub fn agents() -> String {
    format!("{ROOT}agent/")
}

/// The prefix of all join tokens.
pub fn tokens() -> String {
    format!("{ROOT}token/")
}

/// The prefix of the certificate authorities.
pub fn ca() -> String {
    format!("{ROOT}ca/")
}

/// The prefix of all assignments.
pub fn assignments() -> String {
    format!("{ROOT}assign/")
}

/// The prefix of all removed sources.
pub fn removed() -> String {
    format!("{ROOT}removed/")
}

/// The prefix of the summaries of all sources.
pub fn summaries() -> String {
    format!("{ROOT}summary/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_what_they_show() {
        let name = Name::new("pg-main").unwrap();
        let uid = Uid(*b"0123456789abcdef");
        let source = SourceUid(uid);
        let mut keys = vec![
            Key::Job { namespace: name.clone(), job: JobId(uid) },
            Key::Agent(uid),
            Key::AgentName(name.clone()),
            Key::Token(name.clone()),
            Key::Ca(name.clone()),
            Key::Assign(uid),
            Key::SourceUid(source),
            Key::Summary(source),
            Key::Removed(source),
        ];
        for kind in ObjectKind::ALL {
            keys.push(Key::Object { namespace: name.clone(), kind, name: name.clone() });
        }
        for key in &keys {
            assert_eq!(key.to_string().parse::<Key>().unwrap(), *key);
        }
        assert_eq!(keys[0].to_string(), "/breakwater/v1/ns/pg-main/job/30313233343536373839616263646566");
        assert!(keys[0].to_string().starts_with(&jobs(&name)));
        assert!(keys[9].to_string().starts_with(&objects(&name, ObjectKind::Repository)));
        assert!(!keys[2].to_string().starts_with(&agents()), "agents and their names do not mix");
    }

    #[test]
    fn foreign_keys_are_refused() {
        for bad in [
            "",
            "/breakwater/v1/",
            "/breakwater/v2/agent/30313233343536373839616263646566",
            "/breakwater/v1/agent/30313233343536373839616263646566/x",
            "/breakwater/v1/agent/30313233-3435-3637-3839-616263646566",
            "/breakwater/v1/ns/default/volume/x",
            "/breakwater/v1/ns/Default/plan/x",
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }
}
