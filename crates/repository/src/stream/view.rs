//! What the regions hold of a stream, as one picture.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::{LogPosition, RegionId, Timestamp, Watermark};

use super::StreamError;
use super::history::BranchHistory;
use super::keys::{SecretSource, StreamKeys};
use super::path::{Extent, StoredPiece, Succession, Writer, effective, gaps, run_end};
use super::piece::PieceFooter;
use super::plan::{LogPlan, LogTarget, PlanBase, PlanError};
use crate::format::ObjectName;
use crate::format::log::StreamClaim;
use crate::format::names::{IdleMark, LogRange};
use crate::format::record::RecordKind;
use crate::regions::{Listing, RegionError, RegionFailure, RegionSet};

/// Pieces looked at, from the end back, for a watermark.
const WATERMARK_LOOKBACK: usize = 256;

/// An unbroken part of one branch that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The branch.
    pub branch: u32,
    /// First offset.
    pub start: u64,
    /// After the last offset.
    pub end: u64,
    /// The clocks of the first and the last watermark in it, where there is one.
    pub clocks: Option<(Timestamp, Timestamp)>,
}

/// The watermark of an idle source that some region holds.
#[derive(Clone, Debug)]
pub(crate) struct StoredIdle {
    pub(crate) name: String,
    pub(crate) writer: Writer,
    pub(crate) mark: IdleMark,
    pub(crate) size: u64,
    pub(crate) regions: Vec<RegionId>,
}

/// A stream as it is stored, at the moment of loading.
#[derive(Debug)]
pub struct StreamView {
    pub(crate) regions: RegionSet,
    pub(crate) keys: StreamKeys,
    pub(crate) claims: BTreeMap<Writer, StreamClaim>,
    /// All segments and tails with bytes, those on no path too.
    pub(crate) pieces: Vec<StoredPiece>,
    pub(crate) idle: Vec<StoredIdle>,
    pub(crate) branches: BTreeMap<u32, Vec<Extent>>,
    pub(crate) histories: BTreeMap<u32, BranchHistory>,
    /// Regions that did not answer, or not to the end: what only they hold is not in the picture.
    pub silent: Vec<RegionFailure>,
    footers: Mutex<HashMap<String, Arc<PieceFooter>>>,
}

impl StreamView {
    /// What all regions that answer hold together.
    pub async fn load(regions: &RegionSet, keys: &StreamKeys) -> Result<StreamView, StreamError> {
        StreamView::load_from(regions, keys, None).await
    }

    /// What one region holds by itself.
    pub async fn load_region(
        regions: &RegionSet,
        keys: &StreamKeys,
        region: RegionId,
    ) -> Result<StreamView, StreamError> {
        StreamView::load_from(regions, keys, Some(region)).await
    }

