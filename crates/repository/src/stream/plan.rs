//! From a base to a moment: which pieces of log a restore needs, proven to be there before it starts.
//!
//! Invariant: a plan is only made when every byte from the base to its end is stored in one run, each piece has a footer
//! that fits its name, and neighbours are linked by their chain values.

use breakwater_core::{ErrorClass, LogPosition, Lsn, Timestamp};
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::StreamError;
use super::history::BranchHistory;
use super::keys::SecretSource;
use super::path::Extent;
use super::view::StreamView;
use crate::format::log::{MarkKind, TransactionMark};
use crate::format::names::LogRange;

/// Footers read at once.
const FOOTERS_AT_ONCE: usize = 16;

/// Where a restored base stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanBase {
    /// Replay begins here.
    pub start: LogPosition,
    /// Replay must come at least this far.
    pub end: LogPosition,
    /// The source's clock when the base was consistent.
    pub consistent_at: Timestamp,
}

/// The moment that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// All that is stored.
    Latest,
    /// Everything acknowledged before this moment, nothing begun after it.
    Time(Timestamp),
    /// Everything before this offset, on the newest branch that leads there.
    Offset(u64),
    /// Up to and with this transaction.
    Transaction(u64),
    /// The named restore point.
    Name(String),
    /// Exactly this position.
    End(LogPosition),
}

/// How the replay must stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At the end of the plan's log.
    AtEnd,
    /// Before the first transaction later than this; the plan's log holds one.
    AtTime(Timestamp),
    /// After this transaction; the plan's log holds it.
    AtTransaction(u64),
    /// At this restore point; the plan's log holds it.
    AtName(String),
}

/// A run of one branch and the pieces that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRange {
    /// What is needed.
    pub range: LogRange,
    /// Where it is, in order, without overlap.
    pub extents: Vec<Extent>,
}

/// The log of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlan {
    /// One entry a branch, oldest branch first.
    pub ranges: Vec<PlannedRange>,
    /// After the last byte.
    pub end: LogPosition,
    /// How the replay must stop.
    pub stop: Stop,
    /// The histories of the branches in the plan that have one.
    pub histories: Vec<BranchHistory>,
    /// The newest moment that this path could be restored to.
    pub recoverable: Option<Timestamp>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The moment lies before the base can be used.
    #[error(
        "the base is consistent from {consistent} on, {wanted} is before that; hint: restore from an older snapshot"
    )]
    BeforeBase {
        /// What was asked for.
        wanted: String,
        /// From where on the base can be used.
        consistent: String,
    },
    /// The moment lies after what is stored.
    #[error(
        "{wanted} is after what is stored; the recoverable point is {}; hint: restore to the latest, or wait until that point has passed it",
        shown(recoverable, *end)
    )]
    AfterRecoverable {
        /// What was asked for.
        wanted: String,
        /// The newest moment that can be restored.
        recoverable: Option<Timestamp>,
        /// Where the stored log ends.
        end: LogPosition,
    },
    /// A part of the log is not stored.
    #[error("the stored log has a gap in branch {} from {} to {}{}", range.branch, Lsn(range.start), Lsn(range.end),
        silent_hint(silent))]
    Gap {
        /// What is missing.
        range: LogRange,
        /// Regions that did not answer and may have it.
        silent: Vec<String>,
    },
    /// The base's branch does not lead to the wanted one.
    #[error(
        "branch {wanted} does not descend from branch {base} of the base at {at}; hint: restore from a snapshot of its own line"
    )]
    NotDescended {
        /// The branch that was wanted.
        wanted: u32,
        /// The base's branch.
        base: u32,
        /// The base's end.
        at: LogPosition,
    },
    /// No such transaction after the base.
    #[error(
        "transaction {0} ends nowhere in the stored log after the base; hint: restore to a time, a position or the latest instead"
    )]
    UnknownTransaction(u64),
    /// No such restore point after the base.
    #[error(
        "there is no restore point `{0}` in the stored log after the base; hint: restore to a time, a position or the latest instead"
    )]
    UnknownName(String),
    /// The index can only be read with a recipient's key.
    #[error(
        "finding a transaction or a restore point takes a recipient's key; hint: put the key that restores where this runs"
    )]
    NeedsKey,
    /// Neighbouring pieces are not linked.
    #[error("object `{name}` does not continue the piece before it: the chain is broken")]
    ChainBroken {
        /// The later piece.
        name: String,
    },
    /// Reading failed.
    #[error("the stored log cannot be read")]
    Stream(#[from] StreamError),
}

fn shown(recoverable: &Option<Timestamp>, end: LogPosition) -> String {
    recoverable.map_or_else(|| format!("not known; the log ends at {end}"), |clock| format!("{clock} ({end})"))
}

