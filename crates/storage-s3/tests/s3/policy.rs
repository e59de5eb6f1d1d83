//! The least that a writer needs, and no more: deploy/policies/s3-writer.json, enforced by moto as far as it can. Moto knows actions
//! and resources and takes conditions for fulfilled, so that a create without `If-None-Match` is refused could not be tried.

use breakwater_storage::{LockMode, Placement, Retention, Storage, StorageErrorKind, Tier};
use breakwater_testkit::moto::Moto;
use futures::TryStreamExt;

use crate::lab::{Kind, Lab, credentials_file, said};

const PART: usize = 5 << 20;

/// The policy with the names of a bucket and a prefix filled in.
fn policy(name: &str, bucket: &str, prefix: &str) -> String {
    let path = format!("{}/../../deploy/policies/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap().replace("BUCKET", bucket).replace("PREFIX", prefix);
    serde_json::from_str::<serde_json::Value>(&text).expect("a policy is JSON").to_string()
}

async fn as_user(server: &Moto, lab: &Lab, bucket: &str, name: &str) -> Storage {
    let (key, secret) = server.create_user(name, &policy(name, bucket, "prod")).await.unwrap();
    let path = lab.keys().with_file_name(name);
    credentials_file(&path, &key, &secret);
    let url = lab.url(&format!("{bucket}/prod"), &format!("&part-bytes={PART}"));
    let own = url.replace(&lab.keys().display().to_string(), &path.display().to_string());
    crate::lab::open(&own).await.unwrap()
}

fn denied<T: std::fmt::Debug>(what: &str, outcome: Result<T, breakwater_storage::StorageError>) {
    let error = outcome.expect_err(what);
    assert_eq!(error.kind, StorageErrorKind::Denied, "{what}: {}", said(&error));
}

#[tokio::test]
async fn a_writer_adds_and_can_do_nothing_else() {
    let server = Moto::start().await.unwrap();
    let lab = Lab::new(&server.endpoint());
    let bucket = lab.bucket(Kind::Locking).await;
    let writer = as_user(&server, &lab, &bucket, "s3-writer").await;
    let reader = as_user(&server, &lab, &bucket, "s3-restorer").await;
    server.enforce_policies().await.unwrap();

    writer.create("data/u/1", vec![1].into()).await.unwrap();
    writer.create("meta/u/1", vec![1].into()).await.unwrap();
    writer.create("data/u/large", vec![7; PART + 1].into()).await.unwrap();
    let until = breakwater_core::Timestamp::parse("2099-01-01T00:00:00Z").unwrap();
    let retention = Some(Retention { mode: LockMode::Governance, until });
    let placement = Placement { tier: Tier::Hot, retention };
    writer.backend().create("data/u/locked", vec![1].into(), &placement).await.unwrap();
    assert_eq!(writer.get("meta/u/1").await.unwrap(), [1][..]);
    let listed: Vec<_> = writer.list("").map_ok(|meta| meta.key).try_collect().await.unwrap();
    assert_eq!(listed, ["data/u/1", "data/u/large", "data/u/locked", "meta/u/1"]);
    assert_eq!(writer.get("meta/u/none").await.unwrap_err().kind, StorageErrorKind::NotFound);

    let taken = writer.create("data/u/1", vec![2].into()).await.unwrap_err();
    assert_eq!(taken.kind, StorageErrorKind::AlreadyExists);
    denied("read of content", writer.get("data/u/1").await);
    denied("read of content in part", writer.get_range("data/u/1", 0..1).await);
    denied("delete", writer.delete("data/u/1").await);
    denied("delete of structure", writer.delete("meta/u/1").await);
    denied("a name elsewhere", writer.create("repo/x", vec![1].into()).await);
    denied("a move", writer.set_tier("data/u/1", Tier::Cold).await);

    assert_eq!(reader.get("data/u/1").await.unwrap(), [1][..]);
    denied("a restorer that writes", reader.create("data/u/2", vec![1].into()).await);
    denied("a restorer that deletes", reader.delete("data/u/1").await);
}
