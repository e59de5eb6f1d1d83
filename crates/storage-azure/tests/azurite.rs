//! What can be tried against Azurite: the whole contract, odd keys, races of staged blocks, rights of signatures, and what is said
//! when something is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test may panic anywhere")]

#[path = "shared/lab.rs"]
mod lab;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use breakwater_core::Chain;
use breakwater_storage::conformance::{self, pattern};
use breakwater_storage::{
    Backend, Features, Payload, Placement, Retention, Storage, StorageError, StorageErrorKind, Thaw, ThawSpeed, Tier,
};
use breakwater_storage_azure::Limits;
use breakwater_testkit::azurite::{ACCOUNT, KEY, container_sas};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const HOUR: i64 = 3_600_000_000;

fn kind<T: std::fmt::Debug>(result: Result<T, StorageError>) -> StorageErrorKind {
    result.unwrap_err().kind()
}

fn text<T: std::fmt::Debug>(result: Result<T, StorageError>) -> String {
    Chain(&result.unwrap_err()).to_string()
}

async fn keys(place: &dyn Backend, prefix: &str) -> Result<Vec<String>, StorageError> {
    place.list(prefix).map_ok(|meta| meta.key).try_collect().await
}

#[test]
fn the_contract_is_kept() {
    lab::run(conformance::run(async || lab::fresh("").await));
}

#[test]
fn the_contract_is_kept_below_a_prefix() {
    lab::run(conformance::run(async || lab::fresh("/regions/one").await));
}

/// One payload of several blocks after the other, against what one block does.
#[test]
fn the_contract_is_kept_by_blocks() {
    let limits = Limits { single: 1000, block: 30_000 };
    lab::run(conformance::run(async || {
        let place = lab::owned(&lab::container().await).await;
        Storage::new(Arc::new(place.with_limits(limits)))
    }));
}

#[test]
fn a_place_below_a_prefix_sees_nothing_beside_it() {
    lab::run(async {
        let container = lab::container().await;
        let whole = lab::owned(&container).await;
        let inner = lab::owned(&format!("{container}/a")).await;
        for key in ["a/k", "a-b/k", "ab", "b/k"] {
            whole.create(key, vec![1].into(), &Placement::default()).await.unwrap();
        }
        assert_eq!(keys(&inner, "").await.unwrap(), ["k"]);
        assert_eq!(inner.list_directories("").await.unwrap(), Vec::<String>::new());
        assert_eq!(whole.list_directories("").await.unwrap(), ["a", "a-b", "b"]);
        inner.delete("k").await.unwrap();
        assert_eq!(keys(&whole, "").await.unwrap(), ["a-b/k", "ab", "b/k"]);
        assert_eq!(inner.location(), format!("azure://{ACCOUNT}/{container}/a"));
    });
}

#[derive(Clone, Debug)]
enum Step {
    Create(String, Vec<u8>),
    Delete(String),
    Read(String, u64),
    List(String),
}

fn step() -> impl Strategy<Value = Step> {
    // What a URL, a query, XML or a signature could get wrong: separators, escapes, quotes, brackets, spaces.
    let part = r##"[ab%?#&+=<>"' ;:@!$(),~^`{}|\[\]*_-]{1,4}"##;
    let key = || prop::collection::vec(part, 1..3).prop_map(|parts| parts.join("/"));
    prop_oneof![
        3 => (key(), prop::collection::vec(any::<u8>(), 0..50)).prop_map(|(key, content)| Step::Create(key, content)),
        1 => key().prop_map(Step::Delete),
        2 => (key(), 0..60_u64).prop_map(|(key, tail)| Step::Read(key, tail)),
        1 => "[ab%+& ]{0,2}".prop_map(Step::List),
    ]
}

/// Steps with odd keys do what they do to a map.
#[test]
fn odd_keys_are_keys() {
    let steps = prop::collection::vec(step(), 1..40);
    TestRunner::new(Config { cases: 12, ..Config::default() })
        .run(&steps, |steps| {
            lab::run(async {
                let place = lab::fresh("").await;
                let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
                for step in steps {
                    match step {
                        Step::Create(key, content) => {
                            let created = place.create(&key, content.clone().into()).await;
                            match model.entry(key) {
                                Entry::Occupied(taken) => {
                                    assert_eq!(kind(created), StorageErrorKind::AlreadyExists, "{}", taken.key());
                                }
                                Entry::Vacant(free) => {
                                    created.unwrap_or_else(|error| panic!("{}: {}", free.key(), Chain(&error)));
                                    free.insert(content);
                                }
                            }
                        }
                        Step::Delete(key) => {
                            place.delete(&key).await.unwrap_or_else(|error| panic!("{key}: {}", Chain(&error)));
                            model.remove(&key);
                        }
                        Step::Read(key, tail) => match model.get(&key) {
                            Some(content) => {
                                assert_eq!(place.get(&key).await.unwrap(), content[..], "{key}");
                                let from = content.len().saturating_sub(usize::try_from(tail).unwrap());
                                let expected = (Bytes::copy_from_slice(&content[from..]), content.len() as u64);
                                assert_eq!(place.get_tail(&key, tail).await.unwrap(), expected, "{key}");
                            }
                            None => assert_eq!(kind(place.get(&key).await), StorageErrorKind::NotFound, "{key}"),
                        },
                        Step::List(prefix) => {
                            let expected: Vec<_> =
                                model.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
                            let listed: Vec<_> =
                                place.list(&prefix).map_ok(|meta| meta.key).try_collect().await.unwrap();
                            assert_eq!(listed, expected, "`{prefix}`");
                        }
                    }
                }
            });
            Ok(())
        })
        .unwrap();
}

