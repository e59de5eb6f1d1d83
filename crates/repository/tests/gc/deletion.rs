//! What is deleted is gone, and nothing else.

use std::collections::BTreeSet;

use breakwater_core::ErrorClass;
use breakwater_repository::gc::GcOptions;
use breakwater_repository::{Access, CommitOutcome, GcOutcome, RepositoryError, SnapshotStatus};

use crate::lab::{SOURCE, intent, some_files, write};
use crate::world::{Chunks, World, files};

fn no_moves() -> GcOptions {
    GcOptions { repack_below: 0, ..GcOptions::default() }
}

#[tokio::test]
async fn a_deleted_snapshot_is_not_there_and_its_packs_go() {
    let mut world = World::new(2).await;
    let first = world.backup(&files(0..20), None).await;
    let second = world.backup(&files(100..120), None).await;
    world.begin(&files(300..303), None).await;
    let before = world.names("pack").await.len();
    world.delete(&first).await;
    world.check().await;
    let order = world.lab.repository.read_order();
    let all = world.lab.repository.snapshots_with_deleted(&order, Some(SOURCE)).await.unwrap();
    let status = |taken: &crate::world::Taken| {
        all.snapshots.iter().find(|one| one.session == taken.session).map(|one| one.status)
    };
    assert_eq!((status(&first), status(&second)), (Some(SnapshotStatus::Deleted), Some(SnapshotStatus::Committed)));

    let everything = world.lab.spots[0].names().await;
    let fence = Some(world.lab.repository.now());
    let dry = world.gc(&GcOptions { dry_run: true, fence_begun_before: fence, ..GcOptions::default() }).await;
    assert_eq!(world.lab.spots[0].names().await, everything, "a dry run changes nothing");
    assert_eq!(dry.pins.len(), 1);
    let report = world.gc(&no_moves()).await;
    assert_eq!((dry.deleted, dry.packs), (report.deleted, report.packs));
    assert_eq!((report.snapshots, report.tombstones, report.deleted.objects), (1, 1, 2));
    assert_eq!(world.names("pack").await.len(), before - 2);
    let left: Vec<String> =
        world.lab.spots[0].names().await.into_iter().filter(|name| name.contains(&first.session.to_string())).collect();
    assert!(left.iter().all(|name| name.ends_with(".deleted")), "{left:?}");
    world.check().await;

    let again = world.gc(&no_moves()).await;
    assert_eq!((again.deleted.objects, again.records.objects), (0, 0), "{again:?}");
    let stopped = no_moves();
    stopped.cancel.cancel();
    let report = world.lab.repository.gc_source(SOURCE, &stopped).await.unwrap();
    assert!(matches!(report.outcome, GcOutcome::Cancelled), "{report:?}");
    let too_much = GcOptions { repack_below: 101, ..GcOptions::default() };
    let error = world.lab.repository.gc_source(SOURCE, &too_much).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    let deletion = world.lab.repository.delete_snapshot(SOURCE, first.snapshot).await.unwrap();
    assert_eq!(deletion.sessions, [first.session], "deleting again is the same");
    let unknown = breakwater_core::SnapshotId::from_bytes([0xee; 16]);
    let error = world.lab.repository.delete_snapshot(SOURCE, unknown).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn what_a_later_snapshot_refers_to_stays_with_its_keys() {
    let mut world = World::new(2).await;
    let base = world.backup(&files(0..40), None).await;
    let next = world.backup(&files((0..38).chain(50..60)), Some(&base)).await;
    world.delete(&base).await;
    let report = world.gc(&no_moves()).await;
    assert_eq!(report.deleted.objects, 1, "the base's structure only: {report:?}");
    world.check().await;
    assert_eq!(world.names("keys").await.len(), 2);
    world.delete(&next).await;
    world.gc(&no_moves()).await;
    assert_eq!((world.names("pack").await.len(), world.names("keys").await.len()), (0, 0));
}

#[tokio::test]
async fn a_late_attempt_does_not_bring_back_what_was_deleted() {
    let mut world = World::new(1).await;
    let first = world.backup(&files(0..3), None).await;
    let writer = world.lab.writer(1);
    let mut late = intent(1, 2);
    late.snapshot = first.snapshot;
    let late = write(&world.lab.repository, &writer, late, &some_files(), &Chunks::new()).await;
    world.delete(&first).await;
    for _ in 0..2 {
        let outcome = late.session.commit(&writer, &late.manifest).await.unwrap();
        assert_eq!(outcome, CommitOutcome::AlreadyCommitted { session: first.session });
        world.gc(&no_moves()).await;
    }
}

#[tokio::test]
async fn an_open_session_keeps_what_it_names_until_it_is_decided() {
    let mut world = World::new(2).await;
    let base = world.backup(&files(0..20), None).await;
    let next = world.begin(&files(0..21), Some(&base)).await;
    world.delete(&base).await;
    let report = world.gc(&no_moves()).await;
    assert_eq!((report.deleted.objects, report.pins.len()), (0, 1), "{report:?}");
    let next = world.commit(&next, &files(0..21)).await;
    let report = world.gc(&no_moves()).await;
    assert_eq!((report.deleted.objects, report.pins.len()), (1, 0), "the base's structure: {report:?}");
    world.check().await;
    drop(next);
}

#[tokio::test]
async fn a_session_that_names_what_is_deleted_goes_on_without() {
    let mut world = World::new(2).await;
    let base = world.backup(&files(0..5), None).await;
    world.delete(&base).await;
    let mut wanted = intent(9, 1);
    wanted.bases = vec![breakwater_repository::format::manifest::SnapshotSession {
        snapshot: base.snapshot,
        session: base.session,
    }];
    let writer = world.lab.writer(1);
    let begun =
        breakwater_repository::BackupSession::begin(&world.lab.repository, &writer, SOURCE, wanted).await.unwrap();
    assert!(begun.intent().bases.is_empty());
    let report = world.gc(&no_moves()).await;
    assert_eq!((report.deleted.objects, report.pins.len()), (2, 1), "the first try pins nothing: {report:?}");
}

#[tokio::test]
async fn the_dead_are_fenced_by_name_or_age_and_what_they_left_goes() {
    let mut world = World::new(2).await;
    let kept = world.backup(&files(0..5), None).await;
    let dead = world.begin(&files(10..15), None).await;
    let old = world.begin(&files(20..25), None).await;
    let report = world.gc(&no_moves()).await;
    assert_eq!((report.deleted.objects, report.fenced.len(), report.pins.len()), (0, 0, 2));
    let named = GcOptions { dead: BTreeSet::from([dead.session.id()]), ..no_moves() };
    let report = world.gc(&named).await;
    assert_eq!((report.deleted.objects, &report.fenced), (2, &vec![dead.session.id()]), "{report:?}");
    let outcome = dead.session.commit(&world.lab.writer(1), &dead.manifest).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Fenced { .. }), "{outcome:?}");
    let aged = GcOptions { fence_begun_before: Some(old.session.started()), ..no_moves() };
    assert_eq!(world.gc(&aged).await.fenced.len(), 0);
    let aged = GcOptions { fence_begun_before: Some(world.lab.repository.now()), ..no_moves() };
    assert_eq!(world.gc(&aged).await.fenced, [old.session.id()]);
    assert_eq!(world.names("pack").await.len(), 2);
    // A pack of the dead that lands late goes with the next round.
    let late = breakwater_repository::PackId { session: dead.session.id(), number: 7 };
    let name = breakwater_repository::ObjectName::ContentPack(SOURCE, late).to_string();
    world.lab.spots[1].inside().create(&name, bytes::Bytes::from_static(b"late").into()).await.unwrap();
    assert_eq!(world.gc(&no_moves()).await.deleted.objects, 1);
    world.check().await;
    drop(kept);
}

