//! What the controller keeps in its store, as JSON.

use std::collections::BTreeMap;

use breakwater_core::{JobId, Name, SnapshotId, SourceUid, Timestamp, Uid};
use breakwater_planner::job::JobLife;
use serde::{Deserialize, Serialize};

use crate::work::Work;

/// A declared object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Assigned when it was first applied; of a source: what the repository knows it by.
    pub uid: Uid,
    /// When it was first applied.
    pub created: Timestamp,
    /// When it last changed.
    pub changed: Timestamp,
    /// The checked spec.
    pub spec: serde_json::Value,
}

/// An enrolled agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its name.
    pub name: Name,
    /// When it enrolled.
    pub enrolled: Timestamp,
    /// When its newest certificate expires.
    pub certificate_expires: Timestamp,
    /// Why it is locked, if it is.
    pub locked: Option<String>,
    /// Host and version as it last said.
    pub host: String,
    /// The version it last said.
    pub version: String,
}

/// A join token. The token itself is not kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the secret part, hex.
    pub hash: String,
    /// The only name that it enrols, if fixed.
    pub agent_name: Option<Name>,
    /// When it expires.
    pub expires: Timestamp,
    /// The agent that used it.
    pub used_by: Option<Uid>,
    /// Revoked by hand.
    pub revoked: bool,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its namespace.
    pub namespace: Name,
    /// What it is to do.
    pub work: Work,
    /// The source's name, for people; empty for jobs on a repository.
    pub source: String,
    /// The source.
    pub source_uid: Option<SourceUid>,
    /// The plan it came from.
    pub plan: String,
    /// The repository's name.
    pub repository: Name,
    /// The agent that runs it.
    pub agent: Uid,
    /// That agent's name.
    pub agent_name: Name,
    /// When it was accepted.
    pub created: Timestamp,
    /// W3C context of its trace.
    pub traceparent: Option<String>,
    /// Where it is.
    pub life: JobLife,
    /// What the agent said at the end, JSON.
    pub summary: String,
    /// Lifecycle lines for people, oldest first, at most [`JOB_LOG_LINES`].
    pub log: Vec<String>,
}

/// Lifecycle lines kept per job.
pub const JOB_LOG_LINES: usize = 20;

/// The last known condition of a source, so that a new controller does not begin with "never".
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourceSummary {
    /// The newest committed snapshot.
    pub last_snapshot: Option<SnapshotId>,
    /// The moment it shows.
    pub last_consistent_at: Option<Timestamp>,
    /// Per region, the moment of the newest snapshot that it held when the backup ended. What is repaid later is seen in
    /// the agent's reports, so this may lag behind the truth and is never ahead of it.
    #[serde(default)]
    pub held: BTreeMap<String, Timestamp>,
    /// When the last backup ended, on the agent's clock: only a report from after this speaks of it.
    #[serde(default)]
    pub last_ended: Timestamp,
    /// The state of the last ended job and its message.
    pub last_failure: Option<String>,
    /// What the newest snapshot leaves out, when its backup could not read everything.
    #[serde(default)]
    pub last_partial: Option<String>,
    /// The stream as last reported: the encoded protocol message, hex.
    pub stream: Option<String>,
    /// When that was stored.
    pub stored: Timestamp,
}

/// A source deleted on purpose, kept until its agent has given up the log's slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovedSource {
    /// Its name.
    pub name: Name,
    /// Its namespace.
    pub namespace: Name,
    /// The agent that looked after it.
    pub agent: Name,
    /// Its spec when it was deleted.
    pub spec: serde_json::Value,
}
