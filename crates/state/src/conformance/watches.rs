//! Watches: every change, once, in order; and honest words when the history is gone.

use breakwater_core::ErrorClass;

use super::{Case, must, next, next_batch, refused, shown};
use crate::error::StateError;
use crate::store::{Event, Revision};
use crate::txn::Txn;

pub(super) async fn every_change_is_seen_once_and_in_order(case: &Case) {
    let start = must("revision", case.store.revision().await).next();
    let mut live = case.watch(start).await;
    let one = case.commit(Txn::new().put(case.key("a"), "1").put(case.key("b"), "1")).await.revision;
    let two = case.put("a", "2").await;
    let three = case.commit(Txn::new().delete(case.key("b")).put(case.key("c"), "3")).await.revision;
    let four = case.commit(Txn::new().delete(case.key("a")).delete(case.key("c"))).await.revision;
    let five = case.put("a", "5").await;
    let expected: [(Revision, &[&str]); 5] = [
        (one, &["+a=1", "+b=1"]),
        (two, &["+a=2"]),
        (three, &["+c=3", "-b"]),
        (four, &["-a", "-c"]),
        (five, &["+a=5"]),
    ];
    // A watch from the past must show the same as the one that was there all the time.
    let mut late = case.watch(start).await;
    for watch in [&mut live, &mut late] {
        for (revision, changes) in expected {
            let batch = next_batch(watch).await;
            assert_eq!(batch.revision, revision);
            assert_eq!(shown(case, &batch), changes, "one batch holds all of one transaction");
            for event in &batch.events {
                let Event::Put(entry) = event else { continue };
                let again = entry.key.ends_with('a') && revision == two;
                assert_eq!(entry.version, if again { 2 } else { 1 }, "events carry whole entries");
                assert_eq!(entry.created, if again { one } else { revision });
            }
        }
    }
    let mut inside = case.watch(three).await;
    assert_eq!(next_batch(&mut inside).await.revision, three, "`from` itself is included");
    case.clean().await;
}

pub(super) async fn a_watch_goes_on_where_another_ended(case: &Case) {
    let mut from = must("revision", case.store.revision().await).next();
    let mut wanted = Vec::new();
    let mut seen = Vec::new();
    for round in 0..5 {
        let mut watch = case.watch(from).await;
        for change in 0..3 {
            let value = format!("{round}.{change}");
            case.put("a", &value).await;
            wanted.push(format!("+a={value}"));
        }
        // The third change of each round is left for the next watch.
        let count = if round == 0 { 2 } else { 3 };
        for _ in 0..count {
            let batch = next_batch(&mut watch).await;
            from = batch.revision.next();
            seen.extend(shown(case, &batch));
        }
    }
    let mut watch = case.watch(from).await;
    seen.extend(shown(case, &next_batch(&mut watch).await));
    assert_eq!(seen, wanted, "watches that follow one another see each change once");
    case.clean().await;
}

pub(super) async fn a_watch_under_load_misses_nothing(case: &Case) {
    const WRITERS: u32 = 4;
    const ROUNDS: u32 = 50;
    let start = must("revision", case.store.revision().await).next();
    let mut watch = case.watch(start).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, key) = (case.store.clone(), case.key(&writer.to_string()));
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                must("a put", store.txn(Txn::new().put(&key, round.to_string())).await);
            }
        });
    }
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    let mut last = Revision(0);
    for _ in 0..WRITERS * ROUNDS {
        let batch = next_batch(&mut watch).await;
        assert!(batch.revision > last, "revisions of a watch rise: {} after {last}", batch.revision);
        last = batch.revision;
        for event in batch.events {
            let Event::Put(entry) = event else { panic!("nothing was deleted") };
            let count = counts.entry(entry.key).or_default();
            assert_eq!(entry.value, count.to_string(), "no change of a key is left out or told twice");
            *count += 1;
        }
    }
    assert!(counts.len() == 4 && counts.values().all(|count| *count == ROUNDS), "{counts:?}");
    while let Some(result) = tasks.join_next().await {
        result.expect("a writer does not panic");
    }
    case.clean().await;
}

pub(super) async fn a_watch_may_begin_in_the_future(case: &Case) {
    let now = case.put("a", "0").await;
    let mut watch = case.watch(Revision(now.0 + 2)).await;
    let mut revision = now;
    let mut value = 0;
    // Others may write to the same store; go on until the revision is reached for certain.
    while revision.0 < now.0 + 2 {
        value += 1;
        revision = case.put("a", &value.to_string()).await;
    }
    let batch = next_batch(&mut watch).await;
    assert_eq!(batch.revision, revision, "a watch tells of nothing before its beginning");
    case.clean().await;
}

pub(super) async fn compacted_history_is_said_to_be_gone(case: &Case) {
    let old = case.put("a", "1").await;
    case.commit(Txn::new().put(case.key("b"), "1")).await;
    case.put("a", "2").await;
    // The delete stands right at the oldest revision that is kept: the place where it is easiest to lose.
    let oldest = case.commit(Txn::new().delete(case.key("b"))).await.revision;
    let newest = case.put("a", "3").await;
    must("compaction", case.store.compact(oldest).await);
    must("compaction again", case.store.compact(old).await);

    assert_eq!(case.value("a").await.as_deref(), Some("3"), "compaction does not touch what keys hold now");
    let kept = must("a range at the oldest revision", case.store.range(&case.root, Some(oldest), 10, None).await);
    assert_eq!(kept.entries.len(), 1);
    assert_eq!(kept.entries[0].value, "2", "the oldest revision stays readable");
    match refused("a range in the compacted past", case.store.range(&case.root, Some(old), 10, None).await) {
        StateError::Compacted { oldest: readable } => {
            assert!(readable > old && readable <= oldest, "{readable} is readable, {old} is not");
        }
        other => panic!("a compacted revision must be said to be compacted: {other}"),
    }
    let mut gone = case.watch(old).await;
    match refused("a watch from the compacted past", next(&mut gone).await) {
        error @ StateError::Compacted { oldest: from } => {
            assert_eq!(error.class(), ErrorClass::NotFound);
            assert!(from > old && from <= newest.next(), "a watch can begin at {from}");
            must("a watch from where it said", next(&mut case.watch(oldest).await).await);
        }
        other => panic!("a compacted revision must be said to be compacted: {other}"),
    }
    assert!(futures::StreamExt::next(&mut gone).await.is_none(), "an error ends a watch");
    let mut kept = case.watch(oldest).await;
    assert_eq!(shown(case, &next_batch(&mut kept).await), ["-b"], "the delete at the oldest revision is still told");
    assert_eq!(shown(case, &next_batch(&mut kept).await), ["+a=3"]);

    let future = Revision(newest.0 + 1_000_000);
    assert_eq!(refused("compacting the future", case.store.compact(future).await).class(), ErrorClass::Invalid);
    case.clean().await;
}