/// Of writers whose blocks are staged under one name at once one wins whole, and the others are told so.
#[test]
fn one_of_many_writers_of_blocks_wins() {
    lab::run(async {
        let place = lab::owned(&lab::container().await).await.with_limits(Limits { single: 0, block: 1000 });
        for round in 0..4 {
            let key = format!("data/{round}");
            let plain = Placement::default();
            let writers = (0..8_u64).map(|writer| place.create(&key, pattern(writer, 9500).into(), &plain));
            let outcomes = join_all(writers).await;
            let winners: Vec<u64> = (0..).zip(&outcomes).filter(|(_, one)| one.is_ok()).map(|(n, _)| n).collect();
            assert_eq!(winners.len(), 1, "{outcomes:?}");
            for lost in outcomes.into_iter().filter(Result::is_err) {
                assert_eq!(kind(lost), StorageErrorKind::AlreadyExists);
            }
            assert_eq!(place.get(&key).await.unwrap(), pattern(winners[0], 9500));
        }
        let cold = Placement { tier: Tier::Cold, ..Placement::default() };
        place.create("data/cold", pattern(1, 5000).into(), &cold).await.unwrap();
        assert_eq!(place.head("data/cold").await.unwrap().tier, Tier::Cold);
    });
}

/// A checksum that does not fit what arrived is refused by the server, so nothing damaged is ever stored.
#[test]
fn features_are_those_of_the_account() {
    lab::run(async {
        let place = lab::fresh("").await;
        let expected =
            Features { locks: false, holds: false, versions: false, tiers: Tier::ALL.to_vec(), checksums: true };
        assert_eq!(place.features().await.unwrap(), expected);
    });
}

#[test]
fn what_is_archived_stays_thawed() {
    lab::run(async {
        let place = lab::owned(&lab::container().await).await;
        let archive = Placement { tier: Tier::Archive, ..Placement::default() };
        place.create("k", vec![1; 10].into(), &archive).await.unwrap();
        for read in
            [kind(place.get("k").await), kind(place.get_tail("k", 3).await), kind(place.get_range("k", 0..2).await)]
        {
            assert_eq!(read, StorageErrorKind::Archived);
        }
        for speed in [ThawSpeed::Fast, ThawSpeed::Bulk] {
            place.thaw("k", Thaw { days: 1, speed }).await.unwrap();
        }
        // Azurite thaws at once; what is thawed is hot from then on.
        assert_eq!(place.head("k").await.unwrap().tier, Tier::Hot);
        assert_eq!(place.get("k").await.unwrap(), [1; 10][..]);
    });
}

/// A container without version-level immutability keeps no locks: nothing is created, and what to change is said.
#[test]
fn locks_are_refused_where_there_are_none() {
    lab::run(async {
        let place = lab::owned(&lab::container().await).await;
        place.create("k", vec![1].into(), &Placement::default()).await.unwrap();
        let retention =
            Retention { mode: breakwater_storage::LockMode::Compliance, until: lab::now().plus_micros(HOUR) };
        for refused in [place.retain("k", retention).await, place.hold("k", true).await] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Unsupported, "{}", Chain(&error));
            assert!(Chain(&error).to_string().contains("version-level immutability"), "{}", Chain(&error));
        }
    });
}

/// The signature that an agent needs which only writes: it can neither read, list, delete nor replace.
#[test]
fn a_signature_for_creating_creates_and_no_more() {
    lab::run(async {
        let container = lab::container().await;
        let sas = container_sas(&container, "c", lab::now().plus_micros(HOUR));
        let writer = lab::place(&container, &[("AZURE_STORAGE_SAS_TOKEN", &sas)]).await;
        let plain = Placement::default();
        writer.create("data/a", vec![1].into(), &plain).await.unwrap();
        // Azurite misses a right to replace; the service says that the name is taken (tests/reference.rs).
        assert_eq!(kind(writer.create("data/a", vec![2].into(), &plain).await), StorageErrorKind::Denied);
        // Blocks want a right to write, which would also replace.
        let blocks = writer.clone().with_limits(Limits { single: 2, block: 2 });
        assert_eq!(kind(blocks.create("data/b", vec![2; 5].into(), &plain).await), StorageErrorKind::Denied);
        writer.create("data/b", vec![2; 5].into(), &plain).await.unwrap();
        let denied = [
            kind(writer.get("data/a").await),
            kind(writer.head("data/a").await),
            kind(writer.delete("data/a").await),
            kind(keys(&writer, "").await),
            kind(writer.list_directories("").await),
            kind(writer.set_tier("data/a", Tier::Archive).await),
        ];
        assert_eq!(denied, [StorageErrorKind::Denied; 6]);
        let owner = lab::owned(&container).await;
        assert_eq!(owner.get("data/a").await.unwrap(), [1][..]);
        // One that reads as well, and cannot delete.
        let sas = container_sas(&container, "rcl", lab::now().plus_micros(HOUR));
        let agent = lab::place(&container, &[("AZURE_STORAGE_SAS_TOKEN", &format!("?{sas}"))]).await;
        assert_eq!(keys(&agent, "").await.unwrap(), ["data/a", "data/b"]);
        let refused = agent.delete("data/a").await;
        assert_eq!(kind(refused), StorageErrorKind::Denied);
    });
}