#[tokio::test]
async fn a_region_that_is_away_stops_the_round_before_anything_is_deleted() {
    let mut world = World::new(2).await;
    let first = world.backup(&files(0..5), None).await;
    world.lab.spots[1].fault.set_reachable(false);
    let deletion = world.lab.repository.delete_snapshot(SOURCE, first.snapshot).await.unwrap();
    assert_eq!(deletion.owed.len(), 1, "{deletion:?}");
    let report = world.lab.repository.gc_source(SOURCE, &no_moves()).await.unwrap();
    assert!(matches!(&report.outcome, GcOutcome::Away(causes) if causes.len() == 1), "{report:?}");
    assert_eq!(world.names("pack").await.len(), 2);
    world.lab.spots[1].fault.heal();
    world.taken.clear();
    assert_eq!(world.gc(&no_moves()).await.deleted.objects, 2);
    world.check().await;
}

#[tokio::test]
async fn a_reapers_key_is_enough() {
    let mut world = World::new(2).await;
    let first = world.backup(&files(0..50), None).await;
    let second = world.backup(&files(0..10), Some(&first)).await;
    let third = world.backup(&files(100..110), None).await;
    let reaper = world.lab.reopen(Access::Reaper(world.lab.repository.reaper_key().unwrap())).await.unwrap();
    assert!(!reaper.opens_content());
    for taken in [&first, &third] {
        reaper.delete_snapshot(SOURCE, taken.snapshot).await.unwrap();
        world.taken.retain(|one| one.session != taken.session);
    }
    let report = reaper.gc_source(SOURCE, &GcOptions::default()).await.unwrap();
    assert!(matches!(report.outcome, GcOutcome::Done), "{report:?}");
    assert_eq!((report.deleted.objects, report.repacked.objects), (3, 1), "{report:?}");
    world.check().await;
    drop(second);
}

