//! Fetches what a window needs and writes it where it belongs.
//!
//! Invariant: nothing is written that is not the chunk that the snapshot names, and every range is fetched once per window;
//! only frames that come back damaged are read again, from another region.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::Chain;
use breakwater_repository::format::pack::PackKey;
use breakwater_repository::{Class, PackId};
use breakwater_runtime::ByteBudget;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::content::{Content, Fetched, Opener, Place};
use super::delta;
use super::plan::Fetch;
use super::target::Target;
use super::window::Window;
use super::write::{Base, Writing};
use crate::PipelineError;
use crate::progress::{Kind, Progress};

/// Bytes of one ranged read: worth a request to a distant region, and small enough that its memory is used again while it
/// is in the processor's cache.
const LARGEST: u64 = 2 << 20;

/// Packs whose place is looked up at once.
const LOCATING: usize = 64;

/// What a restore's windows share.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) content: Arc<Content>,
    pub(crate) target: Arc<Target>,
    pub(crate) budget: ByteBudget,
    /// Ranges that may be on their way at once; the budget limits them too.
    pub(crate) parallel: usize,
    /// Their turns.
    pub(crate) reading: Arc<Semaphore>,
    /// Of those from a near region, so many: two for each thread. What was fetched is opened while it is still in the
    /// processor's cache.
    pub(crate) near: Arc<Semaphore>,
    /// Threads that open and write at once.
    pub(crate) lanes: usize,
    /// Their turns.
    pub(crate) opening: Arc<Semaphore>,
    /// What opening takes, kept for the next range.
    pub(crate) openers: Arc<Mutex<Vec<Opener>>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) cancel: CancellationToken,
    /// Threads that write into the target; waited for before the restore ends, however it ends.
    pub(crate) writers: TaskTracker,
    /// Finished files that get their names last: under which name they wait, and their path.
    pub(crate) last: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Fetcher {
    /// Restores the content of one window, and finishes the files that are complete with it.
    pub(crate) async fn restore(&self, window: Window) -> Result<(), PipelineError> {
        let working = async {
            let (mut window, bases) = match self.target.existing {
                true => delta::compare(self, window).await?,
                false => (window, Vec::new()),
            };
            let (keys, kept) = self.locate(&mut window, &bases).await?;
            let planned = window.plan(keys, &kept, LARGEST);
            let count = planned.fetches.len();
            let job = Arc::new(Writing::new(planned, &kept, bases, self.clone()));
            // Threads that write into one file wait for each other, so they begin at different places.
            let order = interleaved(count, self.lanes);
            let fetches = order.into_iter().map(|index| fetch(Arc::clone(&job), index));
            futures::stream::iter(fetches).buffer_unordered(self.parallel.max(1)).try_collect::<()>().await?;
            self.finish(job).await
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(PipelineError::Cancelled),
            result = working => result,
        }
    }

    /// Finds every pack that is needed and its key; what no region has whole is looked up where it has moved to. Answers the
    /// keys, and which destinations need no fetch.
    async fn locate(
        &self,
        window: &mut Window,
        bases: &[Base],
    ) -> Result<(Vec<Arc<PackKey>>, Vec<bool>), PipelineError> {
        let mut kept = vec![false; window.destinations.len()];
        for (file, base) in window.files.iter().zip(bases) {
            let range = file.destinations.clone();
            for (slot, is_kept) in kept.get_mut(range).unwrap_or_default().iter_mut().zip(&base.kept) {
                *slot = *is_kept;
            }
        }
        let mut needed: Vec<PackId> = Vec::new();
        let mut numbers: HashMap<PackId, usize> = HashMap::new();
        for (destination, _) in window.destinations.iter().zip(&kept).filter(|(_, kept)| !**kept) {
            numbers.entry(destination.location.pack).or_insert_with(|| {
                needed.push(destination.location.pack);
                needed.len() - 1
            });
        }
        let locating = needed.clone().into_iter().map(|pack| {
            let content = Arc::clone(&self.content);
            async move { content.locate(pack).await }
        });
        let places = locating.collect::<Vec<_>>();
        let places: Vec<Place> = futures::stream::iter(places).buffered(LOCATING).try_collect().await?;
        let mut keys: Vec<Arc<PackKey>> = Vec::new();
        let mut key_of: HashMap<PackId, u32> = HashMap::new();
        let mut number = |keys: &mut Vec<Arc<PackKey>>, key: Arc<PackKey>| {
            *key_of.entry(key.header().pack).or_insert_with(|| {
                keys.push(key);
                u32::try_from(keys.len() - 1).unwrap_or(u32::MAX)
            })
        };
        for (pack, place) in needed.into_iter().zip(places) {
            let concerned = window.destinations.iter_mut().zip(&kept);
            let concerned = concerned.filter(|(one, kept)| !**kept && one.location.pack == pack);
            match place {
                Place::Here(key) => {
                    let key = number(&mut keys, key);
                    // Most windows have few packs, and this is a comparison of numbers.
                    concerned.for_each(|(destination, _)| destination.key = key);
                }
                Place::Nowhere(causes) => {
                    let mut concerned: Vec<_> = concerned.map(|(destination, _)| destination).collect();
                    let wanted: Vec<_> = concerned.iter().map(|one| (one.class, one.location.id)).collect();
                    let found = self.content.relocated(pack, &wanted).await?;
                    let Some(found) = found.into_iter().collect::<Option<Vec<_>>>() else {
                        return Err(self.content.unreadable(pack, causes));
                    };
                    for (destination, moved) in concerned.iter_mut().zip(found) {
                        let key = self.content.origin_key(&moved.origin).await?;
                        destination.key = number(&mut keys, key);
                        destination.location = moved.location;
                    }
                }
            }
        }
        Ok((keys, kept))
    }

    /// Finishes files that nothing was fetched for: empty ones, those of zeros only, and those that were right before.
    async fn finish(&self, job: Arc<Writing>) -> Result<(), PipelineError> {
        let left = job.unfinished();
        let share = left.len().div_ceil(self.lanes.max(1)).max(1);
        let mut parts = Vec::new();
        for part in left.chunks(share) {
            let (job, part) = (Arc::clone(&job), part.to_vec());
            parts.push(self.blocking(move || part.into_iter().try_for_each(|file| job.finish_idle(file))));
        }
        futures::future::try_join_all(parts).await.map(drop)
    }

    /// Runs `work` on a thread that the restore waits for.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PipelineError> + Send + 'static,
    ) -> Result<T, PipelineError> {
        match self.writers.spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(PipelineError::Defect(format!("a thread of a restore: {error}"))),
        }
    }

    /// Bytes of the target that are as they must be.
    pub(crate) fn done(&self, bytes: u64, kind: Kind) {
        self.progress.read(bytes, kind);
    }

    pub(crate) fn opener(&self) -> Opener {
        self.openers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }
}

