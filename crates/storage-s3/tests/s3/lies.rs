//! Stores that do not keep their promises are refused by name.

use breakwater_core::{Clock, Timestamp};
use breakwater_runtime::SystemClock;
use breakwater_storage::{
    BrokenPromise, LockMode, Placement, Retention, StorageError, StorageErrorKind, Tier, probe, probe_placement,
};
use breakwater_testkit::lying_s3::{Lie, LyingS3};

use crate::lab::{Lab, said};

fn promise(error: &StorageError) -> BrokenPromise {
    assert_eq!(error.kind, StorageErrorKind::Invalid, "{}", said(error));
    *error.source.as_ref().unwrap().downcast_ref().unwrap()
}

#[tokio::test]
async fn an_honest_store_passes() {
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    probe(&lab.open("bucket/p", "").await, "s/").await.unwrap();
}

#[tokio::test]
async fn a_store_that_lies_is_refused_by_name() {
    for (lie, expected) in [
        (Lie::Overwrites, BrokenPromise::CreateOnly),
        (Lie::Races, BrokenPromise::Race),
        (Lie::WrongRange, BrokenPromise::Range),
        (Lie::OtherRange, BrokenPromise::Range),
    ] {
        let server = LyingS3::start(&[lie]).await.unwrap();
        let lab = Lab::new(&server.endpoint());
        let store = lab.open("bucket/p", "").await;
        let error = probe(&store, "s/").await.unwrap_err();
        assert_eq!(promise(&error), expected, "{lie:?}");
    }
}

#[tokio::test]
async fn a_store_that_forgets_locks_or_classes_is_refused_by_name() {
    let soon: Timestamp = SystemClock.now().plus_micros(60_000_000);
    let locked = Placement { retention: Some(Retention { mode: LockMode::Compliance, until: soon }), tier: Tier::Hot };
    let cold = Placement { retention: None, tier: Tier::Cold };
    for (lie, placement, expected) in
        [(Lie::ForgetsLocks, locked, BrokenPromise::Lock), (Lie::ForgetsClasses, cold, BrokenPromise::Tier)]
    {
        let server = LyingS3::start(&[lie]).await.unwrap();
        let lab = Lab::new(&server.endpoint());
        let store = lab.open("bucket/p", "").await;
        let error = probe_placement(&store, "s/", &placement).await.unwrap_err();
        assert_eq!(promise(&error), expected, "{lie:?}");
    }
}

#[tokio::test]
async fn a_lock_is_not_asked_of_a_bucket_without_locks() {
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let store = lab.open("bucket/p", "").await;
    let soon = SystemClock.now().plus_micros(60_000_000);
    let locked = Placement { retention: Some(Retention { mode: LockMode::Compliance, until: soon }), tier: Tier::Hot };
    let error = store.backend().create("data/a", vec![1].into(), &locked).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Unsupported);
    assert!(said(&error).contains("has no Object Lock"), "{}", said(&error));
    assert!(!store.exists("data/a").await.unwrap(), "nothing is created");
}
