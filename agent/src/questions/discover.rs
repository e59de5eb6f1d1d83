//! The databases of this host, and the directories that people fill, with YAML that is ready to apply.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::AgentError;
use crate::patience::{SQL_PATIENCE, answered};
use crate::toolbox::Toolbox;
use crate::wiring::{self, LocalServer};

/// Where programs keep their databases; files that a program has open are found wherever they are.
const DATA_DIRECTORIES: [&str; 4] = ["/var/lib", "/srv", "/opt", "/home"];

/// Where a host keeps its configuration, what it serves, and what its people have.
const FILE_TREES: [&str; 3] = ["/etc", "/srv", "/home"];

/// Roles to look with, the one for backups first.
const ROLES: [&str; 2] = ["breakwater", "postgres"];

/// How deep and how far the search goes: a look around, not a scan of the disk.
const DEPTH: usize = 5;
const ENTRIES: usize = 20_000;
const SQLITE_FILES: usize = 50;

/// How every SQLite database begins.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

pub(super) async fn discover(tools: &Toolbox) -> Result<Value, AgentError> {
    let mut known = BTreeSet::new();
    let mut trees = file_trees();
    for source in tools.sources.all() {
        let (engine, settings) = (&source.assigned.engine, &source.assigned.settings_json);
        known.extend(wiring::file_of(engine, settings));
        let protected = wiring::directories_of(engine, settings);
        trees.retain(|tree| !protected.iter().any(|directory| tree.starts_with(directory)));
    }
    let look = move || (wiring::local_servers(), sqlite_files(&known));
    let (servers, files) = tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| AgentError::Defect(format!("looking around ended early: {error}")))?;
    let mut sources = Vec::new();
    let mut names = BTreeSet::new();
    for mut server in servers {
        if !names.insert(server.name.clone()) {
            server.name = format!("{}-{}", server.name, server.port);
        }
        sources.push(postgres(tools, &server).await);
    }
    for file in files {
        let size = fs::metadata(&file).map(|metadata| metadata.len()).unwrap_or(0);
        let name = format!("sqlite-{}", name_part(&file.file_stem().unwrap_or_default().to_string_lossy()));
        let section = format!("  sqlite:\n    path: {}\n", quoted(&file.display().to_string()));
        sources.push(json!({
            "engine": "sqlite",
            "name": name,
            "location": file,
            "size_bytes": size,
            "ready": null,
            "suggestion_yaml": yaml(tools, &name, &section),
            "findings": [],
        }));
    }
    for tree in trees {
        let name = format!("files-{}", name_part(&tree.file_name().unwrap_or_default().to_string_lossy()));
        let section = format!("  files:\n    paths: [{}]\n", quoted(&tree.display().to_string()));
        sources.push(json!({
            "engine": "files",
            "name": name,
            "location": tree,
            "size_bytes": null,
            "ready": null,
            "suggestion_yaml": yaml(tools, &name, &section),
            "findings": [],
        }));
    }
    Ok(json!({ "host": tools.host, "agent": tools.agent, "sources": sources }))
}

/// Directories that people fill, as far as they hold anything.
fn file_trees() -> Vec<PathBuf> {
    let holds_anything = |path: &PathBuf| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    FILE_TREES.iter().map(PathBuf::from).filter(holds_anything).collect()
}

