//! What each operation asks of the service, and what it makes of what goes wrong.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Chain, Clock as _, Timestamp};
use breakwater_runtime::{RetryPolicy, SystemClock, SystemEntropy};
use breakwater_storage::conformance::pattern;
use breakwater_storage::{
    Features, LockMode, Payload, Placement, Protection, Retention, Retry, Storage, StorageError,
    StorageErrorKind as Kind, Thaw, ThawSpeed, Tier,
};
use breakwater_storage_gcs::SINGLE_BYTES_MAX;
use breakwater_testkit::gcs::{BucketSettings, Fault, Grant};
use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::service::{BUCKET, Service};

fn plain() -> BucketSettings {
    BucketSettings::default()
}

fn payload(text: &'static str) -> Payload {
    Payload::from(text.as_bytes())
}

/// The kind of the error, which must say each of `words`.
fn kind<T: std::fmt::Debug>(result: Result<T, StorageError>, words: &[&str]) -> Kind {
    let error = result.unwrap_err();
    let text = Chain(&error).to_string();
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    error.kind
}

fn retrying(storage: &Storage) -> Storage {
    let policy = RetryPolicy::new(4, Duration::from_micros(10), Duration::from_millis(1));
    storage.decorated(|inner| Arc::new(Retry::new(inner, policy, Arc::new(SystemEntropy))))
}

fn lock_for(mode: LockMode, seconds: i64) -> Retention {
    let now = SystemClock.now().as_micros() / 1_000_000;
    Retention { mode, until: Timestamp::from_micros((now + seconds) * 1_000_000) }
}

#[tokio::test]
async fn each_operation_is_as_few_requests_as_there_can_be() {
    let service = Service::start(BucketSettings { object_retention: true, ..plain() }).await;
    let place = service.whole().await;
    let lock = lock_for(LockMode::Governance, 3600);
    let placement = Placement { tier: Tier::Cold, retention: Some(lock) };
    let asked = || service.gcs.requests();

    place.create("data/a", vec![7; 1 << 20].into()).await.unwrap();
    assert_eq!(asked(), ["insert"]);
    place.backend().create("data/locked", vec![1].into(), &placement).await.unwrap();
    assert_eq!(asked(), ["insert"], "class and lock come with the content");
    place.create("data/a", vec![8].into()).await.unwrap_err();
    assert_eq!(asked(), ["insert"]);
    place.get("data/a").await.unwrap();
    place.get_range("data/a", 5..10).await.unwrap();
    place.get_tail("data/a", 10).await.unwrap();
    assert_eq!(asked(), ["media", "media", "media"]);
    place.get_range("data/a", 5..5).await.unwrap();
    place.head("data/a").await.unwrap();
    assert!(!place.exists("data/none").await.unwrap());
    assert_eq!(asked(), ["head", "head", "head"]);
    place.list("").try_collect::<Vec<_>>().await.unwrap();
    place.list_directories("").await.unwrap();
    assert_eq!(asked(), ["list", "list"]);
    place.protection("data/locked").await.unwrap();
    assert_eq!(asked(), ["head"]);
    place.retain("data/locked", lock_for(LockMode::Governance, 7200)).await.unwrap();
    assert_eq!(asked(), ["head", "patch"]);
    place.hold("data/a", true).await.unwrap();
    place.hold("data/a", false).await.unwrap();
    assert_eq!(asked(), ["patch", "patch"]);
    place.set_tier("data/a", Tier::Warm).await.unwrap();
    assert_eq!(asked(), ["head", "rewrite", "bucket"], "whether there are versions is asked once");
    place.set_tier("data/a", Tier::Warm).await.unwrap();
    place.set_tier("data/a", Tier::Archive).await.unwrap();
    assert_eq!(asked(), ["head", "head", "rewrite"]);
    place.thaw("data/a", Thaw { days: 1, speed: ThawSpeed::Bulk }).await.unwrap();
    assert_eq!(asked(), Vec::<&str>::new());
    assert_eq!(place.get("data/a").await.unwrap(), vec![7; 1 << 20], "the archive is read at once");
    place.delete("data/a").await.unwrap();
    assert_eq!(asked(), ["media", "delete"]);
    let keys: Vec<String> = (0..20).map(|n| format!("data/{n}")).collect();
    place.delete_many(&keys).await.into_iter().for_each(|deleted| deleted.unwrap());
    assert_eq!(asked(), ["delete"; 20]);
    let expected = Features { locks: true, holds: true, versions: false, tiers: Tier::ALL.to_vec(), checksums: true };
    assert_eq!(place.features().await.unwrap(), expected);
    assert_eq!(asked(), ["bucket"]);
}

