//! Transactions: conditions, atomicity, and that nothing is ever lost between writers.

use breakwater_core::ErrorClass;
use bytes::Bytes;

use super::{Case, must, refused};
use crate::store::{Revision, StateStore};
use crate::txn::{Condition, Op, Txn};

pub(super) async fn every_condition_decides(case: &Case) {
    let here = case.key("here");
    let gone = case.key("gone");
    let created = case.put("here", "one").await;
    let written = case.put("here", "two").await;
    let none = Revision(0);
    let truths = [
        (Condition::Exists(here.clone()), true),
        (Condition::Exists(gone.clone()), false),
        (Condition::Absent(here.clone()), false),
        (Condition::Absent(gone.clone()), true),
        (Condition::RevisionIs(here.clone(), written), true),
        (Condition::RevisionIs(here.clone(), created), false),
        (Condition::RevisionIs(here.clone(), none), false),
        (Condition::RevisionIs(gone.clone(), none), true),
        (Condition::RevisionIs(gone.clone(), written), false),
        (Condition::ValueIs(here.clone(), Bytes::from("two")), true),
        (Condition::ValueIs(here.clone(), Bytes::from("one")), false),
        (Condition::ValueIs(here.clone(), Bytes::from("tw")), false),
        (Condition::ValueIs(gone.clone(), Bytes::new()), false),
        (Condition::CreatedAt(here.clone(), created), true),
        (Condition::CreatedAt(here.clone(), written), false),
        (Condition::CreatedAt(gone.clone(), none), true),
        (Condition::CreatedAt(gone.clone(), created), false),
    ];
    for (condition, truth) in truths.clone() {
        let name = format!("{condition:?}");
        let txn = Txn::new().when(condition).put(case.key("ran"), "then").or_get(here.clone()).or_get(gone.clone());
        let outcome = must(&name, case.store.txn(txn).await);
        assert_eq!(outcome.succeeded, truth, "{name}");
        assert_eq!(case.value("ran").await.is_some(), truth, "{name}: `then` runs if and only if the condition holds");
        if truth {
            assert!(outcome.entries.is_empty(), "{name}: `otherwise` does not run");
            case.commit(Txn::new().delete(case.key("ran"))).await;
        } else {
            let [Some(entry), None] = outcome.entries.as_slice() else {
                panic!("{name}: `otherwise` reads one key that is there and one that is not: {:?}", outcome.entries);
            };
            assert_eq!((entry.value.as_ref(), entry.revision), (b"two".as_slice(), written), "{name}");
        }
    }
    // Several conditions must all hold, wherever the false one stands.
    let holding: Vec<_> = truths.iter().filter(|(_, truth)| *truth).map(|(condition, _)| condition.clone()).collect();
    let failing = truths.iter().find(|(_, truth)| !truth).expect("one is false").0.clone();
    for place in 0..=holding.len() {
        let mut conditions = holding.clone();
        conditions.insert(place, failing.clone());
        let txn = Txn { conditions, ..Txn::new().put(case.key("ran"), "then") };
        assert!(!must("conditions", case.store.txn(txn).await).succeeded, "one false condition at place {place}");
    }
    let txn = Txn { conditions: holding, ..Txn::new().put(case.key("ran"), "then") };
    assert!(must("conditions", case.store.txn(txn).await).succeeded, "all conditions hold");
    case.clean().await;
}

pub(super) async fn transactions_are_all_or_nothing(case: &Case) {
    case.put("old", "x").await;
    let txn = Txn::new().put(case.key("a"), "1").put(case.key("b"), "1").delete(case.key("old"));
    let revision = case.commit(txn).await.revision;
    for name in ["a", "b"] {
        let entry = must("a get", case.store.get(&case.key(name)).await).expect("the key is there");
        assert_eq!((entry.revision, entry.created), (revision, revision), "one transaction is one revision");
    }
    assert_eq!(case.value("old").await, None);

    let guarded = Txn::new()
        .when(Condition::RevisionIs(case.key("a"), revision))
        .when(Condition::Exists(case.key("old")))
        .put(case.key("a"), "2")
        .delete(case.key("b"));
    let outcome = must("a transaction", case.store.txn(guarded).await);
    assert!(!outcome.succeeded);
    assert!(outcome.revision >= revision, "the outcome says the newest revision");
    assert_eq!(case.value("a").await.as_deref(), Some("1"), "nothing of a transaction happens whose conditions fail");
    assert_eq!(case.value("b").await.as_deref(), Some("1"));
    let error = outcome.or_conflict("the agent `db-7`").expect_err("it did not succeed");
    assert_eq!(error.class(), ErrorClass::Conflict);

    // A lease that is not there breaks the transaction after its first step.
    let lease = must("a lease", case.store.lease_grant(std::time::Duration::from_secs(60)).await);
    must("revoking", case.store.lease_revoke(lease).await);
    let txn = Txn::new().put(case.key("a"), "3").put_leased(case.key("c"), "3", lease);
    let error = refused("a put under a lease that is gone", case.store.txn(txn).await);
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
    assert_eq!(case.value("a").await.as_deref(), Some("1"), "nothing of a refused transaction happens");
    assert_eq!(case.value("c").await, None);
    case.clean().await;
}

