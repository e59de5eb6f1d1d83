//! Which engines and which kinds of places there are: the only part of this program that names them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_core::{Clock, Name};
use breakwater_engine::{Engine, EngineError, EngineErrorKind, Restorer};
use breakwater_engine_files::{FilesEngine, FilesRestorer, FilesSettings, Root};
use breakwater_engine_postgres::connection::ConnectionSettings;
use breakwater_engine_postgres::wal::{SegmentSize, WalFileName};
use breakwater_engine_postgres::{PostgresEngine, PostgresRestorer, PostgresSettings, Protect};
use breakwater_engine_sqlite::{SqliteEngine, SqliteRestorer, SqliteSettings};
use breakwater_storage::Places;
use breakwater_storage_azure::AzureProvider;
use breakwater_storage_gcs::GcsProvider;
use breakwater_storage_s3::S3Provider;
use breakwater_storage_sftp::SftpProvider;
use serde::Deserialize;

use crate::error::AgentError;

/// Which one gives way when the log of a source can be stored nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GivesWay {
    /// The archive: the log has a gap, the database goes on.
    #[default]
    Archive,
    /// The database, once its disk is full.
    Database,
}

/// The kinds of places that regions may lie in.
pub fn places() -> Places {
    Places::local()
        .with(Arc::new(S3Provider))
        .with(Arc::new(AzureProvider::default()))
        .with(Arc::new(GcsProvider))
        .with(Arc::new(SftpProvider))
}

/// An engine made of a source's settings.
#[derive(Clone, Debug)]
pub struct Wired {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What gives way when its log can be stored nowhere.
    pub gives_way: GivesWay,
}

/// The `postgres` section of a source, as the controller sends it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostgresSection {
    connection: String,
    data_directory: Option<PathBuf>,
    slot: Option<String>,
    program_directory: Option<PathBuf>,
    protect: Option<ProtectWord>,
    #[serde(default)]
    allow_unbounded_slot: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProtectWord {
    Database,
    Archive,
}

/// The `sqlite` section.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SqliteSection {
    path: PathBuf,
}

/// The `files` section.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilesSection {
    paths: Vec<FilesPath>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    exclude_from: Vec<PathBuf>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default = "yes")]
    defaults: bool,
    #[serde(default = "yes")]
    one_file_system: bool,
    #[serde(default = "yes")]
    cache_tags: bool,
    #[serde(default)]
    no_dump: bool,
    max_file_size: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum FilesPath {
    Plain(PathBuf),
    Named { path: PathBuf, name: String },
}

fn yes() -> bool {
    true
}

/// The engine of kind `kind` for the source `name`. Copies that an engine makes lie below `scratch`.
pub fn engine(
    kind: &str,
    name: &str,
    settings_json: &str,
    scratch: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Wired, AgentError> {
    match kind {
        breakwater_engine_postgres::KIND => {
            let section: PostgresSection = section(name, settings_json)?;
            let (settings, gives_way) = postgres_settings(name, section)?;
            Ok(Wired { engine: Arc::new(PostgresEngine::new(settings)), gives_way })
        }
        breakwater_engine_sqlite::KIND => {
            let section: SqliteSection = section(name, settings_json)?;
            let settings = SqliteSettings::new(section.path, scratch);
            let engine = Arc::new(SqliteEngine::new(settings, Arc::clone(clock)));
            Ok(Wired { engine, gives_way: GivesWay::Archive })
        }
        breakwater_engine_files::KIND => {
            let settings = files_settings(name, settings_json, scratch)?;
            let engine = Arc::new(FilesEngine::new(settings, Arc::clone(clock)));
            Ok(Wired { engine, gives_way: GivesWay::Archive })
        }
        _ => Err(unknown(kind)),
    }
}

/// Why `path` is in the backups of a source of kind `kind`, or is not. Blocking.
pub fn explain(
    kind: &str,
    name: &str,
    settings_json: &str,
    scratch: &Path,
    path: &str,
) -> Result<serde_json::Value, AgentError> {
    if kind != breakwater_engine_files::KIND {
        return Err(AgentError::Refused(format!(
            "source `{name}` is of kind `{kind}`, which has no rules for paths (hint: only sources of files have)"
        )));
    }
    let settings = files_settings(name, settings_json, scratch)?;
    let explained = breakwater_engine_files::explain(&settings, path);
    let explained = explained.map_err(AgentError::engine(format!("explaining a path of source `{name}`")))?;
    serde_json::to_value(explained).map_err(|error| AgentError::Defect(format!("an explanation is no JSON: {error}")))
}

/// Directories that a source of kind `kind` protects.
pub fn directories_of(kind: &str, settings_json: &str) -> Vec<PathBuf> {
    if kind != breakwater_engine_files::KIND {
        return Vec::new();
    }
    let Ok(section) = serde_json::from_str::<FilesSection>(settings_json) else { return Vec::new() };
    section.paths.into_iter().map(|path| path.split().0).collect()
}

/// A PostgreSQL server that runs on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalServer {
    /// A name for it as a source.
    pub name: String,
    /// Where its Unix socket is.
    pub socket_directory: PathBuf,
    /// Its port, which is part of the socket's name.
    pub port: u16,
}

