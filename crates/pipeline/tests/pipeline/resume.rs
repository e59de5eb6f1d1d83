//! A backup that dies at any storage operation: the next one stores nothing twice and is whole.

use std::collections::HashMap;

use breakwater_core::Attempt;
use breakwater_repository::{Class, SessionIntent};
use breakwater_storage::{Effect, Operation, Rule, StorageErrorKind};
use tokio_util::sync::CancellationToken;

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise, text};

fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.directory("d");
    for n in 0..6 {
        tree.file(&format!("d/noise{n}"), noise(n, EXTENT * 150)).file(&format!("d/text{n}"), text(n, EXTENT * 30));
    }
    tree
}

/// How often each chunk of content lies in the packs of one region.
async fn copies(lab: &Lab) -> HashMap<[u8; 32], u64> {
    let mut copies = HashMap::new();
    for (name, _) in lab.names(0, "data/").await {
        let name = breakwater_repository::ObjectName::parse(&name).unwrap();
        let (footer, _) = lab.writer.fetch_footer(&lab.writer.read_order(), &name).await.unwrap();
        for frame in footer.frames.iter().filter(|frame| frame.class == Class::Extent) {
            *copies.entry(frame.id.0).or_default() += 1;
        }
    }
    copies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_operation_a_backup_dies_at_nothing_is_stored_twice() {
    let tree = tree();
    let mut deaths = 0;
    for nth in 1.. {
        let lab = Lab::new(1).await;
        // From the n-th create on nothing is stored any more, as after a kill; odd ones were applied before the answer was lost.
        let effect = match nth % 2 {
            0 => Effect::Fail(StorageErrorKind::Denied),
            _ => Effect::ApplyThenFail(StorageErrorKind::Denied),
        };
        lab.faults[0].add(Rule::on(Operation::Create).nth(nth), effect);
        lab.faults[0].add(Rule::on(Operation::Create).from(nth + 1), Effect::Fail(StorageErrorKind::Denied));
        let died = lab.try_backup(FakeSession::new(&tree), CancellationToken::new()).await;
        let died = died.is_err();
        deaths += u64::from(died);
        lab.faults[0].heal();
        let outcome = lab.backup(FakeSession::new(&tree)).await;
        assert_eq!(lab.restore(&outcome.manifest).await.0, tree, "after a death at create {nth}");
        let copies = copies(&lab).await;
        assert!(copies.values().all(|count| *count == 1), "stored twice after a death at create {nth}");
        if !died {
            break;
        }
    }
    assert!(deaths > 6, "the sweep went through keys, open record, packs and register: {deaths}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_of_a_dead_session_reach_the_regions_that_missed_them() {
    let lab = Lab::with(2, 1, crate::lab::options()).await;
    let tree = tree();
    lab.faults[1].set_reachable(false);
    // Dies at the register: everything else is in region 0.
    lab.faults[0].add(
        Rule::on(Operation::Create).prefix(&format!("meta/{}/snap/", lab.source)),
        Effect::Fail(StorageErrorKind::Denied),
    );
    lab.try_backup(FakeSession::new(&tree), CancellationToken::new()).await.unwrap_err();
    lab.faults[0].heal();
    lab.faults[1].heal();
    let outcome = lab.backup(FakeSession::new(&tree)).await;
    assert_eq!(outcome.totals.new, 0, "everything was adopted");
    assert!(lab.set.drained(std::time::Duration::from_secs(20)).await);
    lab.faults[0].set_reachable(false);
    assert_eq!(lab.restore(&outcome.manifest).await.0, tree, "region 1 alone has everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_attempts_at_one_snapshot_commits_nothing() {
    let lab = Lab::new(1).await;
    let tree = tree();
    let mut first = lab.job(FakeSession::new(&tree), CancellationToken::new()).await.unwrap();
    let intent = SessionIntent { attempt: Attempt(2), ..first.session.intent().clone() };
    first.log_gate = None;
    let mut second = lab.job(FakeSession::new(&tree), CancellationToken::new()).await.unwrap();
    let session =
        breakwater_repository::BackupSession::begin(&lab.writer, &second.writer, lab.source, intent).await.unwrap();
    second.session = std::sync::Arc::new(session);
    let winner = breakwater_pipeline::backup::run_backup(first).await.unwrap();
    let loser = breakwater_pipeline::backup::run_backup(second).await.unwrap();
    let by = winner.manifest.session;
    assert_eq!(loser.commit, breakwater_pipeline::backup::Commit::AlreadyCommitted { session: by });
    assert_eq!(lab.latest().await.unwrap().session, by);
}
