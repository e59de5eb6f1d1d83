//! A region in a directory, and what can happen to its place; or one on a server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use breakwater_testkit::tree::{Entry, tree};

/// A directory that holds, or is to hold, a replica of a repository.
#[derive(Clone, Debug)]
pub struct Region {
    name: String,
    url: String,
    dir: PathBuf,
}

impl Region {
    /// The region `name` in `dir`, which need not be there.
    pub fn new(name: &str, dir: impl Into<PathBuf>) -> Region {
        let dir = dir.into();
        Region { name: name.to_owned(), url: format!("file://{}", dir.display()), dir }
    }

    /// The region `name` at `url`, on a server. It has no directory, and nothing can be looked for there.
    pub fn remote(name: &str, url: &str) -> Region {
        Region { name: name.to_owned(), url: url.to_owned(), dir: PathBuf::new() }
    }

    /// Its name in the repository.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The URL of its place.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    fn away(&self) -> PathBuf {
        self.dir.with_extension("away")
    }

    /// Takes the place away, as an unmounted volume would be.
    pub fn take_away(&self) -> Result<()> {
        std::fs::rename(&self.dir, self.away()).with_context(|| format!("take away {}", self.dir.display()))
    }

    /// Puts the place back. An error when somebody has made another one under its path meanwhile.
    pub fn give_back(&self) -> Result<()> {
        if self.dir.exists() {
            bail!("somebody made {} while the region was away", self.dir.display());
        }
        std::fs::rename(self.away(), &self.dir).with_context(|| format!("give back {}", self.dir.display()))
    }

    /// Every object by its name: length and hash. Unfinished writes do not count.
    pub fn objects(&self) -> Result<BTreeMap<String, (u64, String)>> {
        let mut objects = BTreeMap::new();
        for (path, entry) in tree(&self.dir)? {
            if let (Entry::File(length, hash), false) = (entry, path.starts_with(".tmp")) {
                objects.insert(path.display().to_string(), (length, hash));
            }
        }
        Ok(objects)
    }

    /// Names and lengths of the objects whose name contains `part`, without reading them; a region that is away has none.
    pub fn names(&self, part: &str) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        collect(&self.dir, &self.dir, &mut found);
        found.retain(|name, _| name.contains(part));
        found
    }
}

/// Objects come and go while this looks, so whatever vanishes is passed over.
fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, u64>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        let Ok(name) = path.strip_prefix(root) else { continue };
        if meta.is_dir() && !name.starts_with(".tmp") {
            collect(root, &path, found);
        } else if meta.is_file() {
            found.insert(name.display().to_string(), meta.len());
        }
    }
}
