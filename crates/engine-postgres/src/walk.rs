//! The walk over a data directory that changes meanwhile.
//!
//! Invariants: paths come in ascending order of their bytes, a directory before what it holds; memory is that of one
//! directory's names per level; a file that vanishes between two looks is left out, any other failure ends the walk.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use breakwater_engine::{EngineError, EngineErrorKind};

use crate::failure::of_file;
use crate::layout::{Verdict, holds_relations, init_fork_node, is_unlogged, judge, made_again_in_pg_wal};

/// One thing that belongs into the copy.
#[derive(Debug)]
pub(crate) struct Found {
    /// Relative to the data directory.
    pub path: Vec<u8>,
    pub kind: FoundKind,
    pub metadata: Metadata,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FoundKind {
    File,
    Directory,
    Symlink { target: Vec<u8> },
}

/// A walk in progress.
#[derive(Debug)]
pub(crate) struct Walk {
    root: PathBuf,
    major: u32,
    stack: Vec<Level>,
    /// What a person should know about what was left out.
    pub notes: Vec<String>,
}

/// What is left of one directory, last first.
#[derive(Debug)]
struct Level {
    prefix: Vec<u8>,
    steps: Vec<Step>,
    init_nodes: HashSet<u32>,
}

/// Sorted by `key`: a directory's own step is its name, the step into it the name and a slash, because that is where its
/// contents sort among its neighbours (`a`, `a.b`, `a/c`).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    key: Vec<u8>,
    descend: bool,
}

impl Walk {
    /// A walk over the data directory `root` of a server of version `major`. Blocking, as is [`next`](Self::next).
    pub(crate) fn new(root: &Path, major: u32) -> Result<Walk, EngineError> {
        let mut walk = Walk { root: root.to_owned(), major, stack: Vec::new(), notes: Vec::new() };
        walk.enter(Vec::new())?;
        Ok(walk)
    }