#[tokio::test]
async fn nothing_stays_of_what_is_deleted_where_versions_are_kept() {
    let service = Service::start(BucketSettings { versioning: true, ..plain() }).await;
    let place = service.whole().await;
    for key in ["data/a", "data/a b", "data/ab", "data/a/b"] {
        place.create(key, vec![1; 300].into()).await.unwrap();
        place.set_tier(key, Tier::Cold).await.unwrap();
    }
    assert_eq!(service.gcs.versions(BUCKET), 4, "a move leaves no copy");
    place.delete("data/a").await.unwrap();
    assert_eq!(service.gcs.versions(BUCKET), 3);
    service.gcs.requests();
    place.delete("data/a b").await.unwrap();
    assert_eq!(service.gcs.requests(), ["list", "delete"]);
    assert_eq!(place.list("").map_ok(|meta| meta.key).try_collect::<Vec<_>>().await.unwrap(), ["data/a/b", "data/ab"]);
    // Who may not look up the bucket reckons with versions.
    let objects = ["create", "get", "list", "delete"].map(|name| format!("storage.objects.{name}"));
    let permissions: Vec<&str> = objects.iter().map(String::as_str).collect();
    let blind = service.place(BUCKET, "", &[Grant::new(&permissions, "")]).await;
    blind.delete("data/ab").await.unwrap();
    blind.delete("data/a/b").await.unwrap();
    assert_eq!(service.gcs.versions(BUCKET), 0);
}

#[tokio::test]
async fn a_large_object_goes_up_in_pieces_and_on_where_it_broke() {
    let service = Service::start(plain()).await;
    let place = service.whole().await;
    let parts: Vec<Bytes> = (0..3).map(|n| Bytes::from(pattern(n, 1 << 20).repeat(50))).collect();
    let large = Payload::from(parts);
    assert!(large.len() > SINGLE_BYTES_MAX);
    service.gcs.inject("piece", Fault::StorePart(1 << 20), 1);
    service.gcs.inject("piece", Fault::LoseAnswer, 1);
    place.create("data/large", large.clone()).await.unwrap();
    let asked = service.gcs.requests();
    assert_eq!(asked, ["begin", "piece", "ask", "piece", "ask", "piece", "piece"]);
    assert!(place.get("data/large").await.unwrap() == large.to_bytes(), "150 MiB come back as they were");
    // A session in which nothing moves is given up; it is no second policy of retries.
    service.gcs.requests();
    service.gcs.inject("piece", Fault::Reset, 1);
    assert_eq!(kind(place.create("data/other", large.clone()).await, &[]), Kind::Unreachable);
    assert_eq!(service.gcs.requests(), ["begin", "piece", "ask"]);
    // What is damaged on the way is not stored.
    service.gcs.inject("piece", Fault::DamageRequest, 1);
    assert_eq!(kind(place.create("data/other", large.clone()).await, &["CRC32C"]), Kind::Unreachable);
    assert!(!place.exists("data/other").await.unwrap());
    assert_eq!(kind(place.create("data/large", large).await, &[]), Kind::AlreadyExists);
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_found() {
    let service = Service::start(plain()).await;
    let place = service.whole().await;
    service.gcs.inject("insert", Fault::LoseAnswer, 1);
    assert_eq!(kind(place.create("a", payload("mine")).await, &[]), Kind::Unreachable);
    service.gcs.inject("insert", Fault::LoseAnswer, 1);
    retrying(&place).create("b", payload("mine")).await.unwrap();
    service.gcs.inject("insert", Fault::Refuse(503, None), 2);
    service.gcs.inject("insert", Fault::Reset, 1);
    retrying(&place).create("c", payload("mine")).await.unwrap();
    service.gcs.inject("insert", Fault::Reset, 1);
    assert_eq!(kind(retrying(&place).create("a", payload("else")).await, &[]), Kind::AlreadyExists);
}

#[tokio::test]
async fn damage_is_noticed_on_both_ways() {
    let service = Service::start(plain()).await;
    let place = service.whole().await;
    let content = pattern(1, 100_000);
    service.gcs.inject("insert", Fault::DamageRequest, 1);
    assert_eq!(kind(place.create("a", content.clone().into()).await, &["CRC32C", "hint:"]), Kind::Unreachable);
    assert!(!place.exists("a").await.unwrap());
    place.create("a", content.clone().into()).await.unwrap();
    service.gcs.inject("media", Fault::DamageAnswer, 1);
    assert_eq!(kind(place.get("a").await, &["checksum"]), Kind::Corrupt);
    service.gcs.inject("media", Fault::CutAnswer, 3);
    assert_eq!(kind(place.get("a").await, &[]), Kind::Unreachable);
    assert_eq!(kind(place.get_range("a", 0..1000).await, &[]), Kind::Unreachable);
    assert_eq!(retrying(&place).get("a").await.unwrap(), content);
    service.gcs.damage(BUCKET, "a");
    assert_eq!(kind(place.get("a").await, &["checksum"]), Kind::Corrupt);
}

#[tokio::test]
async fn throttling_says_how_long() {
    let service = Service::start(plain()).await;
    let place = service.whole().await;
    for status in [429, 503] {
        service.gcs.inject("*", Fault::Refuse(status, Some(7)), 1);
        let error = place.head("a").await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (Kind::Throttled, Some(Duration::from_secs(7))));
    }
    for status in [500, 502, 504, 408] {
        service.gcs.inject("*", Fault::Refuse(status, None), 1);
        assert_eq!(kind(place.list("").try_collect::<Vec<_>>().await, &[]), Kind::Unreachable);
    }
    assert_eq!(service.gcs.requests(), ["head", "head", "list", "list", "list", "list"], "nothing is tried twice");
}

