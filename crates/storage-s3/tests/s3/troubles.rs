//! What goes wrong has one clear error that says what to change, from real refusals where a server makes them, and from recorded
//! ones of the API reference where none here does.

use std::time::Duration;

use breakwater_storage::{Storage, StorageErrorKind};
use breakwater_testkit::lying_s3::{Canned, LyingS3};
use breakwater_testkit::moto::Moto;
use futures::TryStreamExt;

use crate::lab::{Kind, Lab, credentials_file, open, said};

#[tokio::test]
async fn a_bucket_that_is_not_there_is_never_an_empty_one() {
    let server = Moto::start().await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let store = lab.open("no-such-bucket/p", "").await;
    let check = |what: &str, error: breakwater_storage::StorageError| {
        assert_eq!(error.kind, StorageErrorKind::Unreachable, "{what}: {}", said(&error));
        assert!(said(&error).contains("there is no bucket `no-such-bucket`"), "{what}: {}", said(&error));
    };
    check("get", store.get("data/a").await.unwrap_err());
    check("get_range", store.get_range("data/a", 0..1).await.unwrap_err());
    check("get_tail", store.get_tail("data/a", 1).await.unwrap_err());
    check("head", store.head("data/a").await.unwrap_err());
    check("create", store.create("data/a", vec![1].into()).await.unwrap_err());
    check("list", store.list("").try_next().await.unwrap_err());
    check("list_directories", store.list_directories("").await.unwrap_err());
    check("delete", store.delete("data/a").await.unwrap_err());
    check("delete_many", store.delete_many(&["data/a".to_owned()]).await.remove(0).unwrap_err());
    check("features", store.features().await.unwrap_err());
    // So is one that goes away later.
    let bucket = lab.bucket(Kind::Plain).await;
    let store = lab.open(&bucket, "").await;
    store.delete("data/a").await.unwrap();
    lab.admin.delete_bucket().bucket(&bucket).send().await.unwrap();
    assert_eq!(store.delete("data/a").await.unwrap_err().kind, StorageErrorKind::Unreachable);
    assert_eq!(store.head("data/a").await.unwrap_err().kind, StorageErrorKind::Unreachable);
}

#[tokio::test]
async fn wrong_keys_are_told_apart() {
    let server = Moto::start().await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let bucket = lab.bucket(Kind::Plain).await;
    let everything = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}"#;
    let (key, secret) = server.create_user("owner", everything).await.unwrap();
    server.enforce_policies().await.unwrap();
    let check = async |key: &str, secret: &str, expected: &str| {
        credentials_file(&lab.keys(), key, secret);
        let outcome = lab.open(&bucket, "").await.create("data/a", vec![1].into()).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Denied, "{}", said(&error));
        assert!(said(&error).contains(expected), "{}", said(&error));
    };
    check("AKIAIOSFODNN7EXAMPLE", "x", "does not know this access key").await;
    check(&key, "another secret", "the secret is not the one of this access key").await;
    credentials_file(&lab.keys(), &key, &secret);
    lab.open(&bucket, "").await.create("data/a", vec![1].into()).await.unwrap();
}

async fn refused(server: &LyingS3, store: &Storage, canned: Canned) -> breakwater_storage::StorageError {
    server.answer_next([canned]);
    store.create("data/a", vec![1].into()).await.unwrap_err()
}

