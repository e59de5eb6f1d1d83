//! Fetches what a window needs and writes it where it belongs.
//!
//! Invariant: nothing is written that is not the chunk that the snapshot names, and every range is fetched once per window;
//! only frames that come back damaged are read again, from another region.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use breakwater_core::Chain;
use breakwater_runtime::ByteBudget;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::content::{Content, Fetched, Opener};
use super::plan::Fetch;
use super::target::Target;
use super::window::{Planned, Window, WindowFile};
use crate::PipelineError;
use crate::progress::{Kind, Progress};

/// Bytes of one ranged read: worth a request to a distant region, and small enough that its memory is used again while it
/// is in the processor's cache.
const LARGEST: u64 = 2 << 20;

/// Room for the frame being opened: ciphertext, compressed and plain bytes of one chunk.
const DECODING: u64 = 1 << 20;

/// Files held open at once.
const OPEN_FILES: usize = 256;

/// What a restore's windows share.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) content: Arc<Content>,
    pub(crate) target: Arc<Target>,
    pub(crate) budget: ByteBudget,
    /// Ranges that may be on their way at once; the budget limits them too.
    pub(crate) parallel: usize,
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
    pub(crate) served: Arc<Served>,
}

/// Which region delivered how much.
#[derive(Debug, Default)]
pub(crate) struct Served {
    bytes: Mutex<BTreeMap<String, u64>>,
    damage: Mutex<Vec<String>>,
}

impl Served {
    fn add(&self, region: &str, bytes: u64) {
        let mut all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(region.to_owned()).or_default() += bytes;
    }

