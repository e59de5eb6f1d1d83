//! Finding debts by comparing what the regions hold: when an agent starts, and when somebody asks.
//!
//! Invariant: names are added in an order in which they may be copied; a region whose listing broke off, or that misses
//! more than fits, gets no later names of that source, so that a manifest is never owed before what it names. A key record
//! that was replaced is owed to nobody ([`keys`](super::keys)).

use std::collections::BTreeSet;

use breakwater_core::{RegionId, SourceUid};

use super::RegionSet;
use super::error::RegionFailure;
use super::keys::Newest;
use super::merge::{Merge, Row};
use super::order::Place;

/// Names that one audit adds for one region at most; what is beyond is found by the next audit.
const MOST_NAMES: u64 = 100_000;
const LIST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// One entry a region, in the order of the set.
    pub regions: Vec<RegionAudit>,
    /// Names that regions hold with different sizes: damage, or two writers of one name.
    pub conflicts: Vec<String>,
    /// Regions whose listing failed or broke off: nothing is known about what they miss there.
    pub silent: Vec<RegionFailure>,
}

/// What one region misses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionAudit {
    /// The region.
    pub id: RegionId,
    /// Objects that it misses and another region holds.
    pub missing_objects: u64,
    /// Their bytes.
    pub missing_bytes: u64,
    /// More is missing than one audit takes up; audit again once these are repaid.
    pub more: bool,
}

/// Where a source's objects lie, in the order in which they may be copied.
fn prefixes(source: SourceUid) -> Vec<String> {
    let meta = |kind: &str| format!("meta/{source}/{kind}");
    let mut all = ["source", "leans/", "losses", "keys/", "open/", "stream/", "history/", "pack/"].map(meta).to_vec();
    all.push(format!("data/{source}/"));
    all.extend(["moved/", "tail/", "over/", "gc/", "hold/"].map(meta));
    all
}

/// Where its registers lie, which may name all of that, and packs of sources that it leans on.
fn registers(source: SourceUid) -> Vec<String> {
    vec![format!("meta/{source}/snap/")]
}

/// The source that a name below `meta/` or `data/` belongs to.
fn source_in(name: &str) -> Option<SourceUid> {
    name.split('/').find_map(|part| part.parse().ok())
}

impl RegionSet {
    /// Compares the regions over `repo/` and the given sources, and makes what a region misses its debt. Regions whose
    /// listings were whole count as compared with each other over these sources.
    pub async fn audit(&self, sources: &[SourceUid]) -> AuditReport {
        self.audit_over(sources).await.0
    }

    /// Compares the regions over everything that those which answer hold.
    pub(super) async fn audit_all(&self) {
        let mut sources = BTreeSet::new();
        let mut listed = BTreeSet::new();
        for (index, handle) in self.handles().enumerate() {
            for top in ["meta/", "data/"] {
                let call = handle.storage.list_directories(top);
                match tokio::time::timeout(LIST_PATIENCE, call).await {
                    Ok(Ok(names)) => {
                        listed.insert(index);
                        sources.extend(names.iter().filter_map(|name| source_in(name)));
                    }
                    Ok(Err(_)) | Err(_) => {
                        listed.remove(&index);
                        break;
                    }
                }
            }
        }
        let (report, sound) = self.audit_over(&sources.into_iter().collect::<Vec<_>>()).await;
        for (found, handle) in report.regions.iter().zip(self.handles()).filter(|(found, _)| found.missing_objects > 0)
        {
            let (objects, bytes) = (found.missing_objects, found.missing_bytes);
            tracing::info!(region = %handle.name, objects, bytes, "region misses objects; they are copied over");
        }
        for conflict in &report.conflicts {
            tracing::error!(object = %conflict, "regions hold different objects of one name");
        }
        self.set.compared_whole(&sound.intersection(&listed).copied().collect());
    }