#[tokio::test]
async fn a_bucket_that_is_gone_is_no_missing_object() {
    let service = Service::start(plain()).await;
    let place = service.whole().await;
    place.create("a", payload("1")).await.unwrap();
    assert_eq!(kind(place.get("b").await, &[]), Kind::NotFound);
    service.gcs.remove_bucket(BUCKET);
    let gone = &["bucket does not exist", "hint:", "gcloud storage buckets describe gs://region-1"];
    assert_eq!(kind(place.get("a").await, gone), Kind::Unreachable);
    assert_eq!(kind(place.get_range("a", 0..1).await, gone), Kind::Unreachable);
    assert_eq!(kind(place.get_tail("a", 1).await, gone), Kind::Unreachable);
    assert_eq!(kind(place.head("a").await, gone), Kind::Unreachable);
    assert_eq!(kind(place.exists("a").await, gone), Kind::Unreachable);
    assert_eq!(kind(place.create("a", payload("1")).await, gone), Kind::Unreachable);
    assert_eq!(kind(place.list("").try_collect::<Vec<_>>().await, gone), Kind::Unreachable);
    assert_eq!(kind(place.list_directories("").await, gone), Kind::Unreachable);
    assert_eq!(kind(place.delete("a").await, gone), Kind::Unreachable);
    assert_eq!(kind(place.features().await, gone), Kind::Unreachable);
    assert_eq!(kind(place.protection("a").await, gone), Kind::Unreachable);
    assert_eq!(kind(place.hold("a", true).await, gone), Kind::Unreachable);
    assert_eq!(kind(place.set_tier("a", Tier::Cold).await, gone), Kind::Unreachable);
    // A 404 that does not say what is missing is looked into.
    service.gcs.inject("head", Fault::Refuse(404, None), 1);
    assert_eq!(kind(place.head("a").await, gone), Kind::Unreachable);
    service.gcs.set_bucket(BUCKET, plain());
    service.gcs.inject("head", Fault::Refuse(404, None), 1);
    assert_eq!(kind(place.head("a").await, &[]), Kind::NotFound);
}