    fn absolute(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsString::from_vec(path.to_vec()))
    }

    /// Reads the names of a directory and puts them on the stack. One that vanished is empty.
    fn enter(&mut self, path: Vec<u8>) -> Result<(), EngineError> {
        let absolute = self.absolute(&path);
        let wrap = |error| of_file(format!("cannot list {}", absolute.display()), error);
        let relations = holds_relations(&path);
        let mut prefix = path;
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let entries = match std::fs::read_dir(&absolute) {
            Err(error) if error.kind() == ErrorKind::NotFound && !prefix.is_empty() => return Ok(()),
            other => other.map_err(wrap)?,
        };
        let (mut steps, mut init_nodes) = (Vec::new(), HashSet::new());
        for entry in entries {
            let entry = entry.map_err(wrap)?;
            let name = entry.file_name().into_vec();
            if relations && let Some(node) = init_fork_node(&name) {
                init_nodes.insert(node);
            }
            let is_directory = match entry.file_type() {
                // `pg_wal` may be a link, but there is always something to make in it.
                Ok(kind) => kind.is_dir() || (prefix.is_empty() && name == b"pg_wal"),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(wrap(error)),
            };
            if is_directory {
                let mut key = name.clone();
                key.push(b'/');
                steps.push(Step { key, descend: true });
            }
            steps.push(Step { key: name, descend: false });
        }
        steps.sort_unstable_by(|one, other| other.cmp(one));
        self.stack.push(Level { prefix, steps, init_nodes });
        Ok(())
    }

    /// The next thing that belongs into the copy; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, EngineError> {
        loop {
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            let Some(step) = level.steps.pop() else {
                self.stack.pop();
                continue;
            };
            if is_unlogged(&step.key, &level.init_nodes) {
                continue;
            }
            let mut path = level.prefix.clone();
            path.extend_from_slice(step.key.strip_suffix(b"/").unwrap_or(&step.key));
            let verdict = judge(&path);
            if step.descend {
                match verdict {
                    Verdict::Keep => self.enter(path)?,
                    Verdict::EmptyDirectory if path == b"pg_wal" => self.make_again_in_pg_wal(),
                    Verdict::EmptyDirectory | Verdict::Skip => {}
                }
                continue;
            }
            if verdict == Verdict::Skip {
                continue;
            }
            if let Some(found) = self.look(path, verdict)? {
                return Ok(Some(found));
            }
        }
    }

    /// `pg_wal` is not listed, but what must exist in it is.
    fn make_again_in_pg_wal(&mut self) {
        let steps = made_again_in_pg_wal(self.major)
            .iter()
            .rev()
            .filter_map(|path| path.strip_prefix(b"pg_wal/".as_slice()))
            .map(|name| Step { key: name.to_vec(), descend: false })
            .collect();
        self.stack.push(Level { prefix: b"pg_wal/".to_vec(), steps, init_nodes: HashSet::new() });
    }

    fn look(&mut self, path: Vec<u8>, verdict: Verdict) -> Result<Option<Found>, EngineError> {
        let absolute = self.absolute(&path);
        let wrap = |error| of_file(format!("cannot look at {}", absolute.display()), error);
        let metadata = match absolute.symlink_metadata() {
            // Dropped since the directory was listed; the log knows.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(wrap)?,
        };
        let kind = metadata.file_type();
        if path.starts_with(b"pg_tblspc/") {
            return Err(tablespace_refused(&absolute));
        }
        if verdict == Verdict::EmptyDirectory && kind.is_symlink() {
            // `pg_wal` on a disk of its own is common; the restored cluster gets a plain directory.
            let metadata = std::fs::metadata(&absolute).map_err(wrap)?;
            return Ok(Some(Found { path, kind: FoundKind::Directory, metadata }));
        }
        if kind.is_dir() {
            return Ok(Some(Found { path, kind: FoundKind::Directory, metadata }));
        }
        if kind.is_file() {
            if verdict == Verdict::EmptyDirectory {
                let what = format!("not a directory, as it is in every cluster: {}", absolute.display());
                return Err(EngineError::new(EngineErrorKind::Invalid, what));
            }
            return Ok(Some(Found { path, kind: FoundKind::File, metadata }));
        }
        if kind.is_symlink() {
            return self.link(path, &absolute, metadata).map(Some);
        }
        self.notes.push(format!("left out, neither file nor directory: {}", absolute.display()));
        Ok(None)
    }

    /// A link's target is outside, so it is kept as a link only where nothing of the database can be behind it.
    fn link(&mut self, path: Vec<u8>, absolute: &Path, metadata: Metadata) -> Result<Found, EngineError> {
        let target = std::fs::read_link(absolute)
            .map_err(|error| of_file(format!("cannot read the link {}", absolute.display()), error))?;
        let shown = format!("{} -> {}", absolute.display(), target.display());
        let leads_to_directory = std::fs::metadata(absolute).is_ok_and(|metadata| metadata.is_dir());
        let harmless = !path.contains(&b'/') && (!leads_to_directory || path == b"log" || path == b"pg_log");
        if !harmless {
            let what = format!("a part of the data directory lies elsewhere, behind a symbolic link: {shown}");
            return Err(EngineError::new(EngineErrorKind::Refused, what)
                .hint("move it back into the data directory; only pg_wal and log may be links in this version"));
        }
        self.notes.push(format!("kept as a link, what it leads to is not in the backup: {shown}"));
        Ok(Found { path, kind: FoundKind::Symlink { target: target.as_os_str().as_bytes().to_vec() }, metadata })
    }
}

