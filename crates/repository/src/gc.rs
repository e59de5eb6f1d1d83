//! Deleting what nobody needs any more: the packs of sessions with a tombstone, of which no snapshot refers to anything.
//!
//! One round works on one source. It (1) makes the tombstones that it sees durable in every region, (2) lists the open
//! records, (3) then lists registers and tombstones again, (4) unites the references of all snapshots that had no
//! tombstone in (1) and of those that undecided sessions name, (5) deletes packs of sessions with a tombstone in (1), or
//! moves what is left of them. There are no clocks in it and nobody is paused: a writer looks for tombstones after its
//! open record is durable, so either it sees the tombstone or the round sees the record.
//!
//! Where sources lean on each other's verified packs, (2) to (4) look at all sources that lean on this one too, once its
//! tombstones are everywhere. Their own garbage is left to rounds of their own.
//!
//! Invariants: a region that does not answer stops a round before anything is deleted. Every step can be repeated, so a
//! round can be killed at any point and begun again, and two workers may be at it at once. Only the structure key is
//! needed, no content is opened. Memory does not grow with the repository.
//!
//! What a lock or a hold keeps waits for a later round ([`locks`]). The log of a source (segments, tails, claims, histories) is
//! not touched.
//!
//! Reading order: this page, [`round`], [`everywhere`], [`condemn`], [`census`], [`leaners`], [`marking`] (with [`live`] and [`spill`]),
//! [`listing`], [`sweep`] and [`verdicts`], [`deleting`] and [`locks`], [`repack`] and [`moved_packs`]; beside it [`renewal`]. The model in
//! `tests/gc_model.rs` checks these steps in this order.

mod census;
mod condemn;
mod deleting;
mod everywhere;
mod leaners;
mod listing;
pub mod live;
mod locks;
mod marking;
mod moved_packs;
mod pace;
pub mod renewal;
mod repack;
mod round;
pub mod spill;
pub mod sweep;
mod verdicts;

pub use locks::Waiting;

use std::collections::BTreeSet;
use std::path::PathBuf;

use breakwater_core::{SessionId, SourceUid, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::error::{Cause, RepositoryError};
use crate::repository::Repository;

/// How a round is to be done.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Says what would go, and changes nothing: no tombstone, no fence, no deletion.
    pub dry_run: bool,
    /// Packs of which less than this share is needed (in percent of their bytes) are moved together and deleted; 0 moves
    /// none. At most 100.
    pub repack_below: u8,
    /// Bytes per second that are moved at most.
    pub bytes_per_second: Option<u64>,
    /// Objects per second that are deleted at most.
    pub deletes_per_second: Option<u64>,
    /// Sessions that are known to be dead: they are fenced, then what they left is deleted. Fencing a session that lives
    /// makes its backup fail, nothing worse.
    pub dead: BTreeSet<SessionId>,
    /// Undecided sessions that began before this moment are taken for dead too.
    pub fence_begun_before: Option<Timestamp>,
    /// A directory for files of this run; they are removed at its end. None: the system's directory for such files.
    pub scratch: Option<PathBuf>,
    /// Ends the round at the next object; what is done stays done.
    pub cancel: CancellationToken,
}

impl Default for GcOptions {
    fn default() -> Self {
        GcOptions {
            dry_run: false,
            repack_below: 50,
            bytes_per_second: None,
            deletes_per_second: None,
            dead: BTreeSet::new(),
            fence_begun_before: None,
            scratch: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// How a round ended.
#[derive(Debug)]
pub enum GcOutcome {
    /// All that could go is gone, or would be.
    Done,
    /// These regions did not answer, so nothing was deleted.
    Away(Vec<Cause>),
    /// It was cancelled; the rest goes with the next round.
    Cancelled,
    /// Another worker took over what this one was about to move; nothing is lost, the rest goes with the next round.
    Overtaken,
}

/// Objects of one kind, counted once however many regions hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    /// Objects.
    pub objects: u64,
    /// Their bytes in one region.
    pub bytes: u64,
}

impl Figure {
    /// Counts one more.
    pub const fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// A session that keeps things from being deleted while it is undecided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The session.
    pub session: SessionId,
    /// When it began.
    pub started: Timestamp,
}

/// What a round found and did. In a dry run: what it would have done.
#[derive(Debug)]
pub struct GcReport {
    /// The source.
    pub source: SourceUid,
    /// Whether nothing was changed on purpose.
    pub dry_run: bool,
    /// How it ended.
    pub outcome: GcOutcome,
    /// Snapshots that count and are kept.
    pub snapshots: u64,
    /// Sessions with a tombstone.
    pub tombstones: u64,
    /// Sessions that this round fenced for good.
    pub fenced: Vec<SessionId>,
    /// Other sources that lean on this one; what their snapshots need stays.
    pub leaners: Vec<SourceUid>,
    /// Undecided sessions; what they name stays.
    pub pins: Vec<Pin>,
    /// Packs that the regions hold.
    pub packs: Figure,
    /// Packs deleted because nothing of them was needed.
    pub deleted: Figure,
    /// Packs deleted after what was needed of them was moved.
    pub repacked: Figure,
    /// New packs with what was moved.
    pub moved: Figure,
    /// Manifests, keys, open records and other small objects that were deleted.
    pub records: Figure,
    /// Names that no form of the format has: never deleted, and never counted above.
    pub unknown: Figure,
    /// The first of them.
    pub unknown_names: Vec<String>,
    /// Packs of sessions of which nothing else is known: neither open record nor register. Never deleted.
    pub strays: Figure,
    /// What could go but is locked or held; a later round deletes it.
    pub waiting: Waiting,
}

impl GcReport {
    fn new(source: SourceUid, dry_run: bool) -> GcReport {
        let none = Figure::default();
        GcReport {
            source,
            dry_run,
            outcome: GcOutcome::Done,
            snapshots: 0,
            tombstones: 0,
            fenced: Vec::new(),
            leaners: Vec::new(),
            pins: Vec::new(),
            packs: none,
            deleted: none,
            repacked: none,
            moved: none,
            records: none,
            unknown: none,
            unknown_names: Vec::new(),
            strays: none,
            waiting: Waiting::default(),
        }
    }

    /// Bytes that one region has less afterwards.
    pub const fn freed(&self) -> u64 {
        (self.deleted.bytes + self.repacked.bytes + self.records.bytes).saturating_sub(self.moved.bytes)
    }
}

impl Repository {
    /// One round over `source`. Needs the right to delete below `meta/<source>/` and `data/<source>/`, and the structure
    /// key; no content is opened.
    ///
    /// Errors: [`Refused`](RepositoryError::Refused) when it is not known what a snapshot needs (its manifest or its
    /// references are damaged in every region; the error names it), whatever else stops a round. Nothing that is needed
    /// is deleted in any case. A region that is away is an [outcome](GcOutcome::Away).
    pub async fn gc_source(&self, source: SourceUid, options: &GcOptions) -> Result<GcReport, RepositoryError> {
        round::run(self, source, options).await
    }

    /// A round over each source, one after the other. A source that fails does not stop the next one.
    pub async fn gc(
        &self,
        options: &GcOptions,
    ) -> Result<Vec<(SourceUid, Result<GcReport, RepositoryError>)>, RepositoryError> {
        let sources = self.sources(&self.read_order()).await?;
        let mut reports = Vec::new();
        for source in sources.uids {
            if options.cancel.is_cancelled() {
                break;
            }
            reports.push((source, self.gc_source(source, options).await));
        }
        Ok(reports)
    }
}
