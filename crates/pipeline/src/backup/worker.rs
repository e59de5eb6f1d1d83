//! One thread of a backup, and what all threads share: where content lies already, and the packs it goes into otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use breakwater_chunker::Chunker;
use breakwater_crypto::{ChunkId, Secret, Suite};
use breakwater_repository::format::codec::Compression;
use breakwater_repository::format::leaf::Extent;
use breakwater_repository::format::{Class, FrameLocation};
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::assemble::{Assembler, Done};
use super::chunk_room::ChunkRooms;
use super::compress::Encoder;
use super::earlier::BaseChunks;
use super::known::{Known, Standing};
use super::packer::Packer;
use super::read::Hands;
use super::sequence::Sequence;
use super::structure::StructurePacks;
use super::work::{Claim, Claims};
use crate::PipelineError;
use crate::progress::{Kind, Progress};
use crate::rate::RateLimit;
use crate::zeros::is_zero;

/// The longest sleep before a look at whether the run was stopped.
const NAP: Duration = Duration::from_millis(50);

/// Claims that threads may be ahead of the slowest, for each thread.
pub(crate) const LEAD: u64 = 8;

/// Names of zeros kept in mind.
const ZEROS_KEPT: usize = 64;

/// What all threads of one run share.
pub(crate) struct Shared {
    pub(crate) claims: Claims,
    pub(crate) sequence: Sequence<Done, Assembler<StructurePacks>>,
    pub(crate) context: Arc<Context>,
}

/// What does not change between the two rounds of a run (listed entries, late entries).
pub(crate) struct Context {
    pub(crate) extent_size: u32,
    pub(crate) suite: Suite,
    pub(crate) compression: Compression,
    pub(crate) id_key: Secret,
    pub(crate) chunker: Chunker,
    pub(crate) known: Known,
    pub(crate) chunk_rooms: ChunkRooms,
    /// The base's chunks, read when the first file comes that may need them.
    pub(crate) base_chunks: BaseChunks,
    pub(crate) base_known: OnceCell<()>,
    pub(crate) packer: Packer,
    pub(crate) progress: Arc<Progress>,
    pub(crate) rate: RateLimit,
    pub(crate) stop: Stop,
    pub(crate) zeros: ZeroNames,
    /// Counts backups of this lineage.
    pub(crate) rotation: u64,
    /// Extents that changed although the engine's list of changes does not have them.
    pub(crate) lies: Lies,
}

/// The names of runs of zeros.
#[derive(Default)]
pub(crate) struct ZeroNames(Mutex<HashMap<(u8, u32), ChunkId>>);

/// What was found out about an engine's lists of changes.
#[derive(Default)]
pub(crate) struct Lies {
    /// The backup before has found one: everything is read this time.
    before: bool,
    count: AtomicU64,
    first: OnceLock<(Vec<u8>, u64)>,
}

/// Tells threads to stop: the caller asked for it, or another part of the run failed.
#[derive(Clone, Debug)]
pub(crate) struct Stop(CancellationToken);

impl Stop {
    /// Set when `cancel` is, and by [`fail`](Self::fail).
    pub(crate) fn below(cancel: &CancellationToken) -> Stop {
        Stop(cancel.child_token())
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Something failed; the others need not go on.
    pub(crate) fn fail(&self) {
        self.0.cancel();
    }

    /// Returns once it is set.
    pub(crate) async fn set(&self) {
        self.0.cancelled().await;
    }

    /// Stops the run when this is dropped.
    pub(crate) fn guard(&self) -> DropGuard {
        self.0.clone().drop_guard()
    }
}

/// Works until the queue is empty or the run is stopped.
pub(crate) fn work(shared: &Shared) -> Result<(), PipelineError> {
    let result = work_until_stopped(shared);
    if result.is_err() {
        shared.context.stop.fail();
    }
    result
}

fn work_until_stopped(shared: &Shared) -> Result<(), PipelineError> {
    let context = &shared.context;
    let buffer = vec![0; context.extent_size as usize];
    let mut hands = Hands { encoder: Encoder::new(context.compression)?, buffer };
    let stopped = || context.stop.is_set();
    while !stopped() {
        let Some((number, claim)) = shared.claims.take() else { return Ok(()) };
        if !shared.sequence.may_begin(number, stopped) {
            break;
        }
        let done = match claim {
            Claim::Batch(items) => {
                let mut files = Vec::with_capacity(items.len());
                for item in items {
                    if stopped() {
                        return Err(PipelineError::Cancelled);
                    }
                    files.push(context.item(item, &mut hands)?);
                }
                Done::Batch(files)
            }
            Claim::Begin(meta, file) => Done::Begin(meta, file),
            Claim::Extent { run, index } => Done::Extents(context.extent_of(run, index, &mut hands)?),
            Claim::Run(run) => Done::Extents(context.run(run, &mut hands)?),
        };
        shared.sequence.submit(number, done)?;
    }
    Err(PipelineError::Cancelled)
}

impl Context {
    /// Finds where content lies already, or stores it. `before` is what the base holds in its place.
    pub(crate) fn settle(
        &self,
        class: Class,
        plain: &[u8],
        before: Option<&Extent>,
        encoder: &mut Encoder,
    ) -> Result<Extent, PipelineError> {
        let bytes = plain.len() as u64;
        let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        if is_zero(plain) {
            self.progress.read(bytes, Kind::Zeros);
            return Ok(Extent::Zeros { id: self.zeros.id_of(self, class, plain), plain: length });
        }
        let id = self.name(class, plain);
        if let Some(extent @ Extent::Stored(location)) = before
            && location.id == id
            && location.plain == length
        {
            self.progress.read(bytes, Kind::Unchanged);
            return Ok(extent.clone());
        }
        self.store_named(class, id, plain, encoder).map(Extent::Stored)
    }

