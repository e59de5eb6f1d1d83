//! Making whole again what regions have lost or damaged, from the regions that have it whole.
//!
//! Names are gone through in the order in which they may be written, in all regions side by side. What is missing or damaged
//! in one region and whole in another is put again; what no region has whole is put together from the parts that are, if
//! there are enough of them; what is left is lost, and named with the snapshots and files that need it.
//!
//! Invariants: an object is deleted only when it was found damaged twice and its whole bytes, proven, are in memory and
//! durable elsewhere; nothing whole is ever removed. A region gets a manifest only when everything that it leans on is whole
//! there. A repair may be killed at any point and begun again; where nothing is wrong it writes nothing.
//!
//! Reading order: this page, [`sight`] (one name in all regions), [`put`] (how one is made whole), [`places`], [`losses`],
//! [`lost`].

pub mod losses;
pub mod lost;
pub(crate) mod places;
mod put;
pub(crate) mod sight;

use std::collections::BTreeSet;
use std::sync::Arc;

use breakwater_core::{Chain, SourceUid};

use crate::error::RepositoryError;
use crate::format::ObjectName;
use crate::frames::FrameReader;
use crate::region::{READ_DEADLINE, Region, within};
use crate::regions::merge::{Merge, Row};
use crate::repository::Repository;

pub use losses::Loss;
pub use lost::Settled;
use sight::{Sight, Sighted};

/// Entries of each list in a report; more are counted.
const LISTED_MAX: usize = 1000;

/// What to repair, and how.
#[derive(Clone, Debug, Default)]
pub struct RepairOptions {
    /// Find out and say what would be done; write and delete nothing.
    pub dry_run: bool,
    /// Read every byte of every pack to find damage inside; else only records, packs of structure, and the ends of packs.
    /// With a recipient's key every frame is proven, with a writer's key its checksums are.
    pub read_data: bool,
    /// Names of the regions that are made whole; empty: all. The others are read from all the same.
    pub regions: Vec<String>,
}

/// What was wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It was not there.
    Missing,
    /// It was not what was written.
    Damaged,
}

/// An object that was made whole, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The object.
    pub object: String,
    /// What was wrong.
    pub wrong: Wrong,
    /// Where its bytes came from: a region's name, or several.
    pub from: String,
}

/// An object that was left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmended {
    /// The object.
    pub object: String,
    /// Why.
    pub why: String,
}

/// What was done in one region.
#[derive(Clone, Debug, Default)]
pub struct RegionRepair {
    /// The region's name.
    pub region: String,
    /// Why it was not, or not wholly, gone through.
    pub unreached: Option<String>,
    /// What was made whole. At most a thousand objects.
    pub mended: Vec<Mended>,
    /// How many there were.
    pub mended_objects: u64,
    /// Their bytes.
    pub mended_bytes: u64,
    /// What stays wrong. At most a thousand objects.
    pub unmended: Vec<Unmended>,
    /// How many there are.
    pub unmended_objects: u64,
}

/// What was found and done.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// Whether nothing was changed on purpose.
    pub dry_run: bool,
    /// One report a region.
    pub regions: Vec<RegionRepair>,
    /// Names that were looked at.
    pub objects: u64,
    /// What no region has whole and snapshots need. At most a thousand of them.
    pub lost: Vec<Loss>,
    /// How many there are.
    pub lost_count: u64,
    /// Why it is not known whether more is lost.
    pub uncertain: Option<String>,
}

/// What a repair comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairVerdict {
    /// Every region was gone through, and nothing that is wrong was left.
    Whole,
    /// A dry run found work.
    Pending,
    /// Something stays wrong, but nothing that a snapshot needs is lost: some region has it.
    Unfinished,
    /// Something that snapshots need is in no region.
    Lost,
}

impl RepairReport {
    /// What it comes to.
    pub fn verdict(&self) -> RepairVerdict {
        let unfinished = |region: &RegionRepair| region.unreached.is_some() || region.unmended_objects > 0;
        if self.lost_count > 0 {
            RepairVerdict::Lost
        } else if self.uncertain.is_some() || self.regions.is_empty() || self.regions.iter().any(unfinished) {
            RepairVerdict::Unfinished
        } else if self.dry_run && self.regions.iter().any(|region| region.mended_objects > 0) {
            RepairVerdict::Pending
        } else {
            RepairVerdict::Whole
        }
    }
}

