//! Is what a region shows really there, whole, and what it says it is?
//!
//! Invariant: a region is called sound only when every object in it was read and understood, and everything that its
//! manifests name was found in that same region. Not asked, not answered and damaged are never "sound".

mod packs;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use breakwater_core::{Chain, ErrorClass, SessionId, SourceUid};

use crate::error::{RepositoryError, Trouble};
use crate::fetch::ReadOrder;
use crate::format::descriptor::{Descriptor, RegionRecord};
use crate::format::domain::DomainRecord;
use crate::format::gc_plan::{GcFence, GcPlan};
use crate::format::log::StreamClaim;
use crate::format::manifest::Manifest;
use crate::format::moved::Moved;
use crate::format::open::{OpenRecord, SessionKeys, SourceRecord};
use crate::format::record::{RecordKind, read_json};
use crate::format::tombstone::Tombstone;
use crate::format::{FormatError, ObjectName};
use crate::frames::FrameReader;
use crate::region::{READ_DEADLINE, Region, within};
use crate::repository::Repository;
use crate::session::commit::{RegisterValue, read_register};

/// Findings of one region that are listed; more are counted.
const FINDINGS_MAX: usize = 1000;

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Open every frame of every pack and prove its content, which needs a recipient's key and reads everything.
    pub read_data: bool,
    /// Names of the regions; empty: all.
    pub regions: Vec<String>,
}

/// Something wrong in a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
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
    /// Packs, segments and tails whose footers were opened.
    pub packs: u64,
    /// Frames listed in them.
    pub frames: u64,
    /// Frames that were opened and proven.
    pub frames_read: u64,
    /// What is wrong, each thing once.
    pub findings: BTreeSet<Finding>,
    /// Findings beyond those that are listed.
    pub more_findings: u64,
    /// Objects that are none of a repository's. Reported, never touched.
    pub unknown: Vec<String>,
    /// Objects that another checked region holds and this one lacks: its debt, or a loss.
    pub missing: Vec<String>,
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
    pub(crate) fn find(&mut self, object: impl ToString, problem: impl ToString) {
        let finding = Finding { object: object.to_string(), problem: problem.to_string() };
        if self.findings.len() < FINDINGS_MAX || self.findings.contains(&finding) {
            self.findings.insert(finding);
        } else {
            self.more_findings += 1;
        }
    }

    /// Damage becomes a finding; an answer that did not come makes the check incomplete.
    pub(crate) fn note(&mut self, object: impl ToString, error: &RepositoryError) {
        match error.class() {
            ErrorClass::Unavailable | ErrorClass::Denied | ErrorClass::Cancelled => {
                let text = format!("{}: {}", object.to_string(), Chain(error));
                self.unchecked.get_or_insert(text);
            }
            _ => self.find(object, Chain(error)),
        }
    }

    fn note_trouble(&mut self, object: impl ToString, trouble: &Trouble) {
        match trouble.class() {
            ErrorClass::Unavailable | ErrorClass::Denied | ErrorClass::Cancelled => {
                let text = format!("{}: {trouble}", object.to_string());
                self.unchecked.get_or_insert(text);
            }
            _ => self.find(object, trouble),
        }
    }
}

/// The objects of one source in one region.
#[derive(Debug)]
struct SourceObjects {
    frames: FrameReader,
    keys: BTreeSet<SessionId>,
    packs: BTreeSet<String>,
    manifests: Vec<Manifest>,
}

impl SourceObjects {
    fn new(repository: &Repository, source: SourceUid, order: ReadOrder) -> Self {
        SourceObjects {
            frames: FrameReader::new(repository, source, order),
            keys: BTreeSet::new(),
            packs: BTreeSet::new(),
            manifests: Vec::new(),
        }
    }
}

