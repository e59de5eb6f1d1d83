//! The suite that every engine passes, on a real source.
//!
//! A fixture makes one source with content; the suite reads it as the pipeline would and asserts the contract: entries
//! ascend and stay inside, directories come before what they hold, readers answer the same bytes twice or say that the
//! file ended, the end comes after the entries, a dropped session leaves the source usable.

use std::collections::HashMap;

use crate::{BackupRequest, Engine, EngineError, Entry, EntryKind, ExtentReader, Settled};

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
    assert_entries_fit_together(&entries);
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
    BackupRequest { label: label.to_owned(), fast: true, extent_size: EXTENT_SIZE, base: None }
}

async fn read_to_its_end(entry: &Entry) -> Result<u64, EngineError> {
    let EntryKind::File { size, reader, .. } = &entry.kind else { return Ok(0) };
    let (size, reader) = (*size, std::sync::Arc::clone(reader));
    let read = move || {
        let mut size = size;
        for _ in 0..4 {
            let read = read_once(reader.as_ref(), size)?;
            match reader.settle()? {
                Settled::Stable => {
                    assert_eq!(
                        reader.settle()?,
                        Settled::Stable,
                        "a stable file is still stable when nothing was read"
                    );
                    return Ok(read);
                }
                Settled::Changed { size: now } => size = now,
            }
        }
        panic!("a file of the fixture, which nobody changes, does not settle");
    };
    tokio::task::spawn_blocking(read).await.expect("the reader does not panic")
}

/// Reads `size` bytes and proves that zeros which were announced are zeros. Answers how many bytes there were.
fn read_once(reader: &dyn ExtentReader, size: u64) -> Result<u64, EngineError> {
    let mut buffer = vec![0; EXTENT_SIZE as usize];
    let mut offset = 0;
    while offset < size {
        let wanted = usize::try_from((size - offset).min(u64::from(EXTENT_SIZE))).expect("an extent fits memory");
        let zeros = usize::try_from(reader.zeros_at(offset)?).unwrap_or(usize::MAX).min(wanted);
        buffer.fill(1);
        let answer = reader.read_at(offset, &mut buffer[..wanted])?;
        assert!(answer.length <= wanted);
        assert!(buffer[..zeros.min(answer.length)].iter().all(|byte| *byte == 0), "a hole reads as zeros");
        offset += answer.length as u64;
        if answer.length < wanted {
            break;
        }
    }
    Ok(offset)
}

/// Directories come before what lies in them, hard links after the file that they name; metadata is in its bounds.
fn assert_entries_fit_together(entries: &[Entry]) {
    let mut kinds: HashMap<&[u8], &EntryKind> = HashMap::new();
    for entry in entries {
        let shown = entry.path.escape_ascii();
        if let Some(slash) = entry.path.iter().rposition(|byte| *byte == b'/') {
            let parent = kinds.get(&entry.path[..slash]);
            assert!(matches!(parent, Some(EntryKind::Directory)), "the directory of `{shown}` comes before it");
        }
        if let EntryKind::Hardlink { target } = &entry.kind {
            let file = kinds.get(target.as_slice());
            assert!(matches!(file, Some(EntryKind::File { .. })), "the file that `{shown}` names comes before it");
        }
        assert!(entry.attributes.nanos < 1000, "nanoseconds of `{shown}` beyond the microsecond");
        let xattrs = &entry.attributes.xattrs;
        assert!(xattrs.windows(2).all(|pair| pair[0].0 < pair[1].0), "attributes of `{shown}` ascend by name");
        assert!(
            xattrs.iter().all(|(name, _)| !name.is_empty() && !name.contains(&0)),
            "names of attributes of `{shown}`"
        );
        kinds.insert(&entry.path, &entry.kind);
    }
}

fn assert_path_stays_inside(path: &[u8]) {
    assert!(!path.is_empty() && !path.starts_with(b"/"), "paths are relative");
    for part in path.split(|byte| *byte == b'/') {
        assert!(!part.is_empty() && part != b"." && part != b"..", "no part leaves the root");
    }
}
