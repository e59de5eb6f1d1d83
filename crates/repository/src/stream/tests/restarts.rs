//! Agents that are killed anywhere, and agents that come back to life.

use std::time::Duration;

use breakwater_core::LogPosition;
use bytes::Bytes;
use proptest::prelude::*;

use super::bed::{Bed, PATIENCE, SEGMENT, feed, log_bytes, watermark};
use crate::regions::tests::lab::Mode;
use crate::stream::{LogTarget, SpoolOptions, StreamError, StreamOptions, StreamWriter};

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_from_the_last_stored_byte() {
    let mut bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 100).await.unwrap();
    bed.tick(&mut writer, 1000).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    drop(writer);
    bed.restart();
    let mut writer = bed.open(Bed::options()).await;
    let point = writer.resume();
    assert_eq!((point.start, point.held_until), (Some(LogPosition::new(1, 64)), Some(LogPosition::new(1, 100))));
    assert_eq!(writer.begin(LogPosition::new(1, 64)).await.unwrap().gap, None);
    assert_eq!(writer.released(), Some(LogPosition::new(1, 100)), "what is stored stays released");
    assert_eq!(bed.read_all().await, log_bytes(0, 100), "the claim alone takes nothing away");
    feed(&mut writer, 64, 110).await.unwrap();
    bed.tick(&mut writer, 1000).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    assert_eq!(bed.read_all().await, log_bytes(0, 110));
    feed(&mut writer, 110, 130).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    let tails = bed.places[0].names().await.into_iter().filter(|name| name.contains("/tail/")).count();
    assert_eq!(tails, 1, "the segment replaced the tails of both writers");
    assert_eq!(bed.read_all().await, log_bytes(0, 130));
}