impl Repository {
    /// Checks regions one after the other. Memory does not grow with the amount of data.
    pub async fn check(&self, options: &CheckOptions) -> Result<CheckReport, RepositoryError> {
        if options.read_data {
            self.recipient("reading all data")?;
        }
        let regions: Vec<Arc<Region>> = match options.regions.as_slice() {
            [] => self.regions().to_vec(),
            names => names.iter().map(|name| self.region(name).cloned()).collect::<Result<_, _>>()?,
        };
        let mut report = CheckReport::default();
        let mut held: Vec<BTreeSet<String>> = Vec::new();
        for region in &regions {
            let (one, names) = self.check_region(region, options).await?;
            report.regions.push(one);
            held.push(names);
        }
        // Every place has its own region record; everything else is the same everywhere.
        let everything: BTreeSet<&String> = held.iter().flatten().collect();
        for (one, names) in report.regions.iter_mut().zip(&held) {
            let known = |name: &&&String| ObjectName::parse(name).is_some();
            if !names.is_empty() {
                let lacking = everything.iter().filter(|name| !names.contains(**name)).filter(known);
                one.missing = lacking.map(|name| (*name).clone()).collect();
            }
        }
        Ok(report)
    }

    async fn check_region(
        &self,
        region: &Arc<Region>,
        options: &CheckOptions,
    ) -> Result<(RegionReport, BTreeSet<String>), RepositoryError> {
        let mut report = RegionReport { region: region.name().to_owned(), ..RegionReport::default() };
        let listed = region.names("");
        let names: BTreeSet<String> = match listed.await {
            Ok(names) => names.into_iter().map(|(name, _)| name).collect(),
            Err(trouble) => {
                report.unchecked = Some(trouble.to_string());
                return Ok((report, BTreeSet::new()));
            }
        };
        report.objects = names.len() as u64;
        let order = self.read_only_from(region.name())?;
        let mut sources: BTreeMap<SourceUid, SourceObjects> = BTreeMap::new();
        let mut domains = 0;
        for key in &names {
            let Some(name) = ObjectName::parse(key) else {
                report.unknown.push(key.clone());
                continue;
            };
            domains += u32::from(matches!(name, ObjectName::Domain { .. }));
            let objects = name
                .source()
                .map(|source| sources.entry(source).or_insert_with(|| SourceObjects::new(self, source, order.clone())));
            self.check_object(region, &name, objects, options, &mut report).await;
        }
        for needed in [ObjectName::Descriptor, ObjectName::Region] {
            if !names.contains(&needed.to_string()) {
                report.find(needed, "is missing");
            }
        }
        if domains == 0 {
            report.find("repo/domain/", "the domain record is missing");
        }
        for (source, objects) in &sources {
            snapshot::check_manifests(self, *source, objects, &order, &mut report).await;
        }
        Ok((report, names))
    }

    /// Checks one object by itself, and notes what the manifests will need.
    async fn check_object(
        &self,
        region: &Region,
        name: &ObjectName,
        objects: Option<&mut SourceObjects>,
        options: &CheckOptions,
        report: &mut RegionReport,
    ) {
        let Some(objects) = objects else {
            if let Err(trouble) = self.check_repository_object(region, name).await {
                report.note_trouble(name, &trouble);
            }
            return;
        };
        match name {
            ObjectName::ContentPack(..)
            | ObjectName::StructurePack(..)
            | ObjectName::Segment(..)
            | ObjectName::Tail(..)
            | ObjectName::IdleTail(..) => {
                objects.packs.insert(name.to_string());
                packs::check_pack(self, region, &objects.frames, name, options, report).await;
            }
            _ => match self.check_record(region, name).await {
                Ok(Some(manifest)) => objects.manifests.push(manifest),
                Ok(None) => {
                    if let ObjectName::SessionKeys(_, session) = name {
                        objects.keys.insert(*session);
                    }
                }
                Err(CheckError::Trouble(trouble)) => report.note_trouble(name, &trouble),
                Err(CheckError::Repository(error)) => report.note(name, &error),
            },
        }
    }

