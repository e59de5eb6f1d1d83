//! The scanner against logs that are made to be awkward, against damage and noise, and against `pg_waldump` on the logs
//! of real servers.
#![allow(clippy::unwrap_used, reason = "in a test a step that fails is the failure")]

#[path = "wal/log_writer.rs"]
mod log_writer;

use breakwater_core::{ErrorClass, Lsn, TimelineId, Timestamp};
use breakwater_engine_postgres::connection::ConnectionSettings;
use breakwater_engine_postgres::wal::{
    PageError, RecordScanner, ScanError, SegmentSize, TimelineHistory, WalEvent, WalFileName, check_segment,
    segment_file_name,
};
use breakwater_testkit::postgres::{Cluster, Stop, Version};
use log_writer::{Entry, LogWriter, SYSTEM_ID};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

/// Scans a whole log at once.
fn scan(start: Lsn, bytes: &[u8]) -> (RecordScanner, Vec<WalEvent>, Result<(), ScanError>) {
    let mut scanner = RecordScanner::new(size().segment_of(start), size(), None);
    let mut events = Vec::new();
    let result = scanner.feed(start, bytes, &mut events);
    (scanner, events, result)
}

fn entry() -> impl Strategy<Value = Entry> {
    let length = prop_oneof![4 => 0_usize..200, 2 => 8000_usize..8300, 1 => 0_usize..40_000];
    prop_oneof![
        4 => length.prop_map(Entry::Filler),
        4 => (any::<u32>(), 0_i64..1 << 50, any::<bool>(), any::<bool>())
            .prop_map(|(xid, micros, with_origin, long)| Entry::Commit { xid, micros, with_origin, long }),
        1 => (any::<u32>(), 0_i64..1 << 50).prop_map(|(xid, micros)| Entry::Abort { xid, micros }),
        2 => (any::<u32>(), 0_i64..1 << 50, 0_u16..300)
            .prop_map(|(xid, micros, items)| Entry::CommitPrepared { xid, micros, items }),
        1 => ("[a-z]{1,63}", 0_i64..1 << 50).prop_map(|(name, micros)| Entry::RestorePoint { name, micros }),
        1 => Just(Entry::Switch),
    ]
}

