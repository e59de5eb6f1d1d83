//! A round that is killed at any change of a region, and begun again.

use breakwater_repository::GcOutcome;
use breakwater_repository::gc::GcOptions;
use breakwater_storage::fault::{Effect, Rule};
use breakwater_storage::{Operation, StorageErrorKind};

use crate::lab::SOURCE;
use crate::world::{World, files};

/// Two snapshots are deleted, one of them half needed by a third; one session is dead.
async fn world() -> World {
    let mut world = World::new(2).await;
    let first = world.backup(&files(0..30), None).await;
    let second = world.backup(&files(0..10), Some(&first)).await;
    let third = world.backup(&files(50..60), None).await;
    world.begin(&files(70..75), None).await;
    world.delete(&first).await;
    world.delete(&third).await;
    drop(second);
    world
}

async fn killed_everywhere(repack_below: u8, operation: Operation) {
    let mut hits = 0;
    for at in 1.. {
        let world = world().await;
        let options =
            GcOptions { repack_below, fence_begun_before: Some(world.lab.repository.now()), ..GcOptions::default() };
        for (number, spot) in world.lab.spots.iter().enumerate() {
            let effect = if at % 2 == number as u64 % 2 {
                Effect::Fail(StorageErrorKind::Unreachable)
            } else {
                Effect::ApplyThenFail(StorageErrorKind::Unreachable)
            };
            spot.fault.add(Rule::on(operation).from(at), effect);
        }
        let killed = world.lab.repository.gc_source(SOURCE, &options).await;
        let done = killed.as_ref().is_ok_and(|report| matches!(report.outcome, GcOutcome::Done));
        for spot in &world.lab.spots {
            spot.fault.heal();
        }
        world.check().await;
        let report = world.gc(&options).await;
        world.check().await;
        let last = world.gc(&options).await;
        let left = (last.deleted.objects, last.repacked.objects, last.records.objects);
        assert_eq!(left, (0, 0, 0), "killed at {at}, then {report:?}");
        hits = at;
        if done {
            break;
        }
    }
    assert!(hits > 3, "{operation} was killed {hits} times");
}

#[tokio::test]
async fn killed_at_any_deletion() {
    killed_everywhere(60, Operation::Delete).await;
}

#[tokio::test]
async fn killed_at_any_creation() {
    killed_everywhere(60, Operation::Create).await;
}

/// Two workers at the same source at once: one may stop for the other, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_at_once() {
    let mut overtaken = 0;
    for game in 0..12 {
        let world = world().await;
        let options = GcOptions {
            repack_below: 60,
            fence_begun_before: Some(world.lab.repository.now()),
            ..GcOptions::default()
        };
        for (number, spot) in world.lab.spots.iter().enumerate() {
            let wait = std::time::Duration::from_micros(50 + 130 * (game + number as u64));
            spot.fault.add(Rule::on(Operation::Create), Effect::Delay(wait));
            spot.fault.add(Rule::on(Operation::Delete), Effect::Delay(wait / 2));
        }
        let one = {
            let (repository, options) = (world.lab.repository.clone(), options.clone());
            tokio::spawn(async move { repository.gc_source(SOURCE, &options).await })
        };
        tokio::time::sleep(std::time::Duration::from_micros(400 * game)).await;
        let other = world.lab.repository.gc_source(SOURCE, &options).await;
        for report in [one.await.unwrap(), other] {
            let report = report.unwrap();
            assert!(matches!(report.outcome, GcOutcome::Done | GcOutcome::Overtaken), "{report:?}");
            overtaken += u32::from(matches!(report.outcome, GcOutcome::Overtaken));
        }
        world.lab.spots.iter().for_each(|spot| spot.fault.heal());
        world.check().await;
        // What a run that was fenced left goes with the next round, its decision with it.
        world.gc(&options).await;
        world.check().await;
        let last = world.gc(&options).await;
        assert_eq!((last.deleted.objects, last.repacked.objects, last.records.objects), (0, 0, 0));
    }
    println!("{overtaken} were overtaken");
}
