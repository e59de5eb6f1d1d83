//! Is what a region shows really there, whole, and what it says it is?
//!
//! The listings of all regions are walked side by side; every object is examined in every region that is to be checked, and
//! every manifest is followed once its source's packs and keys have been. Without `read_data` this opens all records and all
//! packs of structure, and the two ends of every other pack; with it, every byte of the packs that are chosen.
//!
//! Invariants: a region is called sound only when every object in it was read and understood, and everything that its
//! manifests name was found in that same region. Not asked, not answered and damaged are never "sound". Memory does not
//! grow with the number of objects.
//!
//! Reading order: this page, [`report`], [`subset`], [`packs`] and [`record`] (one object), [`snapshot`].

pub(crate) mod bytes;
mod one;
pub(crate) mod packs;
pub(crate) mod place;
pub(crate) mod record;
pub mod report;
pub(crate) mod snapshot;
pub mod subset;

use std::sync::Arc;

use breakwater_core::{SessionId, SnapshotId, SourceUid};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;

use crate::error::{RepositoryError, Trouble};
use crate::fetch::ReadOrder;
use crate::format::ObjectName;
use crate::format::manifest::Manifest;
use crate::frames::FrameReader;
use crate::region::{READ_DEADLINE, Region, within};
use crate::regions::Failure;
use crate::regions::merge::{Merge, Row};
use crate::repository::Repository;

use bytes::ObjectBytes;
use packs::{Depth, Examined};
use record::Content;
use snapshot::Walk;

pub use one::{BadLevel, Level, VerifyOptions};
pub(crate) use report::CheckError;
pub use report::{Affected, CheckReport, Finding, RegionReport, Verdict};
pub use subset::Subset;

/// Objects that are examined at a time when only their ends are read, and when all is.
const WIDTH: usize = 16;
const WIDTH_OF_DATA: usize = 3;

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Open every frame of every pack and prove its content, which needs a recipient's key and reads everything.
    pub read_data: bool,
    /// Of which packs the data is read.
    pub subset: Subset,
    /// Names of the regions; empty: all.
    pub regions: Vec<String>,
}

/// How far a check is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress {
    /// Objects that were examined, counted in each region.
    pub objects: u64,
    /// Snapshots that were followed, counted in each region.
    pub snapshots: u64,
    /// Bytes of data that were read.
    pub bytes_read: u64,
    /// Things that are wrong.
    pub findings: u64,
    /// The object at hand.
    pub object: String,
}

impl Repository {
    /// Checks regions side by side.
    pub async fn check(&self, options: &CheckOptions) -> Result<CheckReport, RepositoryError> {
        self.check_watched(options, &|_| ()).await
    }

    /// The same; `watch` is told how far it is, often.
    pub async fn check_watched(
        &self,
        options: &CheckOptions,
        watch: &(dyn Fn(&CheckProgress) + Send + Sync),
    ) -> Result<CheckReport, RepositoryError> {
        if options.read_data {
            self.needs_content("reading all data")?;
        }
        let wanted =
            |region: &Region| options.regions.is_empty() || options.regions.iter().any(|one| one == region.name());
        for name in &options.regions {
            self.region(name)?;
        }
        let mut sides = Vec::new();
        let mut listings = Vec::new();
        for (index, region) in self.regions().iter().enumerate() {
            // Regions that are not to be checked are listed all the same: what they hold, the others may lack.
            let ready = region.ask().await.map(|storage| storage.list(""));
            if wanted(region) {
                let mut side = Side::new(self, index, region)?;
                if let Err(trouble) = &ready {
                    side.explain(trouble).await;
                }
                sides.push(side);
            }
            listings.extend(ready.ok().map(|listing| (index, listing)));
        }
        let mut checking =
            Checking { repository: self, options, salt: self.salt(), sides, progress: CheckProgress::default() };
        let mut merge = Merge::new(listings, READ_DEADLINE);
        checking.run(&mut merge, watch).await;
        let broken = merge.broken();
        drop(merge);
        checking.confirm(&broken).await;
        Ok(CheckReport { regions: checking.sides.into_iter().map(|side| side.report).collect() })
    }
}

struct Checking<'a> {
    repository: &'a Repository,
    options: &'a CheckOptions,
    salt: [u8; 32],
    sides: Vec<Side>,
    progress: CheckProgress,
}

/// One region that is checked.
struct Side {
    /// Its number among the repository's regions.
    index: usize,
    repository: Repository,
    region: Arc<Region>,
    order: ReadOrder,
    report: RegionReport,
    walk: Option<Walk>,
    /// A manifest that is followed once it is known that no tombstone follows it.
    held: Option<Box<Manifest>>,
    descriptor: bool,
    record: bool,
    domain: bool,
    recipients: bool,
}

