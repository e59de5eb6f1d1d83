//! Looks at a whole tree before anything is written: what is chosen, whether it can be laid, how much room it takes.

use std::collections::HashSet;

use breakwater_repository::format::tree::{TreeEntry, TreeKind};

use super::globs::Globs;
use super::target::{MARKER, check_path};
use crate::PipelineError;
use crate::frames::TreeReader;

/// What a restore will lay.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Bytes of all chosen files.
    pub(crate) bytes: u64,
    /// Files chosen.
    pub(crate) files: u64,
    /// Everything chosen.
    pub(crate) entries: u64,
    globs: Globs,
    /// Directories above what the patterns choose.
    above: HashSet<Vec<u8>>,
}

impl Survey {
    /// Reads the tree to its end.
    pub(crate) async fn of(tree: &mut TreeReader, globs: Globs) -> Result<Survey, PipelineError> {
        let mut survey = Survey { globs, ..Survey::default() };
        let mut directories = HashSet::new();
        while let Some(entry) = tree.next().await? {
            survey.check(&entry, &mut directories)?;
            if !survey.globs.choose(&entry.path) {
                continue;
            }
            survey.entries += 1;
            if let TreeKind::File { size, .. } = entry.kind {
                survey.files += 1;
                survey.bytes = survey.bytes.saturating_add(size);
            }
            if survey.globs.is_selective() {
                survey.above.extend(parents(&entry.path).map(<[u8]>::to_vec));
            }
        }
        Ok(survey)
    }

    /// Whether the entry is to be laid.
    pub(crate) fn takes(&self, entry: &TreeEntry) -> bool {
        self.globs.choose(&entry.path) || self.above.contains(&entry.path)
    }

    fn check(&self, entry: &TreeEntry, directories: &mut HashSet<Vec<u8>>) -> Result<(), PipelineError> {
        let bad = |why: &str| PipelineError::bad_tree(format!("`{}` {why}", entry.path.escape_ascii()));
        check_path(&entry.path).map_err(bad)?;
        if entry.path == MARKER.as_bytes() {
            return Err(bad("has the name that marks an unfinished restore"));
        }
        if let Some(parent) = parents(&entry.path).last()
            && !directories.contains(parent)
        {
            return Err(bad("lies in a directory that is not in the tree"));
        }
        if entry.kind == TreeKind::Directory {
            directories.insert(entry.path.clone());
        }
        Ok(())
    }
}

/// The paths above `path`, the shortest first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').filter_map(|(at, _)| path.get(..at))
}