fn silent_hint(silent: &[String]) -> String {
    if silent.is_empty() { String::new() } else { format!("; these regions did not answer: {}", silent.join(", ")) }
}

impl PlanError {
    /// What it means to the one who has to act on it.
    pub fn class(&self) -> ErrorClass {
        match self {
            PlanError::Gap { silent, .. } if !silent.is_empty() => ErrorClass::Unavailable,
            PlanError::BeforeBase { .. }
            | PlanError::AfterRecoverable { .. }
            | PlanError::Gap { .. }
            | PlanError::NotDescended { .. } => ErrorClass::Refused,
            PlanError::UnknownTransaction(_) | PlanError::UnknownName(_) => ErrorClass::NotFound,
            PlanError::NeedsKey => ErrorClass::Denied,
            PlanError::ChainBroken { .. } => ErrorClass::Corrupt,
            PlanError::Stream(error) => error.class(),
        }
    }
}

impl StreamView {
    /// Plans the replay from `base` to `target`. `secrets` are needed for transactions and names only.
    pub async fn plan(
        &self,
        base: &PlanBase,
        target: &LogTarget,
        secrets: Option<&dyn SecretSource>,
    ) -> Result<LogPlan, PlanError> {
        let branch = match target {
            LogTarget::End(position) => position.branch,
            _ => self.newest_branch(base),
        };
        let whole = self.route(base, branch)?;
        let end = whole.last().map_or(base.start, |leg| LogPosition::new(leg.range.branch, leg.range.end));
        let recoverable = match whole.last() {
            Some(leg) => self.watermark_in(&leg.extents, end).await?.map(|watermark| watermark.clock),
            None => None,
        };
        let after = |wanted: String| PlanError::AfterRecoverable { wanted, recoverable, end };
        if end < base.end {
            return Err(after(format!("the end of the base, {},", base.end)));
        }
        let (upto, stop) = match target {
            LogTarget::Latest => (end, Stop::AtEnd),
            LogTarget::Time(moment) if *moment < base.consistent_at => {
                let consistent = base.consistent_at.to_string();
                return Err(PlanError::BeforeBase { wanted: moment.to_string(), consistent });
            }
            LogTarget::Time(moment) if self.base_holds_later(base, &whole, *moment, secrets).await? => {
                return Err(PlanError::BeforeBase { wanted: moment.to_string(), consistent: base.end.to_string() });
            }
            LogTarget::Time(moment) => match self.first_commit_after(base, &whole, *moment, secrets).await? {
                Some(position) => (position, Stop::AtTime(*moment)),
                None if recoverable.is_some_and(|clock| *moment <= clock) => (end, Stop::AtEnd),
                None => return Err(after(moment.to_string())),
            },
            LogTarget::Offset(offset) => {
                (position_at(base, &whole, *offset).ok_or_else(|| after(Lsn(*offset).to_string()))?, Stop::AtEnd)
            }
            LogTarget::End(position) => {
                let inside = whole.last().is_some_and(|leg| position.offset <= leg.range.end);
                (inside.then_some(*position).ok_or_else(|| after(position.to_string()))?, Stop::AtEnd)
            }
            LogTarget::Transaction(xid) => {
                let ends = |mark: &TransactionMark| mark.kind != MarkKind::RestorePoint && mark.xid == *xid;
                let found = self.find_mark(base, &whole, secrets, ends).await?;
                (found.ok_or(PlanError::UnknownTransaction(*xid))?, Stop::AtTransaction(*xid))
            }
            LogTarget::Name(name) => {
                let named =
                    |mark: &TransactionMark| mark.kind == MarkKind::RestorePoint && mark.name.as_ref() == Some(name);
                let found = self.find_mark(base, &whole, secrets, named).await?;
                (found.ok_or_else(|| PlanError::UnknownName(name.clone()))?, Stop::AtName(name.clone()))
            }
        };
        if upto < base.end {
            return Err(PlanError::BeforeBase { wanted: upto.to_string(), consistent: base.end.to_string() });
        }
        let ranges = cut(whole, upto);
        for leg in &ranges {
            self.prove(&leg.extents).await?;
        }
        let histories = ranges.iter().filter_map(|leg| self.histories.get(&leg.range.branch).cloned()).collect();
        Ok(LogPlan { ranges, end: upto, stop, histories, recoverable })
    }

    /// The highest branch that descends from the base and holds more than what its parent has up to the fork.
    fn newest_branch(&self, base: &PlanBase) -> u32 {
        let descends = |branch: &u32| {
            self.lineage(base, *branch).is_some_and(|legs| {
                legs.last().is_none_or(|(next, fork)| {
                    let start = self.segment_start(LogPosition::new(*next, *fork));
                    self.reach(LogPosition::new(*next, start)).is_some_and(|end| end.offset >= *fork)
                })
            })
        };
        self.branches.keys().rev().copied().find(descends).unwrap_or(base.start.branch)
    }

