//! The etcd store passes the suite on a real server, and lives through that server's restarts.

#![allow(clippy::unwrap_used, reason = "a failed test may panic anywhere")]

mod certs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use breakwater_core::ErrorClass;
use breakwater_state::{
    EtcdConfig, EtcdLogin, EtcdStore, EtcdTls, Event, Revision, StateError, StateStore, Txn, WatchStream, conformance,
};
use breakwater_testkit::etcd::{Etcd, ServerTls};
use etcd_client::{Client, CompactionOptions, ConnectOptions, Permission, PermissionType};
use futures::StreamExt as _;

const PATIENCE: Duration = Duration::from_secs(30);

fn config(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() }
}

async fn next_put(watch: &mut WatchStream) -> String {
    let batch = tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch tells in time").unwrap().unwrap();
    let [Event::Put(entry)] = batch.events.as_slice() else { panic!("one put a revision: {batch:?}") };
    String::from_utf8_lossy(&entry.value).into_owned()
}

/// Puts until it is confirmed; a put of the same value twice would be seen by the watch as two changes.
async fn put_once(store: &EtcdStore, key: &str, value: String) {
    let start = Instant::now();
    loop {
        let error = match store.txn(Txn::new().put(key, value.clone())).await {
            Ok(_) => return,
            Err(error) => error,
        };
        assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
        assert!(start.elapsed() < PATIENCE, "{error}");
        // The write may have happened although the answer was lost.
        if store.get(key).await.ok().flatten().is_some_and(|entry| entry.value == value) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let etcd = Etcd::start().await.unwrap();
    let store = Arc::new(EtcdStore::connect(config(&etcd)).await.unwrap());
    conformance::run(store.clone(), "/first/").await;
    conformance::run(store, "/second/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_under_a_prefix_of_a_shared_cluster() {
    let etcd = Etcd::start().await.unwrap();
    let plain = EtcdStore::connect(config(&etcd)).await.unwrap();
    plain.txn(Txn::new().put("/other/tenant", "theirs").put("/ours", "theirs")).await.unwrap();
    let ours = EtcdConfig { prefix: "/ours/".into(), ..config(&etcd) };
    let ours = Arc::new(EtcdStore::connect(ours).await.unwrap());
    conformance::run(ours.clone(), "/scratch/").await;

    ours.txn(Txn::new().put("a", "1")).await.unwrap();
    let all = ours.range("", None, 10, None).await.unwrap();
    assert_eq!(all.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(plain.get("/ours/a").await.unwrap().unwrap().value, "1");
    assert_eq!(plain.get("/ours").await.unwrap().unwrap().value, "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_lives_through_restarts_without_loss_or_repetition() {
    let mut etcd = Etcd::start().await.unwrap();
    let store = EtcdStore::connect(config(&etcd)).await.unwrap();
    let from = store.revision().await.unwrap().next();
    let mut watch = store.watch("/w/", from).await.unwrap();
    let mut count = 0;
    for round in 0..4 {
        for _ in 0..5 {
            put_once(&store, "/w/a", count.to_string()).await;
            // Half of them are waiting unread when the server goes.
            if round % 2 == 0 {
                assert_eq!(next_put(&mut watch).await, count.to_string());
            }
            count += 1;
        }
        if round % 2 == 0 {
            etcd.stop().await.unwrap()
        } else {
            etcd.kill()
        }
        etcd.resume().await.unwrap();
        if round % 2 == 1 {
            for earlier in count - 5..count {
                assert_eq!(next_put(&mut watch).await, earlier.to_string());
            }
        }
    }
    put_once(&store, "/w/a", "last".into()).await;
    assert_eq!(next_put(&mut watch).await, "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_was_away_too_long_hears_of_the_compaction() {
    let mut etcd = Etcd::start().await.unwrap();
    let port = etcd.endpoint();
    let store = EtcdStore::connect(config(&etcd)).await.unwrap();
    store.txn(Txn::new().put("/w/a", "1")).await.unwrap();
    let from = store.revision().await.unwrap();
    let mut watch = store.watch("/w/", from).await.unwrap();
    assert_eq!(next_put(&mut watch).await, "1");
    // The reader sleeps while the history goes on and its beginning is dropped: fill what may wait for it.
    for round in 0..400 {
        store.txn(Txn::new().put("/w/a", vec![b'x'; 200_000 + round])).await.unwrap();
    }
    etcd.stop().await.unwrap();
    etcd.resume().await.unwrap();
    assert_eq!(etcd.endpoint(), port);
    let newest = loop {
        if let Ok(newest) = store.revision().await {
            break newest;
        }
    };
    store.compact(newest).await.unwrap();
    let mut last = from;
    let error = loop {
        match tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch tells in time") {
            Some(Ok(batch)) => {
                assert_eq!(batch.revision, last.next(), "nothing is left out before the error");
                last = batch.revision;
            }
            Some(Err(error)) => break error,
            None => panic!("a watch must not end without an error"),
        }
        assert!(last < newest, "more waited for the reader than the queue between should hold");
    };
    assert!(matches!(error, StateError::Compacted { oldest } if oldest <= newest), "{error}");
}

/// etcd's own compaction may fall on any revision, and older members then lose the deletes of that very revision.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_at_the_compacted_revision_is_told_or_said_to_be_gone() {
    let etcd = Etcd::start().await.unwrap();
    let store = EtcdStore::connect(config(&etcd)).await.unwrap();
    store.txn(Txn::new().put("a", "1")).await.unwrap();
    let deleted = store.txn(Txn::new().delete("a")).await.unwrap().revision;
    store.txn(Txn::new().put("b", "1")).await.unwrap();
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let at = i64::try_from(deleted.0).unwrap();
    admin.kv_client().compact(at, Some(CompactionOptions::new().with_physical())).await.unwrap();
    let mut watch = store.watch("", deleted).await.unwrap();
    match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap() {
        Ok(batch) => assert_eq!(batch.events, [Event::Delete { key: "a".into(), revision: deleted }]),
        Err(error) => assert!(matches!(error, StateError::Compacted { oldest } if oldest == deleted.next()), "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_or_silent_is_unavailable_soon() {
    let mut etcd = Etcd::start().await.unwrap();
    let store = EtcdStore::connect(config(&etcd)).await.unwrap();
    store.txn(Txn::new().put("a", "1")).await.unwrap();
    for silent in [true, false] {
        if silent {
            etcd.freeze().unwrap()
        } else {
            etcd.kill()
        }
        let start = Instant::now();
        let write = store.txn(Txn::new().put("a", "2")).await.unwrap_err();
        let read = store.get("a").await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
        for error in [write, read] {
            assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
            assert!(error.to_string().contains(&etcd.endpoint()), "the error names the server: {error}");
        }
        if silent {
            etcd.thaw().unwrap()
        } else {
            etcd.resume().await.unwrap()
        }
        let start = Instant::now();
        while let Err(error) = store.get("a").await {
            assert!(start.elapsed() < PATIENCE, "the store finds its server again: {error}");
        }
    }
    etcd.kill();
    let error = EtcdStore::connect(config(&etcd)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(error.to_string().contains("refused"), "the error says what is wrong: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_several_that_is_away_is_not_noticed() {
    let etcd = Etcd::start().await.unwrap();
    let gone = format!("http://127.0.0.1:{}", breakwater_testkit::port::free_port());
    let endpoints = vec![gone, etcd.endpoint()];
    let store = EtcdStore::connect(EtcdConfig { endpoints, ..EtcdConfig::default() }).await.unwrap();
    let mut watch = store.watch("a", Revision::FIRST).await.unwrap();
    for round in 0..30 {
        store.txn(Txn::new().put("a", round.to_string())).await.unwrap();
        assert_eq!(store.get("a").await.unwrap().unwrap().value, round.to_string());
        assert_eq!(next_put(&mut watch).await, round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_set_back_to_an_older_copy_is_found_out() {
    let mut etcd = Etcd::start().await.unwrap();
    let store = EtcdStore::connect(config(&etcd)).await.unwrap();
    let mut watch = store.watch("a", Revision::FIRST).await.unwrap();
    for round in 0..5 {
        store.txn(Txn::new().put("a", round.to_string())).await.unwrap();
        assert_eq!(next_put(&mut watch).await, round.to_string());
    }
    etcd.stop().await.unwrap();
    std::fs::remove_dir_all(etcd.data_dir()).unwrap();
    etcd.resume().await.unwrap();
    let error = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
    assert!(error.to_string().contains("was at 6 before"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (certs::Authority::new("ours"), certs::Authority::new("other"));
    let (cert, key) = ours.issue("127.0.0.1");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let server = ServerTls { ca: write("ca", &ours.pem()), cert: write("cert", &cert), key: write("key", &key) };
    let etcd = Etcd::start_with(Some(server), &[]).await.unwrap();
    let connect = async |ca: String, identity: Option<(String, String)>| {
        let identity = identity.map(|(cert, key)| (cert.into_bytes(), key.into_bytes()));
        let tls = EtcdTls { ca: ca.into_bytes(), identity, domain: None };
        EtcdStore::connect(EtcdConfig { tls: Some(tls), ..config(&etcd) }).await
    };
    let store = connect(ours.pem(), Some(ours.issue("client"))).await.unwrap();
    store.txn(Txn::new().put("a", "1")).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "1");

    for (what, result, class, word) in [
        (
            "a server whose CA we do not trust",
            connect(other.pem(), Some(ours.issue("client"))).await,
            ErrorClass::Denied,
            "hint: the CA that was given must have signed",
        ),
        (
            "a client whose CA the server does not trust",
            connect(ours.pem(), Some(other.issue("client"))).await,
            ErrorClass::Unavailable,
            "perhaps because it does not trust our certificate",
        ),
        (
            "a client without certificate",
            connect(ours.pem(), None).await,
            ErrorClass::Unavailable,
            "perhaps because it wants a certificate of us",
        ),
        ("a CA that is no certificate", connect("nonsense".into(), None).await, ErrorClass::Invalid, "certificate"),
    ] {
        let error = result.expect_err(what);
        assert_eq!(error.class(), class, "{what}: {error}");
        assert!(error.to_string().contains(word), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_may_do_what_their_role_says() {
    let mut etcd = Etcd::start_with(None, &["--auth-token-ttl", "3"]).await.unwrap();
    let admin = Client::connect([etcd.endpoint()], Some(ConnectOptions::new())).await.unwrap();
    let mut auth = admin.auth_client();
    auth.user_add("root", "secret", None).await.unwrap();
    auth.role_add("root").await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.role_add("controller").await.unwrap();
    let granted = Permission::new(PermissionType::Readwrite, "/breakwater/").with_prefix();
    auth.role_grant_permission("controller", granted).await.unwrap();
    auth.user_add("controller", "pass word", None).await.unwrap();
    auth.user_grant_role("controller", "controller").await.unwrap();
    auth.auth_enable().await.unwrap();

    let login = |password: &str| Some(EtcdLogin { user: "controller".into(), password: password.into() });
    let wrong = EtcdStore::connect(EtcdConfig { login: login("wrong"), ..config(&etcd) }).await.unwrap_err();
    assert_eq!(wrong.class(), ErrorClass::Denied, "{wrong}");
    assert!(!wrong.to_string().contains("wrong"), "passwords are not shown: {wrong}");
    let nobody = EtcdStore::connect(config(&etcd)).await.unwrap_err();
    assert_eq!(nobody.class(), ErrorClass::Denied, "{nobody}");

    let store = EtcdStore::connect(EtcdConfig { login: login("pass word"), ..config(&etcd) }).await.unwrap();
    let put = async |key: &str| store.txn(Txn::new().put(key, "1")).await;
    put("/breakwater/v1/a").await.unwrap();
    assert_eq!(put("/elsewhere").await.unwrap_err().class(), ErrorClass::Denied);
    let mut denied = store.watch("/elsewhere", Revision::FIRST).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, denied.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Denied, "{error}");

    // Tokens live in the server's memory: a restart forgets them, and the store must ask for a new one by itself.
    let mut watch = store.watch("/breakwater/v1/", Revision::FIRST).await.unwrap();
    assert_eq!(next_put(&mut watch).await, "1");
    etcd.stop().await.unwrap();
    etcd.resume().await.unwrap();
    put_once(&store, "/breakwater/v1/a", "2".into()).await;
    assert_eq!(next_put(&mut watch).await, "2");
}