impl RegionRepair {
    fn mend(&mut self, object: &str, wrong: Wrong, from: String, bytes: u64) {
        self.mended_objects += 1;
        self.mended_bytes = self.mended_bytes.saturating_add(bytes);
        if self.mended.len() < LISTED_MAX {
            self.mended.push(Mended { object: object.to_owned(), wrong, from });
        }
    }

    fn leave(&mut self, object: &str, why: String) {
        self.unmended_objects += 1;
        if self.unmended.len() < LISTED_MAX {
            self.unmended.push(Unmended { object: object.to_owned(), why });
        }
    }

    fn unreach(&mut self, why: impl ToString) {
        self.unreached.get_or_insert(why.to_string());
    }
}

/// How far a repair is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairProgress {
    /// Names that were looked at.
    pub objects: u64,
    /// Objects that were made whole, or would be.
    pub mended: u64,
    /// The object at hand.
    pub object: String,
}

impl Repository {
    /// Makes regions whole. Needs the right to delete in them. A writer's key mends everything but objects under `repo/`
    /// that only recipients can prove; the session secrets are not needed.
    pub async fn repair(&self, options: &RepairOptions) -> Result<RepairReport, RepositoryError> {
        self.repair_watched(options, &|_| ()).await
    }

    /// The same; `watch` is told how far it is, often.
    pub async fn repair_watched(
        &self,
        options: &RepairOptions,
        watch: &(dyn Fn(&RepairProgress) + Send + Sync),
    ) -> Result<RepairReport, RepositoryError> {
        self.check_writable()?;
        for name in &options.regions {
            self.region(name)?;
        }
        let mut work = Work::new(self, options);
        work.places().await;
        work.prefixes(&["repo/"], None, watch).await;
        for source in work.sources().await {
            let frames = FrameReader::new(self, source, self.read_order());
            let prefixes = in_order(source);
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            for side in &mut work.sides {
                side.held_back = false;
            }
            work.prefixes(&prefixes, Some(frames), watch).await;
            work.losses(source).await;
        }
        Ok(work.report())
    }
}

/// Where the objects of a source lie, in the order in which they may be put: what leans on others comes after them.
fn in_order(source: SourceUid) -> Vec<String> {
    let meta = |kind: &str| format!("meta/{source}/{kind}");
    let mut all = ["source", "keys/", "open/", "stream/", "history/", "pack/"].map(meta).to_vec();
    all.push(format!("data/{source}/"));
    all.extend(["moved/", "lost/", "gc/", "hold/", "tail/", "snap/"].map(meta));
    all
}

/// A repair that goes on.
struct Work<'a> {
    repository: &'a Repository,
    options: &'a RepairOptions,
    sides: Vec<Side>,
    report: RepairReport,
    progress: RepairProgress,
}

/// One region of the repository.
struct Side {
    region: Arc<Region>,
    /// Whether it is to be made whole; else it is only read from.
    wanted: bool,
    /// Whether it can be used.
    usable: bool,
    /// Something that a manifest of the source at hand may lean on is not whole here, so no manifest is put.
    held_back: bool,
    report: RegionRepair,
}

impl<'a> Work<'a> {
    fn new(repository: &'a Repository, options: &'a RepairOptions) -> Self {
        let wanted = |name: &str| options.regions.is_empty() || options.regions.iter().any(|one| one == name);
        let side = |region: &Arc<Region>| Side {
            region: Arc::clone(region),
            wanted: wanted(region.name()),
            usable: false,
            held_back: false,
            report: RegionRepair { region: region.name().to_owned(), ..RegionRepair::default() },
        };
        let report = RepairReport { dry_run: options.dry_run, ..RepairReport::default() };
        let sides = repository.regions().iter().map(side).collect();
        Work { repository, options, sides, report, progress: RepairProgress::default() }
    }

    /// Finds out which places are the regions, and mends those of which one sign is damaged.
    async fn places(&mut self) {
        for side in &mut self.sides {
            let asked = side.region.ask().await.map(drop);
            side.usable = asked.is_ok();
            if let Err(trouble) = asked {
                places::mend(self.repository, side, self.options.dry_run, &trouble).await;
            }
        }
    }