    async fn check_repository_object(&self, region: &Region, name: &ObjectName) -> Result<(), Trouble> {
        let bytes = within(READ_DEADLINE, region.ready().await?.get(&name.to_string())).await?;
        let damaged = |what, detail: &str| Err(Trouble::Format(FormatError::damaged(what, detail)));
        match name {
            ObjectName::Descriptor if Descriptor::fingerprint(&bytes) != self.fingerprint() => {
                damaged("repository descriptor", "it is not the one that the key pins")
            }
            ObjectName::Region => {
                let record = RegionRecord::decode(&bytes)?;
                if record.repository != self.id() || Some(record.region) != region.id() {
                    return damaged("region record", "it names another region than the one that was joined");
                }
                Ok(())
            }
            ObjectName::Domain { domain, epoch } => {
                // Without the repository's root nobody can tell who wrote it; a writer does not use it.
                let Some(root) = self.root() else { return Ok(()) };
                let record = DomainRecord::decode(&bytes, root)?;
                if (&record.domain, record.epoch, record.repository) != (domain, *epoch, self.id()) {
                    return damaged("domain record", "it lies under another name");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Opens a record and everything in it that this handle's key opens; answers the manifest if it is one.
    async fn check_record(&self, region: &Region, name: &ObjectName) -> Result<Option<Manifest>, CheckError> {
        const WHAT: &str = "record";
        let bytes = async { within(READ_DEADLINE, region.ready().await?.get(&name.to_string())).await };
        let bytes = bytes.await.map_err(CheckError::Trouble)?;
        let damaged = |detail: &str| Err(CheckError::Trouble(Trouble::Format(FormatError::damaged(WHAT, detail))));
        let format = |error: FormatError| CheckError::Trouble(Trouble::Format(error));
        if matches!(name, ObjectName::Register(..) | ObjectName::Committed(..)) {
            return match read_register(self, name, &bytes).map_err(format)? {
                RegisterValue::Manifest(manifest) => Ok(Some(*manifest)),
                RegisterValue::Fence(_) => Ok(None),
            };
        }
        let Some(source) = name.source() else { return Ok(None) };
        let (kind, json) = self.open_any_record(source, name, &bytes).map_err(format)?;
        let same = match (name, kind) {
            (ObjectName::Source(_), RecordKind::Source) => {
                read_json::<SourceRecord>(WHAT, &json).map_err(format)?.uid == source
            }
            (ObjectName::SessionKeys(_, session), RecordKind::SessionKeys) => {
                let keys: SessionKeys = read_json(WHAT, &json).map_err(format)?;
                if keys.session == *session && self.opens_content() {
                    self.unseal_session(source, &keys).map_err(CheckError::Repository)?;
                }
                keys.session == *session
            }
            (ObjectName::Open(_, session), RecordKind::Open) => {
                read_json::<OpenRecord>(WHAT, &json).map_err(format)?.session == *session
            }
            (ObjectName::StreamClaim(_, generation, session), RecordKind::StreamClaim) => {
                let claim: StreamClaim = read_json(WHAT, &json).map_err(format)?;
                (claim.generation, claim.session) == (*generation, *session)
            }
            (ObjectName::History(..), RecordKind::History) => true,
            (ObjectName::Tombstone(_, snapshot, session), RecordKind::Tombstone) => {
                let tombstone: Tombstone = read_json(WHAT, &json).map_err(format)?;
                (tombstone.snapshot, tombstone.session) == (*snapshot, *session)
            }
            (ObjectName::Moved { .. }, RecordKind::Moved) => {
                read_json::<Moved>(WHAT, &json).map_err(format)?.check(name).map_err(format)?;
                true
            }
            (ObjectName::GcPlan(_, run) | ObjectName::GcDecision(_, run), RecordKind::GcPlan) => {
                read_json::<GcPlan>(WHAT, &json).map_err(format)?.run == *run
            }
            (ObjectName::GcDecision(_, run), RecordKind::Fence) => {
                read_json::<GcFence>(WHAT, &json).map_err(format)?.run == *run
            }
            _ => return damaged("it is of another kind than its name says"),
        };
        if same { Ok(None) } else { damaged("it speaks of another thing than its name") }
    }
}

enum CheckError {
    Trouble(Trouble),
    Repository(RepositoryError),
}
