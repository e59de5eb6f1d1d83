//! Is one snapshot there and whole, in each region alone?
//!
//! Invariant: a region is called sound only when everything that the snapshot needs was found there, as deep as was asked.
//! What is looked at is what the snapshot names: its manifest, the keys of its sessions, and the packs of its references.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use breakwater_core::{SessionId, SnapshotId, SourceUid};

use super::bytes::ObjectBytes;
use super::packs::{self, Depth, Examined};
use super::record::Content;
use super::snapshot::Walk;
use super::{CheckError, CheckProgress, CheckReport, RegionReport, Subset, place, read_record};
use crate::error::RepositoryError;
use crate::fetch::ReadOrder;
use crate::format::ObjectName;
use crate::format::manifest::Manifest;
use crate::format::moved::Moved;
use crate::format::pack::{KeyKind, PackId};
use crate::format::record::RecordKind;
use crate::format::references::PackRanges;
use crate::frames::FrameReader;
use crate::region::{READ_DEADLINE, Region, within};
use crate::repository::Repository;
use crate::snapshots::ReferenceReader;

/// Percent of the packs of content of which a thorough look reads everything.
const SAMPLE_PERCENT: f64 = 10.0;

/// How many times a pack may have moved.
const MOVES_MAX: usize = 64;

/// How deep a snapshot is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything that it needs is there and long enough.
    Basic,
    /// And the structure was opened and followed: trees, leaves, the footers of all packs.
    Standard,
    /// And every byte of a sample of the packs of content was opened and proven.
    Thorough,
    /// And every byte of all of them.
    Forensic,
}

impl Level {
    /// The word of the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Level::Basic => "basic",
            Level::Standard => "standard",
            Level::Thorough => "thorough",
            Level::Forensic => "forensic",
        }
    }

    /// Whether it needs a key that opens content.
    pub const fn opens_content(self) -> bool {
        matches!(self, Level::Thorough | Level::Forensic)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A word that is no level.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no level; hint: basic, standard, thorough or forensic")]
pub struct BadLevel(String);

impl FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        let all = [Level::Basic, Level::Standard, Level::Thorough, Level::Forensic];
        all.into_iter().find(|level| level.word() == text).ok_or_else(|| BadLevel(text.to_owned()))
    }
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// How deep.
    pub level: Level,
    /// Names of the regions; empty: all.
    pub regions: Vec<String>,
}

impl Repository {
    /// Looks at the snapshot `(snapshot, session)` of `source` in one region after the other; `watch` is told how far it is.
    pub async fn verify_snapshot(
        &self,
        source: SourceUid,
        (snapshot, session): (SnapshotId, SessionId),
        options: &VerifyOptions,
        watch: &(dyn Fn(&CheckProgress) + Send + Sync),
    ) -> Result<CheckReport, RepositoryError> {
        if options.level.opens_content() {
            self.needs_content("reading data")?;
        }
        for name in &options.regions {
            self.region(name)?;
        }
        let wanted =
            |region: &Region| options.regions.is_empty() || options.regions.iter().any(|one| one == region.name());
        let mut progress = CheckProgress::default();
        let mut report = CheckReport::default();
        for region in self.regions().iter().filter(|region| wanted(region)) {
            let order = self.read_only_from(region.name())?;
            let mut looking = Looking {
                repository: self,
                region,
                source,
                level: options.level,
                salt: self.salt(),
                frames: FrameReader::new(self, source, order.clone()),
                order,
                report: RegionReport::new(region.name()),
                seen: BTreeSet::new(),
            };
            looking.run(snapshot, session, &mut progress, watch).await;
            report.regions.push(looking.report);
        }
        Ok(report)
    }
}

/// One region that is looked at.
struct Looking<'a> {
    repository: &'a Repository,
    region: &'a Arc<Region>,
    source: SourceUid,
    level: Level,
    salt: [u8; 32],
    frames: FrameReader,
    order: ReadOrder,
    report: RegionReport,
    /// Packs that others moved into, so that each is looked at once.
    seen: BTreeSet<(KeyKind, PackId)>,
}

