//! What a PostgreSQL server or its files hand over.

#![allow(clippy::cast_possible_truncation, reason = "seeds are small")]

use breakwater_core::{Lsn, TimelineId, Timestamp};
use breakwater_engine_postgres::Facts;
use breakwater_engine_postgres::connection::ConnectionSettings;
use breakwater_engine_postgres::control::ControlFile;
use breakwater_engine_postgres::wal::{
    PageHeader, RecordScanner, SegmentSize, TimelineHistory, WalFileName, check_segment_start,
};
use breakwater_fuzz::{Bound, targets};

const SEGMENT: u64 = 1 << 20;

/// The first page of a segment of PostgreSQL 17 (`XLogLongPageHeaderData`), then records that are none.
fn segment() -> Vec<u8> {
    let mut page = Vec::new();
    page.extend_from_slice(&0xD116_u16.to_le_bytes());
    page.extend_from_slice(&2_u16.to_le_bytes());
    page.extend_from_slice(&1_u32.to_le_bytes());
    page.extend_from_slice(&SEGMENT.to_le_bytes());
    page.extend_from_slice(&[0; 8]);
    page.extend_from_slice(&7_u64.to_le_bytes());
    page.extend_from_slice(&(SEGMENT as u32).to_le_bytes());
    page.extend_from_slice(&8192_u32.to_le_bytes());
    page.extend_from_slice(&48_u32.to_le_bytes());
    page.extend_from_slice(&[0x5A; 400]);
    page.resize(2 * 8192, 0);
    page
}

fn scan(bytes: &[u8]) {
    let size = SegmentSize::new(SEGMENT).expect("a megabyte is a size");
    let mut scanner = RecordScanner::new(1, size, None);
    let mut events = Vec::new();
    // Whatever the bytes are, how they were cut makes no difference.
    let whole = scanner.feed(Lsn(SEGMENT), bytes, &mut events).is_ok();
    let mut pieces = RecordScanner::new(1, size, None);
    let (mut again, mut at, mut fine) = (Vec::new(), SEGMENT, true);
    for piece in bytes.chunks(37) {
        fine = fine && pieces.feed(Lsn(at), piece, &mut again).is_ok();
        at += piece.len() as u64;
    }
    assert_eq!((whole, whole.then_some(events.len())), (fine, fine.then_some(again.len())));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

targets! {
    page_header(vec![segment()], Bound::SMALL, |bytes| drop(PageHeader::parse(bytes, Lsn(SEGMENT))));
    segment_start(vec![segment()], Bound::SMALL, |bytes| {
        drop(check_segment_start(bytes, TimelineId(1), 1, SegmentSize::new(SEGMENT).expect("a size"), 7))
    });
    log_records(vec![segment()], Bound { base: 1 << 20, per_byte: 64 }, |bytes| scan(bytes));
    history_file(
        vec![b"1\t0/5000028\tbefore\n2\t1/A0\tno recovery target specified\n".to_vec(), b"# a comment\n\n1 0/1 x".to_vec()],
        Bound::SMALL,
        |bytes| drop(TimelineHistory::parse(TimelineId(3), &text(bytes)))
    );
    file_name(
        vec![b"000000010000000000000001".to_vec(), b"00000002.history".to_vec(), b"00000001000000000000000A.partial".to_vec()],
        Bound::SMALL,
        |bytes| drop(WalFileName::parse(&text(bytes), SegmentSize::new(SEGMENT).expect("a size")))
    );
    control_file(vec![vec![0; 8192], vec![1; 8192]], Bound::SMALL, |bytes| drop(ControlFile::parse(bytes)));
    facts(
        vec![
            br#"{"system_id":"7","version":"17.1","major":17,"segment_size":16777216,"data_checksums":true,"timeline":1,"start":"0/1",
                "end":"0/2","settings":{"port":"5432"},"uid":1,"gid":1,"superuser":"postgres"}"#
                .to_vec()
        ],
        Bound::TREE,
        |bytes| drop(serde_json::from_slice(bytes).map(|json| Facts::from_json(&json).is_ok()))
    );
    connection_string(
        vec![
            b"host=/var/run/postgresql port=5433 user=backup dbname='a b' sslmode=prefer".to_vec(),
            b"postgresql://backup:s%20t@[::1]:5432/postgres?application_name=x".to_vec(),
        ],
        Bound::SMALL,
        |bytes| drop(text(bytes).parse::<ConnectionSettings>())
    );
    positions_and_times(
        vec![b"16/B374D848".to_vec(), b"2026-11-20T12:00:00.123456+01:00".to_vec()],
        Bound::SMALL,
        |bytes| {
            drop(text(bytes).parse::<Lsn>());
            drop(text(bytes).parse::<Timestamp>());
        }
    );
}
