//! The embedded store passes the suite, in memory and in a file, and its file keeps what was confirmed.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::ErrorClass;
use breakwater_state::{EmbeddedStore, Event, Revision, StateError, StateStore, Txn, conformance, list};
use futures::StreamExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn conforms_in_memory() {
    let store = Arc::new(EmbeddedStore::in_memory().await.unwrap());
    conformance::run(store.clone(), "/first/").await;
    conformance::run(store, "/second/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path().join("state.redb")).await.unwrap());
    conformance::run(store, "/scratch/").await;
}

#[tokio::test]
async fn a_reopened_file_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    let created = store.txn(Txn::new().put("a", "1").put("b", "1")).await.unwrap().revision;
    let changed = store.txn(Txn::new().put("a", "2").delete("b")).await.unwrap().revision;
    drop(store);

    let store = EmbeddedStore::open(&path).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), changed);
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!((entry.created, entry.revision, entry.version), (created, changed, 2));
    let past = store.range("", Some(created), 10, None).await.unwrap();
    assert_eq!(past.entries.len(), 2, "the past is kept as well");
    let mut watch = store.watch("", created).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 2);
    assert_eq!(watch.next().await.unwrap().unwrap().revision, changed);
    assert_eq!(store.txn(Txn::new().put("c", "3")).await.unwrap().revision, changed.next());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the file may hold secrets, so it is its owner's alone: {mode:o}");
}

#[tokio::test]
async fn leases_start_anew_when_the_file_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    let short = store.lease_grant(Duration::from_secs(1)).await.unwrap();
    let long = store.lease_grant(Duration::from_secs(600)).await.unwrap();
    let txn = Txn::new().put_leased("short", "1", short).put_leased("long", "1", long).put("none", "1");
    let put = store.txn(txn).await.unwrap().revision;
    drop(store);

    let store = EmbeddedStore::open(&path).await.unwrap();
    let mut watch = store.watch("", put.next()).await.unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(batch.events, [Event::Delete { key: "short".into(), revision: put.next() }]);
    store.lease_keep_alive(long).await.unwrap();
    let next = store.lease_grant(Duration::from_secs(600)).await.unwrap();
    assert!(next > long, "a lease id is never used again");
    store.lease_revoke(long).await.unwrap();
    let keys: Vec<_> = list(&store, "").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["none"]);
}

#[tokio::test]
async fn a_second_opener_hears_who_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    let error = EmbeddedStore::open(&path).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    let text = error.to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("another process") && text.contains("hint:"),
        "{text}"
    );
    // A watch that somebody forgot must not keep the file locked.
    let mut watch = store.watch("", Revision::FIRST).await.unwrap();
    drop(store);
    let again = EmbeddedStore::open(&path).await.unwrap();
    assert!(matches!(watch.next().await, Some(Err(StateError::Unavailable { .. }))));
    assert!(watch.next().await.is_none());
    drop(again);
}

#[tokio::test]
async fn files_that_are_no_state_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("notes.txt");
    std::fs::write(&foreign, "not a state file, ".repeat(1000)).unwrap();
    let error = EmbeddedStore::open(&foreign).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "not a state file, ".repeat(1000));

    let error = EmbeddedStore::open(dir.path()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    let error = EmbeddedStore::open(dir.path().join("no/such/state.redb")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    assert!(error.to_string().contains("hint: create it"), "{error}");
}

#[tokio::test]
async fn history_beyond_the_bound_is_forgotten() {
    let store = EmbeddedStore::in_memory_keeping(10).await.unwrap();
    for round in 0..50 {
        store.txn(Txn::new().put("a", round.to_string())).await.unwrap();
    }
    let newest = store.revision().await.unwrap();
    let oldest = Revision(newest.0 - 10);
    assert_eq!(store.range("", Some(oldest), 10, None).await.unwrap().entries[0].value, "39");
    let error = store.range("", Some(Revision(oldest.0 - 1)), 10, None).await.unwrap_err();
    assert!(matches!(error, StateError::Compacted { oldest: kept } if kept == oldest), "{error}");
    let mut watch = store.watch("", Revision(oldest.0 - 1)).await.unwrap();
    assert!(matches!(watch.next().await, Some(Err(StateError::Compacted { .. }))));
    let mut watch = store.watch("", oldest).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, oldest);
}

#[tokio::test]
async fn a_slow_watch_hears_that_it_was_too_slow() {
    let store = EmbeddedStore::in_memory_keeping(10).await.unwrap();
    let mut watch = store.watch("", Revision::FIRST).await.unwrap();
    for round in 0..20 {
        store.txn(Txn::new().put("a", round.to_string())).await.unwrap();
    }
    assert!(matches!(watch.next().await, Some(Err(StateError::Compacted { .. }))));
}

#[tokio::test]
async fn history_is_bounded_in_bytes_too() {
    let store = EmbeddedStore::in_memory().await.unwrap();
    let value = vec![7; 1 << 20];
    for _ in 0..100 {
        store.txn(Txn::new().put("a", value.clone())).await.unwrap();
    }
    let newest = store.revision().await.unwrap();
    let error = store.range("", Some(Revision(newest.0 - 80)), 10, None).await.unwrap_err();
    assert!(matches!(error, StateError::Compacted { oldest } if oldest.0 > newest.0 - 80), "{error}");
    store.range("", Some(Revision(newest.0 - 50)), 10, None).await.unwrap();
}
