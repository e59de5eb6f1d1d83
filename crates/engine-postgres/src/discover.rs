//! Finding the clusters of this host: by their usual places, by running processes, by sockets.
//!
//! Nothing is connected to and nothing is changed. What cannot be read is left out, because a search is no promise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A cluster that was found, with settings ready to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// A name for the source: `pg-15-main`, or `pg-5432`.
    pub name: String,
    /// Its data directory, where it could be told.
    pub data_directory: Option<PathBuf>,
    /// The content of `PG_VERSION`.
    pub version: Option<String>,
    /// The directory of its Unix socket.
    pub socket_directory: Option<PathBuf>,
    /// The port, which is part of the socket's name.
    pub port: u16,
    /// Whether a server runs on it.
    pub running: bool,
    /// A connection string for the role `breakwater`, which may still have to be made.
    pub connection: String,
}

/// Where to look.
#[derive(Clone, Debug)]
struct Places {
    /// Directories whose grandchildren may be data directories: `<parent>/15/main`.
    grandparents: Vec<PathBuf>,
    /// Directories that hold sockets.
    sockets: Vec<PathBuf>,
    /// The process file system.
    processes: PathBuf,
}

/// Finds the clusters of this host. Blocking.
pub fn discover() -> Vec<Candidate> {
    Places {
        grandparents: ["/var/lib/postgresql", "/var/lib/pgsql"].map(PathBuf::from).to_vec(),
        sockets: ["/var/run/postgresql", "/run/postgresql", "/tmp"].map(PathBuf::from).to_vec(),
        processes: PathBuf::from("/proc"),
    }
    .search()
}

impl Places {
    fn search(&self) -> Vec<Candidate> {
        let mut found = BTreeMap::new();
        for directory in self.data_directories() {
            if let Some(candidate) = of_directory(&directory) {
                found.insert(directory, candidate);
            }
        }
        let mut candidates: Vec<Candidate> = found.into_values().collect();
        for (directory, port) in self.open_sockets() {
            let known = |candidate: &Candidate| {
                candidate.running && candidate.port == port && candidate.socket_directory.as_ref() == Some(&directory)
            };
            if !candidates.iter().any(known) {
                candidates.push(candidate(None, None, Some(directory), port, true));
            }
        }
        candidates
    }

    fn data_directories(&self) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = Vec::new();
        for grandparent in &self.grandparents {
            for parent in children(grandparent) {
                directories.extend(children(&parent));
                directories.push(parent);
            }
        }
        for process in children(&self.processes) {
            let command = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            if !["postgres", "postmaster"].contains(&command.trim()) {
                continue;
            }
            // Every process of a server stands in its data directory. One in another mount namespace names a path that is
            // somebody else's here, which its lock file tells.
            let Ok(directory) = std::fs::read_link(process.join("cwd")) else { continue };
            let number = process.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if LockFile::read(&directory).is_some_and(|lock| lock.pid == number) {
                directories.push(directory);
            }
        }
        let mut directories: Vec<PathBuf> = directories
            .into_iter()
            .filter(|dir| dir.join("PG_VERSION").is_file())
            .filter_map(|dir| dir.canonicalize().ok())
            .collect();
        directories.sort();
        directories.dedup();
        directories
    }

    fn open_sockets(&self) -> Vec<(PathBuf, u16)> {
        let mut sockets = Vec::new();
        for directory in &self.sockets {
            let Ok(directory) = directory.canonicalize() else { continue };
            for path in children(&directory) {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if let Some(port) = name.strip_prefix(".s.PGSQL.").and_then(|port| port.parse().ok()) {
                    sockets.push((directory.clone(), port));
                }
            }
        }
        sockets.sort();
        sockets.dedup();
        sockets
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

fn of_directory(directory: &Path) -> Option<Candidate> {
    let version = std::fs::read_to_string(directory.join("PG_VERSION")).ok()?.trim().to_owned();
    let lock = LockFile::read(directory);
    let running = lock.as_ref().is_some_and(|lock| Path::new("/proc").join(&lock.pid).is_dir());
    let port = lock.as_ref().and_then(|lock| lock.port).unwrap_or(5432);
    let socket = lock.and_then(|lock| lock.socket_directory);
    let socket = socket.map(|path| path.canonicalize().unwrap_or(path));
    Some(candidate(Some(directory), Some(version), socket, port, running))
}

fn candidate(
    directory: Option<&Path>,
    version: Option<String>,
    socket_directory: Option<PathBuf>,
    port: u16,
    running: bool,
) -> Candidate {
    let leaf = directory.and_then(|dir| dir.file_name()).map(|name| name.to_string_lossy().to_ascii_lowercase());
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = match (&version, leaf) {
        (Some(version), Some(leaf)) => format!("pg-{version}-{leaf}").chars().map(plain).collect(),
        _ => format!("pg-{port}"),
    };
    let host = socket_directory.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |path| path.display().to_string());
    let host = host.replace('\\', "\\\\").replace('\'', "\\'");
    Candidate {
        name: name.trim_matches('-').to_owned(),
        data_directory: directory.map(Path::to_owned),
        version,
        socket_directory,
        port,
        running,
        connection: format!("host='{host}' port={port} user=breakwater dbname=postgres"),
    }
}

