//! From a source into the regions.
//!
//! A listing becomes numbered work ([`work`]); threads read, name, compare, compress, seal and place one extent each
//! ([`worker`]); what they find is put back into order ([`sequence`]) and assembled into leaves and tree entries
//! ([`assemble`]); full packs go to the regions while the next one fills ([`packer`], [`upload`]). The manifest is written
//! last, when everything it names, and the log it needs, is durable.
//!
//! Invariant: a crash at any moment leaves nothing that a later attempt does not either use or ignore.

mod adopt;
mod assemble;
mod base;
mod chunk_room;
mod compress;
mod earlier;
mod ending;
mod known;
mod listing;
mod needs;
mod neighbours;
mod packer;
mod pages;
mod read;
mod references;
mod round;
mod sequence;
mod spool;
mod structure;
mod upload;
mod work;
mod worker;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use breakwater_chunker::{Chunker, Sizes};
use breakwater_core::{Chain, ErrorClass, SessionId, SourceUid, Timestamp};
use breakwater_crypto::{Secret, derive};
use breakwater_engine::{BackupEnd, BackupSession as EngineSession, Entry, EntryKind, RecoveryRange};
use breakwater_repository::format::codec::Compression;
use breakwater_repository::format::manifest::{self, Manifest, ManifestSource};
use breakwater_repository::format::path::escape;
use breakwater_repository::session::{CommitOutcome, RegionWriter};
use breakwater_repository::verified::VerifiedSet;
use breakwater_repository::{BackupSession, FrameLocation, FrameReader, Repository, RepositoryError};
use breakwater_runtime::ByteBudget;
use futures::future::BoxFuture;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use assemble::{Assembler, Figures};
use base::Base;
use chunk_room::ChunkRooms;
use earlier::BaseChunks;
use known::Known;
use listing::Listing;
use needs::Needs;
use packer::Packer;
use pages::ROTATION;
use references::References;
use round::{first_reason, round};
use spool::{Spool, Spooled};
use structure::{STRUCTURE_ROOM, StructurePacks};
use work::Large;
use worker::{Context, Lies, Stop, ZeroNames};

use crate::PipelineError;
use crate::frames::Frames;
use crate::progress::{Progress, Totals};
use crate::rate::RateLimit;
use crate::room::Room;

pub use assemble::DamagedPage;

/// How long a stopped backup tries to give its session up; the next attempt does it otherwise.
const FENCE_PATIENCE: Duration = Duration::from_secs(5);

/// How often an undecided commit is asked again.
const COMMIT_TRIES: u32 = 5;

/// Damaged pages that a manifest names.
const DAMAGE_SHOWN: usize = 20;

/// Answers once all of the log in a range is durable in as many regions as the repository asks.
pub type LogGate = Box<dyn FnOnce(RecoveryRange) -> BoxFuture<'static, Result<(), GateError>> + Send>;

/// Why the log that a backup needs did not become durable.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct GateError {
    /// What happened, for people.
    pub reason: String,
    /// What it means.
    pub class: ErrorClass,
}

/// One backup to take.
pub struct BackupJob {
    /// The read in progress.
    pub engine: Box<dyn EngineSession>,
    /// The session that will hold it. Its intent names the bases and the dead sessions whose packs may be used.
    pub session: Arc<BackupSession>,
    /// Writes into the regions.
    pub writer: RegionWriter,
    /// The source, as the manifest is to name it.
    pub source: ManifestSource,
    /// The time that the snapshot was scheduled for.
    pub scheduled: Option<Timestamp>,
    /// The snapshot to compare with, one of the session's bases.
    pub base: Option<Manifest>,
    /// What restorers vouch for of snapshots that the session leans on.
    pub verified: Vec<VerifiedSet>,
    /// Where memory for buffers comes from.
    pub budget: ByteBudget,
    /// How its content is compressed; its structure is `zstd:3` always.
    pub compression: Compression,
    /// Packs that are on their way into the regions at once; 0: [`upload::AT_ONCE`].
    pub uploads: usize,
    /// Threads that read, compress and seal; 0: as many as there are processors.
    pub threads: usize,
    /// Bytes per second to read from the source at most.
    pub read_rate: Option<u64>,
    /// Where the tree waits, and the index of known chunks lies, when they are too large for memory.
    pub scratch: PathBuf,
    /// Counters that the caller may watch.
    pub progress: Arc<Progress>,
    /// Stops the backup and gives its session up.
    pub cancel: CancellationToken,
    /// Asked before the commit when the copy needs a range of the log.
    pub log_gate: Option<LogGate>,
}

