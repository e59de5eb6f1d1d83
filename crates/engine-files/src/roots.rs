//! The directories of a source, opened once, and the reasons not to read one.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_engine::{EngineError, EngineErrorKind};

use crate::look::{self, Kind, Look};
use crate::settings::{FilesSettings, Root};

/// A root as it is read.
#[derive(Debug)]
pub(crate) struct OpenRoot {
    /// The name under which it is shown.
    pub(crate) name: String,
    /// Where it really is.
    pub(crate) canonical: PathBuf,
    /// Open for the whole backup.
    pub(crate) directory: Arc<OwnedFd>,
    /// Device and inode, mount.
    pub(crate) look: Look,
}

/// Checks the names: each must be one part of a path, and none may occur twice.
pub(crate) fn check_names(roots: &[Root]) -> Result<(), EngineError> {
    let invalid = |what: String, hint: &str| Err(EngineError::new(EngineErrorKind::Invalid, what).hint(hint));
    if roots.is_empty() {
        return invalid("the source names no directory".to_owned(), "paths: [/srv/docs]");
    }
    let mut names = HashSet::new();
    for root in roots {
        let name = root.name.as_str();
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return invalid(format!("not a name to show a directory under: `{name}`"), "names are one part of a path");
        }
        if !names.insert(name) {
            return invalid(
                format!("two directories of the source would be shown as `{name}`"),
                "give them names: paths: [{path: /srv/a/docs, name: a-docs}, …]",
            );
        }
    }
    Ok(())
}

/// Opens the roots of `settings`, sorted by name. A root that is missing, no directory, unreadable, or that holds or lies in
/// what must not be backed up, is refused.
pub(crate) fn open(settings: &FilesSettings) -> Result<Vec<OpenRoot>, EngineError> {
    check_names(&settings.roots)?;
    let mut roots = settings.roots.iter().map(|root| open_one(root, &settings.own)).collect::<Result<Vec<_>, _>>()?;
    roots.sort_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
    for (index, root) in roots.iter().enumerate() {
        if let Some(outer) =
            roots.iter().enumerate().find(|(at, outer)| *at != index && root.canonical.starts_with(&outer.canonical))
        {
            let what = format!(
                "{} lies in {}, which is another directory of the source",
                root.canonical.display(),
                outer.1.canonical.display()
            );
            return Err(EngineError::new(EngineErrorKind::Invalid, what).hint("name only the outer one"));
        }
    }
    Ok(roots)
}

pub(crate) fn open_one(root: &Root, own: &[PathBuf]) -> Result<OpenRoot, EngineError> {
    let path = &root.path;
    let shown = path.display();
    let canonical = path.canonicalize().map_err(|error| {
        EngineError::io(format!("cannot find the directory {shown}"), error)
            .hint("check the paths of the source; is its volume mounted?")
    })?;
    let invalid = |what: String| EngineError::new(EngineErrorKind::Invalid, what);
    if !canonical.is_dir() {
        return Err(invalid(format!("not a directory: {shown}"))
            .hint("name the directory that it lies in, and rules for the rest"));
    }
    for own in own {
        let own = own.canonicalize().unwrap_or_else(|_| own.clone());
        if canonical.starts_with(&own) {
            let what = format!("{shown} belongs to this agent: it lies in {}", own.display());
            return Err(EngineError::new(EngineErrorKind::Refused, what)
                .hint("keys and spools must not go into a repository; keep copies of keys elsewhere"));
        }
    }
    if let Some(region) = canonical.ancestors().find(|above| is_region(above)) {
        let what = format!("{shown} lies in a region of a repository: {}", region.display());
        return Err(EngineError::new(EngineErrorKind::Refused, what)
            .hint("a repository is copied by giving it another region, not by backing it up"));
    }
    let directory: OwnedFd = File::open(&canonical)
        .map_err(|error| {
            EngineError::io(format!("cannot open the directory {shown}"), error)
                .hint("the agent's user needs the right to read and enter it (or CAP_DAC_READ_SEARCH)")
        })?
        .into();
    let look = look::of(directory.as_fd())
        .map_err(|error| EngineError::io(format!("cannot look at the directory {shown}"), error.into()))?;
    if look.kind != Kind::Directory {
        return Err(invalid(format!("not a directory any more: {shown}")));
    }
    Ok(OpenRoot { name: root.name.clone(), canonical, directory: Arc::new(directory), look })
}

/// Whether a repository keeps a region in this directory: every region has this object, in this place.
fn is_region(directory: &Path) -> bool {
    directory.join("repo/descriptor").is_file()
}

/// The same for a directory that is open.
pub(crate) fn is_open_region(directory: BorrowedFd<'_>) -> bool {
    look::at(directory, c"repo/descriptor").is_ok_and(|look| look.kind == Kind::File)
}

/// Device and inode of the agent's own directories, which a walk goes around.
pub(crate) fn own_directories(own: &[PathBuf]) -> HashSet<(u64, u64)> {
    let look = |path: &PathBuf| {
        let look = look::of(File::open(path).ok()?.as_fd()).ok()?;
        Some((look.identity.device, look.identity.inode))
    };
    own.iter().filter_map(look).collect()
}