    /// Answers also which regions were compared with each other over all of it.
    async fn audit_over(&self, sources: &[SourceUid]) -> (AuditReport, BTreeSet<usize>) {
        let mut report = AuditReport {
            regions: self
                .handles()
                .map(|handle| RegionAudit { id: handle.id, missing_objects: 0, missing_bytes: 0, more: false })
                .collect(),
            ..AuditReport::default()
        };
        let there = self.confirmed(0..self.set.regions.len(), &mut report).await;
        let repository = ["repo/descriptor", "repo/domain/", "repo/verified/"].map(str::to_owned);
        let mut whole = self.audit_in_order(&repository, &there, &mut report).await;
        let mut sound = Vec::new();
        for group in self.groups(sources, &there).await {
            let mut before = Vec::new();
            for source in &group {
                before.push((*source, self.audit_in_order(&prefixes(*source), &there, &mut report).await));
            }
            for (source, mut regions) in before.clone() {
                let leaned_on = self.set.comparison.leaned_on(source);
                for (_, others) in before.iter().filter(|(other, _)| leaned_on.contains(other)) {
                    regions.retain(|index| others.contains(index));
                }
                sound.push((source, self.audit_in_order(&registers(source), &regions, &mut report).await));
            }
        }
        // A place that went away in between looked empty, and so as if the others missed nothing.
        let still = self.confirmed(there, &mut report).await;
        whole.retain(|index| still.contains(index));
        for (source, regions) in sound {
            whole.retain(|index| regions.contains(index));
            self.set.compared(&regions.intersection(&still).copied().collect(), source);
        }
        self.set.wake_all();
        (report, whole)
    }

    /// `sources` and those that they lean on, in groups: what a source's manifests name lies with sources of its own group.
    async fn groups(&self, sources: &[SourceUid], there: &BTreeSet<usize>) -> Vec<Vec<SourceUid>> {
        let (mut alone, mut together) = (Vec::new(), BTreeSet::new());
        for source in sources {
            let prefix = format!("meta/{source}/leans/");
            let listings = self.handles().enumerate().filter(|(index, _)| there.contains(index));
            let listings = listings.map(|(index, handle)| (index, handle.storage.list(&prefix))).collect();
            // Where this breaks off, the same listing of the audit says so, or takes up what it finds.
            let mut merge = Merge::new(listings, LIST_PATIENCE);
            while let Some(row) = merge.next().await {
                self.set.comparison.note_leaning(&row.name);
            }
            match self.set.comparison.leaned_on(*source) {
                others if others.is_empty() => alone.push(*source),
                others => together.extend(others.into_iter().chain([*source])),
            }
        }
        alone.retain(|source| !together.contains(source));
        let mut groups: Vec<Vec<SourceUid>> = alone.into_iter().map(|source| vec![source]).collect();
        groups.extend((!together.is_empty()).then(|| together.into_iter().collect()));
        groups
    }

