//! What a directory holds, for comparisons before and after.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A file: its length in bytes and the hex of its SHA-256.
    File(u64, String),
    /// A symbolic link and where it points.
    Link(PathBuf),
    /// A socket, pipe or device.
    Other,
}

/// Everything under `root` by its relative path.
pub fn tree(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    walk(root, Path::new(""), &mut found)?;
    Ok(found)
}

/// A hash over the names, kinds and contents of everything under `root`; owners, modes and times do not count.
pub fn tree_hash(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for (path, entry) in tree(root)? {
        hash.update(path.as_os_str().as_bytes());
        hash.update([0]);
        match entry {
            Entry::Directory => hash.update(b"d"),
            Entry::File(length, digest) => hash.update(format!("f{length}:{digest}")),
            Entry::Link(to) => {
                hash.update(b"l");
                hash.update(to.as_os_str().as_bytes());
            }
            Entry::Other => hash.update(b"o"),
        }
        hash.update([0]);
    }
    Ok(hex(&hash.finalize()))
}

fn walk(root: &Path, relative: &Path, found: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    let dir = root.join(relative);
    for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let (path, relative) = (entry.path(), relative.join(entry.file_name()));
        let kind = entry.file_type().with_context(|| format!("look at {}", path.display()))?;
        let seen = if kind.is_dir() {
            walk(root, &relative, found)?;
            Entry::Directory
        } else if kind.is_file() {
            let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            let mut hash = Hashing { hash: Sha256::new() };
            let length = std::io::copy(&mut file, &mut hash).with_context(|| format!("read {}", path.display()))?;
            Entry::File(length, hex(&hash.hash.finalize()))
        } else if kind.is_symlink() {
            Entry::Link(std::fs::read_link(&path).with_context(|| format!("read the link {}", path.display()))?)
        } else {
            Entry::Other
        };
        found.insert(relative, seen);
    }
    Ok(())
}

struct Hashing {
    hash: Sha256,
}

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_shows() {
        let dir = crate::dirs::temp_dir("tree").unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join("a")).unwrap();
        std::fs::write(root.join("a/x"), "one").unwrap();
        let mut seen = vec![tree_hash(root).unwrap()];
        let steps: [&dyn Fn() -> std::io::Result<()>; 5] = [
            &|| std::fs::write(root.join("a/x"), "two"),
            &|| std::fs::rename(root.join("a/x"), root.join("a/y")),
            &|| std::fs::create_dir(root.join("b")),
            &|| std::os::unix::fs::symlink("a", root.join("l")),
            &|| std::fs::write(root.join("b/z"), ""),
        ];
        for step in steps {
            step().unwrap();
            let hash = tree_hash(root).unwrap();
            assert!(!seen.contains(&hash));
            seen.push(hash);
        }
        std::fs::remove_file(root.join("b/z")).unwrap();
        assert_eq!(tree_hash(root).unwrap(), seen[4], "the same tree has the same hash");
        assert_eq!(tree(root).unwrap()[Path::new("l")], Entry::Link(PathBuf::from("a")));
    }
}
