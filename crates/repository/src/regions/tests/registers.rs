//! Creates that decide, and their copies.

use std::time::Duration;

use breakwater_storage::Payload;
use bytes::Bytes;

use super::lab::{Lab, Mode};
use crate::regions::Decided;

const NAME: &str = "meta/0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a/snap/01.beef";

/// The visible beginning of a record of this kind.
fn record(kind: u8) -> Vec<u8> {
    [b"BWRC".as_slice(), &[1, 1, kind, 0], b"sealed"].concat()
}

async fn decide(lab: &Lab, bytes: Vec<u8>) -> Vec<Decided> {
    let answers = lab.set.create_decided(NAME, Payload::from(bytes), Duration::from_secs(20)).await;
    answers.into_iter().map(|(_, decided)| decided).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_create_wins_and_the_second_sees_what_won() {
    let lab = Lab::new(2, 2).await;
    assert_eq!(decide(&lab, record(4)).await, [Decided::Created, Decided::Created]);
    let won = Decided::Exists(Bytes::from(record(4)));
    assert_eq!(decide(&lab, record(5)).await, [won.clone(), won]);
    assert_eq!(decide(&lab, record(4)).await, [Decided::Created, Decided::Created], "the same bytes are one's own");
}

#[tokio::test(start_paused = true)]
async fn a_region_away_is_named_and_gets_the_decision_later() {
    let lab = Lab::new(2, 1).await;
    lab.places[1].set(Mode::Gone);
    let answers = decide(&lab, record(4)).await;
    assert_eq!(answers[0], Decided::Created);
    assert!(matches!(&answers[1], Decided::Unreachable(failure) if failure.text.contains("cannot")), "{answers:?}");
    lab.places[1].set(Mode::Up);
    lab.drained().await;
    assert!(lab.places[1].holds(NAME).await);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_fenced_a_committed_session_is_left_to_whoever_has_the_keys() {
    let lab = Lab::new(3, 1).await;
    lab.places[1].set(Mode::Gone);
    lab.places[2].set(Mode::Gone);
    assert_eq!(decide(&lab, record(4)).await[0], Decided::Created);
    lab.places[1].plant(NAME, &record(5)).await;
    lab.places[1].set(Mode::Up);
    lab.places[2].set(Mode::Up);
    lab.drained().await;
    let beside = format!("{NAME}.committed");
    assert_eq!(lab.places[1].content(NAME).await, record(5));
    assert!(!lab.places[1].holds(&beside).await, "a record cannot be read under another name");
    assert_eq!(lab.set.statuses()[1].owed_objects, 0);
    let source = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a".parse().unwrap();
    assert_eq!(lab.set.take_unsettled(), [source]);
    assert!(lab.set.take_unsettled().is_empty(), "told once");
    assert_eq!(lab.places[2].content(NAME).await, record(4), "the manifest is copied, not the fence");
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_in_time() {
    let lab = Lab::new(2, 1).await;
    for place in &lab.places {
        place.set(Mode::Hanging);
    }
    let answers = decide(&lab, record(4)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Decided::Unreachable(_))), "{answers:?}");
    for place in &lab.places {
        place.set(Mode::Up);
    }
    lab.drained().await;
}

#[tokio::test(start_paused = true)]
async fn an_audit_finds_registers_to_be_settled() {
    let lab = Lab::new(2, 1).await;
    let longer = [record(4), vec![0; 9]].concat();
    lab.places[0].plant(NAME, &longer).await;
    lab.places[1].plant(NAME, &record(5)).await;
    let source = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a".parse().unwrap();
    let report = lab.set.audit(&[source]).await;
    assert!(report.conflicts.is_empty());
    assert_eq!(lab.set.take_unsettled(), [source]);
}
