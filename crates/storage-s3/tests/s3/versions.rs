//! Buckets with versions: what is deleted is gone, of the key that was named and of no other; what is locked stays whole.

use breakwater_core::{Clock, Timestamp};
use breakwater_runtime::SystemClock;
use breakwater_storage::{LockMode, Placement, Retention, Storage, StorageErrorKind, Tier};

use crate::lab::{Kind, Lab, said};

/// The versions and the delete markers whose key begins with `prefix`.
async fn versions(lab: &Lab, bucket: &str, prefix: &str) -> (usize, usize) {
    let answer = lab.admin.list_object_versions().bucket(bucket).prefix(prefix).send().await.unwrap();
    (answer.versions().len(), answer.delete_markers().len())
}

async fn put(lab: &Lab, bucket: &str, key: &str) {
    lab.admin.put_object().bucket(bucket).key(key).body(vec![1].into()).send().await.unwrap();
}

fn tomorrow() -> Timestamp {
    let micros = SystemClock.now().as_micros() + 86_400_000_000;
    Timestamp::from_micros(micros - micros.rem_euclid(1_000_000))
}

pub(crate) async fn deletes(lab: &Lab) {
    let bucket = lab.bucket(Kind::Versioned).await;
    let store = lab.open(&format!("{bucket}/p"), "").await;
    // Three versions and a marker, by somebody else's hand; and neighbours that begin alike.
    for _ in 0..3 {
        put(lab, &bucket, "p/data/x").await;
    }
    lab.admin.delete_object().bucket(&bucket).key("p/data/x").send().await.unwrap();
    for neighbour in ["p/data/x1", "p/data/x/below", "p/data/x1"] {
        put(lab, &bucket, neighbour).await;
    }
    assert_eq!(versions(lab, &bucket, "p/data/x").await, (6, 1));
    store.delete("data/x").await.unwrap();
    assert_eq!(versions(lab, &bucket, "p/data/x").await, (3, 0), "the neighbours are whole");
    let both = ["data/x1".to_owned(), "data/x/below".to_owned(), "data/never".to_owned()];
    assert!(store.delete_many(&both).await.iter().all(Result::is_ok));
    assert_eq!(versions(lab, &bucket, "").await, (0, 0));
}

/// A bucket whose versions are switched on while it is in use.
pub(crate) async fn switched_on_later(lab: &Lab) {
    let bucket = lab.bucket(Kind::Plain).await;
    let store = lab.open(&bucket, "").await;
    for key in ["data/first", "data/one", "data/two"] {
        store.create(key, vec![1].into()).await.unwrap();
    }
    store.delete("data/first").await.unwrap();
    lab.switch_versions_on(&bucket).await;
    store.delete("data/one").await.unwrap();
    assert!(store.delete_many(&["data/two".to_owned()]).await.iter().all(Result::is_ok));
    assert_eq!(versions(lab, &bucket, "").await, (0, 0), "nothing was only hidden");
}

async fn locked(store: &Storage, key: &str, tier: Tier) -> Timestamp {
    let until = tomorrow();
    let placement = Placement { tier, retention: Some(Retention { mode: LockMode::Compliance, until }) };
    store.backend().create(key, vec![1; 300].into(), &placement).await.unwrap();
    until
}

pub(crate) async fn locks(lab: &Lab) {
    let bucket = lab.bucket(Kind::Locking).await;
    let store = lab.open(&bucket, "").await;
    let until = locked(&store, "data/a", Tier::Hot).await;
    let error = store.delete("data/a").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Locked);
    assert!(said(&error).contains(&format!("locked until {until} (compliance)")), "{}", said(&error));

    // A move keeps the lock, and the version that was replaced is kept by its own.
    store.set_tier("data/a", Tier::Cold).await.unwrap();
    let meta = store.head("data/a").await.unwrap();
    assert_eq!(meta.tier, Tier::Cold);
    let lock = store.protection("data/a").await.unwrap().retention.unwrap();
    assert_eq!((lock.mode, lock.until), (LockMode::Compliance, until));
    assert_eq!(versions(lab, &bucket, "data/a").await, (2, 0));
    assert_eq!(store.delete("data/a").await.unwrap_err().kind, StorageErrorKind::Locked);
    assert_eq!(versions(lab, &bucket, "data/a").await, (2, 0), "a delete that is refused hides nothing");
    assert_eq!(store.get("data/a").await.unwrap(), vec![1; 300]);

    // Without a lock the version that was replaced goes.
    store.create("data/b", vec![2; 300].into()).await.unwrap();
    store.set_tier("data/b", Tier::Warm).await.unwrap();
    assert_eq!(versions(lab, &bucket, "data/b").await, (1, 0));
    assert_eq!(store.get("data/b").await.unwrap(), vec![2; 300]);

    // A weaker lock is refused, whatever the store would say.
    let weaker = Retention { mode: LockMode::Governance, until: until.plus_micros(86_400_000_000) };
    let error = store.retain("data/a", weaker).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Locked, "{}", said(&error));
    store.hold("data/b", true).await.unwrap();
    let error = store.delete("data/b").await.unwrap_err();
    assert!(error.kind == StorageErrorKind::Locked && said(&error).contains("it is held"), "{}", said(&error));
}
