//! Renewals: as few calls as the beat allows, and nothing that is needed is left out.

use std::collections::BTreeMap;

use breakwater_repository::gc::renewal::{RegionRenewal, RenewalOptions};
use breakwater_repository::{RegionPolicy, Repository};
use breakwater_storage::StorageErrorKind;

use crate::calendar::{locked, world};
use crate::lab::SOURCE;
use crate::world::files;

async fn renew(
    repository: &Repository,
    since: &BTreeMap<breakwater_core::RegionId, breakwater_core::Timestamp>,
) -> Vec<RegionRenewal> {
    let options = RenewalOptions { since: since.clone(), ..RenewalOptions::default() };
    repository.renew_locks(&options).await.unwrap()
}

#[tokio::test]
async fn each_object_is_renewed_once_in_half_a_period() {
    let (mut world, calendar) = world(vec![locked(20), RegionPolicy::default()]).await;
    world.backup(&files(0..300), None).await;
    let mut since = BTreeMap::new();
    let (mut asked, mut renewed, mut objects) = (0, 0, 0);
    for _ in 0..40 {
        calendar.pass(1);
        let renewals = renew(&world.lab.repository, &since).await;
        assert_eq!(renewals.len(), 1, "a region without locks takes no part");
        let one = &renewals[0];
        assert!(one.is_complete(), "{one:?}");
        since.insert(one.id, one.begun);
        (asked, renewed, objects) = (asked + one.asked, renewed + one.renewed, one.objects);
    }
    assert!(objects > 3, "{objects}");
    assert_eq!(asked, objects, "each was asked once, by the run that knew nothing of it");
    assert_eq!(renewed, 4 * objects, "once in each half of a period of 20 days, over 40 days");
}

#[tokio::test]
async fn garbage_is_left_to_run_out() {
    let (mut world, calendar) = world(vec![locked(20)]).await;
    let first = world.backup(&files(0..20), None).await;
    let second = world.backup(&files(50..60), None).await;
    world.delete(&first).await;
    calendar.pass(11);
    renew(&world.lab.repository, &BTreeMap::new()).await;
    calendar.pass(10);
    let report = world.gc(&Default::default()).await;
    assert!(report.deleted.objects > 0 && report.waiting.figure.objects == 0, "{report:?}");
    let locks = world.lab.repository.snapshot_locks(SOURCE, (second.snapshot, second.session), &[]).await.unwrap();
    assert!(locks[0].unlocked == 0 && locks[0].until.is_some(), "{locks:?}");
    world.check().await;
}

/// An agent that was taken over writes without locks.
#[tokio::test]
async fn what_was_written_without_a_lock_gets_one() {
    let (mut world, _) = world(vec![locked(20)]).await;
    let taken = world.backup(&files(0..20), None).await;
    let spot = &world.lab.spots[0];
    let name = world.names("pack").await.remove(0);
    let bytes = spot.inside().get(&name).await.unwrap();
    spot.memory.forget_lock(&name);
    assert_eq!(spot.inside().get(&name).await.unwrap(), bytes);
    let of = (taken.snapshot, taken.session);
    let before = world.lab.repository.snapshot_locks(SOURCE, of, &[]).await.unwrap();
    assert_eq!((before[0].unlocked, before[0].until), (1, None));
    let renewals = renew(&world.lab.repository, &BTreeMap::new()).await;
    assert_eq!(renewals[0].renewed, 1, "{renewals:?}");
    let after = world.lab.repository.snapshot_locks(SOURCE, of, &[]).await.unwrap();
    assert_eq!((after[0].unlocked, after[0].weakest), (0, Some("compliance")));
}

#[tokio::test]
async fn a_region_that_is_away_lets_no_lock_run_out_elsewhere() {
    let (mut world, calendar) = world(vec![locked(20), locked(20)]).await;
    let first = world.backup(&files(0..20), None).await;
    world.delete(&first).await;
    calendar.pass(11);
    world.lab.spots[1].fault.set_reachable(false);
    let renewals = renew(&world.lab.repository, &BTreeMap::new()).await;
    assert!(renewals[0].is_complete() && !renewals[1].is_complete(), "{renewals:?}");
    assert!(renewals[0].renewed >= 6, "what the other region needs is not known, so all is renewed: {renewals:?}");
    world.lab.spots[1].fault.heal();
    let error = world.lab.spots[0].inside().delete(&world.names("pack").await[0]).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Locked);
}