#[tokio::test]
async fn a_snapshot_whose_needs_are_not_known_stops_the_round() {
    let mut world = World::new(1).await;
    let first = world.backup(&files(0..5), None).await;
    let second = world.backup(&files(10..15), None).await;
    world.delete(&first).await;
    let structure = format!("meta/{SOURCE}/pack/{}-00000000", second.session);
    let spot = &world.lab.spots[0];
    let mut bytes = spot.inside().get(&structure).await.unwrap().to_vec();
    for byte in &mut bytes[128..] {
        *byte ^= 1;
    }
    spot.replace(&structure, bytes.into()).await;
    let error = world.lab.repository.gc_source(SOURCE, &no_moves()).await.unwrap_err();
    assert!(matches!(&error, RepositoryError::Refused(text) if text.contains(&second.snapshot.to_string())), "{error}");
    assert_eq!(world.names("pack").await.len(), 4);
}

#[tokio::test]
async fn unknown_names_and_strays_are_told_and_stay() {
    let mut world = World::new(1).await;
    world.backup(&files(0..5), None).await;
    let inside = world.lab.spots[0].inside();
    let stray =
        breakwater_repository::PackId { session: breakwater_core::SessionId::from_bytes([0x5a; 16]), number: 0 };
    for name in
        [format!("data/{SOURCE}/pack/notes"), breakwater_repository::ObjectName::ContentPack(SOURCE, stray).to_string()]
    {
        inside.create(&name, bytes::Bytes::from_static(b"mine").into()).await.unwrap();
    }
    let report = world.gc(&GcOptions::default()).await;
    assert_eq!((report.unknown.objects, report.strays.objects, report.deleted.objects), (1, 1, 0));
    assert_eq!(report.unknown_names, [format!("data/{SOURCE}/pack/notes")]);
}

