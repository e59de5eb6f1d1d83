//! Regions that go away and come back while the others are written.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use breakwater_core::ErrorClass;
use breakwater_runtime::SystemClock;
use breakwater_storage::StorageErrorKind;
use breakwater_storage::bandwidth::{Bandwidth, Calendar, Rate};
use proptest::prelude::*;
use tokio::time::Instant;

use super::lab::{Lab, Mode, Place, bytes_of, handle};
use crate::regions::{RegionError, RegionOptions};

const A: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

fn pack(number: u32) -> String {
    format!("data/{A}/pack/beef-{number:08x}")
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_in_every_region() {
    let lab = Lab::new(3, 2).await;
    let durability = lab.set.create(&pack(0), bytes_of(&pack(0)), Duration::from_secs(9)).await.unwrap();
    assert!(durability.held.len() >= 2, "{durability:?}");
    lab.drained().await;
    for place in &lab.places {
        assert_eq!(place.content(&pack(0)).await, bytes_of(&pack(0)).to_bytes());
    }
    assert!(lab.set.statuses().iter().all(|status| status.owed_objects == 0 && status.bytes_written > 0));
}

#[tokio::test(start_paused = true)]
async fn a_dead_region_holds_nobody_up_and_is_repaid_in_order() {
    let lab = Lab::new(2, 1).await;
    lab.places[1].set(Mode::Gone);
    let begun = Instant::now();
    for number in 0..20 {
        lab.create(&pack(number)).await;
    }
    let (keys, snap) = (format!("meta/{A}/keys/beef"), format!("meta/{A}/snap/01.beef"));
    lab.create(&keys).await;
    lab.create(&snap).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let status = lab.set.statuses()[1].clone();
    assert_eq!((status.reachable, status.owed_objects), (Some(false), 22));
    assert!(status.oldest_owed_since.is_some() && status.last_error.is_some());

    lab.places[1].set(Mode::Up);
    lab.drained().await;
    let created = lab.places[1].created();
    assert_eq!(created.last(), Some(&snap), "the manifest comes last");
    assert_eq!(lab.places[1].names().await, lab.places[0].names().await);
    assert_eq!(lab.set.statuses()[1].reachable, Some(true));
    assert_eq!(lab.set.statuses()[1].owed_objects, 0);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_never_answers_costs_the_grace_at_most() {
    let lab = Lab::new(2, 1).await;
    lab.places[1].set(Mode::Hanging);
    let begun = Instant::now();
    for number in 0..5 {
        lab.create(&pack(number)).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    lab.wait("the buffers were let go of", || lab.set.statuses()[1].owed_objects == 5).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    lab.wait("it counts as away", || lab.set.statuses()[1].reachable == Some(false)).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    lab.places[1].set(Mode::Up);
    lab.drained().await;
    assert_eq!(lab.places[1].names().await, lab.places[0].names().await);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_hangs_is_made_up_for_by_one_that_owes() {
    let lab = Lab::new(2, 1).await;
    lab.places[1].set(Mode::Gone);
    lab.create(&pack(0)).await;
    lab.places[0].set(Mode::Hanging);
    lab.places[1].set(Mode::Up);
    // Pack 0 lies in the hanging region only; pack 1 does not lean on it.
    lab.create(&pack(1)).await;
    assert!(lab.places[1].holds(&pack(1)).await && !lab.places[1].holds(&pack(0)).await);
    // A manifest leans on all packs of the source, so it is refused with the reason.
    let snap = format!("meta/{A}/snap/01.beef");
    let error = lab.set.create(&snap, bytes_of(&snap), Duration::from_secs(20)).await.unwrap_err();
    assert!(error.to_string().contains("r1: waits for") || error.to_string().contains("is owed"), "{error}");
    assert!(!lab.places[1].holds(&snap).await);
    lab.places[0].set(Mode::Up);
    lab.create(&snap).await;
    lab.drained().await;
    assert_eq!(lab.places[1].names().await, lab.places[0].names().await);
}

#[tokio::test(start_paused = true)]
async fn a_region_taken_away_shows_without_traffic() {
    let lab = Lab::new(2, 1).await;
    let begun = Instant::now();
    lab.places[0].set(Mode::Hanging);
    lab.places[1].set(Mode::Gone);
    lab.wait("both show", || lab.set.statuses().iter().all(|status| status.reachable == Some(false))).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    lab.places[0].set(Mode::Up);
    lab.wait("one is back", || lab.set.statuses()[0].reachable == Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn too_few_regions_are_waited_for_and_then_named() {
    let lab = Lab::new(2, 2).await;
    lab.places[1].set(Mode::Gone);
    let begun = Instant::now();
    let error = lab.set.create(&pack(0), bytes_of(&pack(0)), Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 20);
    assert_eq!(error.class(), ErrorClass::Unavailable);
    let text = error.to_string();
    assert!(text.contains("r1: cannot") && text.contains("1 of the 2") && !text.contains("r0"), "{text}");
    // The region comes back within the time of the next one.
    let place = lab.places[1].clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(15)).await;
        place.set(Mode::Up);
    });
    lab.create(&pack(1)).await;
    lab.drained().await;
    assert!(lab.places[1].holds(&pack(0)).await, "what one region got is not lost on the others");
}

#[tokio::test(start_paused = true)]
async fn missing_rights_fail_at_once_and_a_full_disk_is_waited_for() {
    let lab = Lab::new(1, 1).await;
    lab.places[0].set(Mode::Refusing(StorageErrorKind::Denied));
    let begun = Instant::now();
    let error = lab.set.create(&pack(0), bytes_of(&pack(0)), Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Denied);
    assert!(begun.elapsed() < Duration::from_secs(1));
    lab.places[0].set(Mode::Refusing(StorageErrorKind::Full));
    let error = lab.set.create(&pack(1), bytes_of(&pack(1)), Duration::from_secs(60)).await.unwrap_err();
    assert!(error.to_string().contains("no room left"), "{error}");
    assert_eq!((begun.elapsed().as_secs(), error.class()), (60, ErrorClass::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_on_the_way_counts_once_the_bytes_are_compared() {
    let lab = Lab::new(2, 2).await;
    lab.places[1].set(Mode::Mute);
    let place = lab.places[1].clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        place.set(Mode::Up);
    });
    lab.create(&pack(0)).await;
    assert_eq!(lab.places[1].created(), [pack(0)]);
}

#[tokio::test(start_paused = true)]
async fn other_bytes_under_the_name_are_a_conflict() {
    let lab = Lab::new(2, 1).await;
    lab.places[0].plant(&pack(0), b"somebody else's").await;
    let error = lab.set.create(&pack(0), bytes_of(&pack(0)), Duration::from_secs(9)).await;
    let conflict = lab.set.create(&pack(0), bytes_of(&pack(0)), Duration::from_secs(9)).await;
    assert!(
        [error, conflict]
            .iter()
            .any(|result| matches!(result, Err(RegionError::Conflict { region, .. }) if region == "r0")),
    );
    assert_eq!(&lab.places[0].content(&pack(0)).await[..], b"somebody else's");
}

#[tokio::test(start_paused = true)]
async fn a_slow_region_is_served_from_the_buffer_within_the_grace_and_copied_after() {
    let lab = Lab::new(2, 1).await;
    lab.places[1].set(Mode::Slow(500));
    lab.create(&pack(0)).await;
    lab.drained().await;
    assert!(!lab.places[0].reads.lock().unwrap().contains(&pack(0)), "it came from the buffer");
    lab.places[1].set(Mode::Slow(5000));
    lab.create(&pack(1)).await;
    lab.drained().await;
    assert!(lab.places[0].reads.lock().unwrap().contains(&pack(1)), "it was copied");
}

#[tokio::test(start_paused = true)]
async fn a_region_that_trickles_or_throttles_holds_nobody_up() {
    for mode in [Mode::Slow(25_000), Mode::Throttling] {
        let lab = Lab::new(2, 1).await;
        lab.places[1].set(mode);
        let begun = Instant::now();
        for number in 0..40 {
            lab.create(&pack(number)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{mode:?}: {:?}", begun.elapsed());
        lab.wait("it owes names", || lab.set.statuses()[1].owed_objects > 0).await;
        lab.places[1].set(Mode::Up);
        lab.drained().await;
        assert_eq!(lab.places[1].names().await, lab.places[0].names().await, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_throttles_is_there() {
    let lab = Lab::new(1, 1).await;
    lab.places[0].set(Mode::Throttling);
    lab.wait("a probe was throttled", || lab.set.statuses()[0].last_error.is_some()).await;
    assert_eq!(lab.set.statuses()[0].reachable, Some(true));
    lab.places[0].set(Mode::Up);
    lab.create(&pack(0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_slow_by_order_is_in_health() {
    let places = vec![Place::new()];
    Lab::prepare(&places).await;
    let mut slow = handle(0, &places[0]);
    let rate = Rate { up: NonZeroU64::new(2), down: None };
    slow.storage =
        slow.storage.decorated(|inner| Arc::new(Bandwidth::new(inner, Calendar::always(rate), Arc::new(SystemClock))));
    let lab = Lab::with_handles(places, vec![slow], 1, RegionOptions::default()).await;
    let begun = Instant::now();
    lab.create(&pack(0)).await;
    // 168 bytes: longer than a put may take on the wire, and not as long as the caller waits.
    assert!(begun.elapsed() > Duration::from_secs(60), "{:?}", begun.elapsed());
    let status = lab.set.statuses()[0].clone();
    assert_eq!((status.reachable, status.last_error.is_none()), (Some(true), true));
    assert_eq!(lab.places[0].created(), [pack(0)]);
}

#[tokio::test(start_paused = true)]
async fn buffers_in_grace_are_bounded() {
    let lab = Lab::with(2, 1, RegionOptions { grace_bytes: 100, ..RegionOptions::default() }).await;
    lab.places[1].set(Mode::Hanging);
    for number in 0..4 {
        lab.create(&pack(number)).await;
    }
    let owed = lab.set.statuses()[1].owed_objects;
    assert!(owed >= 3, "only one buffer of {} bytes fits into the grace: {owed}", bytes_of(&pack(0)).len());
}

#[tokio::test(start_paused = true)]
async fn superseded_tails_leave_the_debt_and_the_regions() {
    let lab = Lab::new(2, 1).await;
    let tail = |end: u32| format!("meta/{A}/tail/00000001.feed/00000001-0000000000000000-{end:016x}");
    let segment = format!("data/{A}/log/00000001.feed/00000001-0000000000000000-0000000001000000");
    lab.create(&tail(1)).await;
    lab.drained().await;
    lab.places[1].set(Mode::Gone);
    lab.create(&tail(2)).await;
    lab.create(&segment).await;
    lab.set.supersede(&segment, &[tail(1), tail(2)]);
    lab.wait("only the segment is owed", || lab.set.statuses()[1].owed_objects == 1).await;
    assert!(lab.places[1].holds(&tail(1)).await, "needed there until the segment is there");
    lab.places[1].set(Mode::Up);
    lab.drained().await;
    for place in &lab.places {
        assert_eq!(place.names().await, [segment.clone(), "repo/region".to_owned()]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_exists_nowhere_any_more_leaves_the_debt() {
    let lab = Lab::new(2, 1).await;
    lab.places[1].set(Mode::Gone);
    lab.create(&pack(0)).await;
    lab.set.handles().next().unwrap().storage.delete(&pack(0)).await.unwrap();
    lab.places[1].set(Mode::Up);
    lab.drained().await;
    assert_eq!(lab.set.statuses()[1].owed_objects, 0);
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Pack,
    /// Keys of a new session.
    Keys,
    Manifest,
    Region(usize, Mode),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![
        3 => Just(Mode::Up),
        2 => Just(Mode::Gone),
        1 => Just(Mode::Hanging),
        1 => Just(Mode::Mute),
        1 => Just(Mode::Slow(700)),
        1 => Just(Mode::Refusing(StorageErrorKind::Full)),
    ];
    prop_oneof![
        6 => Just(Step::Pack),
        1 => Just(Step::Keys),
        2 => Just(Step::Manifest),
        3 => (0..3usize, mode).prop_map(|(region, mode)| Step::Region(region, mode)),
        2 => (0..4000u64).prop_map(Step::Wait),
    ]
}

/// No manifest appeared in the region before a pack, key record or manifest that was written before it, and no pack
/// before the keys of its session.
fn check_order(written: &[String], created: &[String]) {
    for (at, name) in created.iter().enumerate() {
        let there = created[..at].iter().collect::<BTreeSet<_>>();
        let position = written.iter().position(|other| other == name).unwrap_or(0);
        let manifest = name.contains("/snap/");
        let session = name.split(['/', '.', '-']).rev().find(|part| part.len() == 4).unwrap();
        let leans_on = |other: &&String| manifest || other.ends_with(&format!("/keys/{session}"));
        for earlier in written[..position].iter().filter(leans_on) {
            assert!(there.contains(earlier), "{name} appeared before {earlier}: {created:#?}");
        }
    }
}

async fn run(steps: Vec<Step>, commit: usize) {
    let lab = Lab::new(3, commit).await;
    let mut written = Vec::new();
    let (mut number, mut session) = (0, 0);
    for step in steps {
        let name = match step {
            Step::Region(region, mode) => {
                lab.places[region].set(mode);
                continue;
            }
            Step::Wait(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                continue;
            }
            Step::Pack => format!("data/{A}/pack/{session:04x}-{number:08x}"),
            Step::Keys => {
                session += 1;
                format!("meta/{A}/keys/{session:04x}")
            }
            Step::Manifest => format!("meta/{A}/snap/{number:04x}.{session:04x}"),
        };
        number += 1;
        if lab.set.create(&name, bytes_of(&name), Duration::from_secs(3)).await.is_ok() {
            written.push(name);
        }
    }
    for place in &lab.places {
        place.set(Mode::Up);
    }
    lab.drained().await;
    // Objects that were never acknowledged may lie anywhere; the acknowledged ones lie everywhere.
    for place in &lab.places {
        for name in &written {
            assert_eq!(place.content(name).await, bytes_of(name).to_bytes());
        }
        check_order(&written, &place.created());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn after_any_outages_all_regions_are_equal_and_in_order(
        steps in proptest::collection::vec(step(), 1..60),
        commit in 1..3usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps, commit));
    }
}