fn log(entries: &[Entry], inside: usize) -> LogWriter {
    let mut log = LogWriter::new(5, size());
    if inside > 0 {
        log.begin_inside_record(inside);
    }
    for entry in entries {
        log.append(entry);
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slices_of_any_size_give_the_same_events(
        entries in prop::collection::vec(entry(), 1..60),
        inside in prop_oneof![Just(0_usize), 1_usize..30_000],
        cuts in prop::collection::vec(prop_oneof![1_usize..40, 1_usize..20_000], 1..20),
    ) {
        let log = log(&entries, inside);
        let (whole, events, result) = scan(log.start, &log.bytes);
        result.unwrap();
        prop_assert_eq!(&events, &log.events);
        prop_assert_eq!(whole.complete_to(), log.end());

        let mut scanner = RecordScanner::new(5, size(), Some(SYSTEM_ID));
        let mut sliced = Vec::new();
        let mut rest = log.bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            scanner.feed(scanner.position(), now, &mut sliced).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(sliced, events);
        prop_assert_eq!(scanner.complete_to(), log.end());
        prop_assert_eq!(scanner.end_of_log(), None);

        // The zeros of a joined tail end the log, and end it where the last record ends.
        let next = scanner.position();
        scanner.feed(next, &[0; 20_000], &mut Vec::new()).unwrap();
        prop_assert_eq!(scanner.end_of_log(), Some(log.end()));
    }

    #[test]
    fn a_flipped_bit_never_makes_an_event(
        entries in prop::collection::vec(entry(), 1..20),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut log = log(&entries, 0);
        let index = at.index(log.bytes.len());
        log.bytes[index] ^= 1 << bit;
        let (scanner, events, result) = scan(log.start, &log.bytes);
        prop_assert!(log.events.starts_with(&events), "{events:?}");
        // A flip that goes unnoticed lies where nothing is kept: in padding, or after a switch. One that makes the last record longer than
        // the log is a record that is not there yet.
        if result.is_ok() && scanner.end_of_log().is_none() && scanner.complete_to() == log.end() {
            prop_assert_eq!(events, log.events);
        }
    }

    #[test]
    fn a_name_that_is_read_is_the_name_that_is_written(
        name in prop_oneof![
            "[0-9A-F]{24}(|\\.partial|\\.[0-9A-F]{8}\\.backup)",
            "[0-9A-F]{8}\\.history",
            "0000000[0-9a-g]{17}.{0,9}",
            any::<String>(),
        ],
        mib in prop_oneof![Just(1_u64), Just(16), Just(1024)],
    ) {
        let size = SegmentSize::new(mib << 20).unwrap();
        if let Ok(parsed) = WalFileName::parse(&name, size) {
            prop_assert_eq!(parsed.to_name(size), name);
        }
    }

    #[test]
    fn histories_and_connections_of_any_text_are_survived(text in any::<String>(), lines in "([0-9]{1,3}[\t ][0-9A-F/]{0,9}\n){0,5}") {
        for content in [text.as_str(), lines.as_str()] {
            if let Ok(history) = TimelineHistory::parse(TimelineId(200), content) {
                let spans: Vec<_> = history.spans().collect();
                prop_assert!(spans.windows(2).all(|pair| pair[0].end == Some(pair[1].start)));
                prop_assert!(history.path_from(TimelineId(200), history.parent().unwrap().1).is_some());
            }
        }
        // Whatever is read or refused, there is no panic; a user is always named.
        for text in [text.clone(), format!("user=u {text}"), format!("postgres://u@{text}")] {
            if let Ok(settings) = text.parse::<ConnectionSettings>() {
                prop_assert!(!settings.user().is_empty());
            }
        }
    }

    #[test]
    fn noise_is_survived(
        noise in prop::collection::vec(any::<u8>(), 0..20_000),
        entries in prop::collection::vec(entry(), 0..5),
    ) {
        let (_, events, result) = scan(size().start_of(5), &noise);
        prop_assert!(events.is_empty());
        prop_assert!(noise.len() < 40 || result.is_err());
        let mut log = log(&entries, 100);
        let whole = log.end();
        log.bytes.extend(&noise);
        let (scanner, events, _) = scan(log.start, &log.bytes);
        prop_assert_eq!(events, log.events);
        prop_assert_eq!(scanner.complete_to(), whole);
    }
}

#[test]
fn a_record_given_up_in_a_crash_is_passed_over() {
    for filler in [0, 100, 8000, 8088, 8096, 8104, 8112] {
        let mut log = log(&[Entry::Commit { xid: 1, micros: 5, with_origin: false, long: false }], 0);
        log.append(&Entry::Filler(filler));
        log.give_up_a_record();
        log.append(&Entry::Commit { xid: 2, micros: 6, with_origin: false, long: false });
        let (_, events, result) = scan(log.start, &log.bytes);
        result.unwrap_or_else(|error| panic!("after {filler}: {error}"));
        assert_eq!(events, log.events, "after {filler}");
    }
}

#[test]
fn each_kind_of_damage_has_its_name_and_place() {
    let commit = |xid| Entry::Commit { xid, micros: 5, with_origin: false, long: false };
    let good = log(&[commit(1), Entry::Filler(9000), commit(2)], 0);
    let first = good.events[0].lsn_start();
    let damaged = |offset: u64, byte: u8| {
        let mut bytes = good.bytes.clone();
        bytes[usize::try_from(offset).unwrap()] ^= byte;
        scan(good.start, &bytes).2.unwrap_err()
    };
    let offset = first.0 - good.start.0;
    assert!(matches!(damaged(offset + 26, 1), ScanError::Checksum { at } if at == first));
    assert!(matches!(damaged(offset + 20, 1), ScanError::Checksum { at } if at == first));
    assert!(matches!(damaged(offset + 3, 0xFF), ScanError::Length { at, .. } if at == first));
    assert!(matches!(damaged(offset + 40 + 8, 1), ScanError::Link { .. }));
    assert!(matches!(damaged(8192 + 16, 1), ScanError::Continuation { .. }));
    assert!(matches!(damaged(8192 + 8, 1), ScanError::Page(PageError::Address { .. })));
    assert!(matches!(damaged(8192, 1), ScanError::Page(PageError::Magic { .. })));

    let mut foreign = RecordScanner::new(5, size(), Some(SYSTEM_ID + 1));
    let error = foreign.feed(good.start, &good.bytes, &mut Vec::new()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused, "{error}");
    let error = foreign.feed(foreign.position(), &good.bytes, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ScanError::Stopped { .. }), "nothing is taken after an error");

    let mut hole = RecordScanner::new(5, size(), None);
    hole.feed(good.start, &good.bytes[..100], &mut Vec::new()).unwrap();
    let error = hole.feed(Lsn(good.start.0 + 101), &good.bytes[101..], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ScanError::Gap { .. }));

    let mut tail = good.bytes.clone();
    tail.resize(tail.len() + 100, 0);
    tail.push(1);
    assert!(matches!(scan(good.start, &tail).2.unwrap_err(), ScanError::DataAfterEnd { .. }));
}