    /// Those of `regions` that say now that they are the ones that were joined.
    async fn confirmed(&self, regions: impl IntoIterator<Item = usize>, report: &mut AuditReport) -> BTreeSet<usize> {
        let asked = regions.into_iter().map(|index| async move { (index, self.set.confirm(index).await) });
        let mut there = BTreeSet::new();
        for (index, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(()) => drop(there.insert(index)),
                Err(failure) => report.silent.extend(self.named(vec![(index, failure)])),
            }
        }
        there
    }

    /// Answers the regions whose listings were whole.
    async fn audit_in_order(
        &self,
        prefixes: &[String],
        there: &BTreeSet<usize>,
        report: &mut AuditReport,
    ) -> BTreeSet<usize> {
        let mut sound = there.clone();
        for prefix in prefixes {
            let listings = self.handles().enumerate().filter(|(index, _)| sound.contains(index));
            let listings = listings.map(|(index, handle)| (index, handle.storage.list(prefix))).collect();
            let mut merge = Merge::new(listings, LIST_PATIENCE);
            let (tails, keys) = (prefix.contains("/tail/"), prefix.ends_with("/keys/"));
            let mut rows = Vec::new();
            let mut newest = Newest::default();
            while let Some(row) = merge.next().await {
                if tails {
                    rows.push(row);
                } else if keys {
                    let name = row.name.clone();
                    if let Some(row) = newest.push(&name, row) {
                        self.compare(&row, &merge, &mut sound, report);
                    }
                } else {
                    self.compare(&row, &merge, &mut sound, report);
                }
            }
            if let Some(row) = newest.end() {
                self.compare(&row, &merge, &mut sound, report);
            }
            // Tails are few; which of them still count is known once all are.
            let superseded = self.superseded(&rows, &sound).await;
            for row in rows.iter().filter(|row| !superseded.contains(&row.name)) {
                self.compare(row, &merge, &mut sound, report);
            }
            for (index, _) in merge.broken() {
                sound.remove(&index);
            }
            report.silent.extend(self.named(merge.broken()));
        }
        sound
    }

    fn compare(&self, row: &Row, merge: &Merge, sound: &mut BTreeSet<usize>, report: &mut AuditReport) {
        self.set.comparison.note_leaning(&row.name);
        let size = row.size();
        let register = Place::of(&row.name).rank == super::order::Rank::Commit;
        if row.holders.iter().any(|(_, other)| *other != size) {
            // A register may be decided differently in two regions until it is settled.
            if register {
                self.set.unsettled(&row.name);
            } else {
                report.conflicts.push(row.name.clone());
            }
        }
        let now = self.set.options.clock.now();
        for (index, region) in self.set.regions.iter().enumerate() {
            if row.is_in(index) || !sound.contains(&index) || !merge.is_sound(index) {
                continue;
            }
            let Some(found) = report.regions.get_mut(index) else { continue };
            if found.missing_objects >= MOST_NAMES {
                found.more = true;
                sound.remove(&index);
                continue;
            }
            found.missing_objects += 1;
            found.missing_bytes = found.missing_bytes.saturating_add(size);
            region.lane().owe(&row.name, size, now);
        }
    }

    /// The tails among `rows` that lie within a segment which some region holds.
    async fn superseded(&self, rows: &[Row], sound: &BTreeSet<usize>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let tails = rows.iter().filter_map(|row| Some((&row.name, Piece::of(&row.name)?))).collect::<Vec<_>>();
        let directories = tails.iter().map(|(_, tail)| tail.segments.clone()).collect::<BTreeSet<_>>();
        for directory in directories {
            let listings = self.handles().enumerate().filter(|(index, _)| sound.contains(index));
            let listings = listings.map(|(index, handle)| (index, handle.storage.list(&directory))).collect();
            let mut merge = Merge::new(listings, LIST_PATIENCE);
            while let Some(row) = merge.next().await {
                let Some(segment) = Piece::of(&row.name) else { continue };
                let covered = tails.iter().filter(|(_, tail)| tail.segments == directory && segment.covers(tail));
                found.extend(covered.map(|(name, _)| (*name).clone()));
            }
        }
        found
    }
}

/// The branch and range in the name of a segment or tail.
struct Piece {
    /// The prefix of the segments that can cover it.
    segments: String,
    /// Generation and session; of the same or a newer writer's segments only is it known that they hold the same bytes.
    writer: String,
    branch: String,
    start: u64,
    end: u64,
}

impl Piece {
    fn of(name: &str) -> Option<Piece> {
        let mut parts = name.split('/');
        let (_, source, _, writer, range) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let mut numbers = range.split('-');
        let (branch, start, end) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Piece {
            segments: format!("data/{source}/log/"),
            writer: writer.to_owned(),
            branch: branch.to_owned(),
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
        })
    }

    /// An idle tail at the very end of a segment is not covered: it says something newer than the segment.
    fn covers(&self, tail: &Piece) -> bool {
        let inside = self.start <= tail.start && tail.end <= self.end && tail.start < self.end;
        inside && self.branch == tail.branch && self.writer >= tail.writer
    }
}
