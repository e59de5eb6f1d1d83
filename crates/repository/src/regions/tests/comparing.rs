//! What a region missed before this process began, and the manifests that must not show before it is known.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::SourceUid;
use tokio::time::Instant;

use super::lab::{Lab, Mode, PATIENCE, Place, bytes_of, region_id};
use crate::regions::RegionOptions;

const SOURCE: SourceUid = SourceUid::from_bytes([0xAB; 16]);

fn names() -> (String, String, String) {
    (
        format!("data/{SOURCE}/pack/cafe-00000000"),
        format!("meta/{SOURCE}/snap/01.beef"),
        format!("data/{SOURCE}/pack/beef-00000000"),
    )
}

/// Two regions; the first holds a pack that the second missed in an earlier process.
async fn behind() -> Vec<Arc<Place>> {
    let places = vec![Place::new(), Place::new()];
    Lab::prepare(&places).await;
    let (old, ..) = names();
    places[0].plant(&old, &bytes_of(&old).to_bytes()).await;
    places
}

#[tokio::test(start_paused = true)]
async fn a_manifest_shows_only_after_what_was_missed_before() {
    let lab = Lab::over(behind().await, 2, RegionOptions::default()).await;
    let (old, snap, new) = names();
    lab.create(&new).await;
    lab.create(&snap).await;
    lab.drained().await;
    let created = lab.places[1].created();
    assert_eq!(created, [new, old, snap], "the old pack came before the manifest that may lean on it");
    assert!(lab.set.is_compared(region_id(1), SOURCE));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_waits_for_what_the_source_leans_on() {
    let other = SourceUid::from_bytes([0xCD; 16]);
    let leaned_on = format!("data/{other}/pack/f00d-00000000");
    let (_, snap, new) = names();
    // Said by this process, or found in a region.
    for said_now in [true, false] {
        let places = vec![Place::new(), Place::new()];
        Lab::prepare(&places).await;
        places[0].plant(&leaned_on, &bytes_of(&leaned_on).to_bytes()).await;
        let leaning = format!("meta/{SOURCE}/leans/{other}");
        if !said_now {
            places[0].plant(&leaning, &bytes_of(&leaning).to_bytes()).await;
        }
        let lab = Lab::over(places, 2, RegionOptions::default()).await;
        if said_now {
            lab.create(&leaning).await;
        }
        lab.create(&new).await;
        lab.create(&snap).await;
        lab.drained().await;
        let created = lab.places[1].created();
        assert_eq!(created.last(), Some(&snap), "{created:?}");
        assert!(created.contains(&leaned_on), "the other source's pack came before the manifest: {created:?}");
        assert!(lab.set.is_compared(region_id(1), other));
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_was_away_from_the_start_holds_nobody_up_and_is_compared_when_it_is_back() {
    let places = behind().await;
    places[1].set(Mode::Gone);
    let lab = Lab::over(places, 1, RegionOptions::default()).await;
    lab.set.keep_compared();
    let (old, snap, _) = names();
    let begun = Instant::now();
    lab.create(&snap).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let compared = || lab.set.statuses().iter().map(|status| status.compared).collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(compared(), [true, false], "nobody knows what the region that is away misses");
    assert!(!lab.set.is_compared(region_id(1), SOURCE));
    lab.places[1].set(Mode::Up);
    lab.wait("it was compared", || compared() == [true, true]).await;
    assert!(lab.set.is_compared(region_id(1), SOURCE));
    lab.drained().await;
    assert_eq!(lab.places[1].created(), [old, snap]);
}

#[tokio::test(start_paused = true)]
async fn debts_of_an_earlier_process_are_found_without_traffic() {
    let places = behind().await;
    places[1].set(Mode::Gone);
    let lab = Lab::over(places, 1, RegionOptions::default()).await;
    lab.set.keep_compared();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.set.owed_of(region_id(1), SOURCE).objects, 0);
    lab.places[1].set(Mode::Unlisted);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(lab.set.statuses().iter().all(|status| !status.compared), "it answers, but what it holds is not known");
    lab.places[1].set(Mode::Up);
    lab.wait("both are compared", || lab.set.statuses().iter().all(|status| status.compared)).await;
    lab.drained().await;
    assert!(lab.places[1].holds(&names().0).await);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_cannot_be_listed_gets_no_manifest_and_the_error_says_why() {
    let lab = Lab::over(behind().await, 1, RegionOptions::default()).await;
    lab.places[1].set(Mode::Unlisted);
    let (old, snap, _) = names();
    let error = lab.set.create(&snap, bytes_of(&snap), Duration::from_secs(20)).await.unwrap_err().to_string();
    assert!(error.contains("r1: has not been compared"), "{error}");
    assert!(lab.places[1].created().is_empty());
    lab.places[1].set(Mode::Up);
    lab.set.create(&snap, bytes_of(&snap), PATIENCE).await.unwrap();
    lab.drained().await;
    assert_eq!(lab.places[1].created(), [old, snap]);
}

#[tokio::test(start_paused = true)]
async fn a_new_source_waits_for_nothing() {
    let lab = Lab::new(2, 2).await;
    let begun = Instant::now();
    lab.create(&names().1).await;
    assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_debt_of_one_source_is_told_apart() {
    let lab = Lab::new(2, 1).await;
    let (pack, ..) = names();
    lab.create("repo/domain/1").await;
    lab.drained().await;
    lab.places[1].set(Mode::Gone);
    let segment = format!("data/{SOURCE}/log/00000001.feed/00000001-0000000000000000-0000000001000000");
    let other = "data/0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a/pack/beef-00000000";
    for name in [segment.as_str(), other] {
        lab.create(name).await;
    }
    lab.wait("they are owed", || lab.set.statuses()[1].owed_objects == 2).await;
    let debt = lab.set.owed_of(region_id(1), SOURCE);
    assert_eq!((debt.objects, debt.bytes), (1, bytes_of(&segment).len()));
    assert!(debt.oldest.is_some() && debt.commit_debt_since.is_none(), "no manifest leans on the log: {debt:?}");
    lab.create(&pack).await;
    lab.wait("it is owed", || lab.set.statuses()[1].owed_objects == 3).await;
    let debt = lab.set.owed_of(region_id(1), SOURCE);
    assert_eq!((debt.objects, debt.snapshot_objects), (2, 1));
    assert!(debt.commit_debt_since.is_some());
    assert_eq!(lab.set.owed_of(region_id(0), SOURCE).objects, 0);
}
