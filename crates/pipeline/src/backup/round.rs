//! One round of a backup: a producer fills the queue, threads empty it, an assembler gets everything in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::assemble::Assembler;
use super::sequence::Sequence;
use super::structure::StructurePacks;
use super::work::{Claims, Work};
use super::worker::{Context, LEAD, Shared, Stop, work};
use crate::PipelineError;

/// Pieces of work that may wait: each holds at most one leaf of the base, about 90 KiB.
const QUEUE: usize = 32;

/// How long threads may go on after a stop before they are left behind.
const STUCK: Duration = Duration::from_secs(5);

/// Runs one round and hands the assembler back. `produce` gets the beginning of the queue.
pub(crate) async fn round<P>(
    context: &Arc<Context>,
    threads: usize,
    assembler: Assembler<StructurePacks>,
    produce: impl FnOnce(mpsc::Sender<Work>) -> P,
) -> Result<Assembler<StructurePacks>, PipelineError>
where
    P: Future<Output = Result<(), PipelineError>>,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        claims: Claims::new(receiver),
        sequence: Sequence::new(LEAD * threads as u64, assembler),
        context: Arc::clone(context),
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..threads {
        let shared = Arc::clone(&shared);
        workers.spawn_blocking(move || work(&shared));
    }
    let producing = async {
        let result = tokio::select! {
            biased;
            () = context.stop.set() => Err(PipelineError::Cancelled),
            result = produce(sender) => result,
        };
        if result.is_err() {
            context.stop.fail();
        }
        result
    };
    let working = async {
        let mut result = Ok(());
        loop {
            let ended = tokio::select! {
                ended = workers.join_next() => ended,
                () = stuck(&context.stop) => {
                    // A read that the kernel does not give back cannot be stopped, only left behind.
                    tracing::warn!(threads = workers.len(), "threads of a stopped backup hang in a read");
                    workers.detach_all();
                    return first_reason(result, Err(PipelineError::Cancelled));
                }
            };
            let Some(ended) = ended else { break };
            let ended = ended.unwrap_or_else(|error| {
                context.stop.fail();
                Err(PipelineError::Defect(format!("a thread of a backup: {error}")))
            });
            result = first_reason(result, ended);
        }
        result
    };
    let (produced, worked) = tokio::join!(producing, working);
    first_reason(produced, worked)?;
    let shared =
        Arc::into_inner(shared).ok_or_else(|| PipelineError::Defect("a thread outlived its round".to_owned()))?;
    Ok(shared.sequence.into_sink())
}

/// Returns a while after the run was stopped.
async fn stuck(stop: &Stop) {
    stop.set().await;
    tokio::time::sleep(STUCK).await;
}

/// The first error that is a reason: being stopped is only a consequence of one.
pub(crate) fn first_reason<T>(
    one: Result<T, PipelineError>,
    other: Result<T, PipelineError>,
) -> Result<T, PipelineError> {
    match (one, other) {
        (Err(PipelineError::Cancelled), Err(reason)) => Err(reason),
        (Err(error), _) => Err(error),
        (Ok(_), Err(error)) => Err(error),
        (Ok(value), Ok(_)) => Ok(value),
    }
}