/// The PostgreSQL servers that run on this host. Blocking; connects to none.
pub fn local_servers() -> Vec<LocalServer> {
    let running = breakwater_engine_postgres::discover::discover().into_iter().filter(|candidate| candidate.running);
    running
        .filter_map(|candidate| {
            let socket_directory = candidate.socket_directory?;
            Some(LocalServer { name: candidate.name, socket_directory, port: candidate.port })
        })
        .collect()
}

/// What makes databases of restored files, for snapshots of kind `kind`.
pub fn restorer(kind: &str, programs: Option<&Path>) -> Result<Arc<dyn Restorer>, AgentError> {
    match kind {
        breakwater_engine_postgres::KIND => {
            let programs = programs.map(Path::to_owned);
            Ok(Arc::new(PostgresRestorer { program_directory: programs, ..PostgresRestorer::default() }))
        }
        breakwater_engine_sqlite::KIND => Ok(Arc::new(SqliteRestorer)),
        breakwater_engine_files::KIND => Ok(Arc::new(FilesRestorer)),
        _ => Err(unknown(kind)),
    }
}

/// The file, below a restored directory, without which a database of this kind does not start.
pub fn vital_file(kind: &str, facts: &serde_json::Value) -> Option<PathBuf> {
    match kind {
        breakwater_engine_postgres::KIND => Some(PathBuf::from("global/pg_control")),
        breakwater_engine_sqlite::KIND => {
            let name = facts.get("file_name").and_then(serde_json::Value::as_str)?;
            Path::new(name).file_name().map(PathBuf::from)
        }
        _ => None,
    }
}

/// What seems to work on the files in `directory` now, for people; none where nothing does, or nobody can know.
pub fn running_in(kind: &str, directory: &Path) -> Option<String> {
    if kind != breakwater_engine_postgres::KIND {
        return None;
    }
    let text = std::fs::read_to_string(directory.join("postmaster.pid")).ok()?;
    let process: u32 = text.lines().next()?.trim().parse().ok()?;
    let lives = Path::new("/proc").join(process.to_string()).exists();
    lives.then(|| format!("its postmaster.pid names the running process {process}"))
}

/// Where a snapshot of this kind keeps the programs that its source's settings name.
pub fn program_directory(kind: &str, settings_json: &str) -> Option<PathBuf> {
    if kind != breakwater_engine_postgres::KIND {
        return None;
    }
    serde_json::from_str::<PostgresSection>(settings_json).ok()?.program_directory
}

/// The one file that a source consists of, for engines whose sources are files.
pub fn file_of(kind: &str, settings_json: &str) -> Option<PathBuf> {
    if kind != breakwater_engine_sqlite::KIND {
        return None;
    }
    let path = serde_json::from_str::<SqliteSection>(settings_json).ok()?.path;
    Some(std::fs::canonicalize(&path).unwrap_or(path))
}

/// What a database means by the name of a piece of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFile {
    /// The bytes of a branch from `start` on, `size` of them.
    Segment {
        /// The branch.
        branch: u32,
        /// The first offset.
        start: u64,
        /// Bytes.
        size: u64,
    },
    /// The history of a branch.
    History {
        /// The branch.
        branch: u32,
    },
    /// Something that no stream keeps.
    Other,
}

/// Reads the name of a piece of log, as a database of kind `kind` with these facts asks for it.
pub fn log_file(kind: &str, facts: &serde_json::Value, name: &str) -> Result<LogFile, EngineError> {
    if kind != breakwater_engine_postgres::KIND {
        let what = format!("a source of kind `{kind}` has no log files");
        return Err(EngineError::new(EngineErrorKind::Invalid, what));
    }
    let facts = breakwater_engine_postgres::Facts::from_json(facts)?;
    let invalid = |what: String| EngineError::new(EngineErrorKind::Invalid, what);
    let size = SegmentSize::new(facts.segment_size).map_err(|error| invalid(error.to_string()))?;
    Ok(match WalFileName::parse(name, size).map_err(|error| invalid(error.to_string()))? {
        WalFileName::Segment { tli, segno } => {
            LogFile::Segment { branch: tli.0, start: segno.saturating_mul(size.bytes()), size: size.bytes() }
        }
        WalFileName::History { tli } => LogFile::History { branch: tli.0 },
        WalFileName::Partial { .. } | WalFileName::Backup { .. } => LogFile::Other,
    })
}

/// Serves `wal-fetch`: asks the restore at `socket` for `name` and answers the exit code.
pub fn wal_fetch(socket: &Path, name: &str, destination: &Path) -> u8 {
    breakwater_engine_postgres::fetch_client(socket, name, destination)
}

