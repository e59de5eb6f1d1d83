//! One thread of a backup: read, name, compare, compress, seal, place. An extent stays on its thread from the read to the
//! pack, in buffers that the thread keeps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use breakwater_crypto::{ChunkId, Secret, Suite};
use breakwater_repository::format::Class;
use breakwater_repository::format::codec::Compression;
use breakwater_repository::format::leaf::Extent;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::assemble::{Assembler, Done, ExtentDone};
use super::compress::Encoder;
use super::known::{Known, Standing};
use super::packer::Packer;
use super::sequence::Sequence;
use super::structure::StructurePacks;
use super::work::{Claim, Claims, Run};
use crate::PipelineError;
use crate::progress::{Kind, Progress};
use crate::rate::RateLimit;
use crate::zeros::is_zero;

/// The longest sleep before a look at whether the run was stopped.
const NAP: Duration = Duration::from_millis(50);

/// Extents that threads may be ahead of the slowest, for each thread.
pub(crate) const LEAD: u64 = 8;

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
    pub(crate) known: Known,
    pub(crate) packer: Packer,
    pub(crate) progress: Arc<Progress>,
    pub(crate) rate: RateLimit,
    pub(crate) stop: Stop,
    /// The name of a full extent of zeros.
    pub(crate) zeros: ChunkId,
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
    let mut buffer = vec![0; context.extent_size as usize];
    let mut encoder = Encoder::new(context.compression)?;
    let stopped = || context.stop.is_set();
    while !stopped() {
        let Some((number, claim)) = shared.claims.take() else { return Ok(()) };
        if !shared.sequence.may_begin(number, stopped) {
            break;
        }
        let done = match claim {
            Claim::Begin(meta) => Done::Begin(meta),
            Claim::Extent { run, index } => Done::Extent(context.extent(run, index, &mut buffer, &mut encoder)?),
        };
        shared.sequence.submit(number, done)?;
    }
    Err(PipelineError::Cancelled)
}

impl Context {
    fn extent(
        &self,
        run: Arc<Run>,
        index: u64,
        buffer: &mut [u8],
        encoder: &mut Encoder,
    ) -> Result<ExtentDone, PipelineError> {
        let (offset, asked) = run.span(index, self.extent_size);
        self.wait_for_rate(asked)?;
        let buffer = buffer.get_mut(..asked).unwrap_or_default();
        let reading = || format!("reading {} at {offset}", run.path.escape_ascii());
        let read = run.reader.read_at(offset, buffer).map_err(|error| PipelineError::engine(reading())(error))?;
        let plain = buffer.get(..read.length).unwrap_or_default();
        let extent = if plain.is_empty() { None } else { Some(self.settle(&run, index, plain, encoder)?) };
        Ok(ExtentDone { extent, short: read.length < asked, damaged: read.damaged_pages, run })
    }

    /// Finds where the content lies already, or stores it.
    fn settle(&self, run: &Run, index: u64, plain: &[u8], encoder: &mut Encoder) -> Result<Extent, PipelineError> {
        let bytes = plain.len() as u64;
        let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        if is_zero(plain) {
            let id = if length == self.extent_size { self.zeros } else { self.name(plain) };
            self.progress.read(bytes, Kind::Zeros);
            return Ok(Extent::Zeros { id, plain: length });
        }
        let id = self.name(plain);
        let before = usize::try_from(index).ok().and_then(|index| run.base.get(index));
        if let Some(extent @ Extent::Stored(location)) = before
            && location.id == id
            && location.plain == length
        {
            self.progress.read(bytes, Kind::Unchanged);
            return Ok(extent.clone());
        }
        let claim = match self.known.claim(id, length, || self.stop.is_set()) {
            Standing::Known(location) => {
                self.progress.read(bytes, Kind::Repeated);
                return Ok(Extent::Stored(location));
            }
            Standing::New(claim) => claim,
            Standing::Stopped => return Err(PipelineError::Cancelled),
        };
        let location = self.packer.store(Class::Extent, id, plain, encoder, || self.stop.is_set())?;
        claim.placed(&location);
        self.progress.read(bytes, Kind::New);
        self.progress.stored(u64::from(location.stored));
        Ok(Extent::Stored(location))
    }

    fn name(&self, plain: &[u8]) -> ChunkId {
        self.suite.chunk_id(&self.id_key, Class::Extent.byte(), plain)
    }

    fn wait_for_rate(&self, bytes: usize) -> Result<(), PipelineError> {
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