impl fmt::Debug for BackupJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupJob")
            .field("session", &self.session.id())
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// How the commit went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The snapshot is there.
    Committed {
        /// Regions that hold it.
        held: Vec<String>,
        /// Regions that will get it.
        owed: Vec<String>,
    },
    /// Another attempt has committed the snapshot before; this one wrote no manifest.
    AlreadyCommitted {
        /// The session of that attempt.
        session: SessionId,
    },
}

/// What a backup has done.
#[derive(Debug)]
pub struct BackupOutcome {
    /// The manifest, committed or, where another attempt was first, not.
    pub manifest: Manifest,
    /// How the commit went.
    pub commit: Commit,
    /// Figures.
    pub totals: Totals,
    /// Pages whose checksum was wrong in the source; the first hundred.
    pub damaged: Vec<DamagedPage>,
    /// How many there were.
    pub damaged_count: u64,
}

/// Takes one backup. An error leaves no snapshot; what was uploaded until then is used by the next attempt that adopts the
/// session. When it was cancelled, the session is fenced.
pub async fn run_backup(job: BackupJob) -> Result<BackupOutcome, PipelineError> {
    let (session, writer, cancel) = (Arc::clone(&job.session), job.writer.clone(), job.cancel.clone());
    let result = run(job).await;
    if cancel.is_cancelled() && matches!(result, Err(PipelineError::Cancelled)) {
        give_up(&session, &writer).await;
    }
    result
}

async fn run(job: BackupJob) -> Result<BackupOutcome, PipelineError> {
    let stop = Stop::below(&job.cancel);
    let _stops_with_this_future = stop.guard();
    let cancel = job.cancel.clone();
    let (sender, receiver) = mpsc::channel(1);
    // The uploads belong to the trace of whoever asked for the backup.
    let uploads = upload::upload(Arc::new(job.writer.clone()), receiver, job.uploads, stop.clone()).in_current_span();
    let uploads = tokio::spawn(uploads);
    let read = read(job, sender, &stop).await;
    if read.is_err() {
        stop.fail();
    }
    let uploaded =
        uploads.await.unwrap_or_else(|error| Err(PipelineError::Defect(format!("uploading packs: {error}"))));
    let read = match (read, uploaded) {
        (Ok(read), Ok(())) => read,
        (read, uploaded) => {
            return Err(first_reason(read.map(drop), uploaded).err().unwrap_or(PipelineError::Cancelled));
        }
    };
    let committing = read.commit();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PipelineError::Cancelled),
        outcome = committing => outcome,
    }
}

/// A backup whose content and structure are sealed, and durable once the uploads have ended.
struct Read {
    session: Arc<BackupSession>,
    writer: RegionWriter,
    log_gate: Option<LogGate>,
    manifest: Manifest,
    totals: Totals,
    damaged: Vec<DamagedPage>,
    damaged_count: u64,
}

