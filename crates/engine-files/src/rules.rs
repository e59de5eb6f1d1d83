//! The rules that leave entries out: gitignore patterns in order, each with the place that it comes from.

use std::path::{Path, PathBuf};

use breakwater_engine::{EngineError, EngineErrorKind};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::settings::FilesSettings;

/// Logs, temporary files and caches: what can be made anew or is worth nothing later.
const DEFAULTS: [&str; 22] = [
    "*.log",
    "*.log.[0-9]*",
    "*.log.gz",
    "log/",
    "logs/",
    "*.tmp",
    "*.temp",
    "*~",
    ".#*",
    "*.swp",
    "*.swo",
    "*.part",
    "tmp/",
    "temp/",
    ".tmp/",
    "cache/",
    ".cache/",
    "__pycache__/",
    ".thumbnails/",
    ".Trash-*/",
    ".nfs[0-9a-f]*",
    "/lost+found/",
];

/// A pattern and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    /// The file, or the field of the source: `defaults`, `exclude`, `include`.
    pub(crate) file: String,
    /// The line in it, from 1.
    pub(crate) line: u32,
    /// The pattern as it was written.
    pub(crate) pattern: String,
}

/// What the rules say of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing: it is backed up.
    Nothing,
    /// Leave it out.
    Exclude(Rule),
    /// Take it, although a rule before this one would leave it out.
    Include(Rule),
}

/// All rules of a source.
#[derive(Clone)]
pub(crate) struct Rules(Gitignore);

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rules({} patterns)", self.0.len())
    }
}

impl Rules {
    /// Reads the rules of `settings`. A pattern that is no pattern is an error that names its place.
    pub(crate) fn of(settings: &FilesSettings) -> Result<Rules, EngineError> {
        let mut builder = GitignoreBuilder::new("");
        builder.allow_unclosed_class(false);
        if settings.defaults {
            add(&mut builder, "defaults", DEFAULTS.iter().copied())?;
        }
        for path in &settings.exclude_from {
            let text = std::fs::read_to_string(path).map_err(|error| {
                EngineError::io(format!("cannot read the rules in {}", path.display()), error)
                    .hint("excludeFrom names a text file with one pattern a line, readable by the agent")
            })?;
            add(&mut builder, &path.display().to_string(), text.lines())?;
        }
        add(&mut builder, "exclude", settings.exclude.iter().map(String::as_str))?;
        let taken_back: Vec<String> = settings.include.iter().map(|pattern| format!("!{pattern}")).collect();
        add(&mut builder, "include", taken_back.iter().map(String::as_str))?;
        let built = builder.build().map_err(|error| {
            EngineError::new(EngineErrorKind::Invalid, "the rules of the source cannot be used").because(error)
        })?;
        Ok(Rules(built))
    }

    /// What the rules say of the entry at `path`, relative to its root.
    pub(crate) fn say(&self, path: &Path, is_directory: bool) -> Said {
        let rule = |glob: &ignore::gitignore::Glob| {
            let (file, line) = place(glob.from());
            let pattern = glob.original();
            let pattern = if file == "include" { pattern.strip_prefix('!').unwrap_or(pattern) } else { pattern };
            Rule { file, line, pattern: pattern.to_owned() }
        };
        match self.0.matched(path, is_directory) {
            Match::None => Said::Nothing,
            Match::Ignore(glob) => Said::Exclude(rule(glob)),
            Match::Whitelist(glob) => Said::Include(rule(glob)),
        }
    }
}

fn add<'a>(
    builder: &mut GitignoreBuilder,
    file: &str,
    lines: impl Iterator<Item = &'a str>,
) -> Result<(), EngineError> {
    for (line, number) in lines.zip(1u32..) {
        // The library carries a path with each pattern; ours holds file and line.
        builder.add_line(Some(PathBuf::from(format!("{file}:{number}"))), line).map_err(|error| {
            let what = format!("not a pattern: `{line}` ({file}, line {number})");
            EngineError::new(EngineErrorKind::Invalid, what)
                .hint("patterns are written as in .gitignore: `*.log`, `/build/`, `!keep.log`")
                .because(error)
        })?;
    }
    Ok(())
}

fn place(from: Option<&Path>) -> (String, u32) {
    let text = from.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    match text.rsplit_once(':') {
        Some((file, line)) => (file.to_owned(), line.parse().unwrap_or(0)),
        None => (text, 0),
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({}, line {})", self.pattern, self.file, self.line)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn settings() -> FilesSettings {
        FilesSettings::new("docs", Vec::new(), "/none")
    }

    fn said(settings: &FilesSettings, path: &str) -> Said {
        Rules::of(settings).unwrap().say(Path::new(path.trim_end_matches('/')), path.ends_with('/'))
    }

    #[test]
    fn the_default_set_takes_logs_temporary_files_and_caches_and_can_be_switched_off() {
        let mut settings = settings();
        for path in ["app.log", "a/app.log.1", "logs/", "a/b/cache/", "x.tmp", "notes.txt~", "lost+found/"] {
            assert!(matches!(said(&settings, path), Said::Exclude(rule) if rule.file == "defaults"), "{path}");
        }
        for path in ["catalog", "a/logs.txt", "logs", "cached/", "a/lost+found/", "template.html"] {
            assert_eq!(said(&settings, path), Said::Nothing, "{path}");
        }
        settings.defaults = false;
        assert_eq!(said(&settings, "app.log"), Said::Nothing);
    }

    #[test]
    fn the_last_rule_decides_and_has_a_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules");
        std::fs::write(&file, "# comment\n\n*.bak\n/build/\n").unwrap();
        let mut settings = settings();
        settings.exclude_from = vec![file.clone()];
        settings.exclude = vec!["*.iso".to_owned(), "!keep.iso".to_owned(), "a:b".to_owned()];
        settings.include = vec!["important.log".to_owned()];
        let rule = |file: &str, line, pattern: &str| Rule { file: file.to_owned(), line, pattern: pattern.to_owned() };
        let path = file.to_str().unwrap();
        assert_eq!(said(&settings, "x.bak"), Said::Exclude(rule(path, 3, "*.bak")));
        assert_eq!(said(&settings, "build/"), Said::Exclude(rule(path, 4, "/build/")));
        assert_eq!(said(&settings, "deep/build/"), Said::Nothing, "anchored at the root");
        assert_eq!(said(&settings, "d/x.iso"), Said::Exclude(rule("exclude", 1, "*.iso")));
        assert_eq!(said(&settings, "keep.iso"), Said::Include(rule("exclude", 2, "!keep.iso")));
        assert_eq!(said(&settings, "important.log"), Said::Include(rule("include", 1, "important.log")));
        assert_eq!(said(&settings, "a:b"), Said::Exclude(rule("exclude", 3, "a:b")));
    }

    #[test]
    fn names_that_are_not_text_are_judged_too_and_bad_patterns_are_named() {
        let mut settings = settings();
        let rules = Rules::of(&settings).unwrap();
        assert!(matches!(rules.say(Path::new(OsStr::from_bytes(b"\xFF\xFE.log")), false), Said::Exclude(_)));
        settings.exclude = vec!["fine".to_owned(), "bad[".to_owned()];
        let error = Rules::of(&settings).unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Invalid);
        assert!(error.what.contains("`bad[` (exclude, line 2)"), "{error}");
        settings.exclude = Vec::new();
        settings.exclude_from = vec![PathBuf::from("/nowhere/rules")];
        assert!(Rules::of(&settings).unwrap_err().what.contains("/nowhere/rules"));
    }
}