impl Looking<'_> {
    async fn run(
        &mut self,
        snapshot: SnapshotId,
        session: SessionId,
        progress: &mut CheckProgress,
        watch: &(dyn Fn(&CheckProgress) + Send + Sync),
    ) {
        if let Err(trouble) = self.region.ask().await {
            self.report.leave_unchecked(trouble.to_string());
            for (name, problem) in place::faults(self.repository, self.region).await {
                self.report.find(name, problem);
            }
            return;
        }
        let register = ObjectName::Register(self.source, snapshot, session);
        let manifest = match self.repository.manifest(&self.order, self.source, snapshot, session).await {
            Ok(manifest) => manifest,
            Err(RepositoryError::NotFound { .. }) => {
                self.report.miss(&register.to_string());
                return self.report.leave_unchecked("it does not hold the snapshot".to_owned());
            }
            Err(error) => return self.report.note(&register, &error.into()),
        };
        self.report.objects += 1;
        self.frames.lean_on(&manifest.leans);
        let keys = self.keys(&manifest).await;
        if manifest.references.is_empty() && !manifest.tree.is_empty() {
            self.report.leave_unchecked("its manifest does not say which packs it needs".to_owned());
        }
        let mut references = ReferenceReader::new(self.frames.clone(), &manifest);
        let mut packs = references.of_the_list().to_vec();
        loop {
            for pack in &packs {
                self.pack(pack).await;
                progress.object = self.frames.pack_name(pack.kind, pack.pack).to_string();
                progress.objects += 1;
                progress.findings = self.report.findings.len() as u64;
                watch(&CheckProgress { bytes_read: progress.bytes_read + self.report.bytes_read, ..progress.clone() });
            }
            packs = match references.next().await {
                Ok(Some(packs)) => packs,
                Ok(None) => break,
                Err(error) => {
                    self.report.note(&register, &error.into());
                    break;
                }
            };
        }
        progress.bytes_read += self.report.bytes_read;
        if self.level >= Level::Standard {
            let mut walk = Walk::new(self.repository, self.source, &self.order, self.frames.clone());
            walk.keys = keys;
            walk.follow(&manifest, &mut self.report).await;
        }
    }

    /// The sessions whose keys are whole; what is wrong with the others is said.
    async fn keys(&mut self, manifest: &Manifest) -> BTreeSet<SessionId> {
        let mut whole = BTreeSet::new();
        for session in &manifest.sessions {
            let name = ObjectName::SessionKeys(self.frames.home_of(*session), *session);
            self.report.objects += 1;
            match read_record(self.repository, self.region, &name.to_string(), &name).await {
                Ok(Content::Keys(session)) => drop(whole.insert(session)),
                Ok(_) => self.report.find(&name, "it holds no keys"),
                Err(error) if error.is_gone() => self.report.find(&name, "is missing"),
                Err(error) => self.report.note(&name, &error),
            }
        }
        whole
    }

    /// Looks at a pack, or where it was moved at those that hold its frames now.
    async fn pack(&mut self, needed: &PackRanges) {
        let end = needed.ranges.iter().map(|range| range.end()).max().unwrap_or(0);
        let mut waiting = vec![(needed.kind, needed.pack, end)];
        for _ in 0..MOVES_MAX {
            let Some((kind, pack, end)) = waiting.pop() else { return };
            let name = self.frames.pack_name(kind, pack);
            match self.look(&name, end).await {
                Err(error) if error.is_gone() => match self.moved(kind, pack).await {
                    Some(to) => {
                        // Where the frames lie in a new pack only its footer knows.
                        let new = to.into_iter().filter(|pack| self.seen.insert((kind, *pack)));
                        waiting.extend(new.map(|pack| (kind, pack, 0)));
                    }
                    None => self.report.find(&name, "is missing"),
                },
                Err(error) => self.report.note(&name, &error),
                Ok(()) => {}
            }
        }
    }

    /// An error when the pack is not there or not even its ends can be used.
    async fn look(&mut self, name: &ObjectName, end: u64) -> Result<(), CheckError> {
        let key = name.to_string();
        if self.level == Level::Basic {
            let size = within(READ_DEADLINE, self.region.ready().await?.head(&key)).await?.size;
            self.report.objects += 1;
            self.report.packs += 1;
            if size < end {
                self.report.find(name, format!("it has {size} bytes, and the snapshot needs {end} of it"));
            }
            return Ok(());
        }
        let all = Subset::Percent(SAMPLE_PERCENT);
        let deep = match (name, self.level) {
            (ObjectName::ContentPack(..), Level::Standard) => false,
            (ObjectName::ContentPack(..), Level::Thorough) => {
                self.report.packs_read == 0 || all.holds(&key, &self.salt)
            }
            // Small, and read by everybody who restores.
            _ => true,
        };
        let depth = if deep { Depth::Whole } else { Depth::Ends };
        let bytes = ObjectBytes::Region { region: self.region, key: &key };
        let examined: Examined = packs::examine(&self.frames, name, &bytes, depth).await?;
        let report = &mut self.report;
        report.objects += 1;
        report.packs += 1;
        report.frames += examined.footer.frames.len() as u64;
        if deep {
            report.packs_read += u64::from(matches!(name, ObjectName::ContentPack(..)));
            report.frames_read += examined.proven;
            report.bytes_read += examined.bytes;
        }
        if examined.footer_at < end {
            report.find(name, format!("its frames end at {}, and the snapshot needs {end} bytes", examined.footer_at));
        }
        if let Some(problem) = examined.summary() {
            report.find(name, problem);
        }
        Ok(())
    }

    /// Where the frames of a pack are now, if somebody moved them. A mover that was stopped leaves a record too, so one whose
    /// packs are all there, or have moved on, is taken before others.
    async fn moved(&self, kind: KeyKind, pack: PackId) -> Option<Vec<PackId>> {
        let records = self.moves_of(kind, pack).await;
        for record in records.iter().filter(|record| !record.to.is_empty()) {
            if self.all_there(kind, &record.to).await {
                return Some(record.to.clone());
            }
        }
        records.into_iter().find(|record| record.to.is_empty()).map(|record| record.to)
    }

    async fn all_there(&self, kind: KeyKind, packs: &[PackId]) -> bool {
        for pack in packs {
            let key = self.frames.pack_name(kind, *pack).to_string();
            let there = async { within(READ_DEADLINE, self.region.ready().await?.head(&key)).await };
            let gone = matches!(there.await, Err(trouble) if trouble.is_not_found());
            if gone && self.moves_of(kind, *pack).await.is_empty() {
                return false;
            }
        }
        true
    }

    /// What movers say of a pack.
    async fn moves_of(&self, kind: KeyKind, pack: PackId) -> Vec<Moved> {
        let mut records = Vec::new();
        for source in self.frames.movers_of(kind, pack) {
            let prefix = ObjectName::moved_prefix(source, kind, pack);
            let Ok(names) = self.repository.names(&self.order, &prefix).await else { continue };
            for name in names.objects.keys().filter_map(|key| ObjectName::parse(key)) {
                let decode =
                    |bytes: &[u8]| self.repository.open_record::<Moved>(source, RecordKind::Moved, &name, bytes);
                match self.repository.fetch(&self.order, &name, decode).await {
                    Ok((moved, _)) if moved.check(&name).is_ok() => {
                        self.frames.lean_on_movers(source, &moved.to);
                        records.push(moved);
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_they_are_said_and_grow() {
        let all = [Level::Basic, Level::Standard, Level::Thorough, Level::Forensic];
        for level in all {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        }
        assert!(all.is_sorted() && !Level::Standard.opens_content() && Level::Thorough.opens_content());
        assert!("deep".parse::<Level>().unwrap_err().to_string().contains("forensic"));
    }
}
