//! A snapshot that is held is there, whoever wants it gone.

use breakwater_core::ErrorClass;
use breakwater_repository::{RegionPolicy, RepositoryError};
use breakwater_storage::Operation;
use breakwater_storage::fault::{Effect, Rule};

use crate::calendar::world;
use crate::lab::SOURCE;
use crate::world::files;

#[tokio::test]
async fn a_held_snapshot_is_not_deleted_until_it_is_unheld() {
    let (mut world, _) = world(vec![RegionPolicy::default(), RegionPolicy::default()]).await;
    let first = world.backup(&files(0..20), None).await;
    let second = world.backup(&files(0..30), Some(&first)).await;
    let (one, two) = ((first.snapshot, first.session), (second.snapshot, second.session));
    let repository = world.lab.repository.clone();
    assert!(matches!(repository.hold_snapshot(SOURCE, one, " ").await, Err(RepositoryError::Invalid(_))));
    let held = repository.hold_snapshot(SOURCE, one, "case 17").await.unwrap();
    assert!(held.behind.is_empty() && held.objects.len() == 2, "{held:?}");
    repository.hold_snapshot(SOURCE, two, "case 18").await.unwrap();
    let error = repository.delete_snapshot(SOURCE, first.snapshot).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.to_string().contains("case 17"), "{error}");
    assert_eq!(repository.holds(&repository.read_order(), SOURCE).await.unwrap().snapshots.len(), 2);
    repository.unhold_snapshot(SOURCE, one).await.unwrap();
    // What the other one needs is held as before.
    let locks = repository.snapshot_locks(SOURCE, two, &[]).await.unwrap();
    assert!(locks.iter().all(|locks| locks.held == locks.objects && locks.held > 0), "{locks:?}");
    world.delete(&first).await;
    world.gc(&Default::default()).await;
    world.check().await;
    repository.unhold_snapshot(SOURCE, two).await.unwrap();
    assert!(matches!(repository.unhold_snapshot(SOURCE, two).await, Err(RepositoryError::NotFound { .. })));
    let locks = repository.snapshot_locks(SOURCE, two, &[]).await.unwrap();
    assert!(locks.iter().all(|locks| locks.held == 0), "{locks:?}");
    world.delete(&second).await;
    world.gc(&Default::default()).await;
    assert!(world.names("pack").await.is_empty());
}

/// A deletion that did not see the hold: the tombstone is there, and the packs stay all the same.
#[tokio::test]
async fn a_collection_keeps_what_is_held() {
    let (mut world, _) = world(vec![RegionPolicy::default()]).await;
    let taken = world.backup(&files(0..20), None).await;
    let of = (taken.snapshot, taken.session);
    world.lab.repository.hold_snapshot(SOURCE, of, "case 17").await.unwrap();
    let spot = &world.lab.spots[0];
    spot.fault.add(Rule::on(Operation::List), Effect::Hide(format!("meta/{SOURCE}/hold/")));
    world.lab.repository.delete_snapshot(SOURCE, taken.snapshot).await.unwrap();
    spot.fault.heal();
    // The record alone keeps it, also where the place has no holds.
    for name in spot.names().await {
        spot.inside().hold(&name, false).await.unwrap();
    }
    let lasting = async || spot.names().await.into_iter().filter(|name| !name.contains("/open/")).collect::<Vec<_>>();
    let before = lasting().await;
    world.gc(&Default::default()).await;
    assert_eq!(lasting().await, before);
    let error = world.lab.repository.hold_snapshot(SOURCE, of, "again").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
}
