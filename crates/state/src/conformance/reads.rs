//! Reading keys and ranges, now and in the past.

use breakwater_core::ErrorClass;

use super::{Case, must, refused};
use crate::store::{MAX_PAGE, Revision, list};
use crate::txn::{MAX_VALUE, Txn};

pub(super) async fn entries_tell_their_history(case: &Case) {
    assert_eq!(case.value("a").await, None, "a key that was never written is not there");
    let first = case.put("a", "one").await;
    let second = case.put("a", "two").await;
    assert!(second > first, "revisions rise");
    let entry = must("a get", case.store.get(&case.key("a")).await).expect("the key is there");
    assert_eq!(entry.key, case.key("a"));
    assert_eq!(entry.value, "two");
    assert_eq!((entry.created, entry.revision, entry.version), (first, second, 2), "created, revision, version");
    assert!(
        must("revision", case.store.revision().await) >= second,
        "the newest revision is not before a confirmed one"
    );

    case.commit(Txn::new().delete(case.key("a"))).await;
    assert_eq!(case.value("a").await, None, "a deleted key is not there");
    let third = case.put("a", "three").await;
    let entry = must("a get", case.store.get(&case.key("a")).await).expect("the key is there");
    assert_eq!((entry.created, entry.revision, entry.version), (third, third, 1), "a key put again is a new one");
    case.clean().await;
}

pub(super) async fn ranges_are_ordered_and_paged(case: &Case) {
    // Byte order: capitals before small letters, `ä` after all of ASCII, a prefix before what it begins.
    let names = ["B", "a", "a0", "a1", "ab", "b", "c/d", "c0", "z", "ä"];
    for name in names.iter().rev() {
        case.put(name, name).await;
    }
    let keys: Vec<String> = names.iter().map(|name| case.key(name)).collect();
    let all = must("a range", case.store.range(&case.root, None, 100, None).await);
    assert_eq!(all.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), keys, "order of keys");
    assert!(!all.more, "there is nothing after the last page");

    for limit in [1, 3, names.len(), names.len() + 1] {
        let mut found = Vec::new();
        let mut page = must("a page", case.store.range(&case.root, None, limit, None).await);
        loop {
            assert!(page.entries.len() <= limit, "a page holds at most its limit");
            found.extend(page.entries.iter().map(|entry| entry.key.clone()));
            if !page.more {
                break;
            }
            let last = found.last().cloned().expect("a page with more to come is not empty");
            // Written after the first page: pages at its revision must not see it.
            case.put("a00", "late").await;
            page = must("a page", case.store.range(&case.root, Some(page.revision), limit, Some(&last)).await);
        }
        assert_eq!(found, keys, "pages of {limit}");
        case.commit(Txn::new().delete(case.key("a00"))).await;
    }
    let after = must("a range", case.store.range(&case.key("a"), None, 100, Some(&case.key("a0"))).await);
    let after: Vec<_> = after.entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(after, [case.key("a1"), case.key("ab")], "a page begins after the key that is named");
    let before = must("a range", case.store.range(&case.key("c"), None, 100, Some(&case.key("a"))).await);
    assert_eq!(before.entries.len(), 2, "a start before the prefix changes nothing");
    let past = must("a range", case.store.range(&case.key("a"), None, 100, Some(&case.key("b"))).await);
    assert!(past.entries.is_empty() && !past.more, "a start after the prefix leaves nothing");
    let huge = must("a range", case.store.range(&case.root, None, usize::MAX, None).await);
    assert_eq!(huge.entries.len(), names.len(), "a limit beyond {MAX_PAGE} is cut, not refused");
    let error = refused("a page of nothing", case.store.range(&case.root, None, 0, None).await);
    assert_eq!(error.class(), ErrorClass::Invalid);
    case.clean().await;
}

