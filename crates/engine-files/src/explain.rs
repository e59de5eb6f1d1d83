//! Why a path is in the backups of a source, or is not.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use breakwater_engine::{EngineError, EngineErrorKind};
use serde::Serialize;

use crate::beneath;
use crate::judge::{Judge, Reason};
use crate::look::{self, Kind, Look};
use crate::roots::{self, OpenRoot, is_open_region, own_directories};
use crate::rules::{Rule, Said};
use crate::settings::FilesSettings;
use crate::walk::{is_cache, is_elsewhere};

/// The longest path that Linux takes in one call (`PATH_MAX` of `limits.h`); the work grows with its square.
const PATH_MAX: usize = 4096;

/// The answer, as a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was asked about, as the tree shows it.
    pub path: String,
    /// Whether it is backed up.
    pub included: bool,
    /// Whether it is there now; rules are judged either way.
    pub exists: bool,
    /// The path that was decided about: the one asked for, or a directory above it.
    pub decided_at: String,
    /// What decided, for people: a rule with its file and line, or another reason.
    pub because: String,
    /// The file or field of the source that the rule stands in.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// The pattern.
    pub pattern: Option<String>,
}

/// Explains `path`, which is absolute, or as a snapshot shows it. A slash at the end says that it is a directory. Blocking.
pub fn explain(settings: &FilesSettings, path: &str) -> Result<Explanation, EngineError> {
    if path.len() > PATH_MAX {
        let what = format!("a path of {} bytes; at most {PATH_MAX} can be asked about", path.len());
        return Err(EngineError::new(EngineErrorKind::Invalid, what));
    }
    let judge = Judge::of(settings)?;
    let opened = roots::open(settings)?;
    let (root, relative) = find(settings, &opened, path)?;
    let own = own_directories(&settings.own);
    let parts: Vec<&str> = relative.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(EngineError::new(
            EngineErrorKind::Invalid,
            format!("`..` is no part of a path to explain: {path}"),
        ));
    }
    let shown = |parts: &[&str]| [&[root.name.as_str()], parts].concat().join("/");
    let mut answer = Explanation {
        path: shown(&parts),
        included: true,
        exists: true,
        decided_at: shown(&parts),
        because: "no rule leaves it out".to_owned(),
        file: None,
        line: None,
        pattern: None,
    };
    for end in 0..=parts.len() {
        let here = parts.get(..end).unwrap_or_default();
        let below = end < parts.len();
        let joined = here.join("/");
        let look = see(root, &joined);
        answer.exists = look.is_some();
        let is_directory = below || look.map_or(path.ends_with('/'), |look| look.kind == Kind::Directory);
        let decided = match (end, look) {
            (0, _) => None,
            (_, Some(look)) => judge.excludes(Path::new(&joined), &look),
            (_, None) => match judge.rules(Path::new(&joined), is_directory) {
                Said::Exclude(rule) => Some(Reason::Rule(rule)),
                Said::Nothing | Said::Include(_) => None,
            },
        };
        let inside = || look.filter(|look| below && look.kind == Kind::Directory && end > 0);
        let next = parts.get(end).copied().unwrap_or_default();
        let decided = decided.or_else(|| content(&judge, root, &own, &joined, inside()?, next));
        if let Some(reason) = decided {
            answer.included = false;
            answer.decided_at = shown(here);
            answer.because = reason.shown();
            if let Reason::Rule(rule) = reason {
                answer.name(rule);
            }
            answer.exists = see(root, &parts.join("/")).is_some();
            return Ok(answer);
        }
        if let Some(look) = look.filter(|_| below)
            && look.kind != Kind::Directory
        {
            answer.included = false;
            answer.exists = false;
            answer.decided_at = shown(here);
            "what stands there is no directory, and links are not followed".clone_into(&mut answer.because);
            return Ok(answer);
        }
        if !below && let Said::Include(rule) = judge.rules(Path::new(&joined), is_directory) {
            answer.because = format!("taken back by {rule}");
            answer.name(rule);
        }
    }
    Ok(answer)
}

impl Explanation {
    fn name(&mut self, rule: Rule) {
        self.file = Some(rule.file);
        self.line = Some(rule.line);
        self.pattern = Some(rule.pattern);
    }
}

/// Why the content of a directory is left out, `next` in particular.
fn content(
    judge: &Judge,
    root: &OpenRoot,
    own: &std::collections::HashSet<(u64, u64)>,
    path: &str,
    look: Look,
    next: &str,
) -> Option<Reason> {
    if own.contains(&(look.identity.device, look.identity.inode)) {
        return Some(Reason::Own);
    }
    if judge.one_file_system && is_elsewhere(&look, &root.look) {
        return Some(Reason::OtherFileSystem);
    }
    let directory = beneath::directory(root.directory.as_fd(), path.as_bytes()).ok()?;
    if is_open_region(directory.as_fd()) {
        return Some(Reason::Region);
    }
    (judge.cache_tags && next != "CACHEDIR.TAG" && is_cache(directory.as_fd())).then_some(Reason::CacheTag)
}

/// Looks at a path beneath the root without following links.
fn see(root: &OpenRoot, path: &str) -> Option<Look> {
    if path.is_empty() {
        return Some(root.look);
    }
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = beneath::directory(root.directory.as_fd(), above.as_bytes()).ok()?;
    look::at(directory.as_fd(), &std::ffi::CString::new(name).ok()?).ok()
}

/// The root that `path` lies in, and the rest of it.
fn find<'a>(
    settings: &FilesSettings,
    opened: &'a [OpenRoot],
    path: &str,
) -> Result<(&'a OpenRoot, String), EngineError> {
    let not_here = || {
        let paths: Vec<String> =
            opened.iter().map(|root| format!("{} ({})", root.canonical.display(), root.name)).collect();
        EngineError::new(
            EngineErrorKind::NotFound,
            format!("{path} lies in no directory of source `{}`", settings.source),
        )
        .hint(format!("its directories: {}", paths.join(", ")))
    };
    if !path.starts_with('/') {
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let root = opened.iter().find(|root| root.name == name).ok_or_else(not_here)?;
        return Ok((root, rest.to_owned()));
    }
    let asked = PathBuf::from(path);
    for root in opened {
        let declared = settings.roots.iter().find(|one| one.name == root.name).map(|one| one.path.as_path());
        for base in [Some(root.canonical.as_path()), declared].into_iter().flatten() {
            if let Ok(rest) = asked.strip_prefix(base) {
                return Ok((root, rest.to_string_lossy().into_owned()));
            }
        }
    }
    Err(not_here())
}
