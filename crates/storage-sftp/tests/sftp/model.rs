//! Random operations do on a server what they do on a map.

use std::collections::BTreeMap;

use breakwater_storage::{Payload, Storage, StorageErrorKind};
use futures::TryStreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::place::Place;

/// Keys that sort differently than directories do, and some that cannot be there together.
const KEYS: [&str; 8] = ["a", "a/b", "a/c/d", "a-b", "a0", "b/x", "b/y", "b.c/x"];
const PREFIXES: [&str; 7] = ["", "a", "a/", "a/c", "b", "b/", "c/"];

#[derive(Clone, Debug)]
enum Step {
    Create(usize, usize),
    Read(usize),
    Range(usize, u64, u64),
    Tail(usize, u64),
    List(usize),
    Directories(usize),
    Delete(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    prop_oneof![
        4 => (key.clone(), 0_usize..70_000).prop_map(|(key, size)| Step::Create(key, size)),
        2 => key.clone().prop_map(Step::Read),
        1 => (key.clone(), 0_u64..80_000, 0_u64..80_000).prop_map(|(key, from, to)| Step::Range(key, from.min(to), to)),
        1 => (key.clone(), 0_u64..80_000).prop_map(|(key, length)| Step::Tail(key, length)),
        1 => (0..PREFIXES.len()).prop_map(Step::List),
        1 => (0..PREFIXES.len()).prop_map(Step::Directories),
        2 => key.prop_map(Step::Delete),
    ]
}

type Model = BTreeMap<&'static str, Vec<u8>>;

fn is_nested(model: &Model, key: &str) -> bool {
    model.keys().any(|other| other.starts_with(&format!("{key}/")) || key.starts_with(&format!("{other}/")))
}

async fn run(storage: &Storage, model: &mut Model, number: usize, step: Step) {
    let kind = |error: breakwater_storage::StorageError| error.kind();
    match step {
        Step::Create(key, size) => {
            let (key, content) = (KEYS[key], vec![u8::try_from(number).unwrap(); size]);
            let expected = match model.get(key) {
                Some(_) => Err(StorageErrorKind::AlreadyExists),
                None if is_nested(model, key) => Err(StorageErrorKind::Invalid),
                None => Ok(()),
            };
            let created = storage.create(key, Payload::from(content.clone())).await.map_err(kind);
            assert_eq!(created, expected, "create {key}");
            if expected.is_ok() {
                model.insert(key, content);
            }
        }
        Step::Read(key) => {
            let expected = model.get(KEYS[key]).cloned().ok_or(StorageErrorKind::NotFound);
            assert_eq!(storage.get(KEYS[key]).await.map(Vec::from).map_err(kind), expected);
            let size = storage.head(KEYS[key]).await.map(|meta| meta.size).map_err(kind);
            assert_eq!(size, expected.map(|content| content.len() as u64));
        }
        Step::Range(key, from, to) => {
            let expected = match model.get(KEYS[key]) {
                None => Err(StorageErrorKind::NotFound),
                Some(content) => {
                    let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                    content.get(range).map(<[u8]>::to_vec).ok_or(StorageErrorKind::Corrupt)
                }
            };
            assert_eq!(storage.get_range(KEYS[key], from..to).await.map(Vec::from).map_err(kind), expected);
        }
        Step::Tail(key, length) => {
            let expected = model.get(KEYS[key]).ok_or(StorageErrorKind::NotFound).map(|content| {
                let from = content.len().saturating_sub(usize::try_from(length).unwrap());
                (content[from..].to_vec(), content.len() as u64)
            });
            let tail = storage.get_tail(KEYS[key], length).await.map_err(kind);
            assert_eq!(tail.map(|(content, size)| (Vec::from(content), size)), expected);
        }
        Step::List(prefix) => {
            let listed: Vec<_> = storage.list(PREFIXES[prefix]).try_collect().await.unwrap();
            let listed: Vec<_> = listed.into_iter().map(|meta| (meta.key, meta.size)).collect();
            let expected = model.iter().filter(|(key, _)| key.starts_with(PREFIXES[prefix]));
            let expected: Vec<_> = expected.map(|(key, content)| ((*key).to_owned(), content.len() as u64)).collect();
            assert_eq!(listed, expected, "prefix `{}`", PREFIXES[prefix]);
        }
        Step::Directories(prefix) => {
            let prefix = PREFIXES[prefix];
            if prefix.is_empty() || prefix.ends_with('/') {
                let below = model.keys().filter_map(|key| key.strip_prefix(prefix)?.split_once('/'));
                let mut expected: Vec<_> = below.map(|(name, _)| name.to_owned()).collect();
                expected.sort_unstable();
                expected.dedup();
                assert_eq!(storage.list_directories(prefix).await.unwrap(), expected);
            }
        }
        Step::Delete(key) => {
            storage.delete(KEYS[key]).await.unwrap();
            model.remove(KEYS[key]);
        }
    }
}

#[test]
fn a_server_is_a_map() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = runtime.block_on(Place::start());
    let steps = prop::collection::vec(step(), 1..40);
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    let outcome = runner.run(&steps, |steps| {
        runtime.block_on(async {
            let (storage, mut model) = (place.storage(), Model::new());
            for (number, step) in steps.into_iter().enumerate() {
                run(&storage, &mut model, number, step).await;
            }
        });
        Ok(())
    });
    outcome.unwrap();
    assert!(place.is_clean());
}