#[tokio::test]
async fn a_tombstone_that_nobody_with_the_key_wrote_deletes_nothing() {
    let mut world = World::new(1).await;
    let first = world.backup(&files(0..5), None).await;
    let name = breakwater_repository::ObjectName::Tombstone(SOURCE, first.snapshot, first.session).to_string();
    world.lab.spots[0].inside().create(&name, bytes::Bytes::from_static(b"BWRC").into()).await.unwrap();
    let report = world.gc(&no_moves()).await;
    assert_eq!((report.tombstones, report.deleted.objects), (0, 0));
}

#[tokio::test]
async fn what_is_left_of_packs_is_moved_and_found_by_readers_again_and_again() {
    let mut world = World::new(2).await;
    let moves = GcOptions { repack_below: 60, ..GcOptions::default() };
    let first = world.backup(&files(0..40), None).await;
    let second = world.backup(&files((0..12).chain(100..104)), Some(&first)).await;
    let other = world.backup(&files((10..16).chain(200..220)), Some(&first)).await;
    world.delete(&first).await;
    let report = world.gc(&moves).await;
    // The first session's content pack, of which 16 of 40 extents are needed; its structure is not needed at all.
    assert_eq!((report.repacked.objects, report.deleted.objects, report.moved.objects), (1, 1, 1), "{report:?}");
    assert!(report.freed() > 90_000, "{report:?}");
    assert!(world.names("pack").await.iter().all(|name| !name.contains(&first.session.to_string())));
    assert_eq!(world.names("moved").await.len(), 1);
    world.check().await;
    let again = world.gc(&moves).await;
    assert_eq!((again.repacked.objects, again.deleted.objects, again.records.objects), (0, 0, 0), "{again:?}");

    // A snapshot that refers to what has moved does so by its old place.
    let third = world.backup(&files((0..3).chain(300..303)), Some(&second)).await;
    world.delete(&second).await;
    world.delete(&other).await;
    let report = world.gc(&moves).await;
    assert_eq!(report.repacked.objects, 1, "the new pack is moved in its turn: {report:?}");
    world.check().await;
    let fourth = world.backup(&files((1..3).chain(400..401)), Some(&third)).await;
    world.delete(&third).await;
    world.gc(&moves).await;
    world.check().await;
    world.delete(&fourth).await;
    world.gc(&moves).await;
    let left: Vec<usize> =
        [world.names("pack").await.len(), world.names("moved").await.len(), world.names("keys").await.len()].into();
    assert_eq!(left, [0, 0, 0]);
}

#[tokio::test]
async fn a_pack_that_one_region_has_damaged_is_moved_from_the_other() {
    let mut world = World::new(2).await;
    let first = world.backup(&files(0..40), None).await;
    let second = world.backup(&files((0..5).chain(100..101)), Some(&first)).await;
    world.delete(&first).await;
    let name = format!("data/{SOURCE}/pack/{}-00000000", first.session);
    let mut bytes = world.lab.spots[0].inside().get(&name).await.unwrap().to_vec();
    bytes[5000] ^= 1;
    world.lab.spots[0].replace(&name, bytes.clone().into()).await;
    assert_eq!(world.gc(&GcOptions::default()).await.repacked.objects, 1);
    world.check().await;
    drop(second);
    // Damaged in both, it stays, and so does all that can still be read of it.
    let third = world.backup(&files(500..540), None).await;
    let fourth = world.backup(&files((500..505).chain(600..601)), Some(&third)).await;
    world.delete(&third).await;
    let name = format!("data/{SOURCE}/pack/{}-00000000", third.session);
    for spot in &world.lab.spots {
        let mut bytes = spot.inside().get(&name).await.unwrap().to_vec();
        bytes[5000] ^= 1;
        spot.replace(&name, bytes.into()).await;
    }
    assert_eq!(world.gc(&GcOptions::default()).await.repacked.objects, 0);
    assert!(world.names("pack").await.contains(&name));
    drop(fourth);
}
