//! Collections among locked objects: nothing that is kept goes anywhere, and nothing is kept for ever.

use breakwater_repository::gc::GcOptions;
use breakwater_repository::gc::renewal::RenewalOptions;
use breakwater_repository::{GcOutcome, KeyChange, RegionPolicy};
use breakwater_storage::fault::{Effect, Rule};
use breakwater_storage::{Operation, StorageErrorKind};

use crate::calendar::{DAY, locked, world};
use crate::campaign::Dice;
use crate::lab::SOURCE;
use crate::world::files;

#[tokio::test]
async fn what_is_locked_in_one_region_stays_in_all_and_goes_later() {
    let (mut world, calendar) = world(vec![RegionPolicy::default(), locked(30)]).await;
    let first = world.backup(&files(0..20), None).await;
    let second = world.backup(&files(50..60), Some(&first)).await;
    let born = world.lab.repository.now();
    world.delete(&first).await;
    let options = GcOptions { repack_below: 0, ..GcOptions::default() };
    let before = world.names("pack").await;
    let report = world.gc(&options).await;
    assert_eq!((report.deleted.objects, report.waiting.held), (0, 0));
    assert!(report.waiting.figure.objects > 0 && report.waiting.figure.bytes > 20 * 4096, "{report:?}");
    let until = report.waiting.until.unwrap().micros_since(born);
    assert!((29 * DAY..=30 * DAY + 1_000_000).contains(&until), "{until}");
    assert_eq!(world.names("pack").await, before, "the region without locks keeps them too, or it would get them back");
    world.check().await;
    calendar.pass(29);
    assert_eq!(world.gc(&options).await.deleted.objects, 0);
    calendar.pass(2);
    let report = world.gc(&options).await;
    assert!(report.deleted.objects > 0 && report.waiting.figure.objects == 0, "{report:?}");
    world.check().await;
    let last = world.gc(&options).await;
    assert_eq!((last.deleted.objects, last.records.objects, last.waiting.figure.objects), (0, 0, 0));
    world.delete(&second).await;
    world.gc(&options).await;
    assert!(world.names("pack").await.is_empty() && world.names("keys").await.is_empty());
}

#[tokio::test]
async fn locked_packs_are_not_moved_again_and_again() {
    let (mut world, calendar) = world(vec![locked(10)]).await;
    let first = world.backup(&files(0..60), None).await;
    world.backup(&files(0..3), Some(&first)).await;
    world.delete(&first).await;
    let options = GcOptions { repack_below: 60, ..GcOptions::default() };
    for _ in 0..3 {
        let report = world.gc(&options).await;
        assert_eq!((report.moved.objects, report.repacked.objects), (0, 0), "{report:?}");
        world.check().await;
    }
    calendar.pass(11);
    let report = world.gc(&options).await;
    assert!(report.repacked.objects > 0 && report.moved.objects > 0, "{report:?}");
    world.check().await;
    assert_eq!(world.gc(&options).await.repacked.objects, 0);
}

/// Whoever has the writer's key and every right that a host needs says that all snapshots are deleted.
#[tokio::test]
async fn a_thief_who_deletes_everything_has_to_wait() {
    let (mut world, calendar) = world(vec![locked(30), locked(30)]).await;
    let taken = world.backup(&files(0..20), None).await;
    calendar.pass(14);
    world.lab.repository.renew_locks(&RenewalOptions::default()).await.unwrap();
    calendar.pass(10);
    world.lab.repository.delete_snapshot(SOURCE, taken.snapshot).await.unwrap();
    for spot in &world.lab.spots {
        for name in spot.names().await.iter().filter(|name| !name.ends_with(".deleted")) {
            let answer = spot.inside().delete(name).await;
            let may_go = name.starts_with("repo/") || name.contains("/open/");
            let locked = answer.as_ref().is_err_and(|error| error.kind == StorageErrorKind::Locked);
            assert!(may_go || locked, "{name}: {answer:?}");
        }
    }
    let list = world.names("pack").await;
    assert!(!list.is_empty() && !world.names("keys").await.is_empty());
    // Somebody notices, and takes the tombstones away: the snapshot is there again.
    for spot in &world.lab.spots {
        for name in spot.names().await.iter().filter(|name| name.ends_with(".deleted")) {
            spot.inside().delete(name).await.unwrap();
        }
    }
    world.check().await;
}

#[tokio::test]
async fn secrets_that_were_sealed_again_go_when_their_locks_end() {
    let (mut world, calendar) = world(vec![locked(10)]).await;
    world.backup(&files(0..5), None).await;
    let rotated = world.lab.repository.change_keys(KeyChange::Rotate).await.unwrap().repository;
    let first = rotated.reseal(&|_| {}).await.unwrap();
    assert!(first.behind.is_empty(), "{:?}", first.behind);
    assert_eq!((first.sealed, first.written, first.deleted, first.locked), (1, 1, 0, 1));
    world.check_with(&rotated).await;
    calendar.pass(11);
    let again = rotated.reseal(&|_| {}).await.unwrap();
    assert_eq!((again.sealed, again.deleted, again.locked), (0, 1, 0));
    world.check_with(&rotated).await;
}