/// One name, examined in the regions that are checked.
struct Looked {
    row: Row,
    name: Option<ObjectName>,
    /// By the place in `sides`.
    found: Vec<(usize, Found)>,
}

/// What an object turned out to be in one region.
enum Found {
    Record(Result<Content, CheckError>),
    Pack { examined: Result<Examined, CheckError>, deep: bool },
}

impl Checking<'_> {
    async fn run(&mut self, merge: &mut Merge, watch: &(dyn Fn(&CheckProgress) + Send + Sync)) {
        let width = if self.options.read_data { WIDTH_OF_DATA } else { WIDTH };
        let mut looking: FuturesOrdered<BoxFuture<'static, Looked>> = FuturesOrdered::new();
        let mut ended = false;
        loop {
            while !ended && looking.len() < width {
                match merge.next().await {
                    Some(row) => {
                        let look = self.look(row);
                        looking.push_back(look);
                    }
                    None => ended = true,
                }
            }
            let Some(looked) = looking.next().await else { break };
            for side in &mut self.sides {
                if !looked.row.is_in(side.index) && looked.name.is_some() && merge.is_sound(side.index) {
                    side.report.miss(&looked.row.name);
                }
            }
            self.progress.object.clone_from(&looked.row.name);
            self.settle(looked).await;
            watch(&self.progress);
        }
        for side in &mut self.sides {
            side.follow_held().await;
        }
    }

    /// Starts to examine one name in the regions that hold it.
    fn look(&self, row: Row) -> BoxFuture<'static, Looked> {
        let name = ObjectName::parse(&row.name);
        let mut looks = Vec::new();
        if let Some(name) = &name {
            let deep = match name {
                // Small, and read by everybody who lists or restores.
                ObjectName::StructurePack(..) => true,
                _ => self.options.read_data && self.options.subset.holds(&row.name, &self.salt),
            };
            for (at, side) in self.sides.iter().enumerate() {
                if row.is_in(side.index) {
                    let frames = name.source().map(|source| side.frames(source));
                    let (repository, region) = (self.repository.clone(), Arc::clone(&side.region));
                    let (key, name) = (row.name.clone(), name.clone());
                    looks.push(async move { (at, examine(&repository, &region, frames, &key, &name, deep).await) });
                }
            }
        }
        Box::pin(async move {
            let found = futures::future::join_all(looks).await;
            Looked { row, name, found }
        })
    }

    async fn settle(&mut self, looked: Looked) {
        let Looked { row, name, found } = looked;
        let damaged = |found: &(usize, Found)| matches!(&found.1, Found::Record(Err(_)));
        if let Some(ObjectName::Tombstone(_, snapshot, session)) = &name
            && (found.is_empty() || !found.iter().all(damaged))
        {
            // A snapshot with a tombstone anywhere is not there any more.
            for side in &mut self.sides {
                if side.held.take_if(|held| of(held) == (*snapshot, *session)).is_some() {
                    side.report.deleted += 1;
                }
            }
        }
        let Some(name) = name else {
            for side in &mut self.sides {
                if row.is_in(side.index) {
                    side.report.objects += 1;
                    side.report.stranger(&row.name);
                }
            }
            return;
        };
        for (at, found) in found {
            let Some(side) = self.sides.get_mut(at) else { continue };
            let before = (side.report.findings.len() as u64, side.report.bytes_read, side.report.snapshots);
            side.settle(&name, found).await;
            self.progress.objects += 1;
            self.progress.findings += side.report.findings.len() as u64 - before.0;
            self.progress.bytes_read += side.report.bytes_read - before.1;
            self.progress.snapshots += side.report.snapshots - before.2;
        }
    }

    /// A listing counts only when it was whole, and only from a place that still is the region.
    async fn confirm(&mut self, broken: &[(usize, Failure)]) {
        for side in &mut self.sides {
            for (_, failure) in broken.iter().filter(|(index, _)| *index == side.index) {
                side.report.leave_unchecked(format!("its names could not be listed: {failure}"));
            }
            if side.report.unchecked.is_some() {
                continue;
            }
            if let Err(trouble) = side.region.ask().await {
                side.explain(&trouble).await;
            }
            let needed = [(ObjectName::Descriptor, side.descriptor), (ObjectName::Region, side.record)];
            for (name, _) in needed.into_iter().filter(|(_, seen)| !seen) {
                side.report.find(name, "is missing");
            }
            if !side.domain {
                side.report.find("repo/domain/", "the domain record is missing");
            }
            if !side.recipients {
                side.report.find("repo/recipients/", "the list of recipients is missing");
            }
        }
    }
}

