//! What Azurite cannot show, tried against a service made from the reference documents: locks, holds, versions, what exactly is
//! sent and how often, and answers that only a real service gives. It has not been tried against the real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test may panic anywhere")]

#[path = "shared/service.rs"]
mod service;

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Chain, Clock, Timestamp};
use breakwater_runtime::SystemClock;
use breakwater_storage::conformance;
use breakwater_storage::{
    Availability, Backend, Features, LockMode, Placement, Protection, Retention, Storage, StorageErrorKind, Thaw,
    ThawSpeed, Tier,
};
use breakwater_storage_azure::{Azure, AzureProvider, Limits};
use futures::TryStreamExt;
use service::{Answer, Request, Service};

const DAY: i64 = 24 * 3_600_000_000;

fn provider() -> AzureProvider {
    AzureProvider::with_variables(|name| (name == "AZURE_STORAGE_KEY").then(|| "c2VjcmV0".to_owned()))
}

async fn open(service: &Service) -> Azure {
    provider().place(&service.url().parse().unwrap()).await.unwrap()
}

async fn served() -> (Service, Azure) {
    let service = Service::start().await;
    let place = open(&service).await;
    (service, place)
}

/// Tomorrow, to the second.
fn tomorrow() -> Timestamp {
    let at = SystemClock.now().as_micros() + DAY;
    Timestamp::from_micros(at - at.rem_euclid(1_000_000))
}

fn locked(mode: LockMode) -> Placement {
    Placement { retention: Some(Retention { mode, until: tomorrow() }), ..Placement::default() }
}

