//! Which moments can be restored, and what is said about the others.

use breakwater_core::{ErrorClass, LogPosition, Timestamp};

use super::bed::{Bed, PATIENCE, commit, log_bytes, watermark};
use crate::format::log::{MarkKind, TransactionMark};
use crate::stream::{LogTarget, PlanBase, Stop, StreamWriter};

/// 300 bytes; transactions 1 to 14 end at 20, 40, … at clocks 100, 200, …; a restore point at 210; watermarks at 150
/// (clock 720) and 300 (clock 2000).
async fn written(bed: &Bed) -> StreamWriter {
    let mut writer = bed.begin(Bed::options()).await;
    for number in 1..=15u64 {
        let (start, end) = ((number - 1) * 20, number * 20);
        let clock = i64::try_from(number * 100).unwrap();
        let mut marks = vec![commit(number, clock, start, end)];
        if number == 15 {
            let abort = TransactionMark { kind: MarkKind::Abort, ..commit(15, clock, start, end) };
            marks = vec![abort];
        }
        if number == 11 {
            let name = Some("before-upgrade".to_owned());
            let point = TransactionMark {
                kind: MarkKind::RestorePoint,
                time: Timestamp(1050),
                xid: 0,
                start: 202,
                end: 210,
                name,
            };
            marks.insert(0, point);
        }
        writer.append(LogPosition::new(1, start), log_bytes(start, end), marks).await.unwrap();
        if number == 8 {
            writer.watermark(watermark(Timestamp(820), 150)).unwrap();
            bed.tick(&mut writer, 1000).await.unwrap();
        }
    }
    writer.watermark(watermark(Timestamp(2000), 300)).unwrap();
    assert!(writer.flush(PATIENCE).await.unwrap());
    writer
}

