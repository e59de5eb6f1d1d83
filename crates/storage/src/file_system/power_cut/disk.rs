//! A file system that knows what was flushed and what was not, and every state that a power cut may leave of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A step as it was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Directory(String),
    File(String),
    Bytes(String, Vec<u8>),
    FileSync(String),
    DirectorySync(String),
    Rename(String, String),
    Link(String, String),
    RemoveFile(String),
    RemoveDirectory(String),
    /// The caller got its answer.
    Answer,
}

type Node = usize;

/// A file system that knows what was flushed and what was not.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    nodes: Vec<Inode>,
}

#[derive(Clone, Debug)]
enum Inode {
    Directory { flushed: BTreeMap<String, Node>, now: BTreeMap<String, Node>, pending: Vec<Change> },
    File { flushed: Vec<u8>, pending: Vec<u8> },
}

/// A change of one name in a directory.
#[derive(Clone, Debug)]
enum Change {
    Set(String, Node),
    Remove(String),
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Disk {
    pub(super) fn new() -> Disk {
        Disk { nodes: vec![Inode::Directory { flushed: BTreeMap::new(), now: BTreeMap::new(), pending: Vec::new() }] }
    }

    fn find(&self, path: &str) -> Node {
        path.split('/').filter(|part| !part.is_empty()).fold(0, |at, part| match &self.nodes[at] {
            Inode::Directory { now, .. } => now[part],
            Inode::File { .. } => panic!("{path} leads through a file"),
        })
    }

    fn change(&mut self, directory: &str, change: Change) {
        let node = self.find(directory);
        let Inode::Directory { now, pending, .. } = &mut self.nodes[node] else { panic!("{directory} is a file") };
        match &change {
            Change::Set(name, node) => drop(now.insert(name.clone(), *node)),
            Change::Remove(name) => drop(now.remove(name)),
        }
        pending.push(change);
    }

    fn add(&mut self, path: &str, inode: Inode) {
        self.nodes.push(inode);
        let (directory, name) = split(path);
        self.change(directory, Change::Set(name.to_owned(), self.nodes.len() - 1));
    }

    /// Whether the call could not do what it says, so that nothing changed.
    fn is_void(&self, path: &str, must_be_free: bool) -> bool {
        let (directory, name) = split(path);
        match &self.nodes[self.find(directory)] {
            Inode::Directory { now, .. } => now.contains_key(name) == must_be_free,
            Inode::File { .. } => true,
        }
    }

    pub(super) fn apply(&mut self, made: &Made) {
        let empty = || Inode::Directory { flushed: BTreeMap::new(), now: BTreeMap::new(), pending: Vec::new() };
        match made {
            Made::Directory(path) if !self.is_void(path, true) => self.add(path, empty()),
            Made::File(path) => self.add(path, Inode::File { flushed: Vec::new(), pending: Vec::new() }),
            Made::Bytes(path, bytes) => {
                let node = self.find(path);
                let Inode::File { pending, .. } = &mut self.nodes[node] else { panic!("{path} is no file") };
                pending.extend_from_slice(bytes);
            }
            Made::FileSync(path) => {
                let node = self.find(path);
                let Inode::File { flushed, pending } = &mut self.nodes[node] else { panic!("{path} is no file") };
                flushed.append(pending);
            }
            Made::DirectorySync(path) => {
                let node = self.find(path);
                let Inode::Directory { flushed, now, pending } = &mut self.nodes[node] else { panic!("no directory") };
                flushed.clone_from(now);
                pending.clear();
            }
            Made::Rename(from, to) if !self.is_void(to, true) => {
                let node = self.find(from);
                let ((old, old_name), (new, new_name)) = (split(from), split(to));
                self.change(new, Change::Set(new_name.to_owned(), node));
                self.change(old, Change::Remove(old_name.to_owned()));
            }
            Made::Link(from, to) if !self.is_void(to, true) => {
                let node = self.find(from);
                let (new, name) = split(to);
                self.change(new, Change::Set(name.to_owned(), node));
            }
            Made::RemoveFile(path) if !self.is_void(path, false) => {
                let (directory, name) = split(path);
                self.change(directory, Change::Remove(name.to_owned()));
            }
            Made::RemoveDirectory(path) if !self.is_void(path, false) => {
                let node = self.find(path);
                let is_empty = matches!(&self.nodes[node], Inode::Directory { now, .. } if now.is_empty());
                if is_empty {
                    let (directory, name) = split(path);
                    self.change(directory, Change::Remove(name.to_owned()));
                }
            }
            _ => {}
        }
    }

    /// Everything is flushed.
    pub(super) fn settle(&mut self) {
        for inode in &mut self.nodes {
            match inode {
                Inode::Directory { flushed, now, pending } => {
                    flushed.clone_from(now);
                    pending.clear();
                }
                Inode::File { flushed, pending } => flushed.append(pending),
            }
        }
    }

    /// How many images a power cut may leave now: a choice of two for each change that was not flushed, of four for each
    /// such file.
    pub(super) fn images(&self) -> u64 {
        let bits: u32 = self.nodes.iter().map(|inode| inode.choices()).sum();
        1 << bits.min(40)
    }

    /// Builds the image number `number` in `root`.
    pub(super) fn build(&self, mut number: u64, root: &Path) {
        let mut take = |bits: u32| {
            let chosen = number & ((1 << bits) - 1);
            number >>= bits;
            chosen
        };
        let mut directories: BTreeMap<Node, BTreeMap<String, Node>> = BTreeMap::new();
        let mut files: BTreeMap<Node, Vec<u8>> = BTreeMap::new();
        for (node, inode) in self.nodes.iter().enumerate() {
            match inode {
                Inode::Directory { flushed, pending, .. } => {
                    let mut names = flushed.clone();
                    for change in pending {
                        match (take(1), change) {
                            (1, Change::Set(name, node)) => drop(names.insert(name.clone(), *node)),
                            (1, Change::Remove(name)) => drop(names.remove(name)),
                            _ => {}
                        }
                    }
                    directories.insert(node, names);
                }
                Inode::File { flushed, pending } => {
                    let mut bytes = flushed.clone();
                    if !pending.is_empty() {
                        match take(2) {
                            0 => {}
                            1 => bytes.extend_from_slice(&pending[..pending.len() / 2]),
                            2 => bytes.resize(bytes.len() + pending.len(), 0),
                            _ => bytes.extend_from_slice(pending),
                        }
                    }
                    files.insert(node, bytes);
                }
            }
        }
        let mut rest = vec![(0, root.to_owned())];
        while let Some((node, path)) = rest.pop() {
            if let Some(bytes) = files.get(&node) {
                fs::write(&path, bytes).unwrap();
                continue;
            }
            if node != 0 {
                fs::create_dir(&path).unwrap();
            }
            rest.extend(directories[&node].iter().map(|(name, node)| (*node, path.join(name))));
        }
    }
}

impl Inode {
    fn choices(&self) -> u32 {
        match self {
            Inode::Directory { pending, .. } => u32::try_from(pending.len()).unwrap(),
            Inode::File { pending, .. } => {
                if pending.is_empty() {
                    0
                } else {
                    2
                }
            }
        }
    }
}
