//! A tree of files in memory, and the same tree read back from a directory.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// What lies at one path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File(Arc<Vec<u8>>),
    Link(Vec<u8>),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::Directory => f.write_str("directory"),
            Node::File(content) => write!(f, "file of {} bytes", content.len()),
            Node::Link(target) => write!(f, "link to {}", target.escape_ascii()),
        }
    }
}

/// A node with what a restore must bring back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) node: Node,
    pub(crate) mode: u32,
    pub(crate) mtime: i64,
}

/// Paths and what lies there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) BTreeMap<Vec<u8>, Item>);

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

    pub(crate) fn put(&mut self, path: &[u8], node: Node, mode: u32) -> &mut Self {
        let mtime = 1_700_000_000_000_000 + self.0.len() as i64 * 1_000_001;
        self.0.insert(path.to_vec(), Item { node, mode, mtime });
        self
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |item: &Item| if let Node::File(content) = &item.node { content.len() as u64 } else { 0 };
        self.0.values().map(size).sum()
    }

    /// What lies below `root`. Modes of links are not compared: Linux has none.
    pub(crate) fn read(root: &Path) -> Tree {
        let mut tree = Tree::default();
        read_into(&mut tree, root, Vec::new());
        tree
    }
}

fn read_into(tree: &mut Tree, directory: &Path, prefix: Vec<u8>) {
    for entry in std::fs::read_dir(directory).expect("the directory can be listed") {
        let entry = entry.expect("an entry");
        let mut path = prefix.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(entry.file_name().as_bytes());
        let meta = std::fs::symlink_metadata(entry.path()).expect("metadata");
        let node = if meta.is_dir() {
            read_into(tree, &entry.path(), path.clone());
            Node::Directory
        } else if meta.is_symlink() {
            Node::Link(std::fs::read_link(entry.path()).expect("a link").as_os_str().as_bytes().to_vec())
        } else {
            Node::File(Arc::new(std::fs::read(entry.path()).expect("content")))
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
