//! What a person says about a source of files.

use std::path::PathBuf;

/// One directory to protect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The name under which its content is shown in snapshots.
    pub name: String,
    /// Where it is. Links on the way to it are followed, links in it never.
    pub path: PathBuf,
}

impl Root {
    /// The root at `path`, shown under its last part; `None` when it has none (`/`), or one that is not UTF-8.
    pub fn named_by_path(path: impl Into<PathBuf>) -> Option<Root> {
        let path = path.into();
        let name = path.file_name()?.to_str()?.to_owned();
        Some(Root { name, path })
    }
}

/// Which directories, and what of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesSettings {
    /// The source's name, which is what makes it itself: directories may come and go.
    pub source: String,
    /// The directories.
    pub roots: Vec<Root>,
    /// Patterns in gitignore syntax, relative to each root, the last that matches decides; `!` takes one back.
    pub exclude: Vec<String>,
    /// Files of such patterns, one a line; they come before [`exclude`](Self::exclude).
    pub exclude_from: Vec<PathBuf>,
    /// Patterns that are taken back whatever excludes them; they come last.
    pub include: Vec<String>,
    /// Leave out the default set: logs, temporary files, caches.
    pub defaults: bool,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// Leave out the content of directories that are marked as caches by a `CACHEDIR.TAG`.
    pub cache_tags: bool,
    /// Leave out what carries the flag `nodump` (`chattr +d`).
    pub no_dump: bool,
    /// Leave out files larger than this.
    pub max_file_size: Option<u64>,
    /// Directories of the agent itself, which are never read.
    pub own: Vec<PathBuf>,
    /// A directory of the agent, for a file whose time stamp tells the time.
    pub scratch: PathBuf,
}

impl FilesSettings {
    /// The settings for `roots` as most people want them.
    pub fn new(source: impl Into<String>, roots: Vec<Root>, scratch: impl Into<PathBuf>) -> Self {
        FilesSettings {
            source: source.into(),
            roots,
            exclude: Vec::new(),
            exclude_from: Vec::new(),
            include: Vec::new(),
            defaults: true,
            one_file_system: true,
            cache_tags: true,
            no_dump: false,
            max_file_size: None,
            own: Vec::new(),
            scratch: scratch.into(),
        }
    }
}
