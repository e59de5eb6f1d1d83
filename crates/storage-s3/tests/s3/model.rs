//! Random operations on odd keys answer as a map does.

use std::collections::BTreeMap;

use breakwater_storage::key::check_key;
use breakwater_storage::{Storage, StorageErrorKind};
use breakwater_testkit::moto::Moto;
use futures::TryStreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::lab::{Kind, Lab};

#[derive(Clone, Debug)]
enum Step {
    Create(String, Vec<u8>),
    Delete(String),
    Read(String, u64, u64),
    List(String),
    Directories(String),
}

/// Few distinct segments, so that steps meet, of characters that URLs, XML and shells treat in their own ways.
fn key() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec![
        "a", "a+b", "a b", "a%20b", "&lt;", "<x>", "=", "~'\"", "#?", "$,;:@", "(*)!", "a.", "-",
    ]);
    prop::collection::vec(segment, 1..3).prop_map(|segments| segments.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (key(), prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(key, content)| Step::Create(key, content)),
        1 => key().prop_map(Step::Delete),
        3 => (key(), 0..35_u64, 0..35_u64).prop_map(|(key, start, length)| Step::Read(key, start, length)),
        1 => key().prop_map(Step::List),
        1 => key().prop_map(|key| Step::Directories(format!("{key}/"))),
    ]
}

async fn take(store: &Storage, model: &mut BTreeMap<String, Vec<u8>>, step: &Step) {
    match step {
        Step::Create(key, content) => match store.create(key, content.clone().into()).await {
            Ok(()) => assert!(model.insert(key.clone(), content.clone()).is_none(), "`{key}` was taken"),
            Err(error) => {
                assert_eq!(error.kind, StorageErrorKind::AlreadyExists, "{error:?}");
                assert!(model.contains_key(key), "`{key}` was free");
            }
        },
        Step::Delete(key) => {
            store.delete(key).await.unwrap();
            model.remove(key);
        }
        Step::Read(key, start, length) => read(store, model.get(key), key, *start, *length).await,
        Step::List(prefix) => {
            let listed: Vec<_> = store.list(prefix).map_ok(|meta| (meta.key, meta.size)).try_collect().await.unwrap();
            let expected = model.iter().filter(|(key, _)| key.starts_with(prefix));
            assert_eq!(listed, expected.map(|(key, content)| (key.clone(), content.len() as u64)).collect::<Vec<_>>());
        }
        Step::Directories(prefix) => {
            let below = model.keys().filter_map(|key| Some(key.strip_prefix(prefix)?.split_once('/')?.0.to_owned()));
            let mut expected: Vec<String> = below.collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(store.list_directories(prefix).await.unwrap(), expected);
        }
    }
}

async fn read(store: &Storage, content: Option<&Vec<u8>>, key: &str, start: u64, length: u64) {
    let range = start..start + length;
    let Some(content) = content else {
        assert_eq!(store.get(key).await.unwrap_err().kind, StorageErrorKind::NotFound);
        assert_eq!(store.get_range(key, range).await.unwrap_err().kind, StorageErrorKind::NotFound);
        return;
    };
    assert_eq!(store.get(key).await.unwrap(), *content);
    let at = |offset: u64| usize::try_from(offset).unwrap();
    match content.get(at(range.start)..at(range.end)) {
        Some(part) => assert_eq!(store.get_range(key, range).await.unwrap(), part),
        None => assert_eq!(store.get_range(key, range).await.unwrap_err().kind, StorageErrorKind::Corrupt),
    }
    let tail = &content[content.len().saturating_sub(at(length))..];
    let (got, size) = store.get_tail(key, length).await.unwrap();
    assert_eq!((&got[..], size), (tail, content.len() as u64));
}

#[test]
fn a_bucket_is_a_map() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(Moto::start()).unwrap();
    let lab = Lab::new(&server.endpoint());
    let bucket = runtime.block_on(lab.bucket(Kind::Plain));
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec(step(), 1..25);
    let outcome = runner.run(&steps, |steps| {
        runtime.block_on(async {
            let (store, mut model) = (lab.store(&bucket).await, BTreeMap::new());
            for step in &steps {
                take(&store, &mut model, step).await;
            }
        });
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn the_odd_keys_are_keys() {
    let mut runner = TestRunner::default();
    runner
        .run(&key(), |key| {
            assert_eq!(check_key(&key), Ok(()), "{key}");
            Ok(())
        })
        .unwrap();
}