    /// The sources that any region knows.
    async fn sources(&mut self) -> BTreeSet<SourceUid> {
        let mut sources = BTreeSet::new();
        for side in self.sides.iter_mut().filter(|side| side.usable) {
            for top in ["meta/", "data/"] {
                let call = side.region.place().list_directories(top);
                match within(READ_DEADLINE, call).await {
                    Ok(names) => sources.extend(names.iter().filter_map(|name| name.parse::<SourceUid>().ok())),
                    Err(trouble) => side.report.unreach(trouble),
                }
            }
        }
        sources
    }

    /// Goes through all names below `prefixes`, one prefix after the other.
    async fn prefixes(
        &mut self,
        prefixes: &[&str],
        frames: Option<FrameReader>,
        watch: &(dyn Fn(&RepairProgress) + Send + Sync),
    ) {
        for prefix in prefixes {
            let usable = self.sides.iter().enumerate().filter(|(_, side)| side.usable);
            let listings = usable.map(|(index, side)| (index, side.region.place().list(prefix))).collect();
            let mut merge = Merge::new(listings, READ_DEADLINE);
            while let Some(row) = merge.next().await {
                self.report.objects += 1;
                self.progress.objects = self.report.objects;
                self.progress.object.clone_from(&row.name);
                // What is none of a repository's names is nobody's to mend, and every place has a region record of its own.
                match ObjectName::parse(&row.name) {
                    None | Some(ObjectName::Region) => {}
                    Some(name) => {
                        let sound = (0..self.sides.len()).filter(|index| merge.is_sound(*index)).collect();
                        self.name(&name, &row, &sound, frames.as_ref()).await;
                    }
                }
                self.progress.mended = self.sides.iter().map(|side| side.report.mended_objects).sum();
                watch(&self.progress);
            }
            for (index, failure) in merge.broken() {
                if let Some(side) = self.sides.get_mut(index) {
                    // What it lacks is not known from here on.
                    side.held_back = true;
                    side.report.unreach(format!("names below `{prefix}` could not be listed: {failure}"));
                }
            }
        }
    }

    /// Looks at one name in all regions, and makes it whole where it is wanted. What is not in a region whose listing is
    /// not `sound` may be there.
    async fn name(&mut self, name: &ObjectName, row: &Row, sound: &BTreeSet<usize>, frames: Option<&FrameReader>) {
        let mut sighted: Vec<Sighted> = Vec::new();
        for (index, side) in self.sides.iter().enumerate().filter(|(_, side)| side.usable) {
            let sight = if row.is_in(index) {
                sight::look(self.repository, &side.region, name, frames, self.options.read_data).await
            } else if sound.contains(&index) {
                Sight::Missing
            } else {
                Sight::Silent("its names could not be listed".to_owned())
            };
            sighted.push(Sighted { side: index, sight });
        }
        let all_whole = sighted.iter().all(|one| matches!(one.sight, Sight::Whole));
        if all_whole || sight::is_superseded(self.repository, name, row, &sighted, &self.sides).await {
            return;
        }
        put::mend(self.repository, self.options, &mut self.sides, name, sighted, frames).await;
    }

    /// Finds out what of the source's snapshots no region has whole.
    async fn losses(&mut self, source: SourceUid) {
        if !self.options.dry_run
            && let Err(error) = self.repository.settle_losses(source).await
        {
            self.report.uncertain.get_or_insert(format!("what was lost of source {source}: {}", Chain(&error)));
        }
        let mut found = losses::find(self.repository, source, self.options.read_data).await;
        let chunks = std::mem::take(&mut found.chunks);
        if !self.options.dry_run
            && let Err(error) = self.repository.mark_lost(source, chunks).await
        {
            self.report.uncertain.get_or_insert(format!("the loss could not be put on record: {}", Chain(&error)));
        }
        self.report.lost_count += found.count;
        let room = LISTED_MAX.saturating_sub(self.report.lost.len());
        self.report.lost.extend(found.losses.into_iter().take(room));
        if let Some(why) = found.uncertain {
            self.report.uncertain.get_or_insert(why);
        }
    }

    fn report(mut self) -> RepairReport {
        self.report.regions = self.sides.into_iter().filter(|side| side.wanted).map(|side| side.report).collect();
        self.report
    }
}