/// The numbers below `count`, each once, as `lanes` runs side by side.
fn interleaved(count: usize, lanes: usize) -> Vec<usize> {
    let length = count.div_ceil(lanes.max(1));
    let lane_of = |step: usize| (0..lanes.max(1)).map(move |lane| (lane, step));
    (0..length).flat_map(lane_of).map(|(lane, step)| lane * length + step).filter(|index| *index < count).collect()
}

async fn fetch(job: Arc<Writing>, index: usize) -> Result<(), PipelineError> {
    let fetcher = job.fetcher.clone();
    let Some(Fetch { pack, range, needs }) = job.planned.fetches.get(index).cloned() else { return Ok(()) };
    let pack = job.planned.packs.get(pack as usize).copied();
    let pack = pack.ok_or_else(|| PipelineError::Defect("a range of no pack".to_owned()))?;
    let largest = job.planned.needs.get(needs.clone()).unwrap_or_default().iter().map(|need| need.extent);
    let largest = largest.filter_map(|extent| job.planned.destinations.get(extent as usize));
    let largest = largest.map(|destination| u64::from(destination.location.plain)).max().unwrap_or(0);
    let _reading = turn(&fetcher.reading).await?;
    let _near = match fetcher.content.supply.is_near() {
        true => Some(turn(&fetcher.near).await?),
        false => None,
    };
    // Ciphertext, and room for one chunk after compression was undone.
    let permit = fetcher.budget.acquire(range.end - range.start + largest).await;
    let (damaged, region) = match fetcher.content.fetch(pack, range.clone()).await {
        Ok(fetched) => {
            let region = fetched.region;
            fetcher.content.supply.served(region, range.end - range.start);
            fetcher.progress.stored(range.end - range.start);
            (write(&job, index, fetched).await?, Some(region))
        }
        // It went away while the restore runs: each of its chunks is looked for where it may be now.
        Err(causes) => {
            tracing::warn!(%pack, "no region delivers a range any more; looking for its chunks one by one");
            let needs = job.planned.needs.get(needs).unwrap_or_default();
            let why = fetcher.content.unreadable(pack, causes);
            let why = Chain(&why).to_string();
            (needs.iter().map(|need| (need.extent as usize, why.clone())).collect(), None)
        }
    };
    for (need, why) in damaged {
        let wanted = job.planned.destinations.get(need).copied();
        let wanted = wanted.ok_or_else(|| PipelineError::Defect("an extent of no file".to_owned()))?;
        let (location, class) = (wanted.location, wanted.class);
        if let Some(region) = region {
            let name = fetcher.content.supply.region(region).map_or("", |region| region.name());
            let text = format!("chunk {} in pack {pack} of region {name} is damaged: {why}", location.id);
            fetcher.content.supply.damaged(region, pack, text);
        }
        let key = job.planned.keys.get(wanted.key as usize).cloned();
        let key = key.ok_or_else(|| PipelineError::Defect("a chunk without a key".to_owned()))?;
        let (plain, rescuer) = fetcher.content.rescue(&location, class, key, region).await?;
        fetcher.content.supply.served(rescuer, u64::from(location.stored));
        fetcher.progress.stored(u64::from(location.stored));
        let job = Arc::clone(&job);
        fetcher.blocking(move || job.write_chunk(need, &plain)).await?;
    }
    drop(permit);
    Ok(())
}

/// Opens and writes all that one range serves, when a thread is free for it. Answers the destinations whose frames are
/// damaged, and why.
async fn write(job: &Arc<Writing>, index: usize, fetched: Fetched) -> Result<Vec<(usize, String)>, PipelineError> {
    let opening = turn(&job.fetcher.opening).await?;
    let here = Arc::clone(job);
    let writing = job.fetcher.blocking(move || {
        let _turn = opening;
        here.write_range(index, fetched)
    });
    writing.await
}

async fn turn(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PipelineError> {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.map_err(|_| PipelineError::Defect("the turns of a restore are gone".to_owned()))
}

/// Classes in which content comes.
pub(crate) const fn whole_class(extent_size: u32) -> Class {
    if extent_size == 0 { Class::Chunk } else { Class::Extent }
}

#[cfg(test)]
mod tests {
    use super::interleaved;

    #[test]
    fn every_range_has_its_turn_once() {
        assert_eq!(interleaved(7, 2), [0, 4, 1, 5, 2, 6, 3]);
        assert_eq!(interleaved(3, 0), [0, 1, 2]);
        for (count, lanes) in [(0, 1), (1, 4), (5, 4), (9, 4), (16, 4), (1000, 7)] {
            let mut all = interleaved(count, lanes);
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>(), "{count} in {lanes}");
        }
    }
}
