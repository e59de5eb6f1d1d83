//! Regions that lock: what creation tries, records and refuses.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use breakwater_core::ErrorClass;
use breakwater_repository::format::descriptor::RegionRecord;
use breakwater_repository::regions::Role;
use breakwater_repository::{CreateOptions, LockPolicy, Place, RegionPolicy, Repository, RepositoryError};
use breakwater_storage::{
    Backend, Features, Listing, LockMode, Memory, ObjectMeta, Payload, Placement, Protection, Retention, Storage,
    StorageError, StorageErrorKind, Tier,
};
use bytes::Bytes;

use crate::lab::{Lab, clock, entropy};

/// A place with a peculiarity.
#[derive(Debug)]
struct Odd {
    inner: Memory,
    /// It says that it locks, and does not.
    forgets: bool,
    /// It locks what nobody asked it to lock.
    default_lock: Option<Retention>,
    features: Features,
}

impl Odd {
    fn new() -> Odd {
        let features =
            Features { locks: true, holds: true, versions: true, tiers: vec![Tier::Hot, Tier::Cold], checksums: true };
        Odd { inner: Memory::with_clock(clock()), forgets: false, default_lock: None, features }
    }

    fn storage(self) -> Storage {
        Storage::new(Arc::new(self))
    }
}

#[async_trait]
impl Backend for Odd {
    fn location(&self) -> &str {
        "odd:"
    }
    async fn create(&self, key: &str, payload: Payload, placement: &Placement) -> Result<(), StorageError> {
        let retention = if self.forgets { None } else { placement.retention.or(self.default_lock) };
        self.inner.create(key, payload, &Placement { retention, ..*placement }).await
    }
    async fn get(&self, key: &str) -> Result<Bytes, StorageError> {
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.inner.get_range(key, range).await
    }
    async fn get_tail(&self, key: &str, length: u64) -> Result<(Bytes, u64), StorageError> {
        self.inner.get_tail(key, length).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.inner.head(key).await
    }
    fn list(&self, prefix: &str) -> Listing {
        self.inner.list(prefix)
    }
    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.list_directories(prefix).await
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key).await
    }
    async fn features(&self) -> Result<Features, StorageError> {
        Ok(self.features.clone())
    }
    async fn protection(&self, key: &str) -> Result<Protection, StorageError> {
        self.inner.protection(key).await
    }
    async fn retain(&self, key: &str, retention: Retention) -> Result<(), StorageError> {
        self.inner.retain(key, retention).await
    }
}

fn locked() -> RegionPolicy {
    RegionPolicy { lock: Some(LockPolicy { mode: LockMode::Compliance, days: 30 }), ..RegionPolicy::default() }
}

fn place(storage: Storage, policy: RegionPolicy) -> Place {
    Place::new("east", Role::Sync, storage).kept(policy, clock())
}

async fn create(place: Place) -> Result<Repository, RepositoryError> {
    Repository::create(vec![place], CreateOptions::default(), clock(), entropy())
        .await
        .map(|created| created.repository)
}

async fn names(storage: &Storage) -> Vec<String> {
    use futures::TryStreamExt;
    storage.list("").map_ok(|object| object.key).try_collect().await.unwrap()
}

#[tokio::test]
async fn what_a_place_offers_is_tried_and_recorded() {
    let storage = Odd::new().storage();
    let repository = create(place(storage.clone(), locked())).await.unwrap();
    let record = RegionRecord::decode(&storage.get("repo/region").await.unwrap()).unwrap();
    let offers = record.offers.unwrap();
    assert!(offers.locks && offers.holds && offers.versions && offers.checksums);
    assert_eq!(
        (offers.tiers, offers.bound.as_deref()),
        (vec!["hot".to_owned(), "cold".to_owned()], Some("compliance"))
    );
    for name in names(&storage).await {
        let answer = storage.delete(&name).await;
        let signs = name == "repo/region" || name == "repo/descriptor" || name.starts_with("repo/probe-");
        assert_eq!(answer.is_err(), signs, "{name}: {answer:?}");
    }
    drop(repository);

    let plain = Odd::new().storage();
    create(place(plain.clone(), RegionPolicy::default())).await.unwrap();
    assert!(names(&plain).await.iter().all(|name| !name.starts_with("repo/probe-")), "nothing was tried");
    plain.delete("repo/region").await.unwrap();
}

async fn refused(storage: Storage, policy: RegionPolicy, word: &str) {
    let error = create(place(storage.clone(), policy.clone())).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.class(), ErrorClass::Refused, "{text}");
    assert!(text.contains(word) && text.contains("`east`") && text.contains("hint:"), "{text}");
    let left = names(&storage).await;
    assert!(left.iter().all(|name| name.starts_with("repo/probe-")), "{left:?}");
    let joined = Lab::new(1).await.repository.join(place(storage, policy)).await.unwrap_err();
    assert!(joined.to_string().contains(word), "{joined}");
}

#[tokio::test]
async fn places_that_cannot_keep_what_is_declared_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    refused(Storage::file_system(directory.path()).unwrap(), locked(), "cannot lock objects").await;
    refused(Odd { forgets: true, ..Odd::new() }.storage(), locked(), "an object that was to be locked is not").await;
    let archive = RegionPolicy { tier: Tier::Archive, ..RegionPolicy::default() };
    refused(Odd::new().storage(), archive, "has no tier `archive`").await;
    let until = breakwater_core::Timestamp(i64::MAX);
    let default_lock = Some(Retention { mode: LockMode::Governance, until });
    refused(Odd { default_lock, ..Odd::new() }.storage(), locked(), "locks everything").await;
}

#[tokio::test]
async fn a_lock_that_was_tried_is_no_object_of_the_repository() {
    let storage = Odd::new().storage();
    let mode = LockMode::Compliance;
    let placement = Placement {
        retention: Some(Retention { mode, until: breakwater_core::Timestamp(i64::MAX) }),
        ..Placement::default()
    };
    storage.backend().create("repo/probe-ab", vec![1].into(), &placement).await.unwrap();
    assert_eq!(storage.delete("repo/probe-ab").await.unwrap_err().kind, StorageErrorKind::Locked);
    create(place(storage, locked())).await.unwrap();
}