pub(super) async fn ranges_show_the_past(case: &Case) {
    let empty = must("revision", case.store.revision().await);
    let one = case.commit(Txn::new().put(case.key("a"), "1").put(case.key("b"), "1")).await.revision;
    let two =
        case.commit(Txn::new().put(case.key("a"), "2").delete(case.key("b")).put(case.key("c"), "2")).await.revision;
    let three = case.put("b", "3").await;
    let at = async |revision: Revision| {
        let range = must("a range in the past", case.store.range(&case.root, Some(revision), 10, None).await);
        assert_eq!(range.revision, revision, "a range says at which revision it was read");
        let show = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        range
            .entries
            .iter()
            .map(|entry| format!("{}={}", &entry.key[case.root.len()..], show(&entry.value)))
            .collect::<Vec<_>>()
    };
    assert_eq!(at(empty).await, Vec::<String>::new());
    assert_eq!(at(one).await, ["a=1", "b=1"]);
    assert_eq!(at(two).await, ["a=2", "c=2"]);
    assert_eq!(at(three).await, ["a=2", "b=3", "c=2"]);
    let future = Revision(three.0 + 1_000_000);
    let error = refused("a range in the future", case.store.range(&case.root, Some(future), 10, None).await);
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    case.clean().await;
}

pub(super) async fn prefixes_are_exact(case: &Case) {
    for name in ["agent/1", "agent/2", "agent-name/1", "agent0", "agent", "agenu"] {
        case.put(name, name).await;
    }
    let found = must("a list", list(case.store.as_ref(), &case.key("agent/")).await);
    let found: Vec<_> = found.entries.iter().map(|entry| &entry.key[case.root.len()..]).collect();
    assert_eq!(found, ["agent/1", "agent/2"], "a prefix shows what begins with it and nothing else");
    let everything = must("a range", case.store.range("", None, MAX_PAGE, None).await);
    assert!(everything.entries.len() >= 6, "the empty prefix shows all keys");
    let none = must("a range", case.store.range(&case.key("nobody/"), None, 10, None).await);
    assert!(none.entries.is_empty() && !none.more, "a prefix that nothing begins with is empty");

    let from = must("revision", case.store.revision().await).next();
    let mut watch = must("a watch", case.store.watch(&case.key("agent/"), from).await);
    case.commit(Txn::new().put(case.key("agent-name/1"), "x").put(case.key("agent0"), "x")).await;
    let both = case.commit(Txn::new().put(case.key("agent/2"), "y").put(case.key("agent"), "y")).await.revision;
    let batch = super::next_batch(&mut watch).await;
    assert_eq!(batch.revision, both, "a watch skips revisions that do not touch its prefix");
    assert_eq!(batch.events.iter().map(|event| event.key().to_owned()).collect::<Vec<_>>(), [case.key("agent/2")]);
    case.clean().await;
}

pub(super) async fn big_values_come_back_and_too_big_ones_are_refused(case: &Case) {
    let value: Vec<u8> = (0..MAX_VALUE).map(|at| u8::try_from(at * 7 % 251).unwrap_or(0)).collect();
    for name in ["1", "2", "3", "4", "5", "6"] {
        case.commit(Txn::new().put(case.key(name), value.clone())).await;
    }
    let entry = must("a get", case.store.get(&case.key("3")).await).expect("the key is there");
    assert!(entry.value == value, "a value of 1 MiB comes back as it was");
    let all = must("a list", list(case.store.as_ref(), &case.root).await);
    assert_eq!(all.entries.len(), 6, "big values are listed, in more pages if need be");
    assert!(all.entries.iter().all(|entry| entry.value == value));

    let error = refused("a bigger value", case.store.txn(Txn::new().put(case.key("7"), vec![0; MAX_VALUE + 1])).await);
    assert_eq!(error.class(), ErrorClass::Invalid);
    assert!(error.to_string().contains(&case.key("7")), "the error names the key: {error}");
    assert_eq!(case.value("7").await, None, "what was refused was not written");
    case.clean().await;
}