async fn read(
    job: BackupJob,
    uploads: mpsc::Sender<breakwater_repository::session::SealedPack>,
    stop: &Stop,
) -> Result<Read, PipelineError> {
    let BackupJob {
        mut engine,
        session,
        writer,
        source,
        scheduled,
        base,
        verified,
        budget,
        compression,
        threads,
        read_rate,
        scratch,
        ..
    } = job;
    let (progress, log_gate) = (job.progress, job.log_gate);
    let repository = session.repository().clone();
    let descriptor = repository.descriptor();
    let (extent_size, pack_size) = (descriptor.extent_size, descriptor.pack_size);
    let threads = if threads == 0 { std::thread::available_parallelism().map_or(2, usize::from) } else { threads };
    let full = Needs::full(threads, extent_size, pack_size, compression, &budget);
    let (needs, mut own) = tokio::select! {
        biased;
        () = stop.set() => return Err(PipelineError::Cancelled),
        taken = full.take(&budget) => taken?,
    };
    let threads = needs.threads;
    let mut split = |bytes| {
        let part = own.split(bytes);
        part.ok_or_else(|| PipelineError::Defect("a permit is smaller than what was asked for".to_owned()))
    };
    let content_room = Room::new(budget.clone(), split(needs.pack_room())?, needs.modest().total());
    // Leaves fill slowly: one pack at a time is enough.
    let structure_room = Room::new(budget.clone(), split(STRUCTURE_ROOM)?, u64::MAX);

    let known = Known::new(&scratch, needs.index);
    let (suite, id_key) = (repository.suite(), repository.id_key_of(session.source()).clone());
    let reader = FrameReader::new(&repository, session.source(), repository.read_order());
    if let Some(base) = &base {
        reader.lean_on(&base.leans);
    }
    let learning = async {
        adopt::adopt(&session, &writer, &known).await;
        neighbours::teach(&session, &verified, &reader, &known).await;
    };
    tokio::select! {
        biased;
        () = stop.set() => return Err(PipelineError::Cancelled),
        () = learning => {}
    }
    let base_chunks = BaseChunks::new(&reader, base.as_ref());
    let homes = reader.clone();
    let frames: Arc<dyn Frames> = Arc::new(reader);
    let tree_of_base = base.as_ref().map(|base| base.tree.clone()).unwrap_or_default();
    let mut compared = match &base {
        Some(base) => Base::new(&frames, &base.tree),
        None => Base::none(),
    };
    let rotation = base.as_ref().map_or(0, |base| (base.rotation + 1) % ROTATION);
    let context = Arc::new(Context {
        extent_size,
        suite,
        compression,
        id_key: id_key.clone(),
        chunker: Chunker::new(&chunker_key(&repository, session.source(), &id_key), Sizes::FILES),
        known,
        chunk_rooms: ChunkRooms::new(budget.clone(), needs.modest().total()),
        base_chunks,
        base_known: OnceCell::new(),
        packer: Packer::new(session.content_packs(), content_room, uploads.clone()),
        progress: Arc::clone(&progress),
        rate: RateLimit::new(read_rate),
        stop: stop.clone(),
        zeros: ZeroNames::default(),
        rotation,
        lies: Lies::after(base.as_ref().is_some_and(|base| base.doubtful)),
    });
    let (packs, references) = (session.structure_packs(), References::new(&scratch));
    let structure = StructurePacks::new(packs, references, (suite, id_key), structure_room, uploads, stop.clone())?;

    let assembler = Assembler::new(extent_size, structure, Spool::new(&scratch), Arc::clone(&progress), false);
    let assembler = round(&context, threads, assembler, |queue| {
        let listing = Listing::new(&context, &mut compared, queue);
        listing.list(engine.as_mut())
    })
    .await?;
    let (structure, early, mut figures) = blocking(move || assembler.finish()).await?;

    let BackupEnd { mut entries, range, consistent_at, facts, warnings, unreadable } = tokio::select! {
        biased;
        () = stop.set() => return Err(PipelineError::Cancelled),
        end = engine.finish() => end.map_err(PipelineError::engine("ending the read of the source"))?,
    };
    entries.extend(std::mem::take(&mut figures.again).into_iter().map(read_again));
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    let assembler = Assembler::new(extent_size, structure, Spool::new(&scratch), Arc::clone(&progress), true);
    let mut no_base = Base::none();
    let assembler = round(&context, threads, assembler, |queue| {
        let listing = Listing::new(&context, &mut no_base, queue);
        async move {
            listing.all(entries).await;
            Ok(())
        }
    })
    .await?;
    let (lies, doubtful) = (context.lies.warning(), context.lies.found());
    let forgotten = context.known.warning();
    let Ending { mut figures, tree, references, stored: structure_stored } =
        blocking(move || end(assembler, early, figures, context, &tree_of_base)).await?;
    drop(own);

    figures.unreadable.add(unreadable);
    let totals = progress.totals();
    let mut sessions = figures.sessions.clone();
    sessions.extend(tree.iter().map(|frame| frame.pack.session));
    let mut warnings = warnings;
    warnings.extend(compared.warning());
    warnings.extend(lies);
    warnings.extend(forgotten);
    warnings.extend(figures.damage_in_words());
    warnings.extend(figures.changes_in_words());
    let intent = session.intent();
    let manifest = Manifest {
        snapshot: intent.snapshot,
        session: session.id(),
        job: intent.job,
        attempt: intent.attempt,
        source,
        domain: repository.domain().clone(),
        scheduled,
        started: session.started(),
        finished: repository.now(),
        consistent_at,
        start: range.map(|range| range.start),
        end: range.map(|range| range.end),
        tree,
        references,
        leans: homes.leaned_on(&sessions),
        sessions: sessions.into_iter().collect(),
        bases: intent.bases.clone(),
        totals: manifest::Totals {
            files: figures.files,
            others: figures.others,
            bytes: figures.bytes,
            read: totals.read,
            new: totals.new,
            reused: totals.kept + totals.unchanged + totals.repeated,
            zeros: totals.zeros,
            stored: totals.stored + structure_stored,
        },
        warnings,
        unreadable: in_words(std::mem::take(&mut figures.unreadable)),
        rotation,
        doubtful,
        facts,
    };
    let Figures { damaged, damaged_count, .. } = figures;
    Ok(Read { session, writer, log_gate, manifest, totals, damaged, damaged_count })
}

