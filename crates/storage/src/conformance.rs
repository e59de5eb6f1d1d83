//! The promises of a place as tests. A backend is done when it passes; run it on each, bare and decorated.
//!
//! Vocabulary: `make` gives a fresh, empty store each time; a promise that is broken is a panic that says which.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use breakwater_core::{Clock, Timestamp};
use breakwater_runtime::SystemClock;
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, TryStreamExt};

use crate::{
    Availability, LockMode, Payload, Placement, Protection, Retention, Storage, StorageError, StorageErrorKind, Thaw,
    ThawSpeed,
};

/// Runs all cases, each on a store of its own.
pub async fn run(make: impl AsyncFn() -> Storage) {
    promises(&make).await;
    extras(&make).await;
}

/// What a place offers beyond the promises, as far as it says so. Locked objects stay until their lock has run out, and moves
/// between tiers may be charged.
pub async fn extras(make: impl AsyncFn() -> Storage) {
    locks(&make().await).await;
    holds(&make().await).await;
    tiers(&make().await).await;
}

/// What every place promises.
pub async fn promises(make: impl AsyncFn() -> Storage) {
    create_only(&make().await).await;
    race(&make().await).await;
    ranges(&make().await).await;
    lists(&make().await).await;
    long_list(&make().await).await;
    directories(&make().await).await;
    deletes(&make().await).await;
    many_deletes(&make().await).await;
    nested_keys(&make().await).await;
    bad_keys(&make().await).await;
    large_payload(&make().await).await;
    dropped_creates(&make().await).await;
    concurrent_lives(&make().await).await;
}

