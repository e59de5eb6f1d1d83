//! What a backup and a restore cost a region in requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use breakwater_pipeline::backup::run_backup;
use breakwater_repository::CreateOptions;
use breakwater_runtime::ByteBudget;
use breakwater_storage::decorator::{Answer, Call};
use breakwater_storage::{Backend, Decorator, Effect, Operation, Record, Rule, StorageError};
use tokio_util::sync::CancellationToken;

use crate::engine::FakeSession;
use crate::lab::Lab;
use crate::tree::{Tree, noise};

/// How much smaller extents and packs are here than in a repository made with the defaults.
const SCALE: u32 = 8;

/// At this size a pack of structure is closed (`backup/structure.rs`), whatever the size of the others is.
const STRUCTURE_PACK: u64 = 3 << 20;

const TIB: u64 = 1 << 40;

async fn sizes(lab: &Lab, prefix: &str) -> Vec<u64> {
    lab.names(0, prefix).await.into_iter().map(|(_, size)| size).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tebibyte_of_packs_costs_at_most_16_500_puts() {
    let usual = CreateOptions::default();
    let (extent_size, pack_size) = (usual.extent_size / SCALE, usual.pack_size / SCALE);
    let mut lab = Lab::with(1, 1, CreateOptions { extent_size, pack_size, ..usual }).await;
    lab.budget = ByteBudget::new(128 << 20);
    let before = sizes(&lab, "").await.len() as u64;
    let mut tree = Tree::default();
    tree.file("noise", noise(1, 100 << 20));
    lab.backup(FakeSession::new(&tree)).await;

    let mut packs = sizes(&lab, "data/").await;
    packs.sort_unstable();
    // The last one holds what was left.
    let full = packs.iter().skip(1).sum::<u64>() / (packs.len() as u64 - 1);
    let structure: u64 = sizes(&lab, "meta/").await.iter().sum();
    let once = sizes(&lab, "").await.len() as u64 - before - packs.len() as u64;

    let scale = u64::from(SCALE);
    let for_packs = TIB / (full * scale);
    // A TiB has as many times the extents as it has the packs, whatever their size; what describes one has the same size.
    let for_structure = structure * (TIB / (packs.iter().sum::<u64>() * scale)) / STRUCTURE_PACK;
    let puts = for_packs + for_structure + once;
    println!("{for_packs} puts for packs, {for_structure} for structure, {once} once: {puts} for each TiB");
    assert!((15_000..=16_500).contains(&puts), "{puts} puts: {packs:?}");
}

/// What a backup lists that does not know what the last one came to: the snapshots and the open sessions of its own source. Nothing else
/// is listed, however much there is; and nothing at all where the agent remembers (`tests/tests/requests.rs`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_snapshots_and_open_sessions_of_the_source_are_listed() {
    let mut records = Vec::new();
    let lab = Lab::decorated(2, |storage| {
        let record = Record::new(storage.backend());
        records.push(record.clone());
        storage.decorated(|_| Arc::new(record))
    })
    .await;
    let mut tree = Tree::default();
    tree.file("a", noise(1, 4 << 20));
    lab.backup(FakeSession::new(&tree)).await;
    for seed in 2..5 {
        records.iter().for_each(Record::clear);
        tree.file("a", noise(seed, 4 << 20));
        let outcome = lab.backup(FakeSession::new(&tree)).await;
        assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
        let source = lab.source;
        let allowed = [format!("meta/{source}/snap/"), format!("meta/{source}/open/")];
        for record in &records {
            let lists = record
                .operations()
                .into_iter()
                .filter(|recorded| matches!(recorded.operation, Operation::List | Operation::ListDirectories));
            let lists: Vec<String> = lists.map(|recorded| recorded.key).collect();
            assert!(lists.iter().all(|prefix| allowed.iter().any(|one| prefix.starts_with(one))), "{lists:?}");
            println!("lists of one backup and one restore: {lists:?}");
        }
    }
}

/// Counts how many creates of packs are under way.
#[derive(Clone, Debug)]
struct Crowd {
    inner: Arc<dyn Backend>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Decorator for Crowd {
    fn inner(&self) -> &Arc<dyn Backend> {
        &self.inner
    }

    async fn around<T, F>(&self, call: Call<'_>, work: impl Fn() -> F + Send + Sync) -> Result<T, StorageError>
    where
        T: Answer,
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        if call.operation != Operation::Create || !call.key.starts_with("data/") {
            return work().await;
        }
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let result = work().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

/// The most uploads of packs at once of a backup that may have `uploads`, into a place that answers only when there were `wanted`.
async fn most_at_once(uploads: usize, wanted: usize) -> usize {
    let most = Arc::new(AtomicUsize::new(0));
    let mut lab = Lab::decorated(1, |storage| {
        let (now, most) = (Arc::default(), Arc::clone(&most));
        storage.decorated(|inner| Arc::new(Crowd { inner, now, most }))
    })
    .await;
    // Room in memory bounds them too.
    lab.budget = ByteBudget::new(256 << 20);
    let held = lab.faults[0].add(Rule::on(Operation::Create).prefix("data/"), Effect::Hold);
    let mut tree = Tree::default();
    tree.file("noise", noise(1, 12 << 20));
    let mut job = lab.job(FakeSession::new(&tree), CancellationToken::new()).await.unwrap();
    job.uploads = uploads;
    let running = tokio::spawn(run_backup(job));
    held.reached(wanted as u64).await;
    held.release();
    running.await.unwrap().unwrap();
    most.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_bounds_the_uploads_at_once() {
    assert_eq!(most_at_once(1, 1).await, 1);
    assert_eq!(most_at_once(2, 2).await, 2);
    assert!(most_at_once(0, 3).await > 2, "without a bound there are more");
}
