//! Memory: the budget is never exceeded, too small a budget is refused before anything begins, and what is known of chunks goes to
//! scratch where it does not fit.

use breakwater_core::ErrorClass;
use breakwater_repository::CreateOptions;
use breakwater_runtime::ByteBudget;
use tokio_util::sync::CancellationToken;

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_tree_passes_through_a_small_budget() {
    let options = CreateOptions { extent_size: 64 << 10, pack_size: 4 << 20, ..CreateOptions::default() };
    let mut lab = Lab::with(2, 2, options).await;
    // Room for what a run must have and for not quite one pack more.
    lab.budget = ByteBudget::new(28 << 20);
    let mut tree = Tree::default();
    tree.file("noise", noise(1, 32 << 20)).file("text", text(2, 8 << 20));
    let outcome = lab.backup(FakeSession::new(&tree)).await;
    assert!(lab.names(0, "data/").await.len() > 7, "many packs");
    assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
    assert!(lab.budget.peak() <= lab.budget.capacity());
    assert_eq!(lab.budget.in_use(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_backups_share_one_budget_without_waiting_for_ever() {
    let options = CreateOptions { extent_size: 64 << 10, pack_size: 2 << 20, ..CreateOptions::default() };
    let mut lab = Lab::with(1, 1, options).await;
    lab.budget = ByteBudget::new(40 << 20);
    let mut running = Vec::new();
    for seed in 0..5 {
        let mut tree = Tree::default();
        tree.file("noise", noise(seed, 6 << 20));
        let job = lab.job(FakeSession::new(&tree), CancellationToken::new()).await.unwrap();
        running.push(tokio::spawn(breakwater_pipeline::backup::run_backup(job)));
    }
    for backup in running {
        backup.await.unwrap().unwrap();
    }
    assert!(lab.budget.peak() <= lab.budget.capacity());
    assert_eq!(lab.budget.in_use(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_cannot_do_is_refused() {
    let mut lab = Lab::new(1).await;
    lab.budget = ByteBudget::new(1 << 20);
    let mut tree = Tree::default();
    tree.file("a", noise(1, 10));
    let error = lab.try_backup(FakeSession::new(&tree), CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    assert!(error.to_string().contains("budget"), "{error}");
}

/// More chunks than the tables of a small share take, then the first ones again: whether the index has forgotten them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_chunks_than_memory_holds_are_found_in_scratch_and_bad_scratch_costs_room_only() {
    const CHUNKS: u32 = 15_000;
    const AGAIN: u32 = 150;
    let content = |chunks: u32| (1..=chunks).flat_map(|n| n.to_le_bytes().repeat(EXTENT / 4)).collect::<Vec<u8>>();
    let bytes = |chunks: u32| u64::from(chunks) * EXTENT as u64;
    let mut tree = Tree::default();
    tree.file("a", content(CHUNKS)).file("b", content(AGAIN));
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("not there");
    for (directory, new) in [(scratch.path(), CHUNKS), (&missing, CHUNKS + AGAIN)] {
        let mut lab = Lab::new(1).await;
        lab.budget = ByteBudget::new(28 << 20);
        let mut job = lab.job(FakeSession::new(&tree), CancellationToken::new()).await.unwrap();
        job.scratch = directory.to_owned();
        let outcome = breakwater_pipeline::backup::run_backup(job).await.unwrap();
        let (totals, warnings) = (outcome.totals, &outcome.manifest.warnings);
        assert_eq!((totals.new, totals.repeated), (bytes(new), bytes(CHUNKS + AGAIN - new)), "{warnings:?}");
        let warned =
            warnings.iter().any(|warning| warning.starts_with("the scratch directory failed, so 14336 chunks"));
        assert_eq!(warned, new > CHUNKS, "{warnings:?}");
        assert!(lab.budget.peak() <= lab.budget.capacity());
        assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "files were left in scratch");
}