impl Side {
    fn new(repository: &Repository, index: usize, region: &Arc<Region>) -> Result<Side, RepositoryError> {
        Ok(Side {
            index,
            repository: repository.clone(),
            region: Arc::clone(region),
            order: repository.read_only_from(region.name())?,
            report: RegionReport::new(region.name()),
            walk: None,
            held: None,
            descriptor: false,
            record: false,
            domain: false,
            recipients: false,
        })
    }

    /// The place cannot be used as the region. Where it says whose it is, it is the region all the same, and what is wrong
    /// with it is damage.
    async fn explain(&mut self, trouble: &Trouble) {
        self.report.leave_unchecked(trouble.to_string());
        for (name, problem) in place::faults(&self.repository, &self.region).await {
            if problem.is_gone() {
                self.report.miss(&name.to_string());
                self.report.find(name, "is missing");
            } else {
                self.report.find(name, problem);
            }
        }
    }

    /// The reader of the frames of `source`; names of one source follow each other.
    fn frames(&self, source: SourceUid) -> FrameReader {
        match &self.walk {
            Some(walk) if walk.source() == source => walk.frames().clone(),
            _ => FrameReader::new(&self.repository, source, self.order.clone()),
        }
    }

    async fn settle(&mut self, name: &ObjectName, found: Found) {
        if let Some(source) = name.source()
            && self.walk.as_ref().is_none_or(|walk| walk.source() != source)
        {
            self.follow_held().await;
            self.walk = Some(Walk::new(&self.repository, source, &self.order, self.frames(source)));
        }
        self.report.objects += 1;
        match name {
            ObjectName::Descriptor => self.descriptor = true,
            ObjectName::Region => self.record = true,
            ObjectName::Domain { .. } => self.domain = true,
            ObjectName::Recipients(_) => self.recipients = true,
            _ => {}
        }
        match found {
            Found::Record(Ok(content)) => self.keep(content).await,
            Found::Pack { examined: Ok(examined), deep } => {
                let report = &mut self.report;
                report.packs += 1;
                report.frames += examined.footer.frames.len() as u64;
                if deep {
                    report.packs_read += 1;
                    report.frames_read += examined.proven;
                    report.bytes_read += examined.bytes;
                }
                if let Some(problem) = examined.summary() {
                    report.find(name, problem);
                }
            }
            // It was listed and has gone since: a tail whose segment is there, or what garbage collection took. If
            // somebody leans on it, following them will tell.
            Found::Record(Err(error)) | Found::Pack { examined: Err(error), .. } if error.is_gone() => {
                self.report.objects -= 1;
            }
            Found::Pack { examined: Err(error), deep: false } if error.is_archived() => self.report.archived += 1,
            Found::Record(Err(error)) | Found::Pack { examined: Err(error), .. } => self.report.note(name, &error),
        }
    }

    async fn keep(&mut self, content: Content) {
        match content {
            Content::Keys(session) => {
                if let Some(walk) = &mut self.walk {
                    walk.keys.insert(session);
                }
            }
            Content::Manifest(manifest) => {
                if self.held.as_ref().map(|held| of(held)) != Some(of(&manifest)) {
                    self.follow_held().await;
                    self.held = Some(manifest);
                }
            }
            Content::Other => {}
        }
    }

    /// Follows the manifest that waits.
    async fn follow_held(&mut self) {
        let Some(manifest) = self.held.take() else { return };
        if let Some(walk) = &mut self.walk {
            walk.follow(&manifest, &mut self.report).await;
        }
    }
}

/// Examines the object `name` in one region.
async fn examine(
    repository: &Repository,
    region: &Region,
    frames: Option<FrameReader>,
    key: &str,
    name: &ObjectName,
    deep: bool,
) -> Found {
    match frames {
        Some(frames) if packs::is_pack(name) => {
            let depth = if deep { Depth::Whole } else { Depth::Ends };
            Found::Pack {
                examined: packs::examine(&frames, name, &ObjectBytes::Region { region, key }, depth).await,
                deep,
            }
        }
        _ => Found::Record(read_record(repository, region, key, name).await),
    }
}

/// Reads a small object, and once more when it is damaged: what is whole then was damaged on the way.
async fn read_record(
    repository: &Repository,
    region: &Region,
    key: &str,
    name: &ObjectName,
) -> Result<Content, CheckError> {
    let once = async || -> Result<Content, CheckError> {
        let bytes = within(READ_DEADLINE, region.ready().await?.get(key)).await?;
        record::read(repository, name, &bytes, region.id())
    };
    match once().await {
        Err(first) if !first.is_gone() && !first.is_silence() => match once().await {
            Ok(_) => Err(CheckError::Unsteady(first.to_string())),
            Err(second) => Err(second),
        },
        answer => answer,
    }
}

fn of(manifest: &Manifest) -> (SnapshotId, SessionId) {
    (manifest.snapshot, manifest.session)
}