    /// Stores content that is surely not zeros, unless it lies somewhere already.
    pub(crate) fn store(
        &self,
        class: Class,
        plain: &[u8],
        encoder: &mut Encoder,
    ) -> Result<FrameLocation, PipelineError> {
        self.store_named(class, self.name(class, plain), plain, encoder)
    }

    fn store_named(
        &self,
        class: Class,
        id: ChunkId,
        plain: &[u8],
        encoder: &mut Encoder,
    ) -> Result<FrameLocation, PipelineError> {
        let bytes = plain.len() as u64;
        let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        let claim = match self.known.claim(id, length, || self.stop.is_set()) {
            Standing::Known { location, in_base } => {
                self.progress.read(bytes, if in_base { Kind::Unchanged } else { Kind::Repeated });
                return Ok(location);
            }
            Standing::New(claim) => claim,
            Standing::Stopped => return Err(PipelineError::Cancelled),
        };
        let location = self.packer.store(class, id, plain, encoder, || self.stop.is_set())?;
        claim.placed(&location);
        self.progress.read(bytes, Kind::New);
        self.progress.stored(u64::from(location.stored));
        Ok(location)
    }

    fn name(&self, class: Class, plain: &[u8]) -> ChunkId {
        self.suite.chunk_id(&self.id_key, class.byte(), plain)
    }

    /// Makes the base's chunks known, once.
    pub(crate) async fn know_the_base(&self) {
        self.base_known.get_or_init(|| self.base_chunks.teach(&self.known)).await;
    }

    /// The engine said that this extent has not changed, and it has.
    pub(crate) fn engine_lied(&self, path: &[u8], offset: u64) {
        self.lies.count.fetch_add(1, Ordering::AcqRel);
        self.lies.first.get_or_init(|| (path.to_vec(), offset));
    }

    /// Whether the engine's lists of changes are not to be believed any more.
    pub(crate) fn distrusts(&self) -> bool {
        self.lies.before || self.lies.found()
    }

    pub(crate) fn wait_for_rate(&self, bytes: usize) -> Result<(), PipelineError> {
        let mut wait = self.rate.book(bytes as u64, Instant::now());
        while !wait.is_zero() {
            if self.stop.is_set() {
                return Err(PipelineError::Cancelled);
            }
            let nap = wait.min(NAP);
            std::thread::sleep(nap);
            wait -= nap;
        }
        Ok(())
    }
}

impl ZeroNames {
    /// The name of `length` zeros.
    pub(crate) fn id(&self, context: &Context, class: Class, length: u32) -> ChunkId {
        self.known(class, length).unwrap_or_else(|| self.id_of(context, class, &vec![0; length as usize]))
    }

    /// The same where the zeros are at hand.
    fn id_of(&self, context: &Context, class: Class, zeros: &[u8]) -> ChunkId {
        let length = u32::try_from(zeros.len()).unwrap_or(u32::MAX);
        if let Some(known) = self.known(class, length) {
            return known;
        }
        let id = context.name(class, zeros);
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= ZEROS_KEPT {
            names.clear();
        }
        names.insert((class.byte(), length), id);
        id
    }

    fn known(&self, class: Class, length: u32) -> Option<ChunkId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(class.byte(), length)).copied()
    }
}

impl Lies {
    /// None yet; `before` says whether the backup before has found one.
    pub(crate) fn after(before: bool) -> Lies {
        Lies { before, ..Lies::default() }
    }

    /// Whether this backup has found one.
    pub(crate) fn found(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// What a person should know.
    pub(crate) fn warning(&self) -> Option<String> {
        let count = self.count.load(Ordering::Acquire);
        let (path, offset) = self.first.get()?;
        Some(format!(
            "{count} extents changed although the source's list of changed pages does not have them, first {} at {offset}: \
             this snapshot may lack others (hint: the next backup reads everything; take it now, and look at what keeps that list)",
            path.escape_ascii()
        ))
    }
}
