//! Stopping: at once, cleanly, and without a snapshot.

use std::time::{Duration, Instant};

use breakwater_core::ErrorClass;
use breakwater_repository::ObjectName;
use breakwater_repository::session::commit::{RegisterValue, read_register};
use tokio_util::sync::CancellationToken;

use crate::engine::{Behaviour, FakeSession};
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_backup_ends_within_a_second_and_fences_its_session() {
    let lab = Lab::new(2).await;
    let mut tree = Tree::default();
    tree.file("a", noise(1, EXTENT * 4000));
    let behaviour = Behaviour { slow: Some(Duration::from_millis(5)), ..Behaviour::default() };
    let engine = FakeSession::behaving(&tree, behaviour);
    let (read, gone) = (engine.bytes_read.clone(), engine.gone.clone());
    let cancel = CancellationToken::new();
    let job = lab.job(engine, cancel.clone()).await.unwrap();
    let (session, snapshot) = (job.session.id(), job.session.intent().snapshot);
    let running = tokio::spawn(breakwater_pipeline::backup::run_backup(job));
    while read.load(std::sync::atomic::Ordering::Relaxed) < (EXTENT * 20) as u64 {
        tokio::task::yield_now().await;
    }
    let stopped = Instant::now();
    cancel.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
    assert_eq!(error.class(), ErrorClass::Cancelled, "{error}");
    assert!(gone.load(std::sync::atomic::Ordering::SeqCst), "the source was given up");
    let name = ObjectName::Register(lab.source, snapshot, session);
    for storage in &lab.storages {
        let register = storage.get(&name.to_string()).await.unwrap();
        assert!(matches!(read_register(&lab.writer, &name, &register), Ok(RegisterValue::Fence(_))));
    }
    assert!(lab.latest().await.is_none());
    assert_eq!(lab.budget.in_use(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_leaves_no_snapshot_and_says_why() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("a", noise(1, EXTENT * 5)).file("b", noise(2, EXTENT * 5));
    let unreadable = Behaviour { unreadable: Some(b"b".to_vec()), ..Behaviour::default() };
    let ends_badly = Behaviour { fails_to_end: true, ..Behaviour::default() };
    for (behaviour, class) in [(unreadable, ErrorClass::Denied), (ends_badly, ErrorClass::Conflict)] {
        let engine = FakeSession::behaving(&tree, behaviour);
        let error = lab.try_backup(engine, CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(lab.latest().await.is_none());
        assert_eq!(lab.budget.in_use(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_restore_says_that_the_target_is_not_usable() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.directory("global").file("global/data", noise(1, EXTENT * 50)).file("global/pg_control", noise(2, 8192));
    let outcome = lab.backup(FakeSession::new(&tree)).await;
    let held = lab.faults[0].add(
        breakwater_storage::Rule::on(breakwater_storage::Operation::GetRange).prefix("data/"),
        breakwater_storage::Effect::Hold,
    );
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("t");
    let job = lab.restore_job(&outcome.manifest, target.clone());
    let cancel = job.cancel.clone();
    let running = tokio::spawn(breakwater_pipeline::restore::run_restore(job));
    held.reached(1).await;
    let stopped = Instant::now();
    cancel.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert!(stopped.elapsed() < Duration::from_secs(1));
    assert_eq!(error.class(), ErrorClass::Cancelled, "{error}");
    assert!(error.to_string().contains("not usable"), "{error}");
    assert!(target.join(breakwater_pipeline::restore::MARKER).exists());
    assert!(!target.join("global/pg_control").exists());
    lab.faults[0].heal();
}