/// What `pg_waldump` says about the log of a cluster: transactions and restore points, in order.
fn waldump(cluster: &Cluster, first: &str, last: &str) -> Vec<WalDumpLine> {
    let mut command = cluster.client_command("pg_waldump").unwrap();
    command.env("TZ", "UTC").arg("-p").arg(cluster.data_dir().join("pg_wal")).args([first, last]);
    // It fails at the end of the log, where the next record is missing.
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().filter_map(WalDumpLine::read).collect();
    assert!(!lines.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    lines
}

#[derive(Debug, PartialEq)]
struct WalDumpLine {
    kind: &'static str,
    xid: u32,
    lsn: Lsn,
    time: Option<Timestamp>,
    name: String,
}

impl WalDumpLine {
    fn read(line: &str) -> Option<Self> {
        let field = |name: &str| line.split_once(name).map(|(_, rest)| rest.trim_start());
        let mut xid: u32 = field("tx:")?.split(',').next()?.parse().ok()?;
        let lsn = field("lsn:")?.split(',').next()?.parse().ok()?;
        let (word, rest) = field("desc:")?.split_once(' ').unwrap_or((field("desc:")?, ""));
        let manager = field("rmgr:")?.split_whitespace().next()?;
        let (kind, rest) = match (manager, word) {
            ("Transaction", "COMMIT") => ("commit", rest),
            ("Transaction", "ABORT") => ("abort", rest),
            ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") => {
                let (prepared, rest) = rest.split_once(": ")?;
                xid = prepared.parse().ok()?;
                (if word == "COMMIT_PREPARED" { "commit" } else { "abort" }, rest)
            }
            ("XLOG", "RESTORE_POINT") => {
                return Some(WalDumpLine { kind: "restore point", xid, lsn, time: None, name: rest.to_owned() });
            }
            ("XLOG", "CHECKPOINT_SHUTDOWN") => {
                return Some(WalDumpLine { kind: "shutdown", xid, lsn, time: None, name: String::new() });
            }
            _ => return None,
        };
        let time = rest.split(" UTC").next()?;
        let time = Some(Timestamp::parse(&format!("{time}Z")).unwrap());
        Some(WalDumpLine { kind, xid, lsn, time, name: String::new() })
    }

    fn of(event: &WalEvent) -> Self {
        let lsn = event.lsn_start();
        match event {
            WalEvent::Commit { xid, time, .. } => {
                WalDumpLine { kind: "commit", xid: *xid, lsn, time: Some(*time), name: String::new() }
            }
            WalEvent::Abort { xid, time, .. } => {
                WalDumpLine { kind: "abort", xid: *xid, lsn, time: Some(*time), name: String::new() }
            }
            WalEvent::RestorePoint { name, .. } => {
                WalDumpLine { kind: "restore point", xid: 0, lsn, time: None, name: name.clone() }
            }
            WalEvent::CheckpointShutdown { .. } => {
                WalDumpLine { kind: "shutdown", xid: 0, lsn, time: None, name: String::new() }
            }
            WalEvent::EndOfRecovery { .. } => panic!("no recovery ended here: {event:?}"),
        }
    }
}