async fn killed_everywhere(operation: Operation) {
    let mut hits = 0;
    for at in 1.. {
        let (mut world, calendar) = world(vec![RegionPolicy::default(), locked(8)]).await;
        let first = world.backup(&files(0..20), None).await;
        calendar.pass(5);
        let second = world.backup(&files(30..60), None).await;
        world.backup(&files(30..33), Some(&second)).await;
        world.delete(&first).await;
        world.delete(&second).await;
        calendar.pass(4);
        let options = GcOptions { repack_below: 60, ..GcOptions::default() };
        for spot in &world.lab.spots {
            spot.fault.add(Rule::on(operation).from(at), Effect::Fail(StorageErrorKind::Unreachable));
        }
        let killed = world.lab.repository.gc_source(SOURCE, &options).await;
        let done = killed.as_ref().is_ok_and(|report| matches!(report.outcome, GcOutcome::Done));
        world.lab.spots.iter().for_each(|spot| spot.fault.heal());
        world.check().await;
        let report = world.gc(&options).await;
        assert!(report.waiting.figure.objects > 0, "the second is locked still: {report:?}");
        world.check().await;
        calendar.pass(8);
        world.gc(&options).await;
        world.gc(&options).await;
        world.check().await;
        let last = world.gc(&options).await;
        let left = (last.deleted.objects, last.repacked.objects, last.records.objects, last.waiting.figure.objects);
        assert_eq!(left, (0, 0, 0, 0), "killed at {at}");
        hits = at;
        if done {
            break;
        }
    }
    assert!(hits > 3, "{operation} was killed {hits} times");
}

#[tokio::test]
async fn killed_at_any_deletion() {
    killed_everywhere(Operation::Delete).await;
}

#[tokio::test]
async fn killed_at_any_question() {
    killed_everywhere(Operation::Protection).await;
}

/// Backups, deletions, collections, renewals and days, at random, beside a naive model: what was not deleted is there, and is
/// locked after every renewal; and in the end all that was deleted is gone.
async fn play(seed: u64, steps: usize) {
    const DAYS: u32 = 12;
    let mut dice = Dice(seed);
    let (mut world, calendar) = world(vec![locked(DAYS), locked(DAYS / 2), RegionPolicy::default()]).await;
    let mut since = std::collections::BTreeMap::new();
    let mut fresh = 1000;
    for _ in 0..steps {
        match dice.roll(8) {
            0..=1 => {
                let base = match world.taken.len() {
                    0 => None,
                    count => world.taken.get(usize::try_from(dice.roll(count as u64)).unwrap()).cloned(),
                };
                let mut extents: Vec<u64> = (0..20).filter(|_| dice.roll(3) > 0).collect();
                for _ in 0..dice.roll(9) {
                    fresh += 1;
                    extents.push(fresh);
                }
                world.backup(&files(extents), base.as_ref()).await;
            }
            2 if !world.taken.is_empty() => {
                let which = usize::try_from(dice.roll(world.taken.len() as u64)).unwrap();
                let taken = world.taken[which].clone();
                world.delete(&taken).await;
            }
            3..=4 => {
                calendar.pass(i64::try_from(dice.roll(3)).unwrap());
                // The daily run.
                let options = RenewalOptions { since: since.clone(), ..RenewalOptions::default() };
                let now = world.lab.repository.now();
                for renewal in world.lab.repository.renew_locks(&options).await.unwrap() {
                    assert!(renewal.is_complete(), "{renewal:?}");
                    since.insert(renewal.id, renewal.begun);
                    for taken in &world.taken {
                        let of = (taken.snapshot, taken.session);
                        let only = std::slice::from_ref(&renewal.region);
                        let locks = world.lab.repository.snapshot_locks(SOURCE, of, only).await.unwrap();
                        let left =
                            locks[0].until.unwrap_or_else(|| panic!("seed {seed}: not all is locked: {locks:?}"));
                        assert!(left.micros_since(now) > renewal.lock.half_micros() * 3 / 4, "seed {seed}: {locks:?}");
                    }
                }
            }
            _ => {
                let repack_below = if dice.roll(2) == 0 { 60 } else { 0 };
                world.gc(&GcOptions { repack_below, ..GcOptions::default() }).await;
                world.check().await;
            }
        }
    }
    for taken in world.taken.clone() {
        world.delete(&taken).await;
    }
    // No lock is renewed any more, and so all end.
    calendar.pass(i64::from(DAYS) + 1);
    for _ in 0..2 {
        world.gc(&GcOptions::default()).await;
    }
    let left = world.names("pack").await;
    assert!(left.is_empty(), "seed {seed}: {left:?}");
    assert!(world.names("keys").await.is_empty() && world.names("moved").await.is_empty(), "seed {seed}");
}

#[tokio::test]
async fn at_random() {
    for seed in 0..4 {
        play(seed, 40).await;
    }
}