fn base() -> PlanBase {
    PlanBase { start: LogPosition::new(1, 10), end: LogPosition::new(1, 70), consistent_at: Timestamp(330) }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_target_gets_its_stop() {
    let bed = Bed::new(1, 1).await;
    let _writer = written(&bed).await;
    let plan = |target| bed.plan_from(base(), target);
    let latest = plan(LogTarget::Latest).await.unwrap();
    assert_eq!((latest.end.offset, &latest.stop), (300, &Stop::AtEnd));
    assert_eq!(latest.ranges[0].range.start, 0, "the whole segment is needed");
    assert_eq!(latest.recoverable, Some(Timestamp(2000)));

    let time = plan(LogTarget::Time(Timestamp(555))).await.unwrap();
    assert_eq!(time.stop, Stop::AtTime(Timestamp(555)));
    assert!(time.end.offset >= 120, "it holds the commit of clock 600: {:?}", time.end);
    // After the last commit, before the newest watermark: nothing would stop the replay, so it runs to the end.
    let idle = plan(LogTarget::Time(Timestamp(1900))).await.unwrap();
    assert_eq!((idle.end.offset, idle.stop), (300, Stop::AtEnd));
    assert_eq!(plan(LogTarget::Time(Timestamp(1450))).await.unwrap().stop, Stop::AtEnd, "an abort stops nothing");

    let transaction = plan(LogTarget::Transaction(9)).await.unwrap();
    assert_eq!(transaction.stop, Stop::AtTransaction(9));
    assert!(transaction.end.offset >= 180);
    let name = plan(LogTarget::Name("before-upgrade".into())).await.unwrap();
    assert_eq!(name.stop, Stop::AtName("before-upgrade".into()));
    let offset = plan(LogTarget::Offset(123)).await.unwrap();
    assert_eq!((offset.end, offset.stop), (LogPosition::new(1, 123), Stop::AtEnd));
    assert_eq!(bed.reader(latest).segment_file(1, 256, 64).await.unwrap().unwrap()[..44], log_bytes(256, 300)[..]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reached_is_refused_with_the_reason() {
    let bed = Bed::new(1, 1).await;
    let _writer = written(&bed).await;
    let refused = async |target| {
        let error = bed.plan_from(base(), target).await.unwrap_err();
        (error.class(), error.to_string())
    };
    let (class, text) = refused(LogTarget::Time(Timestamp(300))).await;
    assert_eq!(class, ErrorClass::Refused);
    assert!(text.contains("consistent from 1970-01-01T00:00:00.000330Z") && text.contains("older snapshot"), "{text}");
    let (class, text) = refused(LogTarget::Time(Timestamp(2001))).await;
    assert_eq!(class, ErrorClass::Refused);
    assert!(text.contains("recoverable point is 1970-01-01T00:00:00.002000Z (1:0/12C)"), "{text}");
    assert_eq!(refused(LogTarget::Transaction(99)).await.0, ErrorClass::NotFound);
    assert_eq!(refused(LogTarget::Transaction(2)).await.0, ErrorClass::NotFound, "it ends before the base does");
    let (class, text) = refused(LogTarget::Name("nothing".into())).await;
    assert!(class == ErrorClass::NotFound && text.contains("`nothing`"), "{text}");
    let (_, text) = refused(LogTarget::Offset(301)).await;
    assert!(text.contains("0/12D is after what is stored"), "{text}");
    let (_, text) = refused(LogTarget::Offset(60)).await;
    assert!(text.contains("consistent from 1:0/46"), "{text}");
    let (_, text) = refused(LogTarget::End(LogPosition::new(4, 60))).await;
    assert!(text.contains("branch 4 does not descend from branch 1"), "{text}");
    let late = PlanBase { end: LogPosition::new(1, 500), ..base() };
    let error = bed.plan_from(late, LogTarget::Latest).await.unwrap_err().to_string();
    assert!(error.contains("the end of the base, 1:0/1F4, is after what is stored"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_base_that_holds_a_later_commit_is_too_new_whatever_its_clock_says() {
    let bed = Bed::new(1, 1).await;
    let _writer = written(&bed).await;
    // The clock was read before the base ended: transactions 4 to 8 of clocks 400 to 800 lie before its end.
    let early = PlanBase { end: LogPosition::new(1, 165), ..base() };
    for moment in [350, 799] {
        let error = bed.plan_from(early, LogTarget::Time(Timestamp(moment))).await.unwrap_err();
        assert!(error.to_string().contains("consistent from 1:0/A5 on"), "{error}");
        assert_eq!(error.class(), ErrorClass::Refused);
    }
    let plan = bed.plan_from(early, LogTarget::Time(Timestamp(800))).await.unwrap();
    assert_eq!(plan.stop, Stop::AtTime(Timestamp(800)));
    // Without a key the watermark of clock 820 at 150 shows the same for what is before it.
    let view = bed.view().await;
    let error = view.plan(&early, &LogTarget::Time(Timestamp(819)), None).await.unwrap_err();
    assert!(error.to_string().contains("consistent from 1:0/A5 on"), "{error}");
    view.plan(&early, &LogTarget::Time(Timestamp(820)), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_segment_is_a_gap_and_a_foreign_one_breaks_the_chain() {
    let bed = Bed::new(1, 1).await;
    let _writer = written(&bed).await;
    let names = bed.places[0].names().await;
    let segment = names.iter().find(|name| name.ends_with("-0000000000000040-0000000000000080")).unwrap();
    let storage = &bed.set.handles().next().unwrap().storage;
    let bytes = storage.get(segment).await.unwrap();
    storage.delete(segment).await.unwrap();
    let error = bed.plan_from(base(), LogTarget::Time(Timestamp(400))).await.unwrap_err();
    assert!(error.to_string().contains("stored"), "{error}");
    let error =
        bed.plan_from(PlanBase { start: LogPosition::new(1, 64), ..base() }, LogTarget::Latest).await.unwrap_err();
    assert!(error.to_string().contains("gap in branch 1 from 0/40 to 0/80"), "{error}");
    // Damage is noticed on reading.
    let plan = {
        bed.places[0].plant(segment, &bytes).await;
        bed.plan_from(base(), LogTarget::Latest).await.unwrap()
    };
    storage.delete(segment).await.unwrap();
    let mut damaged = bytes.to_vec();
    damaged[200] ^= 1;
    bed.places[0].plant(segment, &damaged).await;
    let error = bed.reader(plan).segment_file(1, 64, 64).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
}
