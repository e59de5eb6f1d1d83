//! A tree of files in memory, and the same tree read back from a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use breakwater_engine::ChangedPages;

/// What lies at one path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File(Arc<Vec<u8>>),
    Link(Vec<u8>),
    Fifo,
}

/// A node with what a restore must bring back.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) node: Node,
    /// Permission bits; links have none of their own.
    pub(crate) mode: u32,
    /// Microseconds since the epoch.
    pub(crate) mtime: i64,
}

/// Paths and what lies there.
#[derive(Clone, Default)]
pub(crate) struct Tree(pub(crate) BTreeMap<Vec<u8>, Item>, pub(crate) How);

/// How an engine lists some of the files.
#[derive(Clone, Default)]
pub(crate) struct How {
    /// These are cut where their content says.
    pub(crate) content_defined: BTreeSet<Vec<u8>>,
    /// These are other names of files before them.
    pub(crate) hard_links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of these only some pages have changed since the last snapshot.
    pub(crate) changed: BTreeMap<Vec<u8>, ChangedPages>,
}

impl Tree {
    pub(crate) fn directory(&mut self, path: &str) -> &mut Self {
        self.put(path.as_bytes(), Node::Directory, 0o750)
    }

    pub(crate) fn file(&mut self, path: &str, content: Vec<u8>) -> &mut Self {
        self.put(path.as_bytes(), Node::File(Arc::new(content)), 0o640)
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(path.as_bytes(), Node::Link(target.as_bytes().to_vec()), 0o777)
    }

    /// A file that is cut where its content says.
    pub(crate) fn document(&mut self, path: &str, content: Vec<u8>) -> &mut Self {
        self.1.content_defined.insert(path.as_bytes().to_vec());
        self.file(path, content)
    }

    pub(crate) fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.1.hard_links.insert(path.as_bytes().to_vec(), target.as_bytes().to_vec());
        let file = self.0[target.as_bytes()].clone();
        self.0.insert(path.as_bytes().to_vec(), file);
        self
    }

    pub(crate) fn fifo(&mut self, path: &str) -> &mut Self {
        self.put(path.as_bytes(), Node::Fifo, 0o600)
    }

    pub(crate) fn put(&mut self, path: &[u8], node: Node, mode: u32) -> &mut Self {
        let mtime = 1_700_000_000_000_000 + i64::try_from(self.0.len()).unwrap() * 1_000_001;
        self.0.insert(path.to_vec(), Item { node, mode, mtime });
        self
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |item: &Item| if let Node::File(content) = &item.node { content.len() as u64 } else { 0 };
        self.0.values().map(size).sum()
    }

    /// What lies below `root`.
    pub(crate) fn read(root: &Path) -> Tree {
        let mut tree = Tree::default();
        read_into(&mut tree, root, &[]);
        tree
    }

    /// Panics with the first difference, without the contents.
    pub(crate) fn assert_same(&self, expected: &Tree) {
        let paths = |tree: &Tree| tree.0.keys().map(|path| path.escape_ascii().to_string()).collect::<Vec<_>>();
        assert_eq!(paths(self), paths(expected));
        for ((path, found), wanted) in self.0.iter().zip(expected.0.values()) {
            let path = path.escape_ascii();
            assert_eq!((found.mode, found.mtime), (wanted.mode, wanted.mtime), "mode and mtime of {path}");
            assert!(found.node == wanted.node, "another content: {path}");
        }
    }
}

fn read_into(tree: &mut Tree, directory: &Path, prefix: &[u8]) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let mut path = prefix.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(entry.file_name().as_bytes());
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        let node = if meta.is_dir() {
            read_into(tree, &entry.path(), &path);
            Node::Directory
        } else if meta.is_symlink() {
            Node::Link(std::fs::read_link(entry.path()).unwrap().as_os_str().as_bytes().to_vec())
        } else if meta.file_type().is_fifo() {
            Node::Fifo
        } else {
            Node::File(Arc::new(std::fs::read(entry.path()).unwrap()))
        };
        let mode = if meta.is_symlink() { 0o777 } else { meta.mode() & 0o7777 };
        tree.0.insert(path, Item { node, mode, mtime: meta.mtime() * 1_000_000 + meta.mtime_nsec() / 1000 });
    }
}

/// Bytes that no compressor shortens; the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Bytes that a compressor shortens, different for each seed.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = noise(seed, length / 16 + 16);
    words.iter().flat_map(|byte| format!("word {byte:03} and more ").into_bytes()).take(length).collect()
}