/// The parts of `postmaster.pid` that tell how to reach its server.
struct LockFile {
    pid: String,
    port: Option<u16>,
    socket_directory: Option<PathBuf>,
}

impl LockFile {
    fn read(directory: &Path) -> Option<LockFile> {
        let text = std::fs::read_to_string(directory.join("postmaster.pid")).ok()?;
        let line = |index: usize| text.lines().nth(index).map(str::trim).filter(|line| !line.is_empty());
        Some(LockFile {
            pid: line(0)?.to_owned(),
            port: line(3).and_then(|text| text.parse().ok()),
            socket_directory: line(4).map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ConnectionSettings;

    #[test]
    fn directories_processes_and_sockets_come_together() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().canonicalize().unwrap();
        let data = base.join("lib/15/main");
        let stopped = base.join("lib/13/old");
        let (sockets, elsewhere) = (base.join("run"), base.join("elsewhere"));
        for dir in [&data, &stopped, &sockets, &elsewhere, &base.join("proc/77"), &base.join("proc/78")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        for (dir, version) in [(&data, "15\n"), (&stopped, "13\n"), (&elsewhere, "17\n")] {
            std::fs::write(dir.join("PG_VERSION"), version).unwrap();
        }
        let lock = |pid: u32, port: u16| format!("{pid}\n/x\n1\n{port}\n{}\n*\n", sockets.display());
        std::fs::write(data.join("postmaster.pid"), lock(std::process::id(), 5433)).unwrap();
        std::fs::write(elsewhere.join("postmaster.pid"), lock(77, 5434)).unwrap();
        for pid in ["77", "78"] {
            std::fs::write(base.join("proc").join(pid).join("comm"), "postgres\n").unwrap();
            std::os::unix::fs::symlink(&elsewhere, base.join("proc").join(pid).join("cwd")).unwrap();
        }
        for port in [5433, 6000] {
            std::fs::write(sockets.join(format!(".s.PGSQL.{port}")), "").unwrap();
        }
        let places = Places {
            grandparents: vec![base.join("lib")],
            sockets: vec![sockets.clone()],
            processes: base.join("proc"),
        };
        let found = places.search();
        let names: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.port, one.running)).collect();
        assert_eq!(
            names,
            [
                ("pg-17-elsewhere", 5434, Path::new("/proc/77").is_dir()),
                ("pg-13-old", 5432, false),
                ("pg-15-main", 5433, true),
                ("pg-6000", 6000, true)
            ]
        );
        let settings: ConnectionSettings = found[2].connection.parse().unwrap();
        assert_eq!((settings.socket_dir(), settings.port()), (Some(sockets.as_path()), 5433));
    }
}
