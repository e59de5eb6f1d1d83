//! Random operations on the strict service and on a naive model of it, over keys that are hard to put into URLs and to sort.

use std::collections::{BTreeMap, BTreeSet};

use breakwater_storage::{Storage, StorageErrorKind as Kind, Tier};
use breakwater_testkit::gcs::BucketSettings;
use futures::TryStreamExt as _;
use proptest::prelude::*;

use crate::service::{BUCKET, Service};

const KEYS: [&str; 14] = [
    "a",
    "a b",
    "a+b",
    "a%2Fb",
    "a%",
    "a?b=c&d#e",
    "a/b",
    "a/b c/d;e=f,g",
    "a-b/c",
    "a:b@c",
    "[a]{b}|^`\"<>",
    "~/'()*!$",
    "o/o/o",
    "a/b~",
];

#[derive(Clone, Debug)]
enum Step {
    Create(usize, Vec<u8>),
    Delete(usize),
    Get(usize),
    Range(usize, u64, u64),
    Tail(usize, u64),
    Move(usize, Tier),
    List(usize, usize),
    Directories,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    prop_oneof![
        4 => (key(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(key, content)| Step::Create(key, content)),
        2 => key().prop_map(Step::Delete),
        1 => key().prop_map(Step::Get),
        1 => (key(), 0..45_u64, 0..45_u64).prop_map(|(key, start, end)| Step::Range(key, start, end)),
        1 => (key(), 0..45_u64).prop_map(|(key, length)| Step::Tail(key, length)),
        1 => (key(), prop::sample::select(Tier::ALL.to_vec())).prop_map(|(key, tier)| Step::Move(key, tier)),
        1 => (key(), 0..6_usize).prop_map(|(key, length)| Step::List(key, length)),
        1 => Just(Step::Directories),
    ]
}

type Model = BTreeMap<&'static str, (Vec<u8>, Tier)>;

async fn run(place: &Storage, steps: Vec<Step>) -> Model {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Create(key, content) => {
                let created = place.create(KEYS[key], content.clone().into()).await.map_err(|error| error.kind);
                let expected = if model.contains_key(KEYS[key]) { Err(Kind::AlreadyExists) } else { Ok(()) };
                assert_eq!(created, expected);
                model.entry(KEYS[key]).or_insert((content, Tier::Hot));
            }
            Step::Delete(key) => {
                place.delete(KEYS[key]).await.unwrap();
                model.remove(KEYS[key]);
            }
            Step::Get(key) => {
                let got = place.get(KEYS[key]).await.map(|bytes| bytes.to_vec()).map_err(|error| error.kind);
                assert_eq!(got, model.get(KEYS[key]).map(|(content, _)| content.clone()).ok_or(Kind::NotFound));
            }
            Step::Range(key, start, end) => {
                let got = place.get_range(KEYS[key], start..end).await;
                let got = got.map(|bytes| bytes.to_vec()).map_err(|error| error.kind);
                let at = |n: u64| usize::try_from(n).unwrap();
                let expected = match model.get(KEYS[key]) {
                    _ if start > end => Err(Kind::Invalid),
                    None => Err(Kind::NotFound),
                    Some((content, _)) => content.get(at(start)..at(end)).map(<[u8]>::to_vec).ok_or(Kind::Corrupt),
                };
                assert_eq!(got, expected, "{start}..{end}");
            }
            Step::Tail(key, length) => {
                let got = place.get_tail(KEYS[key], length).await;
                let got = got.map(|(bytes, size)| (bytes.to_vec(), size)).map_err(|error| error.kind);
                let expected = model.get(KEYS[key]).ok_or(Kind::NotFound).map(|(content, _)| {
                    let from = content.len().saturating_sub(usize::try_from(length).unwrap());
                    (content[from..].to_vec(), content.len() as u64)
                });
                assert_eq!(got, expected);
            }
            Step::Move(key, tier) => {
                let moved = place.set_tier(KEYS[key], tier).await.map_err(|error| error.kind);
                let expected = model.get_mut(KEYS[key]).ok_or(Kind::NotFound).map(|object| object.1 = tier);
                assert_eq!(moved, expected);
            }
            Step::List(key, length) => {
                let prefix = &KEYS[key][..length.min(KEYS[key].len())];
                let listed: Vec<_> = place.list(prefix).try_collect().await.unwrap();
                let listed: Vec<_> = listed.into_iter().map(|meta| (meta.key, meta.size, meta.tier)).collect();
                let below = model.iter().filter(|(key, _)| key.starts_with(prefix));
                let expected: Vec<_> =
                    below.map(|(key, (content, tier))| ((*key).to_owned(), content.len() as u64, *tier)).collect();
                assert_eq!(listed, expected, "`{prefix}`");
            }
            Step::Directories => {
                let names: BTreeSet<&str> = model.keys().filter_map(|key| Some(key.split_once('/')?.0)).collect();
                assert_eq!(place.list_directories("").await.unwrap(), names.into_iter().collect::<Vec<_>>());
            }
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bucket_is_a_map(
        steps in prop::collection::vec(step(), 1..60),
        versioning in any::<bool>(),
        page in 0..4_usize,
        below in prop::sample::select(vec!["", "p", "a b/%2F+&"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = BucketSettings { versioning, page, rewrite_step: 16, ..BucketSettings::default() };
            let service = Service::start(settings).await;
            service.gcs.set_open(true);
            let below = below.replace('&', "");
            let place = service.open(BUCKET, &below, "anonymous").await;
            let model = run(&place, steps).await;
            assert_eq!(service.gcs.versions(BUCKET), model.len(), "no version stays behind");
        });
    }
}
