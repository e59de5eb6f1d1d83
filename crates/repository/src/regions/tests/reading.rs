//! Reading, listing and comparing regions that do not all hold the same.

use std::sync::Arc;

use breakwater_core::{ErrorClass, SourceUid};
use tokio::time::Instant;

use super::lab::{Lab, Mode, Place, handle, region_id};
use crate::regions::{RegionError, RegionSet, Role};

const SOURCE: SourceUid = SourceUid::from_bytes([0xAB; 16]);

fn named(rest: &str) -> String {
    format!("meta/{SOURCE}/{rest}")
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_to_the_next_region() {
    let lab = Lab::new(3, 1).await;
    let name = named("pack/beef-00000000");
    lab.places[1].plant(&name, b"0123456789").await;
    assert_eq!(&lab.set.get(&name).await.unwrap()[..], b"0123456789", "the first does not have it");
    lab.places[0].set(Mode::Gone);
    assert_eq!(&lab.set.get_range(&name, 2..4).await.unwrap()[..], b"23");
    lab.places[0].set(Mode::Hanging);
    let (tail, size) = lab.set.get_tail(&name, 3).await.unwrap();
    assert_eq!((&tail[..], size), (&b"789"[..], 10));

    let error = lab.set.get(&named("pack/none")).await.unwrap_err();
    assert!(error.class() != ErrorClass::NotFound && error.to_string().contains("r0"), "one may have it: {error}");
    lab.places[0].set(Mode::Up);
    let error = lab.set.get(&named("pack/none")).await.unwrap_err();
    assert!(matches!(error, RegionError::NotFound { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_joins_the_regions_and_names_the_silent_ones() {
    let lab = Lab::new(3, 1).await;
    for (place, name) in [(0, "pack/a"), (1, "pack/a"), (1, "pack/b"), (2, "pack/c")] {
        lab.places[place].plant(&named(name), b"x").await;
    }
    let found = lab.set.list(&named("pack/")).await.unwrap();
    let names = found.objects.iter().map(|object| object.name.clone()).collect::<Vec<_>>();
    assert_eq!(names, [named("pack/a"), named("pack/b"), named("pack/c")]);
    assert_eq!(found.objects[0].regions, [region_id(0), region_id(1)]);
    assert!(found.silent.is_empty());
    lab.places[2].set(Mode::Gone);
    lab.places[1].set(Mode::Hanging);
    let found = lab.set.list(&named("pack/")).await.unwrap();
    assert_eq!(found.objects.len(), 1);
    assert_eq!(found.silent.iter().map(|item| item.region.as_str()).collect::<Vec<_>>(), ["r1", "r2"]);
    lab.places[0].set(Mode::Gone);
    assert!(lab.set.list(&named("pack/")).await.is_err(), "nobody answers");
}

#[tokio::test(start_paused = true)]
async fn an_audit_finds_what_was_missed_before_this_process_began() {
    let lab = Lab::new(2, 1).await;
    let data = |range: &str| format!("data/{SOURCE}/log/00000001.beef/00000001-{range}");
    let tail = |range: &str| named(&format!("tail/00000001.beef/00000001-{range}"));
    let (covered, newest) = (tail("0000000000000000-0000000000000005"), tail("0000000000000010-0000000000000015"));
    let segment = data("0000000000000000-0000000000000010");
    for name in [&named("keys/beef"), &named("pack/beef-00000000"), &named("snap/01.beef"), &covered, &newest, &segment]
    {
        lab.places[0].plant(name, b"bytes").await;
    }
    lab.places[1].plant(&named("pack/cafe-00000000"), b"other").await;
    let report = lab.set.audit(&[SOURCE]).await;
    assert_eq!(report.regions[1].missing_objects, 5, "the superseded tail is no debt");
    assert_eq!((report.regions[0].missing_objects, report.regions[0].missing_bytes), (1, 5));
    assert!(report.conflicts.is_empty() && report.silent.is_empty());
    lab.drained().await;
    assert!(!lab.places[1].holds(&covered).await && lab.places[1].holds(&newest).await);
    assert_eq!(lab.places[1].created().last(), Some(&named("snap/01.beef")));
    assert!(lab.places[0].holds(&named("pack/cafe-00000000")).await);
    let report = lab.set.audit(&[SOURCE]).await;
    assert!(report.regions.iter().all(|region| region.missing_objects == 0), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_record_that_was_replaced_is_not_brought_back() {
    let lab = Lab::new(2, 1).await;
    // Region 1 was away while the session `aa` was sealed again, and before that while `bb` began.
    let (old, new, other) = (named("keys/aa"), named("keys/aa.10"), named("keys/bb"));
    lab.places[1].plant(&old, b"old").await;
    lab.places[1].plant(&named("keys/aa.9"), b"older").await;
    lab.places[0].plant(&new, b"new").await;
    lab.places[0].plant(&other, b"other").await;
    let report = lab.set.audit(&[SOURCE]).await;
    assert_eq!((report.regions[0].missing_objects, report.regions[1].missing_objects), (0, 2), "{report:?}");
    lab.drained().await;
    assert!(!lab.places[0].holds(&old).await && !lab.places[0].holds(&named("keys/aa.9")).await);
    assert!(lab.places[1].holds(&new).await && lab.places[1].holds(&other).await);
}

#[tokio::test(start_paused = true)]
async fn an_audit_says_nothing_about_silent_regions_and_reports_conflicts() {
    let lab = Lab::new(3, 1).await;
    lab.places[0].plant(&named("pack/a"), b"short").await;
    lab.places[1].plant(&named("pack/a"), b"longer").await;
    lab.places[2].set(Mode::Gone);
    let report = lab.set.audit(&[SOURCE]).await;
    assert_eq!(report.conflicts, [named("pack/a")]);
    assert_eq!(report.regions[2].missing_objects, 0);
    assert!(report.silent.iter().all(|item| item.region == "r2") && !report.silent.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_empty_or_foreign_place_is_never_written_to() {
    let lab = Lab::new(2, 1).await;
    // The disk of region 0 is not mounted, and somebody else's region lies where region 1 was.
    let (unmounted, swapped) = (Place::new(), Place::new());
    let foreign = format!(r#"{{"repository":"{}","region":"{}"}}"#, super::lab::REPOSITORY, region_id(9));
    swapped.plant("repo/region", foreign.as_bytes()).await;
    drop(lab);
    let handles = vec![handle(0, &unmounted), handle(1, &swapped)];
    let set = RegionSet::new(handles, 1).unwrap();
    let payload = breakwater_storage::Payload::from(b"x".to_vec());
    let error = set.create(&named("pack/a"), payload, std::time::Duration::from_secs(8)).await.unwrap_err().to_string();
    assert!(error.contains("r0: memory: holds no repository"), "{error}");
    assert!(error.contains("r1: another region lives at memory:"), "{error}");
    assert!(unmounted.created().is_empty() && swapped.created().is_empty());
    assert!(set.statuses().iter().all(|status| status.reachable == Some(false)));
}

#[tokio::test(start_paused = true)]
async fn an_empty_mount_is_no_answer() {
    let lab = Lab::new(2, 1).await;
    let name = named("pack/a");
    lab.places[1].plant(&name, b"x").await;
    // The disk of region 1 is unmounted right after it was asked; what is below it is an empty directory.
    let storage = lab.set.handles().nth(1).unwrap().storage.clone();
    for gone in lab.places[1].names().await {
        storage.delete(&gone).await.unwrap();
    }
    let error = lab.set.get(&name).await.unwrap_err();
    assert!(matches!(error, RegionError::Unreadable { .. }), "it may lie there: {error}");
    let found = lab.set.list(&named("pack/")).await.unwrap();
    assert_eq!(found.silent.iter().map(|item| item.region.as_str()).collect::<Vec<_>>(), ["r1"]);
    let report = lab.set.audit(&[SOURCE]).await;
    assert!(report.silent.iter().any(|item| item.region == "r1"));
    assert_eq!(report.regions[1].missing_objects, 0, "nothing is known about it");
    assert!(!lab.set.is_compared(region_id(0), SOURCE) || !lab.set.is_compared(region_id(1), SOURCE));
}

#[tokio::test(start_paused = true)]
async fn a_debt_does_not_vanish_because_its_source_is_not_mounted() {
    let lab = Lab::new(2, 1).await;
    let name = named("pack/a");
    lab.places[1].set(Mode::Gone);
    lab.create(&name).await;
    let storage = lab.set.handles().next().unwrap().storage.clone();
    let identity = lab.places[0].content("repo/region").await;
    for gone in [name.as_str(), "repo/region"] {
        storage.delete(gone).await.unwrap();
    }
    lab.places[1].set(Mode::Up);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(lab.set.statuses()[1].owed_objects, 1, "it is still owed");
    lab.places[0].plant("repo/region", &identity).await;
    lab.places[0].plant(&name, b"bytes").await;
    lab.drained().await;
    assert!(lab.places[1].holds(&name).await);
}

#[tokio::test(start_paused = true)]
async fn impossible_sets_are_refused() {
    let (one, two) = (Place::new(), Place::new());
    let refused = |handles, commit| RegionSet::new(handles, commit).unwrap_err().to_string();
    assert!(refused(vec![handle(0, &one)], 0).contains("commit must be from 1"));
    assert!(refused(vec![handle(0, &one)], 2).contains("(1): 2"));
    let mut archive = handle(1, &two);
    archive.role = Role::Archive;
    assert!(refused(vec![handle(0, &one), archive], 2).contains("(1): 2"), "an archive does not count");
    let mut same = handle(0, &two);
    same.name = "copy".to_owned();
    assert!(refused(vec![handle(0, &one), same], 1).contains("copy is the same place"));
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_stops_the_background_tasks() {
    let lab = Lab::new(1, 1).await;
    let place = Arc::clone(&lab.places[0]);
    drop(lab);
    let begun = Instant::now();
    while Arc::strong_count(&place) > 1 {
        assert!(begun.elapsed().as_secs() < 60, "tasks still hold the place");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