pub(crate) fn tablespace_refused(path: &Path) -> EngineError {
    EngineError::new(
        EngineErrorKind::Refused,
        format!("the cluster has a tablespace, which this version cannot back up: {}", path.display()),
    )
    .hint("move its tables with ALTER TABLE … SET TABLESPACE pg_default, then DROP TABLESPACE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(root: &Path) -> Vec<String> {
        let mut walk = Walk::new(root, 17).unwrap();
        let mut paths = Vec::new();
        while let Some(found) = walk.next().unwrap() {
            paths.push(String::from_utf8(found.path).unwrap());
        }
        paths
    }

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            if name.ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, name).unwrap();
            }
        }
        dir
    }

    #[test]
    fn paths_ascend_as_bytes() {
        let dir =
            tree(&["base/5/1", "base/5/10", "base/5.x", "base/5-y", "base/50/2", "base/5!", "base/5a", "PG_VERSION"]);
        let found = paths(dir.path());
        let mut sorted = found.clone();
        sorted.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        assert_eq!(found, sorted);
        assert_eq!(found.len(), 11);
    }

    #[test]
    fn what_is_rebuilt_stays_out_and_its_directories_in() {
        let dir = tree(&[
            "PG_VERSION",
            "postmaster.pid",
            "backup_label",
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/x",
            "pg_replslot/mine/state",
            "pg_notify/0000",
            "global/pg_control",
            "global/1262",
            "global/pg_internal.init",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "base/5/16384",
            "base/5/16385",
            "base/5/16385_init",
            "base/5/16385_fsm",
            "base/5/t2_16386",
            "log/server.log",
        ]);
        assert_eq!(
            paths(dir.path()),
            [
                "PG_VERSION",
                "base",
                "base/5",
                "base/5/16384",
                "base/5/16385_init",
                "global",
                "global/1262",
                "log",
                "log/server.log",
                "pg_notify",
                "pg_replslot",
                "pg_wal",
                "pg_wal/archive_status",
            ]
        );
    }

    #[test]
    fn links_are_judged_by_what_may_be_behind_them() {
        let dir = tree(&["PG_VERSION", "base/5/1", "pg_tblspc/"]);
        let outside = tree(&["wal/archive_status/", "log/x", "data/1", "server.crt"]);
        let link =
            |to: &str, at: &str| std::os::unix::fs::symlink(outside.path().join(to), dir.path().join(at)).unwrap();
        link("wal", "pg_wal");
        std::fs::write(dir.path().join("pg_wal.old"), "").unwrap();
        link("log", "log");
        link("server.crt", "server.crt");
        assert_eq!(
            paths(dir.path()),
            [
                "PG_VERSION",
                "base",
                "base/5",
                "base/5/1",
                "log",
                "pg_tblspc",
                "pg_wal",
                "pg_wal.old",
                "pg_wal/archive_status",
                "server.crt",
            ]
        );
        let fails = |at: &str| {
            let mut walk = Walk::new(dir.path(), 15).unwrap();
            let error = loop {
                match walk.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{at} was accepted"),
                    Err(error) => break error,
                }
            };
            std::fs::remove_file(dir.path().join(at)).unwrap();
            assert!(error.to_string().contains(at), "{error}");
            assert_eq!(error.kind, EngineErrorKind::Refused);
        };
        link("data", "base/7");
        fails("base/7");
        link("data/1", "base/5/2");
        fails("base/5/2");
        link("data", "pg_xact");
        fails("pg_xact");
        link("data", "pg_tblspc/16384");
        fails("pg_tblspc/16384");
    }

    #[test]
    fn a_file_that_vanishes_is_left_out_and_one_that_cannot_be_listed_ends_the_walk() {
        let dir = tree(&["a/1", "a/2", "b/3"]);
        let mut walk = Walk::new(dir.path(), 15).unwrap();
        assert_eq!(walk.next().unwrap().unwrap().path, b"a");
        assert_eq!(walk.next().unwrap().unwrap().path, b"a/1");
        std::fs::remove_file(dir.path().join("a/2")).unwrap();
        assert_eq!(walk.next().unwrap().unwrap().path, b"b");
        std::fs::remove_dir_all(dir.path().join("b")).unwrap();
        assert!(walk.next().unwrap().is_none());
        assert!(Walk::new(&dir.path().join("none"), 15).is_err());
    }
}
