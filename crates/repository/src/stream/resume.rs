//! Where a stream goes on after its last writer ended, and what the bytes that are received again must be.

use breakwater_core::{LogPosition, RegionId, Watermark};

use super::StreamError;
use super::history::BranchHistory;
use super::path::{Extent, StoredPiece, Writer};
use super::view::{StreamView, clock_of};
use crate::format::names::LogRange;
use crate::regions::RegionFailure;

/// Where to go on.
#[derive(Clone, Debug, Default)]
pub struct ResumePoint {
    /// Ask the source for its log from here (segment-aligned); none when nothing is stored yet.
    pub start: Option<LogPosition>,
    /// Up to here it is stored without a break since the last writer began; what is received again up to here is compared.
    pub held_until: Option<LogPosition>,
    /// Regions that did not answer: more may be stored there.
    pub silent: Vec<RegionFailure>,
    /// Stored pieces between `start` and `held_until`, with the digests of their bytes.
    pub(super) expected: Vec<(LogRange, [u8; 32])>,
    /// Chain value at `held_until`.
    pub(super) chain: [u8; 32],
    /// Chain value at `start`; zeros when it is not known.
    pub(super) chain_at_start: [u8; 32],
    /// Tails that lie between `start` and `held_until`: the next segment covers them.
    pub(super) tails: Vec<String>,
    /// From where on there is no break up to `held_until`. What lies before may be stored in a silent region only.
    pub(super) unbroken_from: Option<LogPosition>,
    /// What is stored of the last run.
    pub(super) held: Vec<Inherited>,
    /// The writer that the next claim continues.
    pub(super) continues: Option<Writer>,
    /// Idle marks that the next one replaces.
    pub(super) idle: Vec<String>,
}

/// A piece or idle mark that an earlier writer stored.
#[derive(Clone, Debug)]
pub(super) struct Inherited {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) range: LogRange,
    pub(super) holders: Vec<RegionId>,
    pub(super) watermarks: Vec<Watermark>,
}

impl ResumePoint {
    /// Reads it off what is stored. `segment_size` is the source's.
    pub(super) async fn of(view: &StreamView, segment_size: u64) -> Result<ResumePoint, StreamError> {
        let mut point = ResumePoint { silent: view.silent.clone(), ..ResumePoint::default() };
        point.idle = view.idle.iter().map(|idle| idle.name.clone()).collect();
        let Some(held_until) = end_of_newest(view, segment_size) else { return Ok(point) };
        let branch = held_until.branch;
        let start = held_until.offset - held_until.offset % segment_size.max(1);
        point.start = Some(LogPosition::new(branch, start));
        point.held_until = Some(held_until);

        let extents = view.extents(branch);
        let run = run_up_to(extents, held_until.offset);
        // The claim says that everything up to here was stored, also where those who hold it do not answer.
        let touches = run.last().is_some_and(|last| last.end == held_until.offset);
        let first = run.first().filter(|_| touches).map_or(held_until.offset, |first| first.start);
        point.unbroken_from = Some(LogPosition::new(branch, first));
        point.continues = view.newest_claim().map(|claim| (claim.generation, claim.session));
        for extent in run {
            let range = LogRange { branch, start: extent.start, end: extent.end };
            if extent.end == held_until.offset && extent.piece.range.end == extent.end {
                point.chain = view.footer(&extent.piece.name).await?.log.chain;
            }
            if extent.end == start && extent.piece.range.end == extent.end {
                point.chain_at_start = view.footer(&extent.piece.name).await?.log.chain;
            }
            if extent.start >= start && extent.start == extent.piece.range.start {
                let footer = view.footer(&extent.piece.name).await?;
                if extent.end == extent.piece.range.end {
                    point.expected.push((range, footer.log.sha256));
                }
                if !extent.piece.segment {
                    point.tails.push(extent.piece.name.clone());
                }
            }
        }
        if start == held_until.offset {
            point.chain_at_start = point.chain;
        }
        point.held = inherited(view, run, branch).await?;
        Ok(point)
    }
}

/// Where the newest writer must go on: from where it began, as far as there is no break. What lies beyond a break was
/// never released, so the source sends it again.
fn end_of_newest(view: &StreamView, segment_size: u64) -> Option<LogPosition> {
    let claim = view.newest_claim()?;
    let begun = claim.continues?.position;
    let mut end = view.reach(begun).unwrap_or(begun);
    // The newest writer may have followed the source onto other branches.
    let wrote = |branch: u32| {
        let writer = (claim.generation, claim.session);
        view.extents(branch).iter().any(|extent| extent.piece.writer == writer)
    };
    loop {
        let leaves =
            |next: &&BranchHistory| next.parent == end.branch && next.offset <= end.offset && wrote(next.branch);
        let Some(next) = view.histories.values().find(leaves) else { return Some(end) };
        let first = next.offset - next.offset % segment_size.max(1);
        match view.reach(LogPosition::new(next.branch, first)) {
            Some(reached) if reached.offset >= next.offset => end = reached,
            _ => return Some(end),
        }
    }
}

/// The extents of the unbroken run that ends at `end`.
fn run_up_to(extents: &[Extent], end: u64) -> &[Extent] {
    let last = extents.partition_point(|extent| extent.end <= end);
    let before = extents.get(..last).unwrap_or_default();
    let broken = before.windows(2).rposition(|pair| matches!(pair, [a, b] if a.end < b.start));
    before.get(broken.map_or(0, |at| at + 1)..).unwrap_or_default()
}

/// The run and the idle marks on it, with the newest watermarks.
async fn inherited(view: &StreamView, run: &[Extent], branch: u32) -> Result<Vec<Inherited>, StreamError> {
    const LOOKBACK: usize = 64;
    let mut found = Vec::new();
    for (back, extent) in run.iter().rev().enumerate() {
        let mut watermarks = Vec::new();
        if back < LOOKBACK {
            let footer = view.footer(&extent.piece.name).await?;
            for (clock, offset) in footer.log.watermarks.iter().filter(|(_, offset)| *offset <= extent.end) {
                watermarks.push(Watermark { clock: *clock, position: LogPosition::new(branch, *offset) });
            }
        }
        let StoredPiece { name, size, regions, .. } = extent.piece.clone();
        let range = LogRange { branch, start: extent.start, end: extent.end };
        found.push(Inherited { name, size, range, holders: regions, watermarks });
    }
    found.reverse();
    for idle in view.idle.iter().filter(|idle| idle.mark.branch == branch) {
        let position = LogPosition::new(branch, idle.mark.offset);
        if view.succession().counts(idle.writer, position) {
            let range = LogRange { branch, start: position.offset, end: position.offset };
            let watermarks = vec![Watermark { clock: clock_of(idle.mark), position }];
            let (name, holders) = (idle.name.clone(), idle.regions.clone());
            found.push(Inherited { name, size: idle.size, range, holders, watermarks });
        }
    }
    Ok(found)
}
