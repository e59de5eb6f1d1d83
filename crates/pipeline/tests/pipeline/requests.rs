//! What a backup and a restore cost a region in requests.

use std::sync::Arc;

use breakwater_repository::CreateOptions;
use breakwater_runtime::ByteBudget;
use breakwater_storage::{Operation, Record};

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
