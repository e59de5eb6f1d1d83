//! What a source is: the file, the file system under it, and what SQLite says of itself.

use std::path::{Path, PathBuf};

use breakwater_engine::{EngineError, EngineErrorKind, Finding, Severity};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::open::explain;

/// What a restore wants to find again; the engine's facts in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The name of the database file, which is also the path of the only entry.
    pub file_name: String,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the copy.
    pub page_count: u32,
    /// `wal`, `delete`, … as the source had it.
    pub journal_mode: String,
    /// The version of the library that made the copy.
    pub sqlite_version: String,
}

/// Where the source's file is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The path without symbolic links: what makes this source itself.
    pub canonical: PathBuf,
    /// The name under which a person knows it.
    pub file_name: String,
    /// Metadata of the file.
    pub metadata: std::fs::Metadata,
}

impl Place {
    /// Finds the file, without opening it.
    pub(crate) fn find(path: &Path) -> Result<Place, EngineError> {
        let canonical = path.canonicalize().map_err(|error| {
            EngineError::io(format!("cannot find the database file: {}", path.display()), error)
                .hint("check the path of the source")
        })?;
        let metadata = std::fs::metadata(&canonical).map_err(|error| {
            EngineError::io(format!("cannot look at the database file: {}", canonical.display()), error)
        })?;
        if !metadata.is_file() {
            let what = format!("not a database file but a directory or device: {}", path.display());
            return Err(EngineError::new(EngineErrorKind::Invalid, what).hint("name the file itself"));
        }
        let Some(file_name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            let what = format!("the name of the database file is not UTF-8: {}", path.display());
            return Err(EngineError::new(EngineErrorKind::Invalid, what).hint("use a symbolic link with a plain name"));
        };
        Ok(Place { canonical, file_name, metadata })
    }
}

/// Reads the facts through `connection`.
pub(crate) fn facts(connection: &Connection, place: &Place) -> Result<Facts, EngineError> {
    let read = || -> rusqlite::Result<Facts> {
        Ok(Facts {
            file_name: place.file_name.clone(),
            page_size: connection.pragma_query_value(None, "page_size", |row| row.get(0))?,
            page_count: connection.pragma_query_value(None, "page_count", |row| row.get(0))?,
            journal_mode: connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
            sqlite_version: rusqlite::version().to_owned(),
        })
    };
    read().map_err(|error| explain(&place.canonical, error))
}

/// Runs SQLite's own check of everything; the answer is what it found, nothing when all is well.
pub(crate) fn damage(connection: &Connection, check: &str, path: &Path) -> Result<Vec<String>, EngineError> {
    let read = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("pragma {check}(10)"))?;
        let lines = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    };
    match read() {
        // Some damage stops the check itself.
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            Ok(vec![error.to_string()])
        }
        other => other.map_err(|error| explain(path, error)),
    }
}

/// Judges the file system: SQLite's locks and shared memory work on local ones only.
pub(crate) fn file_system(path: &Path) -> Result<Option<Finding>, EngineError> {
    let answer = rustix::fs::statfs(path).map_err(|error| {
        EngineError::io(format!("cannot look at the file system of {}", path.display()), error.into())
    })?;
    // Only the low 32 bits carry the number, whatever the width and sign of the field are here.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the magic number is 32 bits wide")]
    let magic = answer.f_type as u32;
    Ok(judge_file_system(magic, path))
}

fn judge_file_system(magic: u32, path: &Path) -> Option<Finding> {
    let finding = |severity, what: String, next_step: &str| {
        Some(Finding { severity, what, next_step: next_step.to_owned(), lines: Vec::new() })
    };
    let name = match magic {
        0x6969 => "NFS",
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => "SMB",
        0x0102_1997 => "9p",
        0x5346_414F => "AFS",
        0x00C3_6400 => "Ceph",
        0x0BD0_0BD0 => "Lustre",
        0x6573_5546 => {
            return finding(
                Severity::Warning,
                format!("the database lies on a FUSE file system, which may be remote: {}", path.display()),
                "make sure that every program that writes to it runs on this host",
            );
        }
        _ => return None,
    };
    finding(
        Severity::Blocking,
        format!("the database lies on a network file system ({name}): {}", path.display()),
        "run the agent on the host whose local disk holds the file: SQLite's locks do not reach across hosts",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_and_local_ones_not() {
        let path = Path::new("/x.db");
        for remote in [0x6969, 0xFF53_4D42] {
            assert_eq!(judge_file_system(remote, path).unwrap().severity, Severity::Blocking);
        }
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(judge_file_system(local, path), None);
        }
        assert_eq!(file_system(&std::env::temp_dir()).unwrap(), None);
    }

    #[test]
    fn a_directory_is_not_a_database() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Place::find(dir.path()).unwrap_err().kind, EngineErrorKind::Invalid);
        assert_eq!(Place::find(&dir.path().join("none")).unwrap_err().kind, EngineErrorKind::NotFound);
    }
}