#[tokio::test]
async fn recorded_refusals_become_one_clear_error() {
    use StorageErrorKind as Kind;
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let store = lab.open("bucket/p", "").await;
    let check = async |status, code, more, kind, expected: &str| {
        let error = refused(&server, &store, Canned::error(status, code, more)).await;
        assert_eq!(error.kind, kind, "{}", said(&error));
        assert!(said(&error).contains(expected), "{}", said(&error));
    };
    let region = "<Region>ap-south-1</Region>";
    check(400, "AuthorizationHeaderMalformed", region, Kind::Invalid, "say region=ap-south-1 in its URL").await;
    let clocks = "<RequestTime>20260101T000000Z</RequestTime><ServerTime>2026-01-01T02:00:00Z</ServerTime>";
    check(403, "RequestTimeTooSkewed", clocks, Kind::Denied, "20260101T000000Z and the store's 2026-01-01T02:00:00Z")
        .await;
    check(400, "ExpiredToken", "", Kind::Denied, "these credentials have run out").await;
    check(403, "AccessDenied", "", Kind::Denied, "need `s3:PutObject` on arn:aws:s3:::bucket/p/data/a").await;
    check(400, "InvalidStorageClass", "", Kind::Unsupported, "storage class").await;
    check(500, "InternalError", "", Kind::Unreachable, "InternalError").await;
    check(400, "KMS.DisabledException", "", Kind::Denied, "be enabled").await;
    let slow = Canned { headers: vec![("retry-after", "3".to_owned())], ..Canned::error(503, "SlowDown", "") };
    let error = refused(&server, &store, slow).await;
    assert_eq!((error.kind, error.retry_after), (Kind::Throttled, Some(Duration::from_secs(3))), "{}", said(&error));
    // A redirect of a HEAD has no body.
    server.answer_next([Canned {
        status: 301,
        headers: vec![("x-amz-bucket-region", "eu-west-3".to_owned())],
        body: String::new(),
    }]);
    let error = store.head("data/a").await.unwrap_err();
    assert!(said(&error).contains("say region=eu-west-3"), "{}", said(&error));
    assert!(!store.exists("data/a").await.unwrap(), "nothing was created on the way");
}

#[tokio::test]
async fn a_create_that_met_another_looks_who_won() {
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let store = lab.open("bucket/p", "").await;
    let conflict = || Canned::error(409, "ConditionalRequestConflict", "");
    let error = refused(&server, &store, conflict()).await;
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "nothing is there, so it may be tried again");
    store.create("data/a", vec![1].into()).await.unwrap();
    let error = refused(&server, &store, conflict()).await;
    assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
}

#[tokio::test]
async fn content_that_is_not_what_its_checksum_says_is_damage() {
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let store = lab.open("bucket/p", "").await;
    let headers = vec![("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=".to_owned())];
    server.answer_next([Canned { status: 200, headers: headers.clone(), body: "damaged".to_owned() }]);
    let error = store.get("data/a").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Corrupt, "{}", said(&error));
    // And a store that says that it keeps something else than was sent is not believed to have it.
    server.answer_next([Canned { status: 200, headers, body: String::new() }]);
    let error = store.create("data/a", vec![1].into()).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Corrupt, "{}", said(&error));
}

#[tokio::test]
async fn lists_that_cannot_be_are_damage() {
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let store = lab.open("bucket/p", "").await;
    let list = |keys: &[&str], rest: &str| {
        let entry = |key: &&str| {
            format!(
                "<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        };
        let body = format!("<ListBucketResult>{rest}{}</ListBucketResult>", keys.iter().map(entry).collect::<String>());
        Canned { status: 200, headers: Vec::new(), body }
    };
    for (keys, rest, expected) in [
        (&["p/b", "p/a"][..], "", "out of order"),
        (&["p/a", "q/b"], "", "nobody asked for"),
        (&["p/a"], "<IsTruncated>true</IsTruncated>", "goes on, and not where"),
    ] {
        server.answer_next([list(keys, rest)]);
        let error = store.list("").try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Corrupt);
        assert!(said(&error).contains(expected), "{}", said(&error));
    }
    // Names that are none of ours, such as the folders of consoles, are no objects.
    server.answer_next([list(&["p/", "p/a", "p/a/"], "")]);
    let keys: Vec<_> = store.list("").map_ok(|meta| meta.key).try_collect().await.unwrap();
    assert_eq!(keys, ["a"]);
}

#[tokio::test]
async fn nobody_there() {
    let lab = Lab::new("http://127.0.0.1:9");
    let error = lab.open("bucket", "").await.get("data/a").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{}", said(&error));
    let lab = Lab::new("http://no-such-host.invalid");
    let error = lab.open("bucket", "").await.get("data/a").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{}", said(&error));
    assert!(said(&error).contains("check the endpoint"), "{}", said(&error));
    let error = open("s3://bucket?regoin=x").await.unwrap_err();
    assert!(error.kind == StorageErrorKind::Invalid && said(&error).contains("no option `regoin`"), "{}", said(&error));
    let error = open("s3://bucket?region=x&ca=/no/such/file").await.unwrap_err();
    assert!(said(&error).contains("/no/such/file cannot be read"), "{}", said(&error));
    let error =
        open(&format!("s3://bucket?region=x&ca={}", std::env::current_exe().unwrap().display())).await.unwrap_err();
    assert!(said(&error).contains("holds no certificate"), "{}", said(&error));
}