/// What decides where files are cut. Sources that may lean on each other must cut alike; others cut each its own way, so that
/// the lengths of their chunks say nothing of what they have in common.
fn chunker_key(repository: &Repository, source: SourceUid, id_key: &Secret) -> Secret {
    let source = source.as_bytes().as_slice();
    let context: &[&[u8]] = if repository.descriptor().voucher.is_some() { &[] } else { &[source] };
    derive(id_key, "chunker", context)
}

/// A large file that changed while it was read, as an entry of the second round.
fn read_again((meta, file): (work::Meta, Arc<Large>)) -> Entry {
    let work::Meta { path, mode, uid, gid, mtime, last, attributes, stamp, tolerant, .. } = meta;
    let size = file.change().unwrap_or(file.listed);
    let (reader, chunking) = (Arc::clone(&file.reader), file.chunking);
    let kind = EntryKind::File { size, reader, chunking, changed: None };
    Entry { path, kind, mode, uid, gid, mtime, last, attributes, stamp, tolerant }
}

/// What could not be read, as the manifest says it.
fn in_words(unreadable: breakwater_engine::Unreadable) -> manifest::Unreadable {
    let path = |one: breakwater_engine::UnreadablePath| manifest::UnreadablePath {
        path: escape(&one.path),
        reason: one.reason,
    };
    manifest::Unreadable { count: unreadable.count, paths: unreadable.paths.into_iter().map(path).collect() }
}

/// What the end of a backup writes.
struct Ending {
    figures: Figures,
    tree: Vec<FrameLocation>,
    references: Vec<FrameLocation>,
    /// Bytes of structure.
    stored: u64,
}

/// Ends the second round: the rest of the leaves, the tree, the references, the last packs. Blocks the thread.
fn end(
    assembler: Assembler<StructurePacks>,
    early: Spooled,
    figures: Figures,
    context: Arc<Context>,
    base: &[FrameLocation],
) -> Result<Ending, PipelineError> {
    let (mut structure, late, late_figures) = assembler.finish()?;
    context.packer.finish()?;
    // What is known of chunks is not asked any more, and makes room for the tree.
    drop(context);
    let mut figures = figures.with(late_figures);
    let left_out = std::mem::take(&mut figures.left_out);
    let tree = ending::write_tree(&mut structure, early, late, base, &left_out, &mut figures.unreadable)?;
    let (references, stored) = structure.finish()?;
    Ok(Ending { figures, tree, references, stored })
}

