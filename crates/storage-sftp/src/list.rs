//! Walking the tree in the order of keys.
//!
//! Keys sort as if the name of a directory ended with `/`: `a-b` comes before `a/b`, because `-` is less than `/`. Between two
//! directories nothing is held on the server, so a list that nobody reads to its end costs nothing.

use breakwater_storage::ObjectMeta;
use breakwater_storage::key::{RESERVED, check_key};

use futures::{StreamExt, TryStreamExt};

use crate::call::{Call, Kind, kind_of};
use crate::directory;
use crate::failure::{Failure, Refusal};
use crate::object;

/// Directories looked into at once, since each costs a few ways to the server and back.
const DIRECTORIES_AT_ONCE: usize = 8;

/// Something that a walk comes to.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// An object.
    Object(ObjectMeta),
    /// A directory by its key, which is empty for the root.
    Directory(String),
}

impl Found {
    fn sort_key(&self) -> impl Iterator<Item = u8> {
        let (key, end) = match self {
            Found::Object(meta) => (meta.key.as_str(), None),
            Found::Directory(key) => (key.as_str(), Some(b'/')),
        };
        key.bytes().chain(end)
    }

    /// Whether it, or something below it, begins with `prefix`.
    fn matters_to(&self, prefix: &str) -> bool {
        match self {
            Found::Object(meta) => meta.key.starts_with(prefix),
            Found::Directory(key) => {
                let below = format!("{key}/");
                below.starts_with(prefix) || prefix.starts_with(&below)
            }
        }
    }
}

/// Where a walk for `prefix` begins.
pub(crate) fn start(prefix: &str) -> Found {
    Found::Directory(directory::parent(prefix).to_owned())
}

/// What the directory `key` holds of interest to a walk for `prefix`, in the order of keys; nothing when it does not exist.
/// Names that no key can have are no objects and are left out, and so is what symbolic links lead to.
pub(crate) async fn entries(call: &Call, key: &str, prefix: &str) -> Result<Vec<Found>, Failure> {
    let path = call.path(key);
    // What is a link to a directory can be opened like one; only below the root is that an object's way.
    let (kind, names) = futures::join!(call.kind(key), call.connection.names(&path));
    if !key.is_empty() && kind? != Some(Kind::Directory) {
        return Ok(Vec::new());
    }
    let names = match names {
        Ok(names) => names,
        Err(Refusal::Missing) => return Ok(Vec::new()),
        Err(refusal) => return Err(refusal.into()),
    };
    let mut entries = Vec::new();
    for (name, attributes) in names {
        if check_key(&name).is_err() && (key.is_empty() || !RESERVED.contains(&name.as_str())) {
            continue;
        }
        let child = if key.is_empty() { name } else { format!("{key}/{name}") };
        let found = match kind_of(&attributes)? {
            Kind::Directory => Some(Found::Directory(child)),
            Kind::File => object::meta_of(&child, &attributes)?.map(Found::Object),
            Kind::Other => None,
        };
        entries.extend(found.filter(|found| found.matters_to(prefix)));
    }
    entries.sort_unstable_by(|a, b| a.sort_key().cmp(b.sort_key()));
    Ok(entries)
}

/// The names of the directories directly below `prefix` that have an object somewhere below them, in order.
pub(crate) async fn directories(call: &Call, prefix: &str) -> Result<Vec<String>, Failure> {
    let entries = entries(call, prefix.trim_end_matches('/'), prefix).await?;
    let below = entries.into_iter().filter_map(|entry| match entry {
        Found::Directory(key) => Some(async move { Ok::<_, Failure>(has_object(call, &key).await?.then_some(key)) }),
        Found::Object(_) => None,
    });
    let found: Vec<Option<String>> = futures::stream::iter(below).buffered(DIRECTORIES_AT_ONCE).try_collect().await?;
    let mut names: Vec<String> = found.into_iter().flatten().map(|key| key[prefix.len()..].to_owned()).collect();
    names.sort_unstable();
    call.root_is_there().await?;
    Ok(names)
}

/// Whether there is an object somewhere below the directory `key`. One is enough to know.
async fn has_object(call: &Call, key: &str) -> Result<bool, Failure> {
    let mut pending = vec![key.to_owned()];
    while let Some(key) = pending.pop() {
        for entry in entries(call, &key, "").await? {
            match entry {
                Found::Object(_) => return Ok(true),
                Found::Directory(key) => pending.push(key),
            }
        }
    }
    Ok(false)
}