    /// Loads and plans, again where a tail went away in between because its segment came.
    pub async fn plan_now(
        regions: &RegionSet,
        keys: &StreamKeys,
        base: &PlanBase,
        target: &LogTarget,
        secrets: Option<&dyn SecretSource>,
    ) -> Result<LogPlan, PlanError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let view = StreamView::load(regions, keys).await?;
            match view.plan(base, target, secrets).await {
                Err(PlanError::Stream(StreamError::Region(RegionError::NotFound { .. }))) if tries < 5 => {}
                result => return result,
            }
        }
    }

    async fn load_from(
        regions: &RegionSet,
        keys: &StreamKeys,
        only: Option<RegionId>,
    ) -> Result<StreamView, StreamError> {
        let list = |prefix: String| async move {
            let listing = regions.list(&prefix).await?;
            Ok::<Listing, StreamError>(match only {
                None => listing,
                Some(region) => {
                    let silent = listing.silent;
                    let here = listing.objects.into_iter().filter(|object| object.regions.contains(&region));
                    Listing { objects: here.collect(), silent }
                }
            })
        };
        // Tails first: one that goes while we look is covered by a segment that is there then.
        let tails = list(ObjectName::meta_prefix(keys.source, "tail")).await?;
        let segments = list(ObjectName::data_prefix(keys.source, "log")).await?;
        let claims = list(ObjectName::meta_prefix(keys.source, "stream")).await?;
        let histories = list(ObjectName::meta_prefix(keys.source, "history")).await?;
        let mut silent: Vec<RegionFailure> = Vec::new();
        for failure in [&tails, &segments, &claims, &histories].into_iter().flat_map(|listing| &listing.silent) {
            if !silent.iter().any(|known| known.region == failure.region) {
                silent.push(failure.clone());
            }
        }
        let mut view = StreamView {
            regions: regions.clone(),
            keys: keys.clone(),
            claims: BTreeMap::new(),
            pieces: Vec::new(),
            idle: Vec::new(),
            branches: BTreeMap::new(),
            histories: BTreeMap::new(),
            silent,
            footers: Mutex::default(),
        };
        for object in tails.objects.into_iter().chain(segments.objects) {
            match ObjectName::parse(&object.name) {
                Some(ObjectName::Segment(_, generation, session, range)) => {
                    view.add(object, (generation, session), range, true);
                }
                Some(ObjectName::Tail(_, generation, session, range)) => {
                    view.add(object, (generation, session), range, false);
                }
                Some(ObjectName::IdleTail(_, generation, session, mark)) => {
                    let (name, size, regions) = (object.name, object.size, object.regions);
                    view.idle.push(StoredIdle { name, writer: (generation, session), mark, size, regions });
                }
                _ => tracing::debug!(object = %object.name, "name of another format among log pieces"),
            }
        }
        for object in claims.objects {
            let Some(name @ ObjectName::StreamClaim(_, generation, session)) = ObjectName::parse(&object.name) else {
                continue;
            };
            let claim =
                regions.get_with(&object.name, |bytes| keys.record().open(RecordKind::StreamClaim, &name, bytes));
            let claim = claim.await?;
            view.claims.insert((generation, session), claim.map_err(StreamError::format(&name))?);
        }
        for object in histories.objects {
            let Some(ObjectName::History(_, branch)) = ObjectName::parse(&object.name) else { continue };
            let history = regions.get_with(&object.name, |bytes| BranchHistory::open(keys, branch, bytes)).await?;
            view.histories.insert(branch, history?);
        }
        view.branches = effective(&view.succession(), &view.pieces);
        Ok(view)
    }

    fn add(&mut self, object: crate::regions::Listed, writer: Writer, range: LogRange, segment: bool) {
        let (name, size, regions) = (object.name, object.size, object.regions);
        self.pieces.push(StoredPiece { name, writer, range, segment, size, regions });
    }

    pub(crate) fn succession(&self) -> Succession {
        Succession::of(&self.claims)
    }

    /// The same without the claims after the last writer that stored anything, and without `not_counting`: what a new
    /// writer goes on from. A claim alone takes nothing away from the writer before it.
    pub(crate) fn before_idle_claims(mut self, not_counting: &[Writer]) -> StreamView {
        let wrote = |writer: &Writer| {
            !not_counting.contains(writer)
                && (self.pieces.iter().any(|piece| piece.writer == *writer)
                    || self.idle.iter().any(|idle| idle.writer == *writer))
        };
        let last = self.claims.keys().rev().find(|writer| wrote(writer)).copied();
        self.claims.retain(|writer, _| last.is_some_and(|last| *writer <= last));
        self.branches = effective(&self.succession(), &self.pieces);
        self
    }

    /// Whether nothing was ever stored.
    pub fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// The highest claim: its writer is the one that counts now.
    pub fn newest_claim(&self) -> Option<&StreamClaim> {
        self.claims.values().next_back()
    }

    /// The parts of `branch` that count, in order.
    pub fn extents(&self, branch: u32) -> &[Extent] {
        self.branches.get(&branch).map_or(&[], Vec::as_slice)
    }

    /// The history of every branch that has one.
    pub fn histories(&self) -> impl Iterator<Item = &BranchHistory> {
        self.histories.values()
    }

    /// What is missing between stored parts.
    pub fn gaps(&self) -> Vec<LogRange> {
        self.branches.iter().flat_map(|(branch, extents)| gaps(*branch, extents)).collect()
    }

    /// The unbroken parts of every branch.
    pub async fn coverage(&self) -> Result<Vec<Interval>, StreamError> {
        let mut intervals = Vec::new();
        for (branch, extents) in &self.branches {
            let mut rest = extents.as_slice();
            while let Some(first) = rest.first() {
                let end = run_end(rest, first.start).unwrap_or(first.end);
                let (run, later) = rest.split_at(rest.partition_point(|extent| extent.end <= end));
                rest = later;
                let clocks = self.clocks(*branch, run).await?;
                intervals.push(Interval { branch: *branch, start: first.start, end, clocks });
            }
        }
        Ok(intervals)
    }

    async fn clocks(&self, branch: u32, run: &[Extent]) -> Result<Option<(Timestamp, Timestamp)>, StreamError> {
        let Some(end) = run.last().map(|extent| extent.end) else { return Ok(None) };
        let Some(last) = self.watermark_in(run, LogPosition::new(branch, end)).await? else { return Ok(None) };
        for extent in run.iter().take(WATERMARK_LOOKBACK) {
            if let Some((clock, _)) = self.footer(&extent.piece.name).await?.log.watermarks.first() {
                return Ok(Some((*clock, last.clock)));
            }
        }
        Ok(Some((last.clock, last.clock)))
    }

    /// The newest watermark of a run that ends at `end`, whose position lies in it.
    pub(crate) async fn watermark_in(
        &self,
        run: &[Extent],
        end: LogPosition,
    ) -> Result<Option<Watermark>, StreamError> {
        let start = run.first().map_or(end.offset, |extent| extent.start);
        let known = self.succession();
        let idle = self.idle.iter().filter(|idle| {
            idle.mark.branch == end.branch
                && start <= idle.mark.offset
                && idle.mark.offset <= end.offset
                && known.counts(idle.writer, LogPosition::new(idle.mark.branch, idle.mark.offset))
        });
        let newest_idle = idle.map(|idle| (clock_of(idle.mark), idle.mark.offset)).max();
        let mut newest = newest_idle;
        for extent in run.iter().rev().take(WATERMARK_LOOKBACK) {
            let footer = self.footer(&extent.piece.name).await?;
            let inside = footer.log.watermarks.iter().rev().find(|(_, offset)| *offset <= extent.end);
            if let Some(found) = inside {
                newest = newest.max(Some(*found));
                break;
            }
        }
        let watermark = |(clock, offset)| Watermark { clock, position: LogPosition::new(end.branch, offset) };
        Ok(newest.map(watermark))
    }

    /// The end of what is stored without a break from `from` on its branch.
    pub(crate) fn reach(&self, from: LogPosition) -> Option<LogPosition> {
        let end = run_end(self.extents(from.branch), from.offset)?;
        Some(LogPosition::new(from.branch, end))
    }

    /// The footer of a piece, read once.
    pub(crate) async fn footer(&self, name: &str) -> Result<Arc<PieceFooter>, StreamError> {
        let known = self.footers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(footer) = known {
            return Ok(footer);
        }
        let footer = Arc::new(PieceFooter::load(&self.regions, &self.keys, name).await?);
        self.footers.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&footer));
        Ok(footer)
    }
}

/// The moment that an idle mark tells of.
pub(crate) fn clock_of(mark: IdleMark) -> Timestamp {
    Timestamp(i64::try_from(mark.clock).unwrap_or(i64::MAX))
}
