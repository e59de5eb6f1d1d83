//! Regions that are slow, damaged in parts or have lost packs: every pack comes from one that has it whole, and sooner.

use std::time::{Duration, Instant};

use breakwater_repository::CreateOptions;
use breakwater_runtime::ByteBudget;
use breakwater_storage::{Effect, Operation, Rule};

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise};

fn tree(files: u64) -> Tree {
    let mut tree = Tree::default();
    for n in 0..files {
        tree.file(&format!("f{n:03}"), noise(n + 1, EXTENT * 64));
    }
    tree
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quicker_region_serves_and_damaged_packs_come_from_the_slow_one() {
    let lab = Lab::with(2, 2, crate::lab::options()).await;
    let tree = tree(60);
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    assert!(lab.set.drained(Duration::from_secs(20)).await);
    // The first region answers each read of content late; the second, which is quick, has two packs damaged.
    lab.faults[0].add(Rule::on(Operation::GetRange).prefix("data/"), Effect::Delay(Duration::from_millis(120)));
    let packs = lab.names(1, "data/").await;
    assert!(packs.len() > 8, "{}", packs.len());
    let damaged: Vec<_> = packs.iter().step_by(packs.len() / 2).take(2).collect();
    for (name, _) in &damaged {
        lab.faults[1].add(Rule::on(Operation::GetRange).prefix(name), Effect::Flip { offset: 5000, mask: 4 });
    }
    let (restored, report) = lab.restore(&manifest).await;
    assert_eq!(restored, tree);
    let served = |region: &str| report.served.get(region).copied().unwrap_or(0);
    let damaged_bytes: u64 = damaged.iter().map(|(_, size)| size).sum();
    assert!(served("r1") > served("r0"), "{:?}", report.served);
    assert!(served("r0") > 0 && damaged_bytes > 0, "the damaged ones came from the slow region: {:?}", report.served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_hangs_in_the_middle_is_overtaken() {
    let lab = Lab::with(2, 2, crate::lab::options()).await;
    let tree = tree(20);
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    assert!(lab.set.drained(Duration::from_secs(20)).await);
    lab.faults[0].add(Rule::on(Operation::GetRange).prefix("data/").from(4), Effect::Hang);
    let begun = Instant::now();
    let (restored, report) = lab.restore(&manifest).await;
    assert_eq!(restored, tree);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(report.served.contains_key("r1"), "{:?}", report.served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_readers_are_quicker_where_answers_take_long() {
    let options = CreateOptions { extent_size: 64 << 10, pack_size: 1 << 20, ..CreateOptions::default() };
    let lab = Lab::with(1, 1, options).await;
    let mut tree = Tree::default();
    tree.file("noise", noise(1, 24 << 20));
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let mut seconds = Vec::new();
    for parallel in [1, 8] {
        lab.faults[0].heal();
        lab.faults[0].add(Rule::on(Operation::GetRange).prefix("data/"), Effect::Delay(Duration::from_millis(60)));
        let directory = tempfile::tempdir().unwrap();
        let mut job = lab.restore_job(&manifest, directory.path().join("t"));
        job.parallel = parallel;
        let begun = Instant::now();
        breakwater_pipeline::restore::run_restore(job).await.unwrap();
        seconds.push(begun.elapsed().as_secs_f64());
        assert_eq!(Tree::read(&directory.path().join("t")), tree);
    }
    assert!(seconds[1] * 1.5 < seconds[0], "{seconds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_stays_within_its_budget() {
    let options = CreateOptions { extent_size: 128 << 10, pack_size: 4 << 20, ..CreateOptions::default() };
    let mut lab = Lab::with(1, 1, options).await;
    let mut tree = Tree::default();
    tree.file("noise", noise(1, 32 << 20));
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    lab.budget = ByteBudget::new(5 << 20);
    let directory = tempfile::tempdir().unwrap();
    let mut job = lab.restore_job(&manifest, directory.path().join("t"));
    job.parallel = 64;
    breakwater_pipeline::restore::run_restore(job).await.unwrap();
    assert_eq!(Tree::read(&directory.path().join("t")), tree);
    assert!(lab.budget.peak() <= lab.budget.capacity() && lab.budget.in_use() == 0);
}
