//! Regions that hang, lose or damage what they hold.

use std::time::{Duration, Instant};

use breakwater_core::ErrorClass;
use breakwater_storage::{Effect, Operation, Rule};
use tokio_util::sync::CancellationToken;

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise, text};

fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.directory("d")
        .file("d/a", noise(1, EXTENT * 300))
        .file("d/b", text(2, EXTENT * 40))
        .file("d/c", noise(3, 100));
    tree
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_one_region_is_mended_from_the_other() {
    let lab = Lab::new(2).await;
    let tree = tree();
    let outcome = lab.backup(FakeSession::new(&tree)).await;
    assert!(lab.set.drained(Duration::from_secs(10)).await);
    let spoiled =
        lab.faults[0].add(Rule::on(Operation::GetRange).prefix("data/"), Effect::Flip { offset: 777, mask: 0x40 });
    let (restored, report) = lab.restore(&outcome.manifest).await;
    assert_eq!(restored, tree);
    assert!(spoiled.hits() > 0);
    assert!(report.served.get("r1").is_some_and(|bytes| *bytes > 0), "{:?}", report.served);
    lab.faults[0].heal();
    // Structure too.
    lab.faults[0].add(Rule::on(Operation::GetRange).prefix("meta/"), Effect::Flip { offset: 300, mask: 1 });
    assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_every_region_is_an_error_that_names_the_pack() {
    let lab = Lab::new(1).await;
    let outcome = lab.backup(FakeSession::new(&tree())).await;
    lab.faults[0].add(Rule::on(Operation::GetRange).prefix("data/"), Effect::Flip { offset: 777, mask: 0x40 });
    let error = lab.restore_only(&outcome.manifest, &[]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
    let text = breakwater_core::Chain(&error).to_string();
    assert!(text.contains("data/") && text.contains("r0"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_hangs_does_not_hold_up_the_commit() {
    let lab = Lab::with(2, 1, crate::lab::options()).await;
    lab.faults[1].add(Rule::on(Operation::Create), Effect::Hang);
    let tree = tree();
    let begun = Instant::now();
    let outcome = lab.backup(FakeSession::new(&tree)).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(lab.restore(&outcome.manifest).await.0, tree);
    lab.faults[1].heal();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_regions_mean_no_snapshot() {
    let lab = Lab::with(2, 2, crate::lab::options()).await;
    let engine = FakeSession::new(&tree());
    let job = lab.job(engine, CancellationToken::new()).await.unwrap();
    lab.faults[1].set_reachable(false);
    let error = breakwater_pipeline::backup::run_backup(job).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
    assert!(lab.latest().await.is_none());
    assert_eq!(lab.budget.in_use(), 0);
}
