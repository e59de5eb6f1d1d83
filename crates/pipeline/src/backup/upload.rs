//! Brings sealed packs into the regions, a few at a time.
//!
//! Invariant: when this ends well, every pack handed over is durable in as many sync regions as the repository asks.

use std::sync::Arc;

use breakwater_repository::session::{ObjectWriter, SealedPack};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::worker::Stop;
use crate::PipelineError;

/// Packs on their way at once unless said otherwise; room limits them too.
pub(crate) const AT_ONCE: usize = 4;

/// Uploads `at_once` packs at a time until all senders are gone. The first failure stops the run.
pub(crate) async fn upload(
    writer: Arc<dyn ObjectWriter>,
    mut packs: mpsc::Receiver<SealedPack>,
    at_once: usize,
    stop: Stop,
) -> Result<(), PipelineError> {
    let at_once = if at_once == 0 { AT_ONCE } else { at_once };
    let mut running = FuturesUnordered::new();
    let mut open = true;
    let result = loop {
        if !open && running.is_empty() {
            break Ok(());
        }
        tokio::select! {
            biased;
            () = stop.set() => break Err(PipelineError::Cancelled),
            Some(done) = running.next(), if !running.is_empty() => match done {
                Ok(()) => {}
                Err(error) => break Err(error),
            },
            pack = packs.recv(), if open && running.len() < at_once => match pack {
                Some(pack) => running.push(one(Arc::clone(&writer), pack)),
                None => open = false,
            },
        }
    };
    if result.is_err() {
        stop.fail();
    }
    result
}

async fn one(writer: Arc<dyn ObjectWriter>, pack: SealedPack) -> Result<(), PipelineError> {
    let durability = writer.create_all(&pack.name, pack.payload).await;
    let durability =
        durability.map_err(|error| PipelineError::repository(format!("storing pack {}", pack.id), error))?;
    tracing::debug!(pack = %pack.id, held = durability.held.len(), owed = durability.owed.len(), "pack stored");
    Ok(())
}