    /// The branches from the base's to `branch`, each with the offset at which it left the one before.
    fn lineage(&self, base: &PlanBase, branch: u32) -> Option<Vec<(u32, u64)>> {
        let mut legs = Vec::new();
        let mut at = branch;
        while at != base.start.branch {
            let history = self.histories.get(&at).filter(|history| history.parent < at)?;
            legs.push((at, history.offset));
            at = history.parent;
        }
        legs.reverse();
        let left_before_base =
            legs.first().is_some_and(|(_, fork)| base.end.branch == base.start.branch && *fork < base.end.offset);
        (!left_before_base).then_some(legs)
    }

    /// The unbroken way from the base to the end of `branch`.
    fn route(&self, base: &PlanBase, branch: u32) -> Result<Vec<PlannedRange>, PlanError> {
        let lineage = self.lineage(base, branch).ok_or(PlanError::NotDescended {
            wanted: branch,
            base: base.start.branch,
            at: base.end,
        })?;
        let mut legs = Vec::new();
        let mut at = base.start.branch;
        let mut start = self.segment_start(base.start);
        for (next, fork) in lineage {
            legs.push(self.leg(LogRange { branch: at, start, end: fork })?);
            // The new branch was received from a segment boundary at or below the fork.
            let holds = |extents: &[Extent]| {
                extents.iter().rev().find(|extent| extent.start <= fork).map(|extent| extent.start)
            };
            start = self.segment_start(LogPosition::new(next, fork)).min(holds(self.extents(next)).unwrap_or(fork));
            at = next;
        }
        let end = self.reach(LogPosition::new(at, start)).map_or(start, |position| position.offset);
        if end == start && !self.extents(at).is_empty() {
            let next = self.extents(at).iter().find(|extent| extent.start > start).map_or(start, |extent| extent.start);
            return Err(self.gap(LogRange { branch: at, start, end: next }));
        }
        legs.push(self.leg(LogRange { branch: at, start, end })?);
        Ok(legs)
    }

    /// The start of the segment that holds `position`.
    fn segment_start(&self, position: LogPosition) -> u64 {
        let size =
            self.newest_claim().and_then(|claim| claim.facts.get("segment_size")?.as_u64()).filter(|size| *size > 0);
        size.map_or(position.offset, |size| position.offset - position.offset % size)
    }

    fn gap(&self, range: LogRange) -> PlanError {
        PlanError::Gap { range, silent: self.silent.iter().map(|failure| failure.region.clone()).collect() }
    }

    /// The extents that hold `range`, clipped to it; an error names the first gap.
    fn leg(&self, range: LogRange) -> Result<PlannedRange, PlanError> {
        let mut extents = Vec::new();
        let mut at = range.start;
        for extent in self.extents(range.branch) {
            if extent.end <= at || at >= range.end {
                continue;
            }
            if extent.start > at {
                return Err(self.gap(LogRange { start: at, end: extent.start, ..range }));
            }
            let end = extent.end.min(range.end);
            extents.push(Extent { start: at, end, piece: extent.piece.clone() });
            at = end;
        }
        if at < range.end {
            return Err(self.gap(LogRange { start: at, ..range }));
        }
        Ok(PlannedRange { range, extents })
    }

