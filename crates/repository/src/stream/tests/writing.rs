//! One writer: cutting, replacing tails, outages, the spool, forks.

use std::time::Duration;

use breakwater_core::{ByteCount, ErrorClass, LogPosition};
use bytes::Bytes;

use super::bed::{Bed, PATIENCE, SEGMENT, feed, log_bytes, watermark};
use crate::format::names::LogRange;
use crate::regions::tests::lab::Mode;
use crate::stream::{LogTarget, SpoolOptions, StreamError, StreamOptions};

fn objects(names: &[String], kind: &str) -> usize {
    names.iter().filter(|name| name.contains(kind)).count()
}

#[tokio::test(start_paused = true)]
async fn what_was_received_comes_back_through_segments_and_tails() {
    let bed = Bed::new(2, 2).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 150).await.unwrap();
    bed.tick(&mut writer, 1000).await.unwrap();
    feed(&mut writer, 150, 170).await.unwrap();
    bed.tick(&mut writer, 1000).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    assert_eq!(writer.released(), Some(LogPosition::new(1, 170)));
    assert_eq!(writer.durable(), Some(LogPosition::new(1, 170)));
    assert_eq!(bed.read_all().await, log_bytes(0, 170));
    let names = bed.places[1].names().await;
    assert_eq!((objects(&names, "/log/"), objects(&names, "/tail/")), (2, 2));

    let plan = bed.plan(0, LogTarget::Latest).await.unwrap();
    let reader = bed.reader(plan);
    let mut padded = log_bytes(128, 170).to_vec();
    padded.resize(64, 0);
    assert_eq!(reader.segment_file(1, 128, SEGMENT).await.unwrap(), Some(padded));
    assert_eq!(reader.segment_file(1, 192, SEGMENT).await.unwrap(), None);
    assert_eq!(reader.segment_file(2, 0, SEGMENT).await.unwrap(), None);

    feed(&mut writer, 170, 200).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    let names = bed.places[0].names().await;
    assert_eq!(
        (objects(&names, "/log/"), objects(&names, "/tail/")),
        (3, 1),
        "the segment replaced its tails: {names:#?}"
    );
    assert_eq!(bed.read_all().await, log_bytes(0, 200));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_listed_while_a_stream_runs() {
    let bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 100).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    assert!(!bed.places[0].lists.lock().unwrap().is_empty(), "the claim asks what is there");
    bed.places.iter().for_each(|place| place.lists.lock().unwrap().clear());
    // Two hours of a source that writes a segment and a half a minute, and tells how late it is in between.
    let mut end = 100;
    for _ in 0..120 {
        feed(&mut writer, end, end + 96).await.unwrap();
        end += 96;
        bed.tick(&mut writer, 30_000).await.unwrap();
        writer.watermark(watermark(bed.now(), end)).unwrap();
        bed.tick(&mut writer, 30_000).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert!(writer.flush(PATIENCE).await.unwrap());
    assert_eq!(writer.released(), Some(LogPosition::new(1, end)));
    for place in &bed.places {
        assert_eq!(*place.lists.lock().unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_from_elsewhere_are_refused() {
    let bed = Bed::new(1, 1).await;
    let mut writer = bed.open(Bed::options()).await;
    assert!(matches!(feed(&mut writer, 0, 10).await, Err(StreamError::NotBegun)));
    assert!(matches!(writer.begin(LogPosition::new(1, 7)).await, Err(StreamError::Unaligned(_))));
    writer.begin(LogPosition::new(1, 128)).await.unwrap();
    feed(&mut writer, 128, 140).await.unwrap();
    for start in [139, 141] {
        let error = feed(&mut writer, start, 150).await.unwrap_err();
        assert!(matches!(error, StreamError::Jump { expected, .. } if expected.offset == 140), "{error}");
    }
    feed(&mut writer, 140, 150).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_keeps_its_recoverable_point_moving_with_one_object() {
    let bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    let ids = bed.set.handles().map(|handle| handle.id).collect::<Vec<_>>();
    assert_eq!(writer.recoverable(ids[0]), None, "never replicated is a state of its own");
    feed(&mut writer, 0, 20).await.unwrap();
    writer.watermark(watermark(bed.now(), 20)).unwrap();
    let first = bed.now();
    bed.tick(&mut writer, 1000).await.unwrap();
    bed.wait("the tail's watermark counts", || {
        writer.status();
        ids.iter().all(|id| writer.recoverable(*id).is_some_and(|mark| mark.clock == first))
    })
    .await;
    for _ in 0..45 {
        writer.watermark(watermark(bed.now(), 20)).unwrap();
        bed.tick(&mut writer, 1000).await.unwrap();
        bed.drained().await;
    }
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    writer.status();
    for (id, place) in ids.iter().zip(&bed.places) {
        let point = writer.recoverable(*id).unwrap();
        assert!(bed.now().micros_since(point.clock) <= 11_000_000, "{point:?} at {:?}", bed.now());
        assert_eq!(
            objects(&place.names().await, "/tail/"),
            2,
            "the tail and the newest mark: {:#?}",
            place.names().await
        );
    }
    let view = bed.view().await;
    let coverage = view.coverage().await.unwrap();
    assert_eq!((coverage.len(), coverage[0].end), (1, 20));
    assert_eq!(coverage[0].clocks.unwrap().1, writer.recoverable(ids[0]).unwrap().clock, "the stored picture agrees");
}

#[tokio::test(start_paused = true)]
async fn a_region_away_is_behind_alone_and_catches_up() {
    let bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    bed.drained().await;
    let ids = bed.set.handles().map(|handle| handle.id).collect::<Vec<_>>();
    feed(&mut writer, 0, 100).await.unwrap();
    writer.watermark(watermark(bed.now(), 100)).unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.drained().await;
    writer.status();
    let before = writer.recoverable(ids[1]).unwrap();
    bed.places[1].set(Mode::Gone);
    for step in 1..10 {
        bed.advance(1000);
        feed(&mut writer, step * 100, step * 100 + 100).await.unwrap();
        writer.watermark(watermark(bed.now(), step * 100 + 100)).unwrap();
        bed.tick(&mut writer, 1000).await.unwrap();
    }
    let received = LogPosition::new(1, 1000);
    bed.wait("released by the other region", || writer.released() == Some(received)).await;
    let status = writer.status();
    assert_eq!(status.regions[1].recoverable, Some(before), "it does not move");
    assert_eq!((status.regions[0].pending_bytes, status.regions[1].pending_bytes), (0, 900));
    assert!(status.regions[0].recoverable.unwrap().clock > before.clock);
    bed.places[1].set(Mode::Up);
    bed.drained().await;
    let status = writer.status();
    assert_eq!(status.regions[1].recoverable, status.regions[0].recoverable);
    assert_eq!(bed.places[0].names().await, {
        let mut names = bed.places[1].names().await;
        names.sort();
        names
    });
    bed.places[0].set(Mode::Gone);
    assert_eq!(bed.read_all().await, log_bytes(0, 1000), "from the region that was away, alone");
}

#[tokio::test(start_paused = true)]
async fn with_too_few_regions_the_source_waits() {
    let bed = Bed::new(1, 1).await;
    let options = StreamOptions { segments_in_flight: 2, ..Bed::options() };
    let mut writer = bed.begin(options).await;
    bed.drained().await;
    bed.places[0].set(Mode::Gone);
    let blocked = tokio::time::timeout(Duration::from_secs(300), feed(&mut writer, 0, 640)).await;
    assert!(blocked.is_err(), "two segments may be under way, the third waits");
    assert_eq!(writer.released(), Some(LogPosition::new(1, 0)));
}

fn spooled(directory: &std::path::Path, limit: u64) -> StreamOptions {
    let spool = SpoolOptions { directory: directory.to_owned(), limit: ByteCount(limit) };
    StreamOptions { spool: Some(spool), ..Bed::options() }
}

#[tokio::test(start_paused = true)]
async fn the_spool_releases_and_empties_in_order_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut bed = Bed::new(2, 2).await;
    let mut writer = bed.begin(spooled(directory.path(), 1 << 20)).await;
    feed(&mut writer, 0, 100).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.places[1].set(Mode::Hanging);
    for step in 1..6 {
        feed(&mut writer, step * 100, step * 100 + 100).await.unwrap();
        bed.tick(&mut writer, 1000).await.unwrap();
        bed.wait("released", || writer.released() == Some(LogPosition::new(1, step * 100 + 100))).await;
    }
    assert_eq!(writer.durable(), Some(LogPosition::new(1, 100)));
    let spool = writer.status().spool.unwrap();
    assert!(spool.objects > 0 && !spool.full, "{spool:?}");
    drop(writer);
    bed.restart();
    let options = StreamOptions { patience: Duration::from_secs(5), ..spooled(directory.path(), 1 << 20) };
    let refused = crate::stream::StreamWriter::open(&bed.repository, &bed.set, super::bed::SOURCE, options).await;
    assert_eq!(refused.unwrap_err().class(), ErrorClass::Unavailable);
    bed.places[1].set(Mode::Up);
    let writer = bed.open(spooled(directory.path(), 1 << 20)).await;
    assert_eq!(writer.resume().held_until, Some(LogPosition::new(1, 600)));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "only the lock is left");
    bed.drained().await;
    assert_eq!(bed.read_all().await, log_bytes(0, 600));
}

#[tokio::test(start_paused = true)]
async fn the_spool_empties_by_itself_when_the_regions_are_back() {
    let directory = tempfile::tempdir().unwrap();
    let bed = Bed::new(1, 1).await;
    let mut writer = bed.begin(spooled(directory.path(), 1 << 20)).await;
    bed.drained().await;
    bed.places[0].set(Mode::Gone);
    feed(&mut writer, 0, 300).await.unwrap();
    bed.tick(&mut writer, 1000).await.unwrap();
    bed.wait("spooled", || writer.released() == Some(LogPosition::new(1, 300))).await;
    bed.places[0].set(Mode::Up);
    bed.wait("durable", || writer.durable() == Some(LogPosition::new(1, 300))).await;
    bed.wait("empty", || writer.status().spool.unwrap().objects == 0).await;
    feed(&mut writer, 300, 330).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    assert_eq!(bed.read_all().await, log_bytes(0, 330));
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_shows_and_nothing_more_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let bed = Bed::new(1, 1).await;
    let mut writer = bed.begin(spooled(directory.path(), 2000)).await;
    bed.drained().await;
    bed.places[0].set(Mode::Gone);
    feed(&mut writer, 0, 64).await.unwrap();
    bed.wait("spooled", || writer.released() == Some(LogPosition::new(1, 64))).await;
    feed(&mut writer, 64, 256).await.unwrap();
    bed.wait("the spool is full", || writer.status().spool.unwrap().full).await;
    let released = writer.released().unwrap();
    assert!(released.offset >= 64 && released.offset < 256, "{released}");
    bed.places[0].set(Mode::Up);
    assert!(writer.flush(PATIENCE).await.unwrap());
    assert!(!writer.status().spool.unwrap().full);
    assert_eq!(bed.read_all().await, log_bytes(0, 256));
}

#[tokio::test(start_paused = true)]
async fn a_session_gets_old_and_the_next_one_goes_on() {
    let bed = Bed::new(1, 1).await;
    let options = StreamOptions { session_age: Duration::from_secs(100), ..Bed::options() };
    let mut writer = bed.begin(options).await;
    for step in 0..6 {
        bed.advance(40_000);
        feed(&mut writer, step * 50, step * 50 + 50).await.unwrap();
    }
    assert!(writer.flush(PATIENCE).await.unwrap());
    let names = bed.places[0].names().await;
    assert!(objects(&names, "/keys/") >= 3, "{names:#?}");
    assert_eq!(bed.read_all().await, log_bytes(0, 300));
    drop(writer);
    assert_eq!(bed.open(Bed::options()).await.resume().held_until, Some(LogPosition::new(1, 300)));
}

#[tokio::test(start_paused = true)]
async fn the_next_session_is_claimed_only_when_all_before_it_is_stored() {
    let bed = Bed::new(1, 1).await;
    let options = StreamOptions { session_age: Duration::from_secs(100), ..Bed::options() };
    let mut writer = bed.begin(options).await;
    bed.advance(200_000);
    // The segment takes longer than receiving may stand still.
    bed.places[0].set(Mode::SlowFor("/log/", 8000));
    feed(&mut writer, 0, 64).await.unwrap();
    assert_eq!(objects(&bed.places[0].created(), "/stream/"), 2, "the beginning alone: {:?}", bed.places[0].created());
    assert!(writer.flush(PATIENCE).await.unwrap());
    bed.advance(200_000);
    bed.places[0].set(Mode::SlowFor("/log/", 1000));
    feed(&mut writer, 64, 128).await.unwrap();
    let created = bed.places[0].created();
    let claim = created.iter().rposition(|name| name.contains("/stream/")).unwrap();
    let segment = created.iter().rposition(|name| name.contains("/log/")).unwrap();
    assert!(objects(&created, "/stream/") == 3 && objects(&created, "/log/") == 2 && segment < claim, "{created:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_branch_ends_inside_a_segment_and_the_next_repeats_its_beginning() {
    let mut bed = Bed::new(2, 1).await;
    let mut writer = bed.begin(Bed::options()).await;
    feed(&mut writer, 0, 90).await.unwrap();
    bed.tick(&mut writer, 1000).await.unwrap();
    feed(&mut writer, 90, 100).await.unwrap();
    let error = writer.end_of_branch(LogPosition::new(1, 99), 2, b"1\t0/63\tpromoted\n").await.unwrap_err();
    assert!(matches!(error, StreamError::Jump { .. }));
    writer.end_of_branch(LogPosition::new(1, 100), 2, b"1\t0/64\tpromoted\n").await.unwrap();
    let other = |start: u64, end: u64| -> Bytes {
        (start..end)
            .map(|offset| if offset < 100 { log_bytes(offset, offset + 1)[0] } else { 255 })
            .collect::<Vec<_>>()
            .into()
    };
    writer.append(LogPosition::new(2, 64), other(64, 150), Vec::new()).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    assert_eq!(writer.released(), Some(LogPosition::new(2, 150)));
    let plan = bed.plan(0, LogTarget::Latest).await.unwrap();
    assert_eq!(plan.end, LogPosition::new(2, 150));
    assert_eq!(plan.histories[0].text, b"1\t0/64\tpromoted\n");
    let reader = bed.reader(plan);
    assert_eq!(reader.read(LogRange { branch: 1, start: 0, end: 100 }).await.unwrap(), log_bytes(0, 100));
    assert_eq!(reader.read(LogRange { branch: 2, start: 64, end: 150 }).await.unwrap(), other(64, 150));
    let old = bed.plan(0, LogTarget::End(LogPosition::new(1, 95))).await.unwrap();
    assert_eq!((old.end, old.ranges.len()), (LogPosition::new(1, 95), 1));

    // The next writer goes on where this one was, on the new branch.
    drop(writer);
    bed.restart();
    let mut writer = bed.begin(Bed::options()).await;
    assert_eq!(writer.resume().held_until, Some(LogPosition::new(2, 150)));
    writer.append(LogPosition::new(2, 128), other(128, 200), Vec::new()).await.unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    let plan = bed.plan(0, LogTarget::Latest).await.unwrap();
    assert_eq!(bed.reader(plan).read(LogRange { branch: 2, start: 64, end: 200 }).await.unwrap(), other(64, 200));
}
