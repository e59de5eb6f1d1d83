//! The mark of incompleteness: what lies in a marked directory is not usable, and a restore that was interrupted there can
//! be continued.
//!
//! Invariant: the mark is durable before anything else in the target changes, and goes only when the last step is durable.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use breakwater_repository::format::manifest::Manifest;
use serde::{Deserialize, Serialize};

use crate::PipelineError;

/// The name of the file that says that a restore has not finished.
pub const MARKER: &str = "RESTORE-IS-INCOMPLETE";

const TEXT: &str = "A Breakwater restore into this directory has not finished. What lies here is not usable.\n\
    Run the restore again with --resume to continue it, or remove the directory.\n";

/// What was being restored, as the second part of the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    snapshot: String,
    session: String,
    only: Vec<String>,
    /// The directory was empty when it was begun, so that everything in it comes from the restore.
    pub(crate) from_nothing: bool,
}

impl Mark {
    pub(crate) fn of(manifest: &Manifest, only: &[String], from_nothing: bool) -> Mark {
        Mark {
            snapshot: manifest.snapshot.to_string(),
            session: manifest.session.to_string(),
            only: only.to_owned(),
            from_nothing,
        }
    }

    /// The same, of a restore into an empty directory.
    pub(crate) fn upon_nothing(&self) -> Mark {
        Mark { from_nothing: true, ..self.clone() }
    }

    /// Whether both are of one restore, wherever it began.
    pub(crate) fn same_restore(&self, other: &Mark) -> bool {
        (&self.snapshot, &self.session, &self.only) == (&other.snapshot, &other.session, &other.only)
    }

    /// Whether it is a restore of everything.
    pub(crate) fn is_whole(&self) -> bool {
        self.only.is_empty()
    }

    /// What the mark in `target` says; none where there is no mark, or one of an unknown form.
    pub(crate) fn read(target: &Path) -> Option<Mark> {
        let text = std::fs::read_to_string(target.join(MARKER)).ok()?;
        text.lines().find_map(|line| serde_json::from_str(line).ok())
    }

    /// Marks the directory, durably. A mark that is there already is replaced at once.
    pub(crate) fn write(&self, target: &Path) -> Result<(), PipelineError> {
        let failed = |error| PipelineError::io(format!("marking the target {}", target.display()), error);
        let json = serde_json::to_string(self)
            .map_err(|error| PipelineError::Defect(format!("the mark of a restore: {error}")))?;
        let mut file = tempfile::NamedTempFile::new_in(target).map_err(failed)?;
        file.write_all(format!("{TEXT}\n{json}\n").as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(target.join(MARKER)).map_err(|error| failed(error.error))?;
        File::open(target).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

/// Takes the mark away: what lies there is usable now.
pub(crate) fn unmark(target: &Path) -> Result<(), PipelineError> {
    let marker = target.join(MARKER);
    let failed = |error| PipelineError::io(format!("removing {}", marker.display()), error);
    std::fs::remove_file(&marker).map_err(failed)?;
    File::open(target).and_then(|directory| directory.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_again_and_tells_restores_apart() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(directory.path()), None);
        let mark = Mark {
            snapshot: "1".to_owned(),
            session: "2".to_owned(),
            only: vec!["a\nb".to_owned()],
            from_nothing: true,
        };
        mark.write(directory.path()).unwrap();
        let other = Mark { from_nothing: false, ..mark.clone() };
        other.write(directory.path()).unwrap();
        let read = Mark::read(directory.path()).unwrap();
        assert_eq!(read, other);
        assert!(read.same_restore(&mark) && !read.same_restore(&Mark { only: Vec::new(), ..mark }));
        std::fs::write(directory.path().join(MARKER), "something old\n").unwrap();
        assert_eq!(Mark::read(directory.path()), None);
        unmark(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
