//! Putting a database file back: it is a database as it lies; here it is only refused where it must not go, and checked.

use std::path::{Path, PathBuf};

use breakwater_engine::{EngineError, EngineErrorKind, RecoveryOutcome, RecoveryRequest, RecoveryTarget, Restorer};

use crate::engine::blocking;
use crate::look::{Facts, Place, damage, facts};
use crate::open::private;

/// Restores SQLite databases. The target is a directory, in which the file gets the name it had.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqliteRestorer;

#[async_trait::async_trait]
impl Restorer for SqliteRestorer {
    async fn check_target(&self, target: &Path, facts: &serde_json::Value) -> Result<(), EngineError> {
        let facts = read_facts(facts)?;
        let target = target.to_owned();
        blocking(move || check_target(&target, &facts)).await
    }

    async fn recover(&self, request: RecoveryRequest) -> Result<RecoveryOutcome, EngineError> {
        let facts = read_facts(&request.facts)?;
        check_stop(&request.stop)?;
        let path = request.target.join(&facts.file_name);
        blocking(move || check_restored(&path, &facts)).await
    }

    async fn prepare(&self, request: RecoveryRequest) -> Result<(), EngineError> {
        let facts = read_facts(&request.facts)?;
        check_stop(&request.stop)?;
        let path = request.target.join(&facts.file_name);
        blocking(move || Place::find(&path).map(drop)).await
    }
}

fn read_facts(facts: &serde_json::Value) -> Result<Facts, EngineError> {
    let facts: Facts = serde::Deserialize::deserialize(facts).map_err(|error| {
        EngineError::new(EngineErrorKind::Corrupt, "the snapshot's facts are not those of a SQLite database")
            .because(error)
    })?;
    // The name becomes a path of this host, so it must be one name and nothing else.
    if Path::new(&facts.file_name).file_name().is_none_or(|name| name != facts.file_name.as_str()) {
        let what = format!("the snapshot names a file that is no file name: `{}`", facts.file_name);
        return Err(EngineError::new(EngineErrorKind::Corrupt, what));
    }
    Ok(facts)
}

fn check_stop(stop: &RecoveryTarget) -> Result<(), EngineError> {
    match stop {
        RecoveryTarget::End | RecoveryTarget::Consistent => Ok(()),
        _ => Err(EngineError::new(
            EngineErrorKind::Refused,
            "a SQLite source has no continuous log to restore a moment from",
        )
        .hint("restore a snapshot: `--latest` or `--snapshot ID`")),
    }
}

fn check_target(target: &Path, facts: &Facts) -> Result<(), EngineError> {
    let refuse = |what: String, hint: &str| Err(EngineError::new(EngineErrorKind::Refused, what).hint(hint));
    match std::fs::metadata(target) {
        Ok(metadata) if !metadata.is_dir() => refuse(
            format!("the target is not a directory: {}", target.display()),
            "name the directory in which the file is to lie",
        ),
        Ok(_) => {
            for side in side_names(&facts.file_name).iter().chain([&facts.file_name]) {
                let path = target.join(side);
                if path.symlink_metadata().is_ok() {
                    return refuse(
                        format!("a file is there already: {}", path.display()),
                        "restore into an empty directory, then move the file when its programs are stopped",
                    );
                }
            }
            writable(target)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent: PathBuf = match target.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            if !parent.is_dir() {
                return refuse(
                    format!("no such directory: {}", parent.display()),
                    "make it first, or choose another target",
                );
            }
            writable(&parent)
        }
        Err(error) => Err(EngineError::io(format!("cannot look at the target: {}", target.display()), error)),
    }
}

/// The files that SQLite would take for part of a database of this name.
fn side_names(file_name: &str) -> [String; 3] {
    ["-wal", "-shm", "-journal"].map(|suffix| format!("{file_name}{suffix}"))
}

fn writable(directory: &Path) -> Result<(), EngineError> {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(|error| {
        EngineError::io(format!("cannot write into the target: {}", directory.display()), error.into())
            .hint("run the restore as a user who may, or choose another target")
    })
}

fn check_restored(path: &Path, facts_then: &Facts) -> Result<RecoveryOutcome, EngineError> {
    let place = Place::find(path)?;
    let connection = private(&place.canonical)?;
    let found = damage(&connection, "integrity_check", &place.canonical)?;
    if !found.is_empty() {
        let what = format!("the restored database is damaged: {}: {}", path.display(), found.join("; "));
        return Err(EngineError::new(EngineErrorKind::Corrupt, what).hint("restore from another region or snapshot"));
    }
    let facts = facts(&connection, &place)?;
    if facts.page_count != facts_then.page_count || facts.page_size != facts_then.page_size {
        let what = format!(
            "the restored database has {} pages of {} bytes instead of {} of {}: {}",
            facts.page_count,
            facts.page_size,
            facts_then.page_count,
            facts_then.page_size,
            path.display()
        );
        return Err(EngineError::new(EngineErrorKind::Corrupt, what).hint("restore from another region or snapshot"));
    }
    let checks = vec![
        "integrity_check: ok".to_owned(),
        format!("{} pages of {} bytes, as backed up", facts.page_count, facts.page_size),
    ];
    Ok(RecoveryOutcome { reached: None, last_transaction: None, checks })
}
