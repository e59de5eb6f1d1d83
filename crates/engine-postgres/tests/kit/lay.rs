//! What the pipeline does with entries, in small: read them all and lay them into a directory.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_core::Name;
use breakwater_engine::{BackupEnd, BackupRequest, Engine, EngineError, Entry, EntryKind};
use breakwater_engine_postgres::{PostgresEngine, PostgresSettings};
use breakwater_testkit::postgres::Cluster;

pub(crate) const EXTENT: u32 = 128 * 1024;

pub(crate) fn settings(cluster: &Cluster) -> PostgresSettings {
    let connection = cluster.socket_conninfo().parse().unwrap();
    PostgresSettings {
        allow_unbounded_slot: true,
        ..PostgresSettings::new(&Name::new("test").unwrap(), connection).unwrap()
    }
}

pub(crate) fn engine(cluster: &Cluster) -> PostgresEngine {
    PostgresEngine::new(settings(cluster))
}

pub(crate) fn request(label: &str) -> BackupRequest {
    BackupRequest { label: label.to_owned(), fast: true, extent_size: EXTENT, base: None }
}

/// What a whole backup gave.
#[derive(Debug)]
pub(crate) struct Taken {
    pub entries: Vec<Entry>,
    pub end: BackupEnd,
    /// Damaged pages by path.
    pub damaged: BTreeMap<String, Vec<u64>>,
}

impl Taken {
    pub(crate) fn paths(&self) -> Vec<String> {
        self.entries.iter().map(|entry| String::from_utf8(entry.path.clone()).unwrap()).collect()
    }
}

/// Takes a backup and lays it into `target`, while `between` may do things to the source after each batch.
pub(crate) async fn back_up(
    engine: &PostgresEngine,
    target: &Path,
    mut between: impl AsyncFnMut(usize),
) -> Result<Taken, EngineError> {
    let mut session = engine.begin_backup(request("lay")).await?;
    let (mut entries, mut damaged, mut batches) = (Vec::new(), BTreeMap::new(), 0);
    std::fs::create_dir_all(target).unwrap();
    loop {
        let batch = session.next_entries(100).await?;
        if batch.is_empty() {
            break;
        }
        between(batches).await;
        batches += 1;
        for entry in &batch {
            lay(entry, target, &mut damaged).await?;
        }
        entries.extend(batch);
    }
    let end = session.finish().await?;
    for entry in &end.entries {
        lay(entry, target, &mut damaged).await?;
    }
    for entry in entries.iter().filter(|entry| matches!(entry.kind, EntryKind::Directory)) {
        let path = target.join(std::str::from_utf8(&entry.path).unwrap());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(entry.mode)).unwrap();
    }
    own(target, &entries[0]);
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(0o700)).unwrap();
    Ok(Taken { entries, end, damaged })
}

async fn lay(entry: &Entry, target: &Path, damaged: &mut BTreeMap<String, Vec<u64>>) -> Result<(), EngineError> {
    let name = std::str::from_utf8(&entry.path).unwrap();
    let path: PathBuf = target.join(name);
    match &entry.kind {
        EntryKind::Directory => std::fs::create_dir(&path).unwrap(),
        EntryKind::Symlink { target } => symlink(std::str::from_utf8(target).unwrap(), &path).unwrap(),
        EntryKind::File { size, reader, .. } => {
            let (size, reader) = (*size, Arc::clone(reader));
            let (bytes, pages) = tokio::task::spawn_blocking(move || {
                let (mut bytes, mut pages) = (Vec::new(), Vec::new());
                let mut buffer = vec![0; EXTENT as usize];
                while (bytes.len() as u64) < size {
                    let offset = bytes.len() as u64;
                    let wanted = usize::try_from(size - offset).unwrap().min(buffer.len());
                    let answer = reader.read_at(offset, &mut buffer[..wanted])?;
                    bytes.extend_from_slice(&buffer[..answer.length]);
                    pages.extend(answer.damaged_pages);
                    if answer.length < wanted {
                        break;
                    }
                }
                Ok::<_, EngineError>((bytes, pages))
            })
            .await
            .unwrap()?;
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(entry.mode)).unwrap();
            if !pages.is_empty() {
                damaged.insert(name.to_owned(), pages);
            }
        }
        other => panic!("PostgreSQL has no such entries: {other:?}"),
    }
    own(&path, entry);
    Ok(())
}

fn own(path: &Path, entry: &Entry) {
    if rustix::process::geteuid().is_root() && path.symlink_metadata().is_ok_and(|m| !m.is_symlink()) {
        chown(path, Some(entry.uid), Some(entry.gid)).unwrap();
    }
}

/// Puts the source's log beside the copy, for tests that have no stream.
pub(crate) fn lay_log(cluster: &Cluster, target: &Path) {
    let owner = std::fs::metadata(target).unwrap();
    for file in std::fs::read_dir(cluster.data_dir().join("pg_wal")).unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            let to = target.join("pg_wal").join(file.file_name());
            match std::fs::copy(file.path(), &to) {
                // The server makes segments for later under names of their own and renames them; what it has written is kept.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                copied => drop(copied.unwrap()),
            }
            if rustix::process::geteuid().is_root() {
                use std::os::unix::fs::MetadataExt as _;
                chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
            }
        }
    }
}