fn verbs(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|request| format!("{} {}", request.method, request.name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept_with_locks_holds_and_versions() {
    conformance::run(async || {
        let (_, place) = served().await;
        let expected =
            Features { locks: true, holds: true, versions: true, tiers: Tier::ALL.to_vec(), checksums: true };
        assert_eq!(place.features().await.unwrap(), expected);
        Storage::new(Arc::new(place))
    })
    .await;
}

#[tokio::test]
async fn an_object_its_tier_and_its_lock_are_one_request() {
    let (service, place) = served().await;
    let placement = Placement { tier: Tier::Archive, ..locked(LockMode::Compliance) };
    place.create("data/k", b"Hello World!".to_vec().into(), &placement).await.unwrap();
    let requests = service.requests();
    assert_eq!(verbs(&requests), ["PUT data/k"]);
    let header = |name: &str| requests[0].header(name).unwrap_or_default();
    assert_eq!(header("if-none-match"), "*");
    assert_eq!(header("x-ms-blob-type"), "BlockBlob");
    assert_eq!(header("x-ms-access-tier"), "Archive");
    assert_eq!(header("x-ms-immutability-policy-mode"), "locked");
    assert!(header("x-ms-immutability-policy-until-date").ends_with(" GMT"));
    // The vendor's own value for these bytes is 208604604655264165.
    assert_eq!(header("x-ms-content-crc64"), "peH8Xsgc5QI=");
    let protection = place.protection("data/k").await.unwrap();
    assert_eq!(protection, Protection { retention: placement.retention, held: false });
    // Where nothing is asked for, nothing is said.
    place.create("data/plain", vec![1].into(), &Placement::default()).await.unwrap();
    let plain = service.requests().pop().unwrap();
    for absent in
        ["x-ms-access-tier", "x-ms-immutability-policy-mode", "x-ms-immutability-policy-until-date", "x-ms-legal-hold"]
    {
        assert_eq!(plain.header(absent), None);
    }
}

#[tokio::test]
async fn an_operation_costs_what_the_documentation_says() {
    let (service, place) = served().await;
    let plain = Placement::default();
    let count = || service.requests().len();
    place.create("k", vec![7; 9].into(), &plain).await.unwrap();
    assert_eq!(count(), 1, "create");
    place.get("k").await.unwrap();
    assert_eq!(count(), 1, "get");
    place.get_range("k", 2..5).await.unwrap();
    assert_eq!(count(), 1, "get_range");
    place.get_tail("k", 4).await.unwrap();
    assert_eq!(count(), 2, "get_tail");
    place.head("k").await.unwrap();
    assert_eq!(count(), 1, "head");
    place.protection("k").await.unwrap();
    assert_eq!(count(), 1, "protection");
    place.list("").try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(count(), 1, "list");
    place.list_directories("").await.unwrap();
    assert_eq!(count(), 1, "list_directories");
    place.hold("k", false).await.unwrap();
    assert_eq!(count(), 1, "hold");
    place.set_tier("k", Tier::Archive).await.unwrap();
    assert_eq!(count(), 1, "set_tier");
    place.thaw("k", Thaw { days: 3, speed: ThawSpeed::Fast }).await.unwrap();
    let thaw = service.requests();
    assert_eq!(verbs(&thaw), ["HEAD k", "PUT k"]);
    assert_eq!(
        (thaw[1].header("x-ms-access-tier"), thaw[1].header("x-ms-rehydrate-priority")),
        (Some("Hot"), Some("High"))
    );
    place.retain("k", locked(LockMode::Governance).retention.unwrap()).await.unwrap();
    assert_eq!(count(), 1, "retain");
    place.features().await.unwrap();
    assert_eq!(count(), 2, "features");
    // Blocks: one request each, and one that makes an object of them.
    service.answer_next(Answer::new(201));
    service.answer_next(Answer::new(201));
    service.answer_next(Answer::new(201));
    place
        .with_limits(Limits { single: 5, block: 5 })
        .create("l", vec![7; 9].into(), &locked(LockMode::Governance))
        .await
        .unwrap();
    let blocks = service.requests();
    assert_eq!(blocks.len(), 3, "create by blocks");
    let (commit, staged) = blocks.split_last().unwrap();
    assert!(staged.iter().all(|block| block.header("x-ms-content-crc64").is_some()));
    assert_eq!(commit.query.get("comp").map(String::as_str), Some("blocklist"));
    assert_eq!(commit.header("if-none-match"), Some("*"));
    assert_eq!(commit.header("x-ms-immutability-policy-mode"), Some("unlocked"));
}

#[tokio::test]
async fn thawing_takes_its_time_and_lasts() {
    let (service, place) = served().await;
    let archive = Placement { tier: Tier::Archive, ..Placement::default() };
    place.create("k", vec![1].into(), &archive).await.unwrap();
    assert_eq!(place.head("k").await.unwrap().availability, Availability::Archived);
    let thaw = Thaw { days: 1, speed: ThawSpeed::Standard };
    place.thaw("k", thaw).await.unwrap();
    place.thaw("k", thaw).await.unwrap();
    assert_eq!(place.head("k").await.unwrap().availability, Availability::Thawing);
    assert_eq!(place.get("k").await.unwrap_err().kind(), StorageErrorKind::Archived);
    service.hours_pass();
    let head = place.head("k").await.unwrap();
    assert_eq!((head.tier, head.availability), (Tier::Hot, Availability::Ready));
    assert_eq!(place.get("k").await.unwrap(), [1][..]);
}

#[tokio::test]
async fn an_object_goes_with_all_its_versions() {
    let (service, place) = served().await;
    let plain = Placement::default();
    for content in 0..3 {
        place.create("k", vec![content].into(), &plain).await.unwrap();
        service.retire("k");
    }
    place.create("k", vec![9].into(), &plain).await.unwrap();
    place.create("k2", vec![9].into(), &plain).await.unwrap();
    assert_eq!(service.versions("k"), 4);
    place.delete("k").await.unwrap();
    assert_eq!((service.versions("k"), service.versions("k2")), (0, 1));
    // One that was cut off after its first request.
    service.retire("k2");
    assert_eq!(place.head("k2").await.unwrap_err().kind(), StorageErrorKind::NotFound);
    place.delete("k2").await.unwrap();
    assert_eq!(service.versions("k2"), 0);
}

#[tokio::test]
async fn what_is_locked_is_not_touched() {
    let (service, place) = served().await;
    place.create("k", vec![1].into(), &locked(LockMode::Compliance)).await.unwrap();
    place.create("held", vec![1].into(), &Placement::default()).await.unwrap();
    place.hold("held", true).await.unwrap();
    service.requests();
    for key in ["k", "held"] {
        assert_eq!(place.delete(key).await.unwrap_err().kind(), StorageErrorKind::Locked);
        assert_eq!(verbs(&service.requests()), [format!("HEAD {key}")], "a delete would hide it");
    }
    let error = place.retain("k", Retention { mode: LockMode::Governance, until: tomorrow() }).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Locked, "{}", Chain(&error));
    // A lock of a version that is not current any more.
    service.retire("k");
    assert_eq!(place.delete("k").await.unwrap_err().kind(), StorageErrorKind::Locked);
    assert_eq!(service.versions("k"), 1);
}

#[tokio::test]
async fn a_container_without_locks_says_so() {
    let (service, place) = served().await;
    // The code is not in the reference; whatever is said, nothing was created and the hint is the same.
    service.answer_next(Answer::error(409, "FeatureNotSupportedForAccount"));
    let error = place.create("k", vec![1].into(), &locked(LockMode::Compliance)).await.unwrap_err();
    let said = Chain(&error).to_string();
    assert_eq!(error.kind(), StorageErrorKind::Unsupported, "{said}");
    assert!(said.contains("version-level immutability") && said.contains("FeatureNotSupportedForAccount"), "{said}");
}

/// What each answer means. One request each: nothing is tried again here.
#[tokio::test]
async fn answers_are_judged_and_never_asked_for_again() {
    let (service, place) = served().await;
    let cases = [
        (503, "ServerBusy", StorageErrorKind::Throttled),
        (429, "TooManyRequests", StorageErrorKind::Throttled),
        (500, "InternalError", StorageErrorKind::Unreachable),
        (500, "OperationTimedOut", StorageErrorKind::Unreachable),
        (403, "AuthorizationPermissionMismatch", StorageErrorKind::Denied),
        (403, "KeyBasedAuthenticationNotPermitted", StorageErrorKind::Denied),
        (401, "InvalidAuthenticationInfo", StorageErrorKind::Denied),
        (409, "BlobArchived", StorageErrorKind::Archived),
        (409, "BlobImmutableDueToPolicy", StorageErrorKind::Locked),
        (404, "ContainerNotFound", StorageErrorKind::Unreachable),
        (404, "", StorageErrorKind::Unreachable),
        (301, "", StorageErrorKind::Other),
    ];
    for (status, code, kind) in cases {
        service.requests();
        service.answer_next(Answer::error(status, code));
        let error = place.get("k").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {code}: {}", Chain(&error));
        assert_eq!(service.requests().len(), 1, "{status} {code}");
    }
    service.answer_next(Answer::error(503, "ServerBusy").with("retry-after", "7"));
    let error = place.get("k").await.unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    // What is taken looks like this to one whose signature is for creating alone, and where the object is locked.
    for (status, code) in [(403, "UnauthorizedBlobOverwrite"), (409, "BlobImmutableDueToPolicy"), (409, "BlobArchived")]
    {
        service.answer_next(Answer::error(status, code));
        let error = place.create("k", vec![1].into(), &Placement::default()).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::AlreadyExists, "{code}");
    }
    // The other end is something else.
    service.answer_next(Answer { body: b"<html>hello".to_vec(), ..Answer::new(200) });
    let error = place.list("").try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{}", Chain(&error));
    service.answer_next(Answer::new(200));
    assert_eq!(place.head("k").await.unwrap_err().kind(), StorageErrorKind::Unreachable);
    // The connection ends in the middle of an object, and of a list.
    service.answer_next(Answer { body: vec![1; 100], cut: true, ..Answer::new(200) });
    assert_eq!(place.get("k").await.unwrap_err().kind(), StorageErrorKind::Unreachable);
    service.answer_next(Answer { body: b"<EnumerationResults/>".to_vec(), cut: true, ..Answer::new(200) });
    let listed = place.list("").try_collect::<Vec<_>>().await;
    assert_eq!(listed.unwrap_err().kind(), StorageErrorKind::Unreachable);
}

