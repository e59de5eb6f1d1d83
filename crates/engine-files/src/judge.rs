//! What is left out, and the account of it.
//!
//! Invariant: whatever a walk leaves out on purpose is counted here under its reason.

use std::collections::BTreeMap;
use std::path::Path;

use breakwater_engine::EngineError;
use serde::{Deserialize, Serialize};

use crate::look::{Kind, Look};
use crate::rules::{Rule, Rules, Said};
use crate::settings::FilesSettings;

/// Examples of what one reason has left out.
const EXAMPLES: usize = 3;

/// Reasons that a report lists; there are as many as there are rules.
const REASONS_MAX: usize = 200;

/// Why an entry, or the content of a directory, is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A rule of the source.
    Rule(Rule),
    /// It is larger than `maxFileSize`.
    TooLarge,
    /// It carries the flag `nodump`.
    NoDump,
    /// Another file system begins here; the directory itself is kept.
    OtherFileSystem,
    /// The directory is marked as a cache; it and the mark are kept.
    CacheTag,
    /// It belongs to this agent.
    Own,
    /// A region of a repository: backing it up into itself would never end.
    Region,
}

impl Reason {
    /// For people: what decided, with file and line where there is one.
    pub(crate) fn shown(&self) -> String {
        match self {
            Reason::Rule(rule) => rule.to_string(),
            Reason::TooLarge => "larger than maxFileSize".to_owned(),
            Reason::NoDump => "the flag nodump".to_owned(),
            Reason::OtherFileSystem => "another file system (oneFileSystem)".to_owned(),
            Reason::CacheTag => "CACHEDIR.TAG".to_owned(),
            Reason::Own => "the agent's own directory".to_owned(),
            Reason::Region => "a region of a repository".to_owned(),
        }
    }

    /// Whether nobody wrote this down for the source, so that a person may not expect it.
    fn is_unasked(&self) -> bool {
        match self {
            Reason::Rule(rule) => rule.file == "defaults",
            Reason::TooLarge | Reason::NoDump => false,
            Reason::OtherFileSystem | Reason::CacheTag | Reason::Own | Reason::Region => true,
        }
    }
}

/// Decides by what is known of one entry.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    rules: Rules,
    no_dump: bool,
    max_file_size: Option<u64>,
    pub(crate) one_file_system: bool,
    pub(crate) cache_tags: bool,
}

impl Judge {
    pub(crate) fn of(settings: &FilesSettings) -> Result<Judge, EngineError> {
        Ok(Judge {
            rules: Rules::of(settings)?,
            no_dump: settings.no_dump,
            max_file_size: settings.max_file_size,
            one_file_system: settings.one_file_system,
            cache_tags: settings.cache_tags,
        })
    }

    /// What the rules alone say of `path`, relative to its root.
    pub(crate) fn rules(&self, path: &Path, is_directory: bool) -> Said {
        self.rules.say(path, is_directory)
    }

    /// Why the entry at `path`, relative to its root, is left out, if it is.
    pub(crate) fn excludes(&self, path: &Path, look: &Look) -> Option<Reason> {
        if let Said::Exclude(rule) = self.rules(path, look.kind == Kind::Directory) {
            return Some(Reason::Rule(rule));
        }
        if self.no_dump && look.no_dump {
            return Some(Reason::NoDump);
        }
        let too_large = look.kind == Kind::File && self.max_file_size.is_some_and(|max| look.identity.size > max);
        too_large.then_some(Reason::TooLarge)
    }
}

/// What one reason has left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// The reason, for people.
    pub(crate) reason: String,
    /// Entries; a directory counts once, with all in it.
    pub(crate) count: u64,
    /// Bytes of the files among them.
    pub(crate) bytes: u64,
    /// The first of them, with their names escaped.
    pub(crate) examples: Vec<String>,
}

/// The account of a walk.
#[derive(Debug, Default)]
pub(crate) struct Account(BTreeMap<Reason, Count>);

impl Account {
    /// Notes that the entry at `path` of the tree was left out.
    pub(crate) fn note(&mut self, reason: Reason, path: &[u8], bytes: u64) {
        let count = self.0.entry(reason).or_default();
        count.count += 1;
        count.bytes = count.bytes.saturating_add(bytes);
        if count.examples.len() < EXAMPLES {
            count.examples.push(path.escape_ascii().to_string());
        }
    }

    /// Everything, most first.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let shown = |(reason, count): (&Reason, &Count)| Count { reason: reason.shown(), ..count.clone() };
        let mut counts: Vec<Count> = self.0.iter().map(shown).collect();
        counts.sort_by_key(|count| std::cmp::Reverse(count.count));
        counts.truncate(REASONS_MAX);
        counts
    }

    /// A line for each reason that nobody wrote down for this source.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let defaults =
            self.0.iter().filter(|(reason, _)| matches!(reason, Reason::Rule(rule) if rule.file == "defaults"));
        let (entries, rules) = defaults.fold((0, 0), |(entries, rules), (_, count)| (entries + count.count, rules + 1));
        let mut lines = Vec::new();
        if entries > 0 {
            lines.push(format!(
                "left out by {rules} rules of the default set: {entries} entries (hint: `brctl snapshot show` lists the rules \
                 under facts; `defaults: false` switches the set off)"
            ));
        }
        for (reason, count) in self.0.iter().filter(|(reason, _)| reason.is_unasked()) {
            if !matches!(reason, Reason::Rule(_)) {
                let examples = count.examples.join(", ");
                lines.push(format!("left out, {}: {} entries, such as {examples}", reason.shown(), count.count));
            }
        }
        lines
    }
}
