//! The files of a snapshot, a page at a time, for people: what a snapshot holds, without its chunks.

use std::time::{Duration, Instant};

use breakwater_pipeline::restore::Globs;
use breakwater_repository::format::path::{escape, unescape};
use breakwater_repository::format::tree::{TreeEntry, TreeKind};
use breakwater_repository::{Repository, Selector};
use serde_json::{Value, json};

use super::seek::Tree;
use crate::error::AgentError;

/// Entries of a page unless more are asked for, and at most.
const LIMIT: usize = 1000;
const LIMIT_MAX: usize = 20_000;

/// A page is ended after this, so that whoever waits gets what was found and can ask for more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which files are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilesWanted<'a> {
    /// Patterns as in `restore run --only`; none: all.
    pub patterns: &'a [String],
    /// Go on behind this path, as `next` of the page before gave it.
    pub after: &'a str,
    /// At most so many; 0: a thousand.
    pub limit: usize,
}

/// The entries of the snapshot whose id begins with `id`: `entries`, and `next` to go on with, where there are more.
pub async fn files(repository: &Repository, id: &str, wanted: FilesWanted<'_>) -> Result<Value, AgentError> {
    let order = repository.read_order();
    let doing = || AgentError::repository(format!("looking for snapshot {id}"));
    let found = repository.find_snapshot(&order, None, &Selector::Id(id.to_owned())).await.map_err(doing())?;
    let manifest = repository.manifest(&order, found.source.uid, found.id, found.session).await.map_err(doing())?;
    let tree = Tree::of(repository, found.source.uid, &manifest);
    let after = bytes_of(wanted.after)?;
    let limit = if wanted.limit == 0 { LIMIT } else { wanted.limit.min(LIMIT_MAX) };
    let globs = Globs::new(wanted.patterns);
    let begun = Instant::now();
    let (mut entries, mut next) = (Vec::new(), None);
    let mut index = if after.is_empty() { 0 } else { tree.frame_of(&after).await? };
    'frames: while index < tree.len() {
        for entry in tree.frame(index).await? {
            if entry.path <= after || !globs.choose(&entry.path) {
                continue;
            }
            if entries.len() >= limit {
                next = entries.last().map(|last: &TreeEntry| escape(&last.path));
                break 'frames;
            }
            entries.push(entry);
        }
        index += 1;
        if begun.elapsed() > PATIENCE && index < tree.len() {
            next = tree.frame(index - 1).await?.last().map(|last| escape(&last.path));
            break;
        }
    }
    Ok(json!({
        "snapshot": found.id,
        "source": found.source.name,
        "engine": found.source.engine,
        "consistent_at": found.consistent_at,
        "entries": entries.iter().map(describe).collect::<Vec<_>>(),
        "next": next,
    }))
}

/// One entry as people read it. Sizes are bytes, moments microseconds, modes octal as `ls` and `chmod` know them.
pub(super) fn describe(entry: &TreeEntry) -> Value {
    let attributes = &entry.attributes;
    let mut value = json!({
        "path": shown(&entry.path),
        "type": word(&entry.kind),
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
    });
    let mut set = |name: &str, field: Value| {
        if let Some(fields) = value.as_object_mut() {
            fields.insert(name.to_owned(), field);
        }
    };
    match &entry.kind {
        TreeKind::File { size, .. } => set("size", json!(size)),
        TreeKind::Symlink { target } | TreeKind::Hardlink { target } => set("target", json!(shown(target))),
        TreeKind::CharDevice(number) | TreeKind::BlockDevice(number) => {
            set("device", json!(format!("{}:{}", number.major, number.minor)));
        }
        TreeKind::Directory | TreeKind::Fifo | TreeKind::Socket => {}
    }
    if let Some(user) = &attributes.user {
        set("user", json!(user));
    }
    if let Some(group) = &attributes.group {
        set("group", json!(group));
    }
    if !attributes.xattrs.is_empty() {
        let names: Vec<String> = attributes.xattrs.iter().map(|(name, _)| shown(name)).collect();
        set("xattrs", json!(names));
    }
    if attributes.sparse {
        set("sparse", json!(true));
    }
    if entry.changed {
        set("changed", json!(true));
    }
    value
}

fn word(kind: &TreeKind) -> &'static str {
    match kind {
        TreeKind::File { .. } => "file",
        TreeKind::Directory => "dir",
        TreeKind::Symlink { .. } => "symlink",
        TreeKind::Hardlink { .. } => "hardlink",
        TreeKind::Fifo => "fifo",
        TreeKind::Socket => "socket",
        TreeKind::CharDevice(_) => "char",
        TreeKind::BlockDevice(_) => "block",
    }
}

/// A path as people read it: as it is where it is text that a terminal shows, with `%XX` elsewhere.
pub(super) fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '%') => text.to_owned(),
        _ => escape(path),
    }
}

/// The bytes that a person means by `text`: as shown, with or without slashes at the ends.
pub(super) fn bytes_of(text: &str) -> Result<Vec<u8>, AgentError> {
    let text = text.trim_matches('/');
    if text.contains('%') {
        return unescape(text).map_err(|_| {
            AgentError::Invalid(format!(
                "`{text}` is not a path as listings show it (hint: a `%` in a name is written %25)"
            ))
        });
    }
    Ok(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_so_that_they_can_be_typed_again() {
        for path in ["a/b", "Ärger/ü", "a%b", "line\nbreak", " "] {
            assert_eq!(bytes_of(&shown(path.as_bytes())).unwrap(), path.as_bytes(), "{path:?}");
        }
        assert_eq!(shown("Ärger".as_bytes()), "Ärger");
        assert_eq!(shown(b"not \xFF"), "not %FF");
        assert_eq!(bytes_of("not %FF").unwrap(), b"not \xFF");
        assert_eq!(bytes_of("/srv/docs/").unwrap(), b"srv/docs");
        assert!(bytes_of("100%").is_err());
    }
}