/// The content that object number `n` of `length` bytes has.
pub fn pattern(n: u64, length: usize) -> Vec<u8> {
    // A multiplicative hash of the position: cheap, and a shifted or torn copy does not match.
    (0..length as u64).map(|at| ((at / 8 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_le_bytes()[0]).collect()
}

async fn create(storage: &Storage, key: &str, content: impl Into<Payload>) {
    storage.create(key, content.into()).await.unwrap_or_else(|error| panic!("create of {key}: {error:?}"));
}

fn kind<T: std::fmt::Debug>(what: &str, result: Result<T, StorageError>) -> StorageErrorKind {
    result.expect_err(what).kind
}

async fn keys(storage: &Storage, prefix: &str) -> Vec<String> {
    storage.list(prefix).map_ok(|meta| meta.key).try_collect().await.expect("a list succeeds")
}

async fn create_only(storage: &Storage) {
    let key = "repo/descriptor";
    assert_eq!(kind("nothing there", storage.get(key).await), StorageErrorKind::NotFound);
    assert_eq!(kind("nothing there", storage.get_range(key, 0..0).await), StorageErrorKind::NotFound);
    assert_eq!(kind("nothing there", storage.get_tail(key, 1).await), StorageErrorKind::NotFound);
    assert_eq!(kind("nothing there", storage.head(key).await), StorageErrorKind::NotFound);
    assert!(!storage.exists(key).await.expect("exists answers"));
    create(storage, key, pattern(1, 1000)).await;
    for second in [pattern(1, 1000), pattern(2, 10), Vec::new()] {
        let taken = kind("the name is taken", storage.create(key, second.into()).await);
        assert_eq!(taken, StorageErrorKind::AlreadyExists);
    }
    assert_eq!(storage.get(key).await.expect("get"), pattern(1, 1000), "a refused create changes nothing");
    let meta = storage.head(key).await.expect("head");
    assert_eq!((meta.key.as_str(), meta.size), (key, 1000));
    assert!(meta.modified.as_micros() > 0, "the time of creation is known");
    assert!(storage.exists(key).await.expect("exists answers"));
    // A directory of objects is no object.
    assert_eq!(kind("a directory", storage.get("repo").await), StorageErrorKind::NotFound);
    assert!(!storage.exists("repo").await.expect("exists answers"));
}

async fn race(storage: &Storage) {
    for round in 0..8_u64 {
        let key = format!("meta/u/snap/{round}");
        let writers = (0..16_u64).map(|writer| {
            let (storage, key) = (storage.clone(), key.clone());
            tokio::spawn(async move { (writer, storage.create(&key, pattern(writer, 70_000).into()).await) })
        });
        let mut winners = Vec::new();
        for outcome in join_all(writers).await {
            match outcome.expect("a writer does not panic") {
                (writer, Ok(())) => winners.push(writer),
                (_, Err(error)) => assert_eq!(error.kind, StorageErrorKind::AlreadyExists, "{error:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "exactly one of 16 creates wins, round {round}");
        assert_eq!(storage.get(&key).await.expect("get"), pattern(winners[0], 70_000), "the winner's content stands");
    }
}

async fn ranges(storage: &Storage) {
    let content = Bytes::from(pattern(3, 1000));
    create(storage, "data/p", content.clone()).await;
    create(storage, "data/empty", Payload::default()).await;
    for range in [0..1000_u64, 0..1, 999..1000, 10..500, 0..0, 1000..1000] {
        let at = |offset: u64| usize::try_from(offset).expect("a small offset");
        let expected = content.slice(at(range.start)..at(range.end));
        assert_eq!(storage.get_range("data/p", range.clone()).await.expect("in range"), expected, "{range:?}");
    }
    for range in [0..1001_u64, 1000..1001, 5000..5001, 1001..1001, 0..u64::MAX] {
        assert_eq!(kind("past the end", storage.get_range("data/p", range).await), StorageErrorKind::Corrupt);
    }
    let (start, end) = (5_u64, 4_u64);
    assert_eq!(kind("backwards", storage.get_range("data/p", start..end).await), StorageErrorKind::Invalid);
    for (length, from) in [(0, 1000), (1, 999), (1000, 0), (5000, 0), (u64::MAX, 0)] {
        let tail = storage.get_tail("data/p", length).await.expect("tail");
        assert_eq!(tail, (content.slice(from..), 1000), "tail of {length}");
    }
    assert_eq!(storage.get("data/empty").await.expect("get"), Bytes::new());
    assert_eq!(storage.get_range("data/empty", 0..0).await.expect("in range"), Bytes::new());
    assert_eq!(kind("past the end", storage.get_range("data/empty", 0..1).await), StorageErrorKind::Corrupt);
    assert_eq!(storage.get_tail("data/empty", 10).await.expect("tail"), (Bytes::new(), 0));
    assert_eq!(storage.head("data/empty").await.expect("head").size, 0);
}

async fn lists(storage: &Storage) {
    assert_eq!(keys(storage, "").await, Vec::<String>::new());
    // `-` and `.` sort before `/`, `0` after it: an order by directory would differ.
    let all = ["a-b", "a.b", "a/b", "a/c/d", "a/c/e/.tmp/f", "a0", "ab/c", "b", "b!/lost+found", "c d/~"];
    for key in all.iter().rev() {
        create(storage, key, key.as_bytes().to_vec()).await;
    }
    for prefix in ["", "a", "a/", "a/c", "a/c/", "a/c/d", "a-", "ab", "b", "c d", "x", "a/x", "a/b/", "a/c/e/.tmp/"] {
        let expected: Vec<_> = all.iter().filter(|key| key.starts_with(prefix)).map(|key| (*key).to_owned()).collect();
        assert_eq!(keys(storage, prefix).await, expected, "prefix `{prefix}`");
    }
    let metas: Vec<_> = storage.list("a/c").try_collect().await.expect("a list succeeds");
    for meta in metas {
        assert_eq!(meta, storage.head(&meta.key).await.expect("head"), "a list and a look agree");
    }
}

async fn long_list(storage: &Storage) {
    const COUNT: usize = 1300;
    let expected: Vec<_> = (0..COUNT).map(|n| format!("data/u/{}/{n:04}", n / 700)).collect();
    for chunk in expected.chunks(50) {
        join_all(chunk.iter().map(|key| create(storage, key, vec![1]))).await;
    }
    assert_eq!(keys(storage, "data/").await, expected, "more than one page of a list");
    assert_eq!(keys(storage, "data/u/1/").await, expected[700..]);
    let mut listing = storage.list("data/u/1/0700");
    assert!(listing.try_next().await.expect("a list succeeds").is_some());
    for _ in 0..3 {
        assert_eq!(listing.try_next().await.expect("a list succeeds"), None, "a list that has ended says so again");
    }
    // A list that nobody reads to its end holds nothing up.
    let mut listing = storage.list("data/");
    assert_eq!(listing.try_next().await.expect("a list succeeds").map(|meta| meta.key), Some(expected[0].clone()));
    drop(listing);
    storage.delete(&expected[0]).await.expect("delete");
    assert_eq!(keys(storage, "data/").await, expected[1..]);
}

async fn directories(storage: &Storage) {
    let names = async |prefix| storage.list_directories(prefix).await.expect("list_directories");
    assert_eq!(names("meta/").await, Vec::<String>::new());
    for key in ["meta/u2/snap/1", "meta/u1/open/1", "meta/u1/snap/1", "meta/u1-x/snap/1", "meta/object", "top"] {
        create(storage, key, vec![1]).await;
    }
    assert_eq!(names("").await, ["meta"]);
    assert_eq!(names("meta/").await, ["u1", "u1-x", "u2"]);
    assert_eq!(names("meta/u1/").await, ["open", "snap"]);
    assert_eq!(names("meta/u1/snap/").await, Vec::<String>::new());
    assert_eq!(names("meta/object/").await, Vec::<String>::new());
    assert_eq!(kind("no slash", storage.list_directories("meta").await), StorageErrorKind::Invalid);
    // A directory is there as long as there is something in it.
    storage.delete("meta/u2/snap/1").await.expect("delete");
    assert_eq!(names("meta/").await, ["u1", "u1-x"]);
    create(storage, "meta/u2/snap/2", vec![1]).await;
    assert_eq!(names("meta/").await, ["u1", "u1-x", "u2"]);
}

async fn deletes(storage: &Storage) {
    storage.delete("data/never").await.expect("deleting what never was");
    create(storage, "data/a", vec![1]).await;
    create(storage, "data/b", vec![2]).await;
    storage.delete("data").await.expect("a directory is no object");
    storage.delete("data/a/below").await.expect("nothing lies below an object");
    storage.delete("data/a").await.expect("delete");
    storage.delete("data/a").await.expect("deleting again");
    assert_eq!(kind("deleted", storage.get("data/a").await), StorageErrorKind::NotFound);
    assert_eq!(keys(storage, "").await, ["data/b"]);
    create(storage, "data/a", vec![3]).await;
    assert_eq!(storage.get("data/a").await.expect("get"), [3][..]);
}

/// A key below or above that of another object: a place with directories refuses it, one without takes it. Nobody may be
/// surprised by either, so nothing else changes.
async fn nested_keys(storage: &Storage) {
    create(storage, "a/b", vec![1]).await;
    for (key, where_it_is) in [("a/b/c", "below"), ("a", "above")] {
        match storage.create(key, vec![2].into()).await {
            Ok(()) => storage.delete(key).await.expect("delete"),
            Err(error) => assert_eq!(error.kind, StorageErrorKind::Invalid, "{where_it_is} an object: {error:?}"),
        }
        assert_eq!(storage.get("a/b").await.expect("get"), [1][..]);
    }
    assert_eq!(keys(storage, "").await, ["a/b"]);
    storage.delete("a/b").await.expect("delete");
    create(storage, "a", vec![2]).await;
    assert_eq!(keys(storage, "").await, ["a"]);
}

async fn many_deletes(storage: &Storage) {
    let all: Vec<String> = (0..40).map(|n| format!("data/{n:02}")).collect();
    for key in &all {
        create(storage, key, vec![1]).await;
    }
    let (gone, left) = all.split_at(35);
    let mut asked = gone.to_vec();
    asked.push("data/never".to_owned());
    let answers = storage.delete_many(&asked).await;
    assert_eq!(answers.len(), asked.len(), "one answer for each key");
    for (key, answer) in asked.iter().zip(answers) {
        answer.unwrap_or_else(|error| panic!("delete of {key}: {error:?}"));
    }
    assert_eq!(keys(storage, "").await, left);
    assert!(storage.delete_many(&[]).await.is_empty());
}

/// How long a lock of these tests lasts beyond the test: long enough for the slowest place.
const LOCKED: Duration = Duration::from_secs(24 * 3600);

fn until(after: Duration) -> Timestamp {
    // Whole seconds, since some places keep no more.
    let micros = SystemClock.now().as_micros() + i64::try_from(after.as_micros()).expect("a short time");
    Timestamp::from_micros(micros - micros.rem_euclid(1_000_000))
}

/// A lock set with the object binds from the start, can be made longer and not shorter, and refuses deletion without any
/// harm to what others delete. Only where the place has locks.
async fn locks(storage: &Storage) {
    if !storage.features().await.expect("features").locks {
        return;
    }
    let backend = storage.backend();
    let retention = |mode, after| Retention { mode, until: until(after) };
    let locked = retention(LockMode::Compliance, LOCKED);
    let placement = Placement { retention: Some(locked), ..Placement::default() };
    backend.create("data/locked", vec![1].into(), &placement).await.expect("create with a lock");
    create(storage, "data/free", vec![1]).await;
    let protection = storage.protection("data/locked").await.expect("protection");
    assert_eq!(protection, Protection { retention: Some(locked), held: false });
    assert_eq!(storage.protection("data/free").await.expect("protection"), Protection::default());
    assert_eq!(kind("nothing there", storage.protection("data/none").await), StorageErrorKind::NotFound);
    let both = ["data/locked".to_owned(), "data/free".to_owned()];
    assert_eq!(kind("locked", storage.delete("data/locked").await), StorageErrorKind::Locked);
    let mut answers = storage.delete_many(&both).await.into_iter();
    assert_eq!(kind("locked", answers.next().expect("an answer")), StorageErrorKind::Locked);
    answers.next().expect("an answer").expect("what is not locked goes");
    assert_eq!(storage.get("data/locked").await.expect("get"), [1][..]);
    let longer = retention(LockMode::Compliance, 2 * LOCKED);
    storage.retain("data/locked", longer).await.expect("a lock is made longer");
    assert_eq!(storage.protection("data/locked").await.expect("protection").retention, Some(longer));
    let shorter = storage.retain("data/locked", retention(LockMode::Compliance, LOCKED / 2)).await;
    assert_eq!(kind("a lock is not made shorter", shorter), StorageErrorKind::Locked);
    create(storage, "data/later", vec![1]).await;
    storage.retain("data/later", locked).await.expect("a lock set later");
    assert_eq!(kind("locked", storage.delete("data/later").await), StorageErrorKind::Locked);
    let taken = kind("a lock does not free the name", storage.create("data/locked", vec![2].into()).await);
    assert_eq!(taken, StorageErrorKind::AlreadyExists);
}

async fn holds(storage: &Storage) {
    if !storage.features().await.expect("features").holds {
        return;
    }
    create(storage, "data/held", vec![1]).await;
    storage.hold("data/held", true).await.expect("hold");
    assert!(storage.protection("data/held").await.expect("protection").held);
    assert_eq!(kind("held", storage.delete("data/held").await), StorageErrorKind::Locked);
    storage.hold("data/held", false).await.expect("lift the hold");
    assert!(!storage.protection("data/held").await.expect("protection").held);
    storage.delete("data/held").await.expect("delete");
    assert_eq!(keys(storage, "").await, Vec::<String>::new());
}

/// Every tier that the place has is kept from the start and can be moved to; what is archived is read after a thaw.
async fn tiers(storage: &Storage) {
    let features = storage.features().await.expect("features");
    let backend = storage.backend();
    let tier = async |key: &str| storage.head(key).await.expect("head").tier;
    for wanted in &features.tiers {
        let key = format!("data/{wanted}");
        let placement = Placement { tier: *wanted, ..Placement::default() };
        backend.create(&key, vec![7; 300].into(), &placement).await.expect("create in a tier");
        assert_eq!(tier(&key).await, *wanted);
        let listed: Vec<_> = storage.list(&key).try_collect().await.expect("a list succeeds");
        assert_eq!(listed, [storage.head(&key).await.expect("head")], "a list and a look agree");
        let taken = backend.create(&key, vec![8].into(), &placement).await;
        assert_eq!(kind("the name is taken", taken), StorageErrorKind::AlreadyExists);
    }
    for wanted in &features.tiers {
        let key = format!("data/to-{wanted}");
        create(storage, &key, vec![7; 300]).await;
        storage.set_tier(&key, *wanted).await.expect("move");
        assert_eq!(tier(&key).await, *wanted);
    }
    for key in features.tiers.iter().flat_map(|tier| [format!("data/{tier}"), format!("data/to-{tier}")]) {
        if storage.head(&key).await.expect("head").availability == Availability::Archived {
            assert_eq!(kind("archived", storage.get(&key).await), StorageErrorKind::Archived);
            assert_eq!(kind("archived", storage.get_range(&key, 0..10).await), StorageErrorKind::Archived);
            storage.thaw(&key, Thaw { days: 1, speed: ThawSpeed::Standard }).await.expect("thaw");
            storage.thaw(&key, Thaw { days: 1, speed: ThawSpeed::Standard }).await.expect("thaw again");
        }
        // A real provider takes hours; the servers of tests thaw at once.
        if storage.head(&key).await.expect("head").availability == Availability::Ready {
            assert_eq!(storage.get(&key).await.expect("get"), vec![7; 300]);
        }
    }
}

async fn bad_keys(storage: &Storage) {
    let (long, long_segment) = ("a/".repeat(256) + "b", "a".repeat(256));
    let bad = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        "a/./b",
        "a\\b",
        "a\nb",
        "a\0b",
        "ä",
        "日本",
        "a\u{7f}",
        ".tmp/x",
        "lost+found/x",
        &long,
        &long_segment,
    ];
    for key in bad {
        let invalid = |what, kind: StorageErrorKind| assert_eq!(kind, StorageErrorKind::Invalid, "{what} `{key}`");
        invalid("create", kind("create", storage.create(key, vec![1].into()).await));
        invalid("get", kind("get", storage.get(key).await));
        invalid("get_range", kind("get_range", storage.get_range(key, 0..1).await));
        invalid("get_tail", kind("get_tail", storage.get_tail(key, 1).await));
        invalid("head", kind("head", storage.head(key).await));
        invalid("delete", kind("delete", storage.delete(key).await));
    }
    for prefix in ["/", "a//", "../", "ä", ".tmp/"] {
        let listed = storage.list(prefix).try_collect::<Vec<_>>().await;
        assert_eq!(kind("a bad prefix", listed), StorageErrorKind::Invalid, "{prefix}");
    }
    let longest = "k".repeat(255) + "/" + &"k".repeat(255);
    create(storage, &longest, vec![1]).await;
    assert_eq!(keys(storage, "").await, [longest]);
}

async fn large_payload(storage: &Storage) {
    const PART: usize = (1 << 20) - 7;
    let parts: Vec<Bytes> = (0..64).map(|n| Bytes::from(pattern(n, PART))).collect();
    let payload = Payload::from(parts.clone());
    create(storage, "data/large", payload.clone()).await;
    assert_eq!(storage.head("data/large").await.expect("head").size, payload.len());
    let content = storage.get("data/large").await.expect("get");
    assert!(content == payload.to_bytes(), "64 MiB in 64 parts come back as they were");
    let (tail, size) = storage.get_tail("data/large", PART as u64).await.expect("tail");
    assert!(tail == parts[63] && size == payload.len());
    let second = storage.get_range("data/large", PART as u64..2 * PART as u64).await.expect("in range");
    assert!(second == parts[1]);
}

async fn dropped_creates(storage: &Storage) {
    let content = pattern(9, 4 << 20);
    let mut expected = BTreeSet::new();
    for polls in 0..12 {
        let key = format!("data/{polls:02}");
        let mut attempt = Box::pin(storage.create(&key, content.clone().into()));
        for _ in 0..polls {
            // A poll begins the work; the future is dropped with the work in an arbitrary state.
            if poll_fn(|context| Poll::Ready(attempt.poll_unpin(context))).await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(attempt);
        // Whatever became of it, the name then holds the whole object: from that create or from this one.
        match storage.create(&key, content.clone().into()).await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind, StorageErrorKind::AlreadyExists, "{error:?}"),
        }
        assert!(storage.get(&key).await.expect("get") == content, "whole or not at all, after {polls} polls");
        expected.insert(key);
    }
    assert_eq!(keys(storage, "").await, expected.into_iter().collect::<Vec<_>>());
}

/// Creates and deletes in one directory, which appears and disappears on the way, beside readers and lists.
async fn concurrent_lives(storage: &Storage) {
    let lives = (0..8_u64).map(|writer| {
        let storage = storage.clone();
        tokio::spawn(async move {
            for round in 0..25_u64 {
                let key = format!("data/u/{writer}-{round}");
                let content = pattern(writer * 1000 + round, 3000);
                create(&storage, &key, content.clone()).await;
                assert_eq!(storage.get(&key).await.expect("get"), content);
                assert!(keys(&storage, "data/").await.contains(&key), "one's own object is in the next list");
                storage.delete(&key).await.expect("delete");
            }
        })
    });
    for outcome in join_all(lives).await {
        outcome.expect("a life without trouble");
    }
    assert_eq!(keys(storage, "").await, Vec::<String>::new());
    assert_eq!(storage.list_directories("").await.expect("list_directories"), Vec::<String>::new());
}