#[tokio::test]
async fn locks_and_holds_keep_and_say_so() {
    let service = Service::start(BucketSettings { object_retention: true, ..plain() }).await;
    let place = service.whole().await;
    let governance = lock_for(LockMode::Governance, 3600);
    let placement = Placement { tier: Tier::Archive, retention: Some(governance) };
    place.backend().create("a", payload("1"), &placement).await.unwrap();
    assert_eq!(place.head("a").await.unwrap().tier, Tier::Archive);
    assert_eq!(kind(place.delete("a").await, &["object retention", "until"]), Kind::Locked);
    assert_eq!(kind(place.set_tier("a", Tier::Hot).await, &["lifecycle"]), Kind::Locked);
    // Its own flag is needed to seal a lock, and never used to shorten one.
    assert_eq!(kind(place.retain("a", lock_for(LockMode::Governance, 1800)).await, &["shorter"]), Kind::Locked);
    let sealed = lock_for(LockMode::Compliance, 3600);
    place.retain("a", sealed).await.unwrap();
    assert_eq!(place.protection("a").await.unwrap(), Protection { retention: Some(sealed), held: false });
    assert_eq!(kind(place.retain("a", governance).await, &["weaker"]), Kind::Locked);
    place.create("b", payload("1")).await.unwrap();
    place.hold("b", true).await.unwrap();
    assert_eq!(kind(place.delete("b").await, &["under active Temporary hold"]), Kind::Locked);
    assert_eq!(kind(place.set_tier("b", Tier::Cold).await, &["lifecycle"]), Kind::Locked);
    assert_eq!(kind(place.create("b", payload("2")).await, &[]), Kind::AlreadyExists);
}

#[tokio::test]
async fn a_lock_ends_by_the_clock_of_the_service() {
    let service = Service::start(BucketSettings { object_retention: true, versioning: true, ..plain() }).await;
    let place = service.whole().await;
    let placement = Placement { retention: Some(lock_for(LockMode::Compliance, 200)), ..Placement::default() };
    place.backend().create("a", payload("1"), &placement).await.unwrap();
    assert_eq!(kind(place.delete("a").await, &[]), Kind::Locked);
    assert_eq!(place.get("a").await.unwrap(), "1", "what is locked is not even made an older version");
    service.gcs.set_clock_ahead(Duration::from_secs(250), false);
    place.delete("a").await.unwrap();
    let late = place.backend().create("b", payload("1"), &placement).await;
    assert_eq!(kind(late, &["cannot be in the past", "hint:", "clock"]), Kind::Invalid);
}

#[tokio::test]
async fn a_policy_of_the_bucket_is_a_lock_too() {
    let settings = BucketSettings { retention_period: Some(3600), ..plain() };
    let service = Service::start(settings.clone()).await;
    let place = service.whole().await;
    place.create("a", payload("1")).await.unwrap();
    assert_eq!(kind(place.delete("a").await, &["retention policy"]), Kind::Locked);
    assert_eq!(kind(place.create("a", payload("2")).await, &[]), Kind::AlreadyExists);
    let mode = async || place.protection("a").await.unwrap().retention.map(|lock| lock.mode);
    assert_eq!(mode().await, Some(LockMode::Governance));
    service.gcs.set_bucket(BUCKET, BucketSettings { policy_locked: true, ..settings });
    assert_eq!(mode().await, Some(LockMode::Compliance));
    service.gcs.set_clock_ahead(Duration::from_secs(3700), false);
    place.delete("a").await.unwrap();
}

#[tokio::test]
async fn a_bucket_without_locks_refuses_them_by_name() {
    let service = Service::start(plain()).await;
    let place = service.whole().await;
    let placement = Placement { retention: Some(lock_for(LockMode::Compliance, 3600)), ..Placement::default() };
    let words = &["not enabled", "hint:", "--enable-per-object-retention"];
    assert_eq!(kind(place.backend().create("a", payload("1"), &placement).await, words), Kind::Unsupported);
    assert!(!place.exists("a").await.unwrap(), "nothing is created");
    place.create("a", payload("1")).await.unwrap();
    assert_eq!(kind(place.retain("a", lock_for(LockMode::Compliance, 3600)).await, words), Kind::Unsupported);
}
