//! A source as declared: the agent that looks after it, and one engine with its settings.

use breakwater_core::{DomainName, Name};
use serde::{Deserialize, Serialize};

/// The `spec` of a `Source`. Exactly one engine section is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourceSpec {
    /// The agent on its host.
    pub agent: Name,
    /// The domain of dedup, keys and erasure; `default` unless said; fixed after the first backup.
    #[serde(default = "default_domain")]
    pub domain: DomainName,
    /// A PostgreSQL cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSettings>,
    /// A SQLite file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<SqliteSettings>,
    /// How its log is received, for engines that have one.
    #[serde(default)]
    pub stream: StreamSettings,
}

/// The `postgres` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PostgresSettings {
    /// How the agent connects: `host=/var/run/postgresql port=5432 user=breakwater passfile=/etc/breakwater/pgpass`.
    pub connection: String,
    /// The data directory, when the server's own answer is not how the agent sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<String>,
    /// The physical replication slot; `breakwater_<source>` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Where the server's programs lie, for restores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_directory: Option<String>,
    /// Which one gives way when the spool is full.
    #[serde(default)]
    pub protect: Protect,
    /// Accept a server that keeps WAL for a slot without bound (`max_slot_wal_keep_size = -1`).
    #[serde(default)]
    pub allow_unbounded_slot: bool,
}

/// Which one gives way when neither regions nor spool can take more log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protect {
    /// The archive: the slot is dropped, the gap recorded, a new base taken.
    #[default]
    Database,
    /// The database: the slot is kept while its disk lasts.
    Archive,
}

/// The `sqlite` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SqliteSettings {
    /// Absolute path of the database file.
    pub path: String,
}

/// The `stream` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StreamSettings {
    /// A tail is cut this long after the first pending byte.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u32,
}

impl Default for StreamSettings {
    fn default() -> Self {
        StreamSettings { interval_ms: default_interval_ms() }
    }
}

/// The one engine section of a source.
#[derive(Clone, Debug)]
pub enum EngineSettings<'a> {
    /// PostgreSQL.
    Postgres(&'a PostgresSettings),
    /// SQLite.
    Sqlite(&'a SqliteSettings),
}

impl SourceSpec {
    /// The engine's section. Checked documents have exactly one.
    pub fn engine(&self) -> Option<EngineSettings<'_>> {
        match (&self.postgres, &self.sqlite) {
            (Some(postgres), None) => Some(EngineSettings::Postgres(postgres)),
            (None, Some(sqlite)) => Some(EngineSettings::Sqlite(sqlite)),
            _ => None,
        }
    }

    /// The engine's word.
    pub fn engine_word(&self) -> &'static str {
        match self.engine() {
            Some(EngineSettings::Postgres(_)) => "postgres",
            Some(EngineSettings::Sqlite(_)) => "sqlite",
            None => "unknown",
        }
    }

    /// The engine's section as JSON, for the agent.
    pub fn settings_json(&self) -> String {
        let json = match self.engine() {
            Some(EngineSettings::Postgres(settings)) => serde_json::to_string(settings),
            Some(EngineSettings::Sqlite(settings)) => serde_json::to_string(settings),
            None => Ok("{}".to_owned()),
        };
        json.expect("settings are plain data")
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.engine().is_none() {
            return Err("spec: exactly one engine section is needed: `postgres` or `sqlite`".to_owned());
        }
        if let Some(sqlite) = self.sqlite.as_ref().filter(|sqlite| !sqlite.path.starts_with('/')) {
            return Err(format!("spec.sqlite.path: `{}` is not an absolute path", sqlite.path));
        }
        if let Some(slot) = self.postgres.as_ref().and_then(|postgres| postgres.slot.as_ref()) {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if slot.is_empty() || slot.len() > 63 || !slot.chars().all(allowed) {
                return Err(format!("spec.postgres.slot: `{slot}` is not a slot name: a-z, 0-9 and _, at most 63"));
            }
        }
        if !(100..=600_000).contains(&self.stream.interval_ms) {
            return Err(format!("spec.stream.intervalMs: {} is not between 100 and 600000", self.stream.interval_ms));
        }
        Ok(())
    }
}

fn default_domain() -> DomainName {
    Name::new("default").expect("`default` is a name")
}

fn default_interval_ms() -> u32 {
    1000
}
