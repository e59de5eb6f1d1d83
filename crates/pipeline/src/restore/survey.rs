//! Looks at a whole tree before anything is written: what is chosen, whether it can be laid, how much room it takes.

use std::collections::{BTreeMap, HashSet, VecDeque};

use breakwater_repository::format::tree::{TreeEntry, TreeKind};

use super::globs::Globs;
use super::target::{check_path, is_working_name};
use crate::PipelineError;
use crate::frames::TreeReader;

/// Bytes of a tree that is kept in memory: about 32,000 entries, fewer where they have many attributes or extents.
const KEPT: usize = 16 << 20;

/// What a restore will lay.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Bytes of all chosen files.
    pub(crate) bytes: u64,
    /// Files chosen.
    pub(crate) files: u64,
    /// Everything chosen.
    pub(crate) entries: u64,
    /// Links, pipes and devices among them.
    pub(crate) specials: u64,
    /// Files that get their names last.
    pub(crate) last: Vec<Vec<u8>>,
    /// Where the content of a file that was not chosen goes: to the first of its other names that was.
    pub(crate) stand_ins: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Paths that an interrupted restore had left in the source.
    pub(crate) leftovers: Vec<Vec<u8>>,
    /// Every entry of a small tree, so that it needs not be read again.
    entries_kept: Option<VecDeque<TreeEntry>>,
    /// Their bytes.
    bytes_kept: usize,
    globs: Globs,
    /// Directories above what the patterns choose.
    above: HashSet<Vec<u8>>,
}

impl Survey {
    /// Reads the tree to its end, and again where it has hard links; `tree` makes readers of it.
    pub(crate) async fn of(tree: impl Fn() -> TreeReader, globs: Globs) -> Result<Survey, PipelineError> {
        let mut survey = Survey { globs, entries_kept: Some(VecDeque::new()), ..Survey::default() };
        let mut directories = HashSet::new();
        // The names of files that have other names, each with the first of those that was chosen.
        let mut linked: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        let mut reader = tree();
        while let Some(entry) = reader.next().await? {
            survey.check(&entry, &mut directories)?;
            let chosen = survey.globs.choose(&entry.path);
            if let TreeKind::Hardlink { target } = &entry.kind {
                let first = linked.entry(target.clone()).or_default();
                if chosen && first.is_none() {
                    *first = Some(entry.path.clone());
                }
            }
            if chosen {
                survey.count(&entry);
            }
            survey.keep(entry);
        }
        survey.resolve(linked, tree).await?;
        Ok(survey)
    }

    fn count(&mut self, entry: &TreeEntry) {
        self.entries += 1;
        match &entry.kind {
            TreeKind::File { size, .. } => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(*size);
                if entry.last {
                    self.last.push(entry.path.clone());
                }
            }
            TreeKind::Directory => {}
            _ => self.specials += 1,
        }
        if self.globs.is_selective() {
            self.above.extend(parents(&entry.path).map(<[u8]>::to_vec));
        }
    }

    fn keep(&mut self, entry: TreeEntry) {
        self.bytes_kept = self.bytes_kept.saturating_add(weight(&entry));
        match &mut self.entries_kept {
            Some(kept) if self.bytes_kept <= KEPT => kept.push_back(entry),
            kept => *kept = None,
        }
    }

    /// A reader of the tree that was surveyed; once, it does not read it again if it was small enough. `tree` makes readers of it.
    pub(crate) fn reader(&mut self, tree: impl Fn() -> TreeReader) -> TreeReader {
        match self.entries_kept.take() {
            Some(entries) => tree().with_all(entries),
            None => tree(),
        }
    }

    /// Every hard link must lead to a file; one that was not chosen is laid under its first chosen name.
    async fn resolve(
        &mut self,
        mut linked: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        tree: impl Fn() -> TreeReader,
    ) -> Result<(), PipelineError> {
        if linked.is_empty() {
            return Ok(());
        }
        let mut reader = tree();
        while let Some(entry) = reader.next().await? {
            let TreeKind::File { size, .. } = &entry.kind else { continue };
            if let Some(Some(stand_in)) = linked.remove(&entry.path)
                && !self.globs.choose(&entry.path)
            {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(*size);
                self.stand_ins.insert(entry.path, stand_in);
            }
        }
        match linked.first_key_value() {
            None => Ok(()),
            Some((target, _)) => {
                let target = target.escape_ascii();
                Err(PipelineError::bad_tree(format!("a hard link leads to `{target}`, which is no file of the tree")))
            }
        }
    }

    /// Whether the entry is to be laid.
    pub(crate) fn takes(&self, entry: &TreeEntry) -> bool {
        (self.globs.choose(&entry.path) || self.above.contains(&entry.path)) && !is_leftover(&entry.path)
    }

    fn check(&mut self, entry: &TreeEntry, directories: &mut HashSet<Vec<u8>>) -> Result<(), PipelineError> {
        let bad = |why: &str| PipelineError::bad_tree(format!("`{}` {why}", entry.path.escape_ascii()));
        check_path(&entry.path).map_err(bad)?;
        if let Some(parent) = parents(&entry.path).last()
            && !directories.contains(parent)
        {
            return Err(bad("lies in a directory that is not in the tree"));
        }
        if entry.kind == TreeKind::Directory {
            directories.insert(entry.path.clone());
        }
        if is_leftover(&entry.path) {
            self.leftovers.push(entry.path.clone());
        }
        Ok(())
    }
}

/// Bytes that an entry takes in memory, about.
fn weight(entry: &TreeEntry) -> usize {
    let leaves = if let TreeKind::File { leaves, .. } = &entry.kind { leaves.as_slice() } else { &[] };
    let xattrs: usize = entry.attributes.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let stamp = entry.stamp.as_ref().map_or(0, String::len);
    size_of::<TreeEntry>() + entry.path.len() + size_of_val(leaves) + xattrs + stamp
}

/// Whether the path has a name that this program gives to unfinished files: it is no content of the source.
fn is_leftover(path: &[u8]) -> bool {
    path.rsplit(|byte| *byte == b'/').next().is_some_and(is_working_name)
}

/// The paths above `path`, the shortest first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').filter_map(|(at, _)| path.get(..at))
}

#[cfg(test)]
mod tests {
    use breakwater_core::{Attributes, Timestamp};

    use super::*;

    #[test]
    fn a_tree_is_kept_by_its_bytes_not_by_its_entries() {
        let entry = |value: usize| TreeEntry {
            path: b"a".to_vec(),
            kind: TreeKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp(0),
            last: false,
            attributes: Attributes { xattrs: vec![(b"user.a".to_vec(), vec![7; value])], ..Attributes::default() },
            stamp: None,
            changed: false,
        };
        let kept = |count: usize, value: usize| {
            let mut survey = Survey { entries_kept: Some(VecDeque::new()), ..Survey::default() };
            (0..count).for_each(|_| survey.keep(entry(value)));
            survey.entries_kept.map(|kept| kept.len())
        };
        assert_eq!(kept(24_000, 1), Some(24_000));
        assert_eq!(kept(100_000, 1), None);
        assert_eq!(kept(100, 64 << 10), Some(100));
        assert_eq!(kept(300, 64 << 10), None, "few entries, and each of them large");
    }
}