    /// Whether the log up to the end of the base shows that this end was written after `moment`: the base may hold what was
    /// committed later then. That is so when a commit before the end is later, and where the index cannot be read, when a
    /// watermark says that the source had not come to the end at a later clock.
    async fn base_holds_later(
        &self,
        base: &PlanBase,
        legs: &[PlannedRange],
        moment: Timestamp,
        secrets: Option<&dyn SecretSource>,
    ) -> Result<bool, PlanError> {
        let on_branch = legs.iter().filter(|leg| leg.range.branch == base.end.branch);
        let within = |extent: &&Extent| extent.start < base.end.offset && extent.end > base.start.offset;
        let pieces = on_branch.flat_map(|leg| &leg.extents).filter(within);
        for extent in pieces.filter(|_| base.start.branch == base.end.branch) {
            let footer = self.footer(&extent.piece.name).await?;
            if footer.log.last_commit.is_some_and(|last| last > moment)
                && let Some(secrets) = secrets
            {
                let inside = |mark: &TransactionMark| mark.start >= base.start.offset && mark.end <= base.end.offset;
                let later = |mark: &TransactionMark| mark.kind == MarkKind::Commit && mark.time > moment;
                if self.marks(extent, secrets).await?.iter().any(|mark| inside(mark) && later(mark)) {
                    return Ok(true);
                }
            }
            let before = |offset: u64| offset < base.end.offset && offset <= extent.end;
            let watermarks = &footer.log.watermarks;
            if secrets.is_none() && watermarks.iter().any(|(clock, offset)| *clock > moment && before(*offset)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The end of the first piece after the base that holds a commit later than `moment`.
    async fn first_commit_after(
        &self,
        base: &PlanBase,
        legs: &[PlannedRange],
        moment: Timestamp,
        secrets: Option<&dyn SecretSource>,
    ) -> Result<Option<LogPosition>, PlanError> {
        let later = |mark: &TransactionMark| mark.kind == MarkKind::Commit && mark.time > moment;
        for (leg, extent) in after(base, legs) {
            let footer = self.footer(&extent.piece.name).await?;
            if footer.log.last_commit.is_none_or(|last| last <= moment) {
                continue;
            }
            let end = LogPosition::new(leg.range.branch, extent.end);
            let clipped = extent.end < extent.piece.range.end;
            if !clipped {
                return Ok(Some(end));
            }
            // The commit may lie in the part that does not count; only the index can tell.
            let Some(secrets) = secrets else { continue };
            if self.marks(extent, secrets).await?.iter().any(later) {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    async fn find_mark(
        &self,
        base: &PlanBase,
        legs: &[PlannedRange],
        secrets: Option<&dyn SecretSource>,
        wanted: impl Fn(&TransactionMark) -> bool,
    ) -> Result<Option<LogPosition>, PlanError> {
        let secrets = secrets.ok_or(PlanError::NeedsKey)?;
        for (leg, extent) in after(base, legs) {
            let marks = self.marks(extent, secrets).await?;
            let beyond_base =
                |mark: &&TransactionMark| leg.range.branch > base.end.branch || mark.end > base.end.offset;
            if marks.iter().filter(beyond_base).any(&wanted) {
                return Ok(Some(LogPosition::new(leg.range.branch, extent.end)));
            }
        }
        Ok(None)
    }

    /// The index entries whose records end within `extent`.
    async fn marks(&self, extent: &Extent, secrets: &dyn SecretSource) -> Result<Vec<TransactionMark>, StreamError> {
        let footer = self.footer(&extent.piece.name).await?;
        let secret = secrets.secret(extent.piece.writer.1).await?;
        let mut marks = footer.marks(&self.regions, &self.keys, &secret, &extent.piece.name).await?;
        marks.retain(|mark| extent.start < mark.end && mark.end <= extent.end);
        Ok(marks)
    }

    /// Reads every footer and compares the chain of neighbours.
    async fn prove(&self, extents: &[Extent]) -> Result<(), PlanError> {
        // Boxed and collected: a stream over the closure would keep the compiler from seeing that callers can be spawned.
        let footers: Vec<_> = extents.iter().map(|extent| self.footer(&extent.piece.name).boxed()).collect();
        let footers: Vec<_> = futures::stream::iter(footers).buffered(FOOTERS_AT_ONCE).try_collect().await?;
        for (pair, extents) in footers.windows(2).zip(extents.windows(2)) {
            let ([earlier, later], [_, extent]) = (pair, extents) else { continue };
            let neighbours = earlier.log.end == later.log.start && later.log.previous != [0; 32];
            if neighbours && later.log.previous != earlier.log.chain {
                return Err(PlanError::ChainBroken { name: extent.piece.name.clone() });
            }
        }
        Ok(())
    }
}

/// The extents that reach beyond the end of the base.
fn after<'a>(base: &PlanBase, legs: &'a [PlannedRange]) -> impl Iterator<Item = (&'a PlannedRange, &'a Extent)> {
    let end = base.end;
    let pairs = legs.iter().flat_map(|leg| leg.extents.iter().map(move |extent| (leg, extent)));
    pairs.filter(move |(leg, extent)| LogPosition::new(leg.range.branch, extent.end) > end)
}

/// The position of `offset` on the way: on the oldest branch that reaches it.
fn position_at(base: &PlanBase, legs: &[PlannedRange], offset: u64) -> Option<LogPosition> {
    let on = |leg: &&PlannedRange| leg.range.branch >= base.end.branch && offset <= leg.range.end;
    legs.iter().find(on).map(|leg| LogPosition::new(leg.range.branch, offset))
}

/// The legs up to `end`.
fn cut(legs: Vec<PlannedRange>, end: LogPosition) -> Vec<PlannedRange> {
    let mut kept = Vec::new();
    for mut leg in legs {
        if leg.range.branch > end.branch {
            break;
        }
        if leg.range.branch == end.branch {
            leg.range.end = end.offset;
            leg.extents.retain(|extent| extent.start < end.offset);
            if let Some(last) = leg.extents.last_mut() {
                last.end = last.end.min(end.offset);
            }
        }
        kept.push(leg);
    }
    kept
}