impl Read {
    /// Waits for the log, then commits.
    async fn commit(self) -> Result<BackupOutcome, PipelineError> {
        let Read { session, writer, log_gate, manifest, totals, damaged, damaged_count } = self;
        if let (Some(start), Some(end), Some(gate)) = (manifest.start, manifest.end, log_gate) {
            gate(RecoveryRange { start, end })
                .await
                .map_err(|source| PipelineError::LogNotDurable { position: end, source })?;
        }
        let commit = match decide(&session, &writer, &manifest).await? {
            CommitOutcome::Committed { held, owed } => Commit::Committed { held, owed },
            CommitOutcome::AlreadyCommitted { session } => Commit::AlreadyCommitted { session },
            CommitOutcome::Fenced { reason } => return Err(PipelineError::Fenced { session: session.id(), reason }),
        };
        Ok(BackupOutcome { manifest, commit, totals, damaged, damaged_count })
    }
}

async fn decide(
    session: &BackupSession,
    writer: &RegionWriter,
    manifest: &Manifest,
) -> Result<CommitOutcome, PipelineError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match session.commit(writer, manifest).await {
            Ok(outcome) => return Ok(outcome),
            Err(error @ RepositoryError::Undecided { .. }) if tries < COMMIT_TRIES => {
                tracing::warn!(session = %session.id(), error = %Chain(&error), "the commit is not decided yet");
                tokio::time::sleep(Duration::from_millis(500 * u64::from(tries))).await;
            }
            Err(error) => return Err(PipelineError::repository("committing the snapshot", error)),
        }
    }
}

/// Fences the session of a stopped backup, so that nothing can commit it any more.
async fn give_up(session: &BackupSession, writer: &RegionWriter) {
    let register = (session.intent().snapshot, session.id());
    let fencing = session.repository().fence(writer, session.source(), register, "stopped on request");
    match tokio::time::timeout(FENCE_PATIENCE, fencing).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(session = %session.id(), error = %Chain(&error), "a stopped session could not be fenced")
        }
        Err(_) => tracing::warn!(session = %session.id(), "a stopped session could not be fenced in time"),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PipelineError> + Send + 'static,
) -> Result<T, PipelineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PipelineError::Defect(format!("a thread of a backup: {error}"))),
    }
}

impl Figures {
    fn with(mut self, late: Figures) -> Figures {
        self.files += late.files;
        self.others += late.others;
        self.bytes += late.bytes;
        self.sessions.extend(late.sessions);
        self.damaged.extend(late.damaged);
        self.damaged_count += late.damaged_count;
        self.unreadable.add(late.unreadable);
        self.left_out.extend(late.left_out);
        self.changed.0.extend(late.changed.0);
        self.changed.1 += late.changed.1;
        self
    }

    fn changes_in_words(&self) -> Vec<String> {
        let (paths, count) = &self.changed;
        let line = |path: &Vec<u8>| {
            format!("{} changed whenever it was read; what is stored may be of several moments", path.escape_ascii())
        };
        let mut lines: Vec<String> = paths.iter().take(DAMAGE_SHOWN).map(line).collect();
        let more = count.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("{more} more files changed whenever they were read"));
        }
        lines
    }

    fn damage_in_words(&self) -> Vec<String> {
        let line = |page: &DamagedPage| {
            format!(
                "page {} of {} is damaged in the source: its checksum is wrong",
                page.page,
                page.path.escape_ascii()
            )
        };
        let mut lines: Vec<String> = self.damaged.iter().take(DAMAGE_SHOWN).map(line).collect();
        let more = self.damaged_count.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("{more} more damaged pages"));
        }
        lines
    }
}
