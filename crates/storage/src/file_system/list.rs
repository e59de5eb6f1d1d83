//! Walking the tree in the order of keys.
//!
//! Keys sort as if the name of a directory ended with `/`: `a-b` comes before `a/b`, because `-` is less than `/`.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::ObjectMeta;
use crate::file_system::directory;
use crate::file_system::failure::Failure;
use crate::file_system::object::meta_of;
use crate::key::{RESERVED, check_key};

/// Objects handed over at once.
const BATCH_OBJECTS: usize = 512;

/// A message of a walk to its reader.
pub(super) enum Batch {
    Objects(Vec<ObjectMeta>),
    /// All objects were handed over.
    End,
}

/// Hands all objects whose key begins with `prefix` to `emit`, in order, until that answers false.
pub(super) fn walk(root: &OwnedFd, prefix: &str, emit: &mut dyn FnMut(Batch) -> bool) -> Result<(), Failure> {
    let start = directory::parent(prefix);
    let mut walk = Walk { root, prefix, batch: Vec::new(), batch_objects: BATCH_OBJECTS, emit };
    if walk.directory(start)? && !walk.batch.is_empty() {
        (walk.emit)(Batch::Objects(walk.batch));
    }
    Ok(())
}

/// The names of the directories directly below `prefix` that have an object somewhere below them, in order.
pub(super) fn directories(root: &OwnedFd, prefix: &str) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in entries(root, prefix.trim_end_matches('/'))?.into_iter().filter(|entry| entry.is_directory) {
        let below = format!("{prefix}{}", entry.name);
        // One object is enough to know.
        let mut walk = Walk { root, prefix: "", batch: Vec::new(), batch_objects: 1, emit: &mut |_| false };
        if !walk.directory(&below)? {
            names.push(entry.name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

struct Walk<'a> {
    root: &'a OwnedFd,
    prefix: &'a str,
    batch: Vec<ObjectMeta>,
    batch_objects: usize,
    emit: &'a mut dyn FnMut(Batch) -> bool,
}

impl Walk<'_> {
    /// Walks the directory `key`; false when the reader wants no more.
    fn directory(&mut self, key: &str) -> Result<bool, Failure> {
        for entry in entries(self.root, key)? {
            let child = if key.is_empty() { entry.name } else { format!("{key}/{}", entry.name) };
            let wanted = if entry.is_directory {
                let below = format!("{child}/");
                if below.starts_with(self.prefix) || self.prefix.starts_with(&below) {
                    self.directory(&child)?
                } else {
                    true
                }
            } else {
                !child.starts_with(self.prefix) || self.object(&child)?
            };
            if !wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn object(&mut self, key: &str) -> Result<bool, Failure> {
        let meta = match rustix::fs::statat(self.root, key, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => meta_of(key, &stat),
            // Deleted meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(errno) => return Err(errno.into()),
        };
        self.batch.extend(meta);
        if self.batch.len() < self.batch_objects {
            return Ok(true);
        }
        Ok((self.emit)(Batch::Objects(std::mem::take(&mut self.batch))))
    }
}

struct Entry {
    name: String,
    is_directory: bool,
}

/// What the directory `key` holds, in the order of keys; nothing when it does not exist. Names that no key can have are no
/// objects and are left out.
fn entries(root: &OwnedFd, key: &str) -> Result<Vec<Entry>, Failure> {
    let directory = match directory::open(root, key) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut entries = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if check_key(name).is_err() && (key.is_empty() || !RESERVED.contains(&name)) {
            continue;
        }
        let file_type = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            },
            known => known,
        };
        entries.push(Entry { name: name.to_owned(), is_directory: file_type == FileType::Directory });
    }
    entries.sort_unstable_by(|a, b| sort_key(a).cmp(sort_key(b)));
    Ok(entries)
}

fn sort_key(entry: &Entry) -> impl Iterator<Item = u8> {
    entry.name.bytes().chain(entry.is_directory.then_some(b'/'))
}
