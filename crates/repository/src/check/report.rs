//! What a check found, and what it means for whom.
//!
//! Invariant: what was not asked, did not answer or was not understood is never counted as sound.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use breakwater_core::{Chain, ErrorClass};
use breakwater_storage::StorageErrorKind;

use crate::error::{RepositoryError, Trouble};
use crate::format::ObjectName;

/// Findings of one region that are listed; more are counted.
const FINDINGS_MAX: usize = 1000;
/// Names of missing and of unknown objects that are listed; more are counted.
const NAMES_MAX: usize = 1000;
/// Snapshots that are named for one damaged object.
const SNAPSHOTS_MAX: usize = 20;

/// Something wrong in a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Which snapshots lean on a damaged object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Some of the snapshots, by id.
    pub snapshots: BTreeSet<String>,
    /// Whether there are more than those.
    pub more: bool,
    /// Files, each counted once for every snapshot, whose content lies in the object.
    pub files: u64,
    /// The path of one of them.
    pub example: Option<String>,
}

/// What was found in one region.
#[derive(Clone, Debug, Default)]
pub struct RegionReport {
    /// The region's name.
    pub region: String,
    /// Why it could not be checked to the end.
    pub unchecked: Option<String>,
    /// Objects seen.
    pub objects: u64,
    /// Committed sessions whose trees were followed.
    pub snapshots: u64,
    /// Committed sessions that a tombstone deletes, and that are not followed.
    pub deleted: u64,
    /// Packs, segments and tails whose footers were opened.
    pub packs: u64,
    /// Those of them whose data was to be read too.
    pub packs_read: u64,
    /// Packs in an archive, of which nothing but the name was looked at.
    pub archived: u64,
    /// Frames listed in them.
    pub frames: u64,
    /// Frames that were opened and proven.
    pub frames_read: u64,
    /// Bytes of packs that were read for that.
    pub bytes_read: u64,
    /// What is wrong, each thing once.
    pub findings: BTreeSet<Finding>,
    /// Findings beyond those that are listed.
    pub more_findings: u64,
    /// By object: who leans on what is damaged.
    pub affected: BTreeMap<String, Affected>,
    /// Objects that are none of a repository's. Reported, never touched. At most a thousand of them.
    pub unknown: Vec<String>,
    /// Objects that another region holds and this one lacks: its debt, or a loss. At most a thousand of them.
    pub missing: Vec<String>,
    /// How many there are.
    pub missing_objects: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// One report a region.
    pub regions: Vec<RegionReport>,
}

/// What a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was to be checked was, and nothing is wrong.
    Sound,
    /// Nothing wrong was found, but not everything was checked.
    Incomplete,
    /// Something is wrong.
    Damaged,
}

impl CheckReport {
    /// What it comes to.
    pub fn verdict(&self) -> Verdict {
        if self.regions.iter().any(|region| !region.findings.is_empty()) {
            Verdict::Damaged
        } else if self.regions.is_empty() || self.regions.iter().any(|region| region.unchecked.is_some()) {
            Verdict::Incomplete
        } else {
            Verdict::Sound
        }
    }
}

impl RegionReport {
    pub(super) fn new(region: &str) -> Self {
        RegionReport { region: region.to_owned(), ..RegionReport::default() }
    }

    pub(crate) fn find(&mut self, object: impl ToString, problem: impl ToString) {
        let finding = Finding { object: object.to_string(), problem: problem.to_string() };
        if self.findings.len() < FINDINGS_MAX || self.findings.contains(&finding) {
            self.findings.insert(finding);
        } else {
            self.more_findings += 1;
        }
    }

    /// Damage becomes a finding; an answer that did not come makes the check incomplete.
    pub(super) fn note(&mut self, object: impl ToString, error: &CheckError) {
        if error.is_silence() {
            self.leave_unchecked(format!("{}: {error}", object.to_string()));
        } else {
            self.find(object, error);
        }
    }

    pub(super) fn leave_unchecked(&mut self, why: String) {
        self.unchecked.get_or_insert(why);
    }

    pub(super) fn miss(&mut self, name: &str) {
        self.missing_objects += 1;
        if self.missing.len() < NAMES_MAX {
            self.missing.push(name.to_owned());
        }
    }

    pub(super) fn stranger(&mut self, name: &str) {
        if self.unknown.len() < NAMES_MAX {
            self.unknown.push(name.to_owned());
        }
    }

    /// Whether something is wrong with `object`.
    pub(super) fn is_found(&self, object: &str) -> bool {
        let first = Finding { object: object.to_owned(), problem: String::new() };
        self.findings.range(first..).next().is_some_and(|finding| finding.object == object)
    }