pub(super) async fn steps_see_those_before_them(case: &Case) {
    let a = case.key("a");
    let first = case.put("a", "1").await;
    let outcome = case.commit(Txn::new().get(&a).put(&a, "2").get(&a).get(case.key("b"))).await;
    let values: Vec<_> = outcome.entries.iter().map(|entry| entry.as_ref().map(|entry| entry.value.clone())).collect();
    assert_eq!(values, [Some(Bytes::from("1")), Some(Bytes::from("2")), None], "reads see the steps before them");
    let revisions: Vec<_> = outcome.entries.iter().flatten().map(|entry| entry.revision).collect();
    assert_eq!(revisions, [first, outcome.revision]);
    let outcome = case.commit(Txn::new().delete(&a).get(&a)).await;
    assert_eq!(outcome.entries, [None], "a key deleted before is not there");
    case.clean().await;
}

pub(super) async fn changes_of_nothing_are_no_revision(case: &Case) {
    let before = case.put("a", "1").await;
    let outcome = case.commit(Txn::new().delete(case.key("never"))).await;
    assert!(outcome.revision >= before);
    let from = outcome.revision.next();
    let read = case.commit(Txn::new().get(case.key("a"))).await;
    assert!(read.revision >= before);
    case.commit(Txn::new()).await;
    let mut watch = case.watch(before.next()).await;
    let after = case.put("b", "2").await;
    assert!(after >= from, "revisions rise");
    let batch = super::next_batch(&mut watch).await;
    assert_eq!(super::shown(case, &batch), ["+b=2"], "deleting a key that is not there is no change");
    case.clean().await;
}

pub(super) async fn concurrent_increments_lose_nothing(case: &Case) {
    const TASKS: u32 = 16;
    const ROUNDS: u32 = 8;
    case.put("counter", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (store, key) = (case.store.clone(), case.key("counter"));
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                increment(store.as_ref(), &key).await;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("an increment does not panic");
    }
    assert_eq!(case.value("counter").await, Some((TASKS * ROUNDS).to_string()), "no increment is lost");
    case.clean().await;
}

async fn increment(store: &dyn StateStore, key: &str) {
    let mut entry = must("a get", store.get(key).await);
    loop {
        let seen = entry.expect("the counter is there");
        let count: u32 = std::str::from_utf8(&seen.value).ok().and_then(|text| text.parse().ok()).expect("a number");
        let txn = Txn::new()
            .when(Condition::RevisionIs(key.to_owned(), seen.revision))
            .put(key, (count + 1).to_string())
            .or_get(key);
        let mut outcome = must("an increment", store.txn(txn).await);
        if outcome.succeeded {
            return;
        }
        entry = outcome.entries.pop().flatten();
    }
}

pub(super) async fn malformed_requests_are_refused(case: &Case) {
    let a = case.key("a");
    let twice = Txn::new().put(&a, "1").put(&a, "2");
    let writing = Txn { otherwise: vec![Op::Delete { key: a.clone() }], ..Txn::new() };
    let many = (0..200).fold(Txn::new(), |txn, at| txn.put(case.key(&at.to_string()), "x"));
    for (what, txn) in [
        ("a key written twice", twice),
        ("an `otherwise` that writes", writing),
        ("too many steps", many),
        ("an empty key", Txn::new().put("", "x")),
    ] {
        assert_eq!(refused(what, case.store.txn(txn).await).class(), ErrorClass::Invalid, "{what}");
    }
    assert_eq!(refused("an empty key", case.store.get("").await).class(), ErrorClass::Invalid);
    assert_eq!(case.value("a").await, None, "what was refused was not written");
}