#[test]
fn a_signature_in_a_file_is_read_when_it_was_renewed() {
    lab::run(async {
        let container = lab::container().await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sas");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write(&container_sas(&container, "c", lab::now().plus_micros(-HOUR)));
        let url = format!("{}&sas-file={}", lab::url(&container), path.display());
        let place = lab::provider(&[]).place(&url.parse().unwrap()).await.unwrap();
        let create = async || place.create("k", vec![1].into(), &Placement::default()).await;
        let error = create().await.unwrap_err();
        let said = Chain(&error).to_string();
        assert_eq!(error.kind(), StorageErrorKind::Denied, "{said}");
        assert!(said.contains(path.to_str().unwrap()) && !said.contains("sig="), "{said}");
        write(&container_sas(&container, "c", lab::now().plus_micros(HOUR)));
        create().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let said = text(place.create("l", vec![1].into(), &Placement::default()).await);
        assert!(said.contains("cannot read") && said.contains("not permitted"), "{said}");
    });
}

/// A container that is gone is a place that is gone: nothing in it is said to be missing, and it is not said to be empty.
#[test]
fn a_container_that_is_gone_is_not_empty() {
    lab::run(async {
        let container = lab::container().await;
        let place = lab::owned(&container).await;
        place.create("k", vec![1].into(), &Placement::default()).await.unwrap();
        lab::azurite().delete_container(&container, lab::now()).await.unwrap();
        let kinds = [
            kind(place.create("l", vec![1].into(), &Placement::default()).await),
            kind(place.get("k").await),
            kind(place.get_range("k", 0..1).await),
            kind(place.get_tail("k", 1).await),
            kind(place.head("k").await),
            kind(keys(&place, "").await),
            kind(place.list_directories("").await),
            kind(place.delete("k").await),
            kind(place.features().await),
        ];
        assert_eq!(kinds, [StorageErrorKind::Unreachable; 9]);
        let said = text(place.get("k").await);
        assert!(said.contains(&format!("there must be a container `{container}`")), "{said}");
    });
}

#[test]
fn what_is_wrong_is_said() {
    lab::run(async {
        let container = lab::container().await;
        // A key of another account.
        let other = lab::place(&container, &[("AZURE_STORAGE_KEY", "b3RoZXI=")]).await;
        let error = other.get("k").await.unwrap_err();
        let said = Chain(&error).to_string();
        assert_eq!(error.kind(), StorageErrorKind::Denied, "{said}");
        assert!(said.contains("the key of AZURE_STORAGE_KEY"), "{said}");
        // Nobody listens.
        let port = breakwater_testkit::port::free_port();
        let url = format!("azure://{ACCOUNT}/{container}?endpoint=http://127.0.0.1:{port}/{ACCOUNT}");
        let away = lab::provider(&[("AZURE_STORAGE_KEY", KEY)]).place(&url.parse().unwrap()).await.unwrap();
        let said = text(away.get("k").await);
        assert!(said.contains("cannot be reached") && said.contains("refused"), "{said}");
        // An account that there is not: its name has no address. The top-level name is reserved for that.
        let url = format!("azure://{ACCOUNT}/{container}?endpoint=https://{ACCOUNT}.blob.invalid");
        let wrong = lab::provider(&[("AZURE_STORAGE_KEY", KEY)]).place(&url.parse().unwrap()).await.unwrap();
        let said = text(wrong.get("k").await);
        assert!(said.contains("cannot be reached") && said.contains("the name of the account"), "{said}");
        // A version of the service that this one does not know.
        let url = format!("{}&api-version=2077-01-01", lab::url(&container));
        let future = lab::provider(&[("AZURE_STORAGE_KEY", KEY)]).place(&url.parse().unwrap()).await.unwrap();
        let said = text(future.create("k", vec![1].into(), &Placement::default()).await);
        assert!(said.contains("`api-version`"), "{said}");
    });
}

#[test]
fn a_payload_of_parts_is_checked_by_the_server() {
    lab::run(async {
        let place = lab::fresh("").await;
        let parts: Vec<Bytes> =
            (0..50).map(|n| Bytes::from(pattern(n, 1 + 977 * usize::try_from(n).unwrap()))).collect();
        let payload = Payload::from(parts);
        place.create("k", payload.clone()).await.unwrap();
        assert_eq!(place.get("k").await.unwrap(), payload.to_bytes());
    });
}