/// A busy life of a server: every kind of record that the scanner reports, and those it must see through.
async fn live(cluster: &Cluster) {
    cluster.pgbench_init(1).await.unwrap();
    cluster.pgbench_run(&["-c", "2", "-t", "200", "-n"]).await.unwrap();
    for sql in [
        "create table a (n int)",
        "begin; insert into a values (1); savepoint s; insert into a values (2); rollback to s; insert into a values (3); commit",
        "begin; insert into a values (4); rollback",
        "select pg_create_restore_point('before the release')",
        "begin; create table b as select g from generate_series(1, 1000) g; insert into b values (1); savepoint s; \
         insert into b values (2); release s; drop table a; create table c (n int primary key); drop table c; \
         prepare transaction 'one'",
        "commit prepared 'one'",
        "begin; insert into b values (5); prepare transaction 'two'",
        "rollback prepared 'two'",
        "select pg_switch_wal()",
        "select pg_logical_emit_message(false, 'big', repeat('x', 3500000))",
        "do $$ begin for i in 1..300 loop begin insert into b values (i); exception when others then null; end; end loop; \
         end $$",
        "drop table b",
        "select pg_switch_wal()",
    ] {
        // One string with several statements would be one transaction with PREPARE in it, so psql gets them one by one.
        let mut command = cluster.client_command("psql").unwrap();
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        for statement in if sql.starts_with("do") { vec![sql] } else { sql.split("; ").collect() } {
            command.args(["-c", statement]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }
    cluster.restart().await.unwrap();
    cluster.pgbench_run(&["-c", "1", "-t", "50", "-n"]).await.unwrap();
    cluster.psql("select pg_create_restore_point('last')").await.unwrap();
    cluster.stop(Stop::Fast).await.unwrap();
}

async fn scanner_agrees_with_pg_waldump(version: Version) {
    let cluster = Cluster::builder(version)
        .wal_segment_size(1)
        .setting("max_prepared_transactions", "5")
        .setting("max_wal_size", "2GB")
        .setting("wal_keep_size", "2GB")
        .setting("log_min_error_statement", "panic")
        .start()
        .await
        .unwrap();
    live(&cluster).await;

    let system_id: u64 = cluster.control_data("Database system identifier").await.unwrap().parse().unwrap();
    let checkpoint: Lsn = cluster.control_data("Latest checkpoint location").await.unwrap().parse().unwrap();
    let tli = TimelineId(1);
    let mut names: Vec<String> = std::fs::read_dir(cluster.data_dir().join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| matches!(WalFileName::parse(name, size()), Ok(WalFileName::Segment { .. })))
        .collect();
    names.sort();
    let Ok(WalFileName::Segment { segno: first, .. }) = WalFileName::parse(&names[0], size()) else { unreachable!() };

    let mut scanner = RecordScanner::new(first, size(), Some(system_id));
    let mut events = Vec::new();
    for segno in first..=size().segment_of(checkpoint) {
        let path = cluster.data_dir().join("pg_wal").join(segment_file_name(tli, segno, size()));
        let bytes = std::fs::read(path).unwrap();
        let header = check_segment(&bytes, tli, segno, size(), system_id).unwrap();
        assert_eq!(header.version, version.major());
        assert!(check_segment(&bytes, tli, segno + 1, size(), system_id).is_err());
        assert!(check_segment(&bytes, tli, segno, size(), system_id + 1).is_err());
        scanner.feed(size().start_of(segno), &bytes, &mut events).unwrap();
    }
    assert_eq!(scanner.version(), Some(version.major()));

    let name = |segno| segment_file_name(tli, segno, size());
    let expected = waldump(&cluster, &name(first), &name(size().segment_of(checkpoint)));
    let found: Vec<_> = events.iter().map(WalDumpLine::of).collect();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());

    // The load was what it was meant to be, and the log ends where the shutdown checkpoint ends.
    let count = |kind| found.iter().filter(|line| line.kind == kind).count();
    assert!(count("commit") > 450 && count("abort") >= 3, "{} commits, {} aborts", count("commit"), count("abort"));
    assert!(found.iter().any(|line| line.name == "before the release"));
    let last = events.last().unwrap();
    assert!(matches!(last, WalEvent::CheckpointShutdown { timeline: TimelineId(1), .. }), "{last:?}");
    assert_eq!(last.lsn_start(), checkpoint);
    assert_eq!(scanner.end_of_log(), Some(last.lsn_end()));
}

#[tokio::test]
async fn scanner_agrees_with_pg_waldump_15() {
    scanner_agrees_with_pg_waldump(Version::V15).await;
}

#[tokio::test]
async fn scanner_agrees_with_pg_waldump_17() {
    scanner_agrees_with_pg_waldump(Version::V17).await;
}