/// A server at a socket: looked at with the first role that gets in.
async fn postgres(tools: &Toolbox, server: &LocalServer) -> Value {
    let LocalServer { name, socket_directory, port } = server;
    let host = socket_directory.display();
    let connection = |role: &str| format!("host={host} port={port} user={role} dbname=postgres");
    let mut ready = Value::Bool(false);
    let mut findings = json!([]);
    let (mut size, mut version, mut failure) = (Value::Null, Value::Null, Value::Null);
    for role in ROLES {
        let settings = json!({ "connection": connection(role) }).to_string();
        let Ok(wired) = wiring::engine("postgres", name, &settings, &tools.scratch, &tools.clock) else { continue };
        match answered(SQL_PATIENCE, wired.engine.probe()).await {
            Ok(probe) => {
                // Only the role that backups use tells whether they can be made.
                ready = Value::Bool(probe.is_ready() && role == ROLES[0]);
                size = probe.size_bytes.into();
                version = probe.version.into();
                findings = json!(probe.findings);
                break;
            }
            Err(error) => {
                // Whether or not another role gets in: that of backups has to be made first.
                let text = breakwater_core::Chain(&error).to_string();
                failure = if failure.is_null() { text.into() } else { failure };
            }
        }
    }
    let section = format!("  postgres:\n    connection: {}\n", quoted(&connection(ROLES[0])));
    json!({
        "engine": "postgres",
        "name": name,
        "location": format!("{host}:{port}"),
        "version": version,
        "size_bytes": size,
        "ready": ready,
        "error": failure,
        "suggestion_yaml": yaml(tools, name, &section),
        "findings": findings,
        "lines": [
            "CREATE ROLE breakwater LOGIN REPLICATION;",
            "GRANT pg_read_all_settings TO breakwater;",
            "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO breakwater;  -- 15 and later",
        ],
    })
}

fn yaml(tools: &Toolbox, name: &str, section: &str) -> String {
    let agent = &tools.agent;
    format!("apiVersion: breakwater/v1\nkind: Source\nmetadata:\n  name: {name}\nspec:\n  agent: {agent}\n{section}")
}

/// A YAML scalar in double quotes.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// `text` in the alphabet of names.
fn name_part(text: &str) -> String {
    let mapped: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let trimmed = mapped.trim_matches('-');
    let short: String = trimmed.chars().take(50).collect();
    if short.is_empty() { "db".to_owned() } else { short.trim_end_matches('-').to_owned() }
}

/// SQLite databases that programs have open, and those in the usual places. The files in `known` are not touched: closing
/// a file that a backup of this process is reading would drop its locks.
fn sqlite_files(known: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = process.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        if !is_process || process.file_name().to_str() == Some(&std::process::id().to_string()) {
            continue;
        }
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            if let Ok(path) = fs::read_link(descriptor.path())
                && path.is_absolute()
            {
                consider(&mut found, known, path);
            }
        }
    }
    let mut entries = 0;
    let mut waiting: Vec<(PathBuf, usize)> =
        DATA_DIRECTORIES.iter().map(|directory| (PathBuf::from(directory), 0)).collect();
    while let Some((directory, depth)) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES {
                return found.into_iter().collect();
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEPTH => waiting.push((entry.path(), depth + 1)),
                Ok(kind) if kind.is_file() => consider(&mut found, known, entry.path()),
                _ => {}
            }
        }
    }
    found.into_iter().collect()
}

fn consider(found: &mut BTreeSet<PathBuf>, known: &BTreeSet<PathBuf>, path: PathBuf) {
    let wanted = found.len() < SQLITE_FILES && looks_like_database(&path) && !known.contains(&path);
    if wanted && is_sqlite(&path) {
        found.insert(path);
    }
}

fn looks_like_database(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    matches!(extension, "db" | "sqlite" | "sqlite3" | "db3")
}

fn is_sqlite(path: &Path) -> bool {
    let mut magic = [0; 16];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *SQLITE_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_scalars_are_ready_to_apply() {
        assert_eq!(name_part("My App.v2"), "my-app-v2");
        assert_eq!(name_part("__"), "db");
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
    }

    #[test]
    fn a_database_is_known_by_how_it_begins() {
        let directory = tempfile::tempdir().unwrap();
        let (good, bad) = (directory.path().join("a.db"), directory.path().join("b.db"));
        fs::write(&good, [SQLITE_MAGIC.as_slice(), &[0; 100]].concat()).unwrap();
        fs::write(&bad, "text").unwrap();
        assert!(looks_like_database(&good) && is_sqlite(&good) && !is_sqlite(&bad));
        assert!(!looks_like_database(Path::new("/a/b.txt")));
    }
}