/// Azurite words it in another way.
#[tokio::test]
async fn a_signature_past_its_end_is_named() {
    let (service, place) = served().await;
    let detail = "Signature not valid in the specified time frame: Start [] - Expiry [Sun, 01 Nov 2026 00:00:00 GMT]";
    service.answer_next(Answer::detailed(403, "AuthenticationFailed", detail));
    let error = place.get("k").await.unwrap_err();
    let said = Chain(&error).to_string();
    assert!(error.kind() == StorageErrorKind::Denied && said.contains("Expiry [Sun, 01 Nov 2026"), "{said}");
}

#[derive(Debug)]
struct Behind;

impl Clock for Behind {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_micros(-DAY)
    }
}

#[tokio::test]
async fn a_wrong_clock_is_named() {
    let service = Service::start().await;
    let place = provider().with_clock(Arc::new(Behind)).place(&service.url().parse().unwrap()).await.unwrap();
    service.answer_next(Answer::error(403, "AuthenticationFailed"));
    let error = place.get("k").await.unwrap_err();
    let said = Chain(&error).to_string();
    assert!(
        error.kind() == StorageErrorKind::Denied
            && said.contains("this host's clock is 86")
            && said.contains(" s behind"),
        "{said}"
    );
}

#[tokio::test]
async fn an_account_that_cannot_hold_a_region_is_refused() {
    let (service, place) = served().await;
    service.answer_next(Answer::new(200).with("x-ms-sku-name", "Standard_LRS").with("x-ms-is-hns-enabled", "true"));
    let error = place.features().await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unsupported);
    assert!(Chain(&error).to_string().contains("hierarchical namespace"));
    // Zone-redundant accounts have no archive, premium ones no tiers at all.
    for (sku, tiers) in [("Standard_ZRS", &[Tier::Hot, Tier::Warm, Tier::Cold][..]), ("Premium_LRS", &[])] {
        service.answer_next(Answer::new(200).with("x-ms-sku-name", sku).with("x-ms-is-hns-enabled", "false"));
        assert_eq!(place.features().await.unwrap().tiers, tiers);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_url_is_said_before_any_request() {
    let dir = tempfile::tempdir().unwrap();
    let readable = dir.path().join("key");
    std::fs::write(&readable, "c2VjcmV0").unwrap();
    let readable = readable.display();
    let cases = [
        ("azure://Account/box".to_owned(), "is no account"),
        ("azure://account".to_owned(), "is no container"),
        ("azure://account/a_b".to_owned(), "is no container"),
        ("azure://account/box/../x".to_owned(), "the prefix"),
        ("azure://account/box?region=x".to_owned(), "there is no option `region`"),
        ("azure://account/box?endpoint=http://example.com".to_owned(), "allow-http"),
        ("azure://account/box?endpoint=ftp://example.com".to_owned(), "is no address of a blob service"),
        ("azure://account/box?endpoint=https://account.example/?sv=1".to_owned(), "is no address of a blob service"),
        (format!("azure://account/box?key-file={readable}"), "chmod 600"),
        (format!("azure://account/box?key-file={readable}&sas-file={readable}"), "exclude each other"),
        (format!("azure://account/box?ca={readable}"), "no certificate"),
        ("azure://account/box?proxy=http://me:secret@proxy".to_owned(), "HTTPS_PROXY"),
    ];
    for (url, said) in cases {
        let error = provider().place(&url.parse().unwrap()).await.unwrap_err();
        let text = Chain(&error).to_string();
        assert!(error.kind() == StorageErrorKind::Invalid && text.contains(said), "{url}: {text}");
    }
    let with = |pairs: &'static [(&'static str, &'static str)]| {
        AzureProvider::with_variables(move |name| {
            pairs.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("AZURE_STORAGE_KEY", "no base64!")], "is not base64"),
        (&[("AZURE_STORAGE_SAS_TOKEN", "sv=1")], "no `sig=`"),
        (&[("AZURE_CLIENT_SECRET", "s"), ("AZURE_CLIENT_ID", "c")], "AZURE_TENANT_ID"),
        (
            &[("AZURE_CLIENT_CERTIFICATE_PATH", "/none"), ("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t")],
            "cannot read /none",
        ),
    ];
    for (variables, said) in cases {
        let error = with(variables).place(&"azure://account/box".parse().unwrap()).await.unwrap_err();
        let text = Chain(&error).to_string();
        assert!(error.kind() == StorageErrorKind::Invalid && text.contains(said), "{text}");
        assert!(!text.contains("no base64!"), "{text}");
    }
}