    fn damaged(&self, text: String) {
        tracing::warn!("{text}");
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Bytes by region, and what was damaged where.
    pub(crate) fn take(&self) -> (BTreeMap<String, u64>, Vec<String>) {
        let bytes = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        (bytes, std::mem::take(&mut *self.damage.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A window at work.
struct Job {
    planned: Planned,
    files: OpenFiles,
    fetcher: Fetcher,
}

impl Fetcher {
    /// Restores the content of one window, and finishes the files that are complete with it.
    pub(crate) async fn restore(&self, window: Window) -> Result<(), PipelineError> {
        self.progress.read(window.zeros, Kind::Zeros);
        let planned = window.plan(LARGEST);
        let files = OpenFiles { target: Arc::clone(&self.target), open: Mutex::default() };
        let job = Arc::new(Job { planned, files, fetcher: self.clone() });
        // Threads that write into one file wait for each other, so they begin at different places.
        let order = interleaved(job.planned.fetches.len(), self.lanes);
        let fetches = order.into_iter().map(|index| fetch(Arc::clone(&job), index));
        let all = futures::stream::iter(fetches).buffer_unordered(self.parallel.max(1)).try_collect::<()>();
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(PipelineError::Cancelled),
            result = all => result?,
        }
        self.finish_files(job).await
    }

    async fn finish_files(&self, job: Arc<Job>) -> Result<(), PipelineError> {
        let count = job.planned.files.len();
        let share = count.div_ceil(self.parallel.max(1)).max(1);
        let parts = (0..count).step_by(share).map(|from| {
            let job = Arc::clone(&job);
            self.blocking(move || {
                let files = job.planned.files.iter().skip(from).take(share);
                files.filter(|file| file.complete).try_for_each(|file| job.finish_file(file))
            })
        });
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
}

/// The numbers below `count`, each once, as `lanes` runs side by side.
fn interleaved(count: usize, lanes: usize) -> Vec<usize> {
    let length = count.div_ceil(lanes.max(1));
    let lane_of = |step: usize| (0..lanes.max(1)).map(move |lane| (lane, step));
    (0..length).flat_map(lane_of).map(|(lane, step)| lane * length + step).filter(|index| *index < count).collect()
}

async fn fetch(job: Arc<Job>, index: usize) -> Result<(), PipelineError> {
    let fetcher = job.fetcher.clone();
    let Some(Fetch { pack, range, .. }) = job.planned.fetches.get(index).cloned() else { return Ok(()) };
    let pack = job.planned.packs.get(pack as usize).copied();
    let pack = pack.ok_or_else(|| PipelineError::Defect("a range of no pack".to_owned()))?;
    let permit = fetcher.budget.acquire(range.end - range.start + DECODING).await;
    let fetched = fetcher.content.fetch(pack, range.clone()).await?;
    let region = fetched.region.clone();
    fetcher.served.add(&region, range.end - range.start);
    fetcher.progress.stored(range.end - range.start);
    let opening = Arc::clone(&fetcher.opening).acquire_owned().await;
    let opening = opening.map_err(|_| PipelineError::Defect("the turns of a restore are gone".to_owned()))?;
    let damaged = fetcher.blocking({
        let job = Arc::clone(&job);
        move || {
            let _turn = opening;
            job.write(index, fetched)
        }
    });
    for (need, why) in damaged.await? {
        let location = job.planned.destinations.get(need).map(|destination| destination.location);
        let location = location.ok_or_else(|| PipelineError::Defect("an extent of no file".to_owned()))?;
        fetcher
            .served
            .damaged(format!("chunk {} in pack {} of region {region} is damaged: {why}", location.id, location.pack));
        let (plain, rescuer) = fetcher.content.rescue(&location, &region).await?;
        fetcher.served.add(&rescuer, u64::from(location.stored));
        let job = Arc::clone(&job);
        fetcher.blocking(move || job.write_chunk(need, &plain)).await?;
    }
    drop(permit);
    Ok(())
}

impl Job {
    /// Opens and writes all that one range serves. Answers the destinations whose frames are damaged, and why.
    fn write(&self, index: usize, mut fetched: Fetched) -> Result<Vec<(usize, String)>, PipelineError> {
        let mut damaged = Vec::new();
        let Some(fetch) = self.planned.fetches.get(index) else { return Ok(damaged) };
        let needs = self.planned.needs.get(fetch.needs.clone()).unwrap_or_default();
        let openers = || self.fetcher.openers.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = openers().pop();
        let mut opener = kept.unwrap_or_default();
        // Needs of the same frame are neighbours; it is opened once.
        for same in needs.chunk_by(|one, other| one.offset == other.offset) {
            if self.fetcher.cancel.is_cancelled() {
                return Err(PipelineError::Cancelled);
            }
            let destinations = || same.iter().map(|need| need.extent as usize);
            let location = destinations().next().and_then(|first| self.planned.destinations.get(first));
            let Some(location) = location.map(|found| found.location) else { continue };
            match self.fetcher.content.open(&mut fetched, &location, &mut opener) {
                Ok(plain) => destinations().try_for_each(|destination| self.write_chunk(destination, plain))?,
                Err(error) => {
                    let why = Chain(&error).to_string();
                    damaged.extend(destinations().map(|destination| (destination, why.clone())));
                }
            }
        }
        openers().push(opener);
        Ok(damaged)
    }

    fn write_chunk(&self, destination: usize, plain: &[u8]) -> Result<(), PipelineError> {
        let Some(destination) = self.planned.destinations.get(destination) else { return Ok(()) };
        let Some(file) = self.planned.files.get(destination.file as usize) else { return Ok(()) };
        let open = self.files.get(destination.file, file)?;
        open.write_all_at(plain, destination.offset)
            .map_err(|error| PipelineError::io(format!("writing {}", self.fetcher.target.shown(&file.path)), error))?;
        self.fetcher.progress.read(plain.len() as u64, Kind::New);
        Ok(())
    }

    /// Attributes, and everything onto the disk.
    fn finish_file(&self, file: &WindowFile) -> Result<(), PipelineError> {
        if self.fetcher.cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        let target = &self.fetcher.target;
        let open = target.open_file(&file.path)?;
        target.set_attributes(&file.path, &open, file.attributes)?;
        open.sync_all().map_err(|error| PipelineError::io(format!("syncing {}", target.shown(&file.path)), error))?;
        self.fetcher.progress.entry(true);
        Ok(())
    }
}

/// Files opened when they are first written.
struct OpenFiles {
    target: Arc<Target>,
    open: Mutex<HashMap<u32, Arc<File>>>,
}

impl OpenFiles {
    fn get(&self, number: u32, file: &WindowFile) -> Result<Arc<File>, PipelineError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        let file = Arc::new(self.target.open_file(&file.path)?);
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }
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
