//! What a restore may find in its target, and what it does with it.
//!
//! Invariant: a directory that holds anything is changed only by a restore that was told to; nothing at all is changed by
//! looking.

use std::os::fd::OwnedFd;
use std::path::Path;

use breakwater_repository::format::tree::TreeKind;

use super::marker::{MARKER, Mark};
use super::survey::Survey;
use super::target::open_beneath;
use crate::PipelineError;
use crate::frames::TreeReader;

/// What a restore may be laid onto.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Onto {
    /// A directory that is empty or does not exist.
    #[default]
    Nothing,
    /// A directory that holds an older or damaged copy: what is right stays, only what differs is fetched. Asking for it is
    /// the consent to change what lies there.
    Copy {
        /// Also remove what the snapshot does not have.
        delete_extra: bool,
    },
    /// A directory in which this very restore was interrupted.
    Unfinished,
}

/// How the target is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entrance {
    /// Something lies there that is compared.
    pub(crate) existing: bool,
    /// What the snapshot does not have goes.
    pub(crate) delete_extra: bool,
    /// The mark to set.
    pub(crate) mark: Mark,
}

/// Refuses a target that does not fit. Changes nothing.
pub(crate) fn check(path: &Path, onto: Onto, mark: Mark) -> Result<Entrance, PipelineError> {
    let found = first_name(path)?;
    let unfit = |why: &str| Err(PipelineError::TargetUnfit { target: path.to_owned(), why: why.to_owned() });
    match (onto, found) {
        (Onto::Nothing | Onto::Copy { .. }, None) => {
            Ok(Entrance { existing: false, delete_extra: false, mark: mark.upon_nothing() })
        }
        (Onto::Nothing, Some(_)) if path.join(MARKER).symlink_metadata().is_ok() => {
            Err(PipelineError::TargetUnfinished { target: path.to_owned() })
        }
        (Onto::Nothing, Some(found)) => Err(PipelineError::TargetNotEmpty { target: path.to_owned(), found }),
        (Onto::Copy { delete_extra }, Some(_)) => {
            let resolved = path.canonicalize();
            let resolved =
                resolved.map_err(|error| PipelineError::io(format!("looking at {}", path.display()), error))?;
            if resolved.parent().is_none() {
                return unfit(
                    "the root of the file system is no target (hint: name the directory that holds the copy)",
                );
            }
            Ok(Entrance { existing: true, delete_extra, mark })
        }
        (Onto::Unfinished, _) => match Mark::read(path) {
            None => unfit(
                "no unfinished restore lies here (hint: leave --resume out, or give --delta to restore onto a copy)",
            ),
            Some(found) if !found.same_restore(&mark) => unfit(
                "the unfinished restore that lies here is of another snapshot or of other paths (hint: name the same ones, \
                 or give --delta to restore this one onto it)",
            ),
            // What an empty directory holds now comes from the restore, its recovery included.
            Some(found) => {
                Ok(Entrance { existing: true, delete_extra: found.from_nothing && found.is_whole(), mark: found })
            }
        },
    }
}

/// One of the names in a directory; none where it is empty or not there.
fn first_name(path: &Path) -> Result<Option<String>, PipelineError> {
    let failed = |error| PipelineError::io(format!("listing the target {}", path.display()), error);
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let first = entries.next().transpose().map_err(failed)?;
    Ok(first.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

/// Refuses a target in which a directory that holds something would have to go for a file, unless that was allowed.
pub(crate) async fn check_conflicts(
    path: &Path,
    survey: &Survey,
    entrance: &Entrance,
    mut tree: TreeReader,
) -> Result<(), PipelineError> {
    let root = std::fs::File::open(path).map(OwnedFd::from);
    let root = root.map_err(|error| PipelineError::io(format!("opening the target {}", path.display()), error))?;
    while let Some(entry) = tree.next().await? {
        if entry.kind == TreeKind::Directory || !survey.takes(&entry) {
            continue;
        }
        // A directory where something else goes: only that can be opened as one.
        if open_beneath(&root, &entry.path).is_ok() && !entrance.delete_extra {
            let why = format!(
                "`{}` is a directory here and none in the snapshot (hint: --delete-extra lets it go)",
                entry.path.escape_ascii()
            );
            return Err(PipelineError::TargetUnfit { target: path.to_owned(), why });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(snapshot: &str) -> Mark {
        serde_json::from_value(serde_json::json!({
            "snapshot": snapshot, "session": "s", "only": [], "from_nothing": false,
        }))
        .unwrap()
    }

    #[test]
    fn a_target_that_holds_something_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mine"), "keep").unwrap();
        let error = check(directory.path(), Onto::Nothing, mark("1")).unwrap_err();
        assert!(error.to_string().contains("`mine`"), "{error}");
        check(directory.path(), Onto::Unfinished, mark("1")).unwrap_err();
        let file = directory.path().join("mine");
        for onto in [Onto::Nothing, Onto::Copy { delete_extra: true }, Onto::Unfinished] {
            assert!(check(&file, onto, mark("1")).is_err(), "a file is no target");
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"keep");
        assert!(!check(&directory.path().join("new"), Onto::Nothing, mark("1")).unwrap().existing);
        assert!(check(directory.path(), Onto::Copy { delete_extra: false }, mark("1")).unwrap().existing);
        assert!(check(Path::new("/"), Onto::Copy { delete_extra: false }, mark("1")).is_err());
    }

    #[test]
    fn an_unfinished_restore_is_continued_by_the_same_one_only() {
        let directory = tempfile::tempdir().unwrap();
        mark("1").upon_nothing().write(directory.path()).unwrap();
        let error = check(directory.path(), Onto::Nothing, mark("1")).unwrap_err();
        assert!(matches!(error, PipelineError::TargetUnfinished { .. }) && error.to_string().contains("--resume"));
        assert!(check(directory.path(), Onto::Unfinished, mark("2")).is_err());
        let entrance = check(directory.path(), Onto::Unfinished, mark("1")).unwrap();
        assert!(entrance.existing && entrance.delete_extra && entrance.mark.from_nothing);
    }
}
