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
    /// Directories with everything in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Box<FilesSettings>>,
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

/// The `files` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FilesSettings {
    /// The directories, each shown under its last part or the name given.
    pub paths: Vec<FilesPath>,
    /// Patterns as in `.gitignore`, relative to each directory, the last that matches decides; `!` takes one back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Files of such patterns on the agent's host, one a line; they come before `exclude`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_from: Vec<String>,
    /// Patterns that are taken back whatever excludes them; they come last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Leave out the default set: logs, temporary files, caches.
    #[serde(default = "yes")]
    pub defaults: bool,
    /// Do not enter other file systems.
    #[serde(default = "yes")]
    pub one_file_system: bool,
    /// Leave out the content of directories with a `CACHEDIR.TAG`.
    #[serde(default = "yes")]
    pub cache_tags: bool,
    /// Leave out what carries the flag `nodump`.
    #[serde(default)]
    pub no_dump: bool,
    /// Leave out files with more bytes than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file_size: Option<u64>,
}

/// A directory of a source of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FilesPath {
    /// Shown under its last part.
    Plain(String),
    /// Shown under a name.
    Named {
        /// Where it is.
        path: String,
        /// What it is shown as.
        name: String,
    },
}

impl FilesPath {
    fn path(&self) -> &str {
        match self {
            FilesPath::Plain(path) | FilesPath::Named { path, .. } => path,
        }
    }

    fn shown(&self) -> &str {
        match self {
            FilesPath::Plain(path) => path.trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
            FilesPath::Named { name, .. } => name,
        }
    }
}

impl FilesSettings {
    fn check(&self) -> Result<(), String> {
        if self.paths.is_empty() {
            return Err("spec.files.paths: there is none".to_owned());
        }
        let mut names = std::collections::BTreeSet::new();
        for path in &self.paths {
            let (path, shown) = (path.path(), path.shown());
            if !path.starts_with('/') {
                return Err(format!("spec.files.paths: `{path}` is not an absolute path"));
            }
            if matches!(shown, "" | "." | "..") || shown.contains('/') {
                return Err(format!(
                    "spec.files.paths: `{path}` cannot be shown as `{shown}` (hint: paths: [{{path: {path}, name: root}}])"
                ));
            }
            if !names.insert(shown) {
                return Err(format!(
                    "spec.files.paths: two directories would be shown as `{shown}` (hint: give one a name: {{path: {path}, \
                     name: …}})"
                ));
            }
        }
        match self.exclude_from.iter().find(|path| !path.starts_with('/')) {
            Some(path) => Err(format!("spec.files.excludeFrom: `{path}` is not an absolute path")),
            None => Ok(()),
        }
    }
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
    /// File trees.
    Files(&'a FilesSettings),
}

impl SourceSpec {
    /// The engine's section. Checked documents have exactly one.
    pub fn engine(&self) -> Option<EngineSettings<'_>> {
        match (&self.postgres, &self.sqlite, &self.files) {
            (Some(postgres), None, None) => Some(EngineSettings::Postgres(postgres)),
            (None, Some(sqlite), None) => Some(EngineSettings::Sqlite(sqlite)),
            (None, None, Some(files)) => Some(EngineSettings::Files(files)),
            _ => None,
        }
    }

    /// The engine's word.
    pub fn engine_word(&self) -> &'static str {
        match self.engine() {
            Some(EngineSettings::Postgres(_)) => "postgres",
            Some(EngineSettings::Sqlite(_)) => "sqlite",
            Some(EngineSettings::Files(_)) => "files",
            None => "unknown",
        }
    }

    /// The engine's section as JSON, for the agent.
    pub fn settings_json(&self) -> String {
        let json = match self.engine() {
            Some(EngineSettings::Postgres(settings)) => serde_json::to_string(settings),
            Some(EngineSettings::Sqlite(settings)) => serde_json::to_string(settings),
            Some(EngineSettings::Files(settings)) => serde_json::to_string(settings),
            None => Ok("{}".to_owned()),
        };
        json.expect("settings are plain data")
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.engine().is_none() {
            return Err("spec: exactly one engine section is needed: `postgres`, `sqlite` or `files`".to_owned());
        }
        if let Some(sqlite) = self.sqlite.as_ref().filter(|sqlite| !sqlite.path.starts_with('/')) {
            return Err(format!("spec.sqlite.path: `{}` is not an absolute path", sqlite.path));
        }
        if let Some(files) = &self.files {
            files.check()?;
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

fn yes() -> bool {
    true
}

fn default_interval_ms() -> u32 {
    1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Result<(), String> {
        let text = format!("agent: a\nfiles:\n  paths: [{}]\n", paths.join(", "));
        let spec: SourceSpec = serde_yaml_ng::from_str(&text).map_err(|error| error.to_string())?;
        assert_eq!(spec.engine_word(), "files");
        spec.check()
    }

    #[test]
    fn directories_need_absolute_paths_and_names_of_their_own() {
        files(&["/srv/docs", "{path: /, name: root}", "/lake/bronze/"]).unwrap();
        for (paths, expected) in [
            (&["srv/docs"][..], "not an absolute path"),
            (&["/"], "name: root"),
            (&["/a/docs", "/b/docs"], "two directories would be shown as `docs`"),
            (&["{path: /a, name: b/c}"], "cannot be shown as `b/c`"),
            (&[], "there is none"),
        ] {
            let error = files(paths).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn settings_reach_the_agent_whole_and_both_engines_at_once_are_refused() {
        let text = "agent: a\nfiles: {paths: [/a], exclude: ['*.iso'], maxFileSize: 5, defaults: false}\n";
        let spec: SourceSpec = serde_yaml_ng::from_str(text).unwrap();
        let json: serde_json::Value = serde_json::from_str(&spec.settings_json()).unwrap();
        assert_eq!(json["exclude"][0], "*.iso");
        assert_eq!((json["maxFileSize"].as_u64(), json["defaults"].as_bool()), (Some(5), Some(false)));
        assert_eq!(json["oneFileSystem"], true);
        let both: SourceSpec = serde_yaml_ng::from_str("agent: a\nfiles: {paths: [/a]}\nsqlite: {path: /b}\n").unwrap();
        assert!(both.check().unwrap_err().contains("exactly one engine section"));
    }
}