#[tokio::test(start_paused = true)]
async fn other_bytes_than_stored_are_a_divergence() {
    let mut bed = Bed::new(1, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 100).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    drop(writer);
    bed.restart();
    let mut writer = bed.begin(Bed::options()).await;
    let mut other = log_bytes(64, 120).to_vec();
    other[20] ^= 1;
    let error = writer.append(LogPosition::new(1, 64), Bytes::from(other), Vec::new()).await.unwrap_err();
    assert!(matches!(error, StreamError::Divergence { range } if range.start == 64 && range.end == 100), "{error}");
    assert!(error.to_string().contains("from 0/40 to 0/64"), "{error}");
    assert_eq!(bed.read_all().await, log_bytes(0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_lost_log_leaves_a_gap_that_is_named() {
    let mut bed = Bed::new(1, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 100).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    drop(writer);
    bed.restart();
    let mut writer = bed.open(Bed::options()).await;
    let begun = writer.begin(LogPosition::new(1, 256)).await.unwrap();
    assert_eq!(begun.gap, Some((LogPosition::new(1, 100), LogPosition::new(1, 256))));
    feed(&mut writer, 256, 300).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    let status = writer.status();
    assert_eq!(status.durable_from(), Some(LogPosition::new(1, 256)));
    assert!(!status.proves(LogPosition::new(1, 64), LogPosition::new(1, 280)), "a base across the gap is useless");
    assert!(status.proves(LogPosition::new(1, 256), LogPosition::new(1, 280)));
    let gaps = bed.view().await.gaps();
    assert_eq!((gaps.len(), gaps[0].start, gaps[0].end), (1, 100, 256));
    assert_eq!(bed.view().await.coverage().await.unwrap().len(), 2);
    let error = bed.plan(0, LogTarget::Offset(280)).await.unwrap_err();
    assert!(error.to_string().contains("0/118 is after what is stored"), "{error}");
    assert_eq!(bed.plan(256, LogTarget::Latest).await.unwrap().end.offset, 300);
    let error = bed.plan(128, LogTarget::Latest).await.unwrap_err();
    assert!(error.to_string().contains("gap in branch 1 from 0/80 to 0/100"), "{error}");
    drop(writer);
    let writer = bed.open(Bed::options()).await;
    assert_eq!(writer.resume().held_until, Some(LogPosition::new(1, 300)), "the gap is not asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_comes_back_to_life_changes_nothing() {
    let bed = Bed::new(2, 1).await;
    let mut old = bed.begin(Bed::options()).await;
    feed(&mut old, 0, 100).await.unwrap();
    assert!(old.flush(PATIENCE).await.unwrap());
    let mut new = bed.begin(Bed::options()).await;
    // The old one was only paused, and its database is another one by now.
    old.append(LogPosition::new(1, 100), Bytes::from(vec![7; 200]), Vec::new()).await.unwrap();
    assert!(old.flush(PATIENCE).await.unwrap());
    assert_eq!(bed.read_all().await, log_bytes(0, 100));
    feed(&mut new, 64, 120).await.unwrap();
    assert!(new.flush(PATIENCE).await.unwrap());
    assert_eq!(bed.read_all().await, log_bytes(0, 120));
    feed(&mut new, 120, 400).await.unwrap();
    assert!(new.flush(PATIENCE).await.unwrap());
    assert_eq!(bed.read_all().await, log_bytes(0, 400));
    // It learns so with the first segment after a while.
    bed.advance(60_000);
    old.append(LogPosition::new(1, 300), Bytes::from(vec![7; 100]), Vec::new()).await.unwrap();
    let mut fenced = None;
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Err(error) = old.tick(bed.now()).await {
            fenced = Some(error);
            break;
        }
    }
    assert!(matches!(fenced, Some(StreamError::Fenced(_))), "{fenced:?}");
    assert_eq!(bed.open(Bed::options()).await.resume().held_until, Some(LogPosition::new(1, 400)));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_stores_more_while_another_claims_makes_it_open_again() {
    let bed = Bed::new(1, 1).await;
    let mut old = bed.begin(Bed::options()).await;
    feed(&mut old, 0, 100).await.unwrap();
    assert!(old.flush(PATIENCE).await.unwrap());
    let mut new = bed.open(Bed::options()).await;
    feed(&mut old, 100, 140).await.unwrap();
    assert!(old.flush(PATIENCE).await.unwrap());
    assert!(matches!(new.begin(LogPosition::new(1, 64)).await, Err(StreamError::Moved)));
    let new = bed.begin(Bed::options()).await;
    assert_eq!(new.released(), Some(LogPosition::new(1, 140)));
    assert_eq!(bed.read_all().await, log_bytes(0, 140));
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_not_sealed_while_a_silent_region_may_hold_what_is_missing() {
    let mut bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 100).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    bed.places[0].set(Mode::Gone);
    feed(&mut writer, 100, 300).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    // The source was told that 300 is released, by the region that is away now.
    drop(writer);
    bed.places[0].set(Mode::Up);
    bed.places[1].set(Mode::Gone);
    bed.restart();
    let mut writer = bed.open(Bed::options()).await;
    assert_eq!(writer.resume().silent.len(), 1);
    let error = writer.begin(LogPosition::new(1, 256)).await.unwrap_err();
    assert_eq!(error.class(), breakwater_core::ErrorClass::Unavailable);
    assert!(error.to_string().contains("1:0/100, after") && error.to_string().contains("r1"), "{error}");
    bed.places[1].set(Mode::Up);
    let mut writer = bed.open(Bed::options()).await;
    assert_eq!(writer.begin(LogPosition::new(1, 256)).await.unwrap().gap, None);
    bed.drained().await;
    bed.places[1].set(Mode::Gone);
    assert_eq!(bed.read_all().await, log_bytes(0, 300), "the debt was found and repaid");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_one_copy_is_not_two() {
    let mut bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 64).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    bed.places[1].set(Mode::Gone);
    feed(&mut writer, 64, 128).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    drop(writer);
    // From now on two copies are asked for, and the region that missed the last segment takes nothing yet.
    bed.restart_with(2);
    let storage = breakwater_storage::StorageErrorKind::Full;
    bed.places[1].set(Mode::Up);
    let mut writer = bed.open(Bed::options()).await;
    let start = writer.resume().start.unwrap();
    bed.places[1].set(Mode::RefusingFor("/log/", storage));
    writer.begin(start).await.unwrap();
    for _ in 0..20 {
        bed.tick(&mut writer, 1000).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let first = Some(LogPosition::new(1, 64));
    assert_eq!((writer.durable(), writer.released()), (first, first));
    assert!(!writer.flush(Duration::from_secs(5)).await.unwrap());
    bed.places[1].set(Mode::Up);
    assert!(writer.flush(PATIENCE).await.unwrap());
    let all = Some(LogPosition::new(1, 128));
    assert_eq!((writer.durable(), writer.released()), (all, all));
}

#[tokio::test(start_paused = true)]
async fn a_region_that_lacks_the_segment_keeps_its_tails_until_it_is_there() {
    let mut bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 50).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    bed.places[1].set(Mode::Gone);
    feed(&mut writer, 50, 64).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    drop(writer);
    bed.places[1].set(Mode::RefusingFor("/log/", breakwater_storage::StorageErrorKind::Full));
    bed.restart();
    let writer = bed.open(Bed::options()).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    bed.places[0].set(Mode::Gone);
    assert_eq!(bed.read_all().await, log_bytes(0, 50), "the second region alone");
    bed.places[0].set(Mode::Up);
    bed.places[1].set(Mode::Up);
    bed.drained().await;
    bed.places[0].set(Mode::Gone);
    assert_eq!(bed.read_all().await, log_bytes(0, 64), "the segment came over");
    let tails = bed.places[1].names().await.into_iter().filter(|name| name.contains("/tail/")).count();
    assert_eq!(tails, 0, "and took the tail's place");
    drop(writer);
}

#[tokio::test(start_paused = true)]
async fn what_only_a_silent_region_holds_does_not_stop_the_release() {
    let mut bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 128).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    drop(writer);
    bed.restart();
    // The second writer stores nothing but the watermark of an idle source.
    let mut writer = bed.begin(Bed::options()).await;
    writer.watermark(watermark(bed.now(), 128)).unwrap();
    bed.tick(&mut writer, 20_000).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    drop(writer);
    let names = bed.places[1].names().await;
    let last = names.iter().find(|name| name.ends_with("-0000000000000040-0000000000000080")).unwrap();
    bed.set.handles().nth(1).unwrap().storage.delete(last).await.unwrap();
    bed.places[0].set(Mode::Gone);
    bed.restart();
    let mut writer = bed.begin(Bed::options()).await;
    assert_eq!(writer.released(), Some(LogPosition::new(1, 128)));
    feed(&mut writer, 128, 200).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    assert_eq!(writer.released(), Some(LogPosition::new(1, 200)));
}

/// What happens to the agent and its regions.
#[derive(Clone, Debug)]
enum Step {
    Feed(u64),
    Tick(i64),
    Region(usize, Mode),
    /// The next so many creates are done, then none any more; the agent is killed soon after.
    Kill(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![3 => Just(Mode::Up), 1 => Just(Mode::Gone), 1 => Just(Mode::Hanging), 1 => Just(Mode::Mute)];
    prop_oneof![
        6 => (1..150u64).prop_map(Step::Feed),
        3 => (1..3000i64).prop_map(Step::Tick),
        1 => (0..2usize, mode).prop_map(|(region, mode)| Step::Region(region, mode)),
        2 => (0..6u32).prop_map(Step::Kill),
    ]
}

/// Feeds the steps; the source keeps its log from the segment of what was released on, and checks that it is never
/// asked for older bytes.
async fn run(steps: Vec<Step>, spool: bool) {
    let directory = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(2, 1).await;
    let options = || StreamOptions {
        spool: spool.then(|| SpoolOptions::new(&directory.path().join("spool"))),
        segments_in_flight: 3,
        ..Bed::options()
    };
    let mut writer = bed.begin(options()).await;
    let (mut sent, mut written, mut released) = (0, 0, 0);
    for step in steps {
        match step {
            Step::Feed(length) => {
                let target = sent + length;
                written = written.max(target);
                // A full pipe makes the source wait; it is cut off then.
                let fed = tokio::time::timeout(Duration::from_secs(20), feed(&mut writer, sent, target)).await;
                match fed {
                    Ok(result) => {
                        result.unwrap();
                        sent = target;
                    }
                    Err(_) => (writer, sent) = restart(&mut bed, writer, options(), released).await,
                }
            }
            Step::Tick(millis) => {
                bed.advance(millis);
                writer.tick(bed.now()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(u64::try_from(millis).unwrap())).await;
            }
            Step::Region(region, mode) => bed.places[region].set(mode),
            Step::Kill(creates) => {
                for place in &bed.places {
                    place.freeze_after(creates);
                }
                let end = sent + 200;
                written = written.max(end);
                let fed = tokio::time::timeout(Duration::from_secs(1), feed(&mut writer, sent, end)).await;
                drop(fed);
                bed.advance(1500);
                drop(tokio::time::timeout(Duration::from_secs(1), writer.tick(bed.now())).await);
                released = released.max(writer.released().unwrap().offset);
                (writer, sent) = restart(&mut bed, writer, options(), released).await;
            }
        }
        released = released.max(writer.released().unwrap().offset);
        assert!(released <= written);
    }
    for place in &bed.places {
        place.set(Mode::Up);
    }
    feed(&mut writer, sent, written + 10).await.unwrap();
    assert!(writer.flush(Duration::from_secs(600)).await.unwrap(), "{:?}", writer.status());
    assert_eq!(bed.read_all().await, log_bytes(0, written + 10));
    bed.drained().await;
    for region in 0..2 {
        bed.places[1 - region].set(Mode::Gone);
        assert_eq!(bed.read_all().await, log_bytes(0, written + 10), "region {region} alone");
        bed.places[1 - region].set(Mode::Up);
    }
}

async fn restart(bed: &mut Bed, old: StreamWriter, options: StreamOptions, released: u64) -> (StreamWriter, u64) {
    drop(old);
    for place in &bed.places {
        place.set(Mode::Up);
    }
    bed.restart();
    let mut writer = bed.open(options).await;
    let start = writer.resume().start.unwrap_or(LogPosition::new(1, 0));
    assert!(
        start.offset >= released - released % SEGMENT,
        "the source was told to forget {released}, {start} is asked for"
    );
    writer.begin(start).await.unwrap();
    assert!(writer.released().unwrap().offset >= released, "what was released is not forgotten");
    (writer, start.offset)
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_reached_one_region_only_reaches_the_others_after_the_next_restart() {
    let away = Step::Region(1, Mode::Gone);
    let first = [Step::Feed(1), Step::Tick(1000), away.clone(), Step::Feed(55), Step::Kill(2)];
    // Of the second writer the first region gets the claim, which the third one continues.
    let second = [away, Step::Feed(60), Step::Kill(1)];
    run([first.as_slice(), &second].concat(), false).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn no_gap_and_no_overlap_whatever_happens(steps in proptest::collection::vec(step(), 1..30), spool: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps, spool));
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_key_record_is_not_brought_back_by_the_next_writer() {
    let mut bed = Bed::new(2, 2).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 100).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    drop(writer);
    // As if the session had been sealed again in region 0 while region 1 was away.
    let names = bed.places[0].names().await;
    let old = names.into_iter().find(|name| name.contains("/keys/")).unwrap();
    let new = format!("{old}.7");
    bed.places[0].plant(&new, b"sealed again").await;
    bed.set.handles().next().unwrap().storage.delete(&old).await.unwrap();
    bed.restart();
    let writer = bed.open(Bed::options()).await;
    bed.drained().await;
    assert!(bed.places[1].holds(&new).await, "the new record is what region 1 missed");
    assert!(!bed.places[0].holds(&old).await, "the old record came back");
    drop(writer);
}
