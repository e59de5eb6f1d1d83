//! How many requests each operation takes: no hidden extra calls.

use breakwater_storage::StorageErrorKind;
use breakwater_testkit::lying_s3::LyingS3;
use futures::TryStreamExt;

use crate::lab::Lab;

#[tokio::test]
async fn every_operation_takes_the_calls_that_it_must() {
    let server = LyingS3::start(&[]).await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let store = lab.open("bucket/p", "").await;
    let takes = |what: &str, expected: &[&str]| {
        let methods = server.take_requests();
        let methods: Vec<&str> = methods.iter().map(|request| request.split('?').next().unwrap()).collect();
        assert_eq!(methods, expected, "{what}");
    };
    store.create("data/a", vec![1; 100].into()).await.unwrap();
    takes("a create", &["PUT /bucket/p/data/a"]);
    assert_eq!(store.create("data/a", vec![2].into()).await.unwrap_err().kind, StorageErrorKind::AlreadyExists);
    takes("a create of what is there", &["PUT /bucket/p/data/a"]);
    store.get("data/a").await.unwrap();
    takes("a get", &["GET /bucket/p/data/a"]);
    store.get_range("data/a", 10..20).await.unwrap();
    takes("a get of a part", &["GET /bucket/p/data/a"]);
    store.get_tail("data/a", 10).await.unwrap();
    takes("a get of the end", &["GET /bucket/p/data/a"]);
    store.head("data/a").await.unwrap();
    takes("a look", &["HEAD /bucket/p/data/a"]);
    // A HEAD says nothing of the bucket, so that is looked at too.
    assert!(!store.exists("data/none").await.unwrap());
    takes("a look at nothing", &["HEAD /bucket/p/data/none", "HEAD /bucket/"]);
    assert_eq!(store.get("data/none").await.unwrap_err().kind, StorageErrorKind::NotFound);
    takes("a get of nothing", &["GET /bucket/p/data/none"]);
    store.list("data/").try_collect::<Vec<_>>().await.unwrap();
    takes("a list of one page", &["GET /bucket/"]);
    store.list_directories("data/").await.unwrap();
    takes("a list of directories", &["GET /bucket/"]);
    store.delete("data/a").await.unwrap();
    takes("the first delete", &["GET /bucket/", "DELETE /bucket/p/data/a"]);
    store.delete("data/a").await.unwrap();
    takes("a delete", &["DELETE /bucket/p/data/a"]);
    let keys: Vec<String> = (0..2001).map(|n| format!("data/{n}")).collect();
    assert!(store.delete_many(&keys).await.iter().all(Result::is_ok));
    takes("a delete of 2001", &["POST /bucket/", "POST /bucket/", "POST /bucket/"]);
}
