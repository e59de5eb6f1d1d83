//! The suite that every engine passes, on a real source.
//!
//! A fixture makes one source with content; the suite reads it as the pipeline would and asserts the contract: entries
//! ascend and stay inside, directories come before what they hold, readers answer the same bytes twice or say that the
//! file ended, the end comes after the entries, a dropped session leaves the source usable.

use crate::{BackupRequest, Engine, EngineError, Entry, EntryKind};

/// Bytes of an extent in the suite: small, so that files have several.
pub const EXTENT_SIZE: u32 = 64 * 1024;

/// Runs the suite on one source. Panics where the contract is broken.
pub async fn run(engine: &dyn Engine) {
    probe_is_stable(engine).await;
    entries_are_well_formed(engine).await;
    dropped_session_leaves_no_trace(engine).await;
}

async fn probe_is_stable(engine: &dyn Engine) {
    let first = engine.probe().await.expect("the source answers a probe");
    let second = engine.probe().await.expect("the source answers a second probe");
    assert_eq!(first.identity, second.identity, "identity must not change between probes");
    assert!(first.is_ready(), "the fixture's source is ready: {:?}", first.findings);
    assert!(first.capabilities.page_size.is_power_of_two());
    assert_eq!(first.capabilities.stream, engine.log_source().is_some(), "capability and log source agree");
}

async fn entries_are_well_formed(engine: &dyn Engine) {
    let mut session = engine.begin_backup(request("conformance")).await.expect("a backup begins");
    let mut entries = Vec::new();
    loop {
        let batch = session.next_entries(7).await.expect("entries are listed");
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= 7, "at most what was asked for");
        for entry in &batch {
            read_to_its_end(entry).await.expect("the entry can be read");
        }
        entries.extend(batch);
    }
    for pair in entries.windows(2) {
        assert!(pair[0].path < pair[1].path, "entries ascend by path");
    }
    let end = session.finish().await.expect("the backup finishes");
    for entry in entries.iter().chain(&end.entries) {
        assert_path_stays_inside(&entry.path);
    }
    for entry in &end.entries {
        read_to_its_end(entry).await.expect("late entries can be read");
        assert!(entries.iter().all(|known| known.path != entry.path), "late entries are not listed twice");
    }
    if let Some(range) = end.range {
        assert!(range.start.offset <= range.end.offset, "the range runs forward");
    }
    assert!(end.consistent_at.as_micros() > 0);
}

async fn dropped_session_leaves_no_trace(engine: &dyn Engine) {
    for _ in 0..3 {
        let mut session = engine.begin_backup(request("dropped")).await.expect("a backup begins after one was dropped");
        session.next_entries(1).await.expect("entries are listed");
        drop(session);
    }
    let session = engine.begin_backup(request("after")).await.expect("a backup begins after three were dropped");
    session.finish().await.expect("and can end without its entries having been read");
}

fn request(label: &str) -> BackupRequest {
    BackupRequest { label: label.to_owned(), fast: true, extent_size: EXTENT_SIZE }
}

async fn read_to_its_end(entry: &Entry) -> Result<u64, EngineError> {
    let EntryKind::File { size, reader } = &entry.kind else { return Ok(0) };
    let (size, reader) = (*size, std::sync::Arc::clone(reader));
    let read = move || {
        let mut buffer = vec![0; EXTENT_SIZE as usize];
        let mut offset = 0;
        while offset < size {
            let wanted = usize::try_from((size - offset).min(u64::from(EXTENT_SIZE))).expect("an extent fits memory");
            let answer = reader.read_at(offset, &mut buffer[..wanted])?;
            assert!(answer.length <= wanted);
            offset += answer.length as u64;
            if answer.length < wanted {
                break;
            }
        }
        Ok(offset)
    };
    tokio::task::spawn_blocking(read).await.expect("the reader does not panic")
}

fn assert_path_stays_inside(path: &[u8]) {
    assert!(!path.is_empty() && !path.starts_with(b"/"), "paths are relative");
    for part in path.split(|byte| *byte == b'/') {
        assert!(!part.is_empty() && part != b"." && part != b"..", "no part leaves the root");
    }
}