/// The exit code of a `wal-fetch` that nobody can answer.
pub const WAL_FETCH_FAILED: u8 = breakwater_engine_postgres::fetch::EXIT_NO_SERVER;

fn section<'a, T: Deserialize<'a>>(name: &str, json: &'a str) -> Result<T, AgentError> {
    serde_json::from_str(json)
        .map_err(|error| AgentError::Invalid(format!("the settings of source `{name}` are not understood: {error}")))
}

fn postgres_settings(name: &str, section: PostgresSection) -> Result<(PostgresSettings, GivesWay), AgentError> {
    let about = |error: String| AgentError::Invalid(format!("source `{name}`: {error}"));
    let source = Name::new(name).map_err(|error| about(error.to_string()))?;
    let connection: ConnectionSettings =
        section.connection.parse().map_err(|error: breakwater_engine_postgres::connection::ConnectionError| {
            about(format!("spec.postgres.connection: {}", breakwater_core::Chain(&error)))
        })?;
    let mut settings =
        PostgresSettings::new(&source, connection).map_err(AgentError::engine(format!("source `{name}`")))?;
    settings.data_directory = section.data_directory;
    settings.program_directory = section.program_directory;
    settings.allow_unbounded_slot = section.allow_unbounded_slot;
    if let Some(slot) = section.slot {
        settings.slot = slot;
    }
    let gives_way = match section.protect {
        Some(ProtectWord::Archive) => GivesWay::Database,
        Some(ProtectWord::Database) | None => GivesWay::Archive,
    };
    settings.protect = match gives_way {
        GivesWay::Database => Protect::Archive,
        GivesWay::Archive => Protect::Database,
    };
    Ok((settings, gives_way))
}

impl FilesPath {
    /// Where it is, and the name it is shown under, where one is said.
    fn split(self) -> (PathBuf, Option<String>) {
        match self {
            FilesPath::Plain(path) => (path, None),
            FilesPath::Named { path, name } => (path, Some(name)),
        }
    }
}

fn files_settings(name: &str, settings_json: &str, scratch: &Path) -> Result<FilesSettings, AgentError> {
    let section: FilesSection = section(name, settings_json)?;
    let mut roots = Vec::new();
    for one in section.paths {
        let (path, shown) = one.split();
        let root = match shown {
            Some(shown) => Some(Root { name: shown, path: path.clone() }),
            None => Root::named_by_path(path.clone()),
        };
        roots.push(root.ok_or_else(|| {
            AgentError::Invalid(format!(
                "source `{name}`: {} has no last part to be shown under (hint: paths: [{{path: /, name: root}}])",
                path.display()
            ))
        })?);
    }
    let mut settings = FilesSettings::new(name, roots, scratch);
    settings.exclude = section.exclude;
    settings.exclude_from = section.exclude_from;
    settings.include = section.include;
    settings.defaults = section.defaults;
    settings.one_file_system = section.one_file_system;
    settings.cache_tags = section.cache_tags;
    settings.no_dump = section.no_dump;
    settings.max_file_size = section.max_file_size;
    settings.own = vec![own_directory(scratch)];
    Ok(settings)
}

/// The agent's data directory, of which `scratch` is a part: its keys and spools are never backed up.
fn own_directory(scratch: &Path) -> PathBuf {
    let scratch_of_all = scratch.ancestors().find(|above| above.ends_with("scratch"));
    scratch_of_all.and_then(Path::parent).unwrap_or(scratch).to_owned()
}

fn unknown(kind: &str) -> AgentError {
    AgentError::Refused(format!("this agent has no engine `{kind}` (hint: update the agent)"))
}

#[cfg(test)]
mod tests {
    use breakwater_runtime::SystemClock;

    use super::*;

    #[test]
    fn settings_of_a_controller_make_engines() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let make = |kind: &str, json: &str| engine(kind, "pg-main", json, Path::new("/tmp"), &clock);
        let json =
            r#"{"connection":"host=/run/x port=5433 user=b","slot":"s","protect":"archive","allowUnboundedSlot":true}"#;
        let wired = make("postgres", json).unwrap();
        assert_eq!((wired.engine.kind(), wired.gives_way), ("postgres", GivesWay::Database));
        assert_eq!(make("sqlite", r#"{"path":"/a.db"}"#).unwrap().engine.kind(), "sqlite");
        assert_eq!(make("files", r#"{"paths":["/a",{"path":"/","name":"all"}]}"#).unwrap().engine.kind(), "files");
        assert!(make("files", r#"{"paths":["/"]}"#).unwrap_err().to_string().contains("name: root"));
        assert_eq!(own_directory(Path::new("/var/lib/b/scratch/7")), Path::new("/var/lib/b"));
        assert!(make("sqlite", "{}").unwrap_err().to_string().contains("path"));
        assert!(make("oracle", "{}").is_err());
    }
}