    /// `snapshot` leans on the damaged `object`; for content also with which file.
    pub(super) fn affects(&mut self, object: &str, snapshot: impl fmt::Display, path: Option<&[u8]>) {
        if !self.affected.contains_key(object) && self.affected.len() >= FINDINGS_MAX {
            return;
        }
        let affected = self.affected.entry(object.to_owned()).or_default();
        let snapshot = snapshot.to_string();
        if affected.snapshots.len() < SNAPSHOTS_MAX {
            affected.snapshots.insert(snapshot);
        } else if !affected.snapshots.contains(&snapshot) {
            affected.more = true;
        }
        if let Some(path) = path {
            affected.files += 1;
            affected.example.get_or_insert_with(|| crate::format::path::escape(path));
        }
    }

    /// What `finding` means for those who want to restore, in a few words.
    pub fn meaning(&self, finding: &Finding) -> String {
        if let Some(affected) = self.affected.get(&finding.object) {
            let ids = affected.snapshots.iter().cloned().collect::<Vec<_>>().join(", ");
            let more = if affected.more { " and more" } else { "" };
            let files = match &affected.example {
                Some(path) => format!(" for {} files, `{path}` among them", affected.files),
                None => String::new(),
            };
            return format!("needed by snapshots {ids}{more}{files}: they cannot be restored whole from this region");
        }
        let text = match ObjectName::parse(&finding.object) {
            Some(ObjectName::Descriptor | ObjectName::Region) => "this place cannot be used as a region",
            Some(ObjectName::Domain { .. } | ObjectName::Recipients(_)) => {
                "from this region alone nothing can be opened with a recipient's key"
            }
            Some(ObjectName::SessionKeys(..) | ObjectName::ResealedKeys(..)) => {
                "what this session stored cannot be opened from this region"
            }
            Some(ObjectName::Register(..) | ObjectName::Committed(..)) => {
                "this snapshot cannot be restored whole from this region"
            }
            Some(ObjectName::ContentPack(..) | ObjectName::StructurePack(..)) => {
                "no snapshot that was followed in this region needs what is damaged in it"
            }
            Some(ObjectName::Segment(..) | ObjectName::Tail(..) | ObjectName::IdleTail(..)) => {
                "restores to moments that need this piece of the log fail from this region"
            }
            _ => "restores from this region may lack it",
        };
        text.to_owned()
    }
}

/// Why an object could not be used.
#[derive(Debug)]
pub(crate) enum CheckError {
    Trouble(Trouble),
    Repository(RepositoryError),
    /// It was read wrongly at first, and right the second time.
    Unsteady(String),
}

impl CheckError {
    pub(crate) fn class(&self) -> ErrorClass {
        match self {
            CheckError::Trouble(trouble) => trouble.class(),
            CheckError::Repository(error) => error.class(),
            CheckError::Unsteady(_) => ErrorClass::Corrupt,
        }
    }

    /// Whether the object is not there.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, CheckError::Trouble(trouble) if trouble.is_not_found())
    }

    /// Whether the object would have to be thawed first.
    pub(crate) fn is_archived(&self) -> bool {
        let archived =
            |trouble: &Trouble| matches!(trouble, Trouble::Storage(error) if error.kind == StorageErrorKind::Archived);
        match self {
            CheckError::Trouble(trouble) => archived(trouble),
            CheckError::Repository(RepositoryError::Unreadable { causes, .. }) => {
                causes.iter().any(|cause| archived(&cause.trouble))
            }
            CheckError::Repository(_) | CheckError::Unsteady(_) => false,
        }
    }

    /// Whether nothing can be said about the object, because somebody did not answer, or it cannot be read as it lies.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self.class(), ErrorClass::Unavailable | ErrorClass::Denied | ErrorClass::Cancelled)
            || self.is_archived()
    }
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckError::Trouble(trouble) => fmt::Display::fmt(trouble, f),
            CheckError::Repository(error) => fmt::Display::fmt(&Chain(error), f),
            CheckError::Unsteady(first) => write!(
                f,
                "a first read was damaged ({first}), a second one was whole; hint: the object is good, but memory, \
                 controller or network of this machine are not"
            ),
        }
    }
}

impl From<Trouble> for CheckError {
    fn from(trouble: Trouble) -> Self {
        CheckError::Trouble(trouble)
    }
}

impl From<RepositoryError> for CheckError {
    fn from(error: RepositoryError) -> Self {
        CheckError::Repository(error)
    }
}

impl From<crate::format::FormatError> for CheckError {
    fn from(error: crate::format::FormatError) -> Self {
        CheckError::Trouble(Trouble::Format(error))
    }
}
