//! Whether a replay to the end of the log came to that end: a server takes the first record that is missing or damaged for
//! the end of its log, and says nothing.
//!
//! Invariant: a replay passes only when it reached the plan's end, or the end of the last record that is whole before it,
//! which is found in the log itself. Zeros where the plan has log are damage and no end.

use std::io::Read as _;
use std::path::Path;

use breakwater_core::{LogPosition, Lsn, TimelineId};
use breakwater_engine::{EngineError, EngineErrorKind, LogFetch, LogFetcher, RecoveryRequest, RecoveryTarget};

use crate::facts::Facts;
use crate::failure::{blocking, internal, kind_of};
use crate::fetch::FETCH_TIMEOUT;
use crate::wal::{RecordScanner, SegmentSize, last_needed_segment, segment_file_name};

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;

/// Refuses a replay to the end that ended at `reached`, before the log of the plan does. Needed pieces are fetched once more
/// into `staging`.
pub(super) async fn check(
    request: &RecoveryRequest,
    facts: &Facts,
    reached: Lsn,
    staging: &Path,
) -> Result<(), EngineError> {
    let (RecoveryTarget::End, Some(end), Some(fetcher)) = (&request.stop, request.end, request.fetcher.as_ref()) else {
        return Ok(());
    };
    if reached >= end.lsn() {
        return Ok(());
    }
    match last_record(fetcher.as_ref(), facts, end, staging).await? {
        Some(last) if reached < last => {
            let what = format!("replay ended at {reached}, but the log of the plan has whole records up to {last}");
            Err(corrupt(what, end))
        }
        _ => Ok(()),
    }
}

fn corrupt(what: String, end: LogPosition) -> EngineError {
    EngineError::new(EngineErrorKind::Corrupt, what)
        .hint(format!("the log before {end} is damaged: restore to an earlier moment, or from another region"))
}

/// Where the last record ends that is whole before `end`; none when the plan's last branch has no such record.
async fn last_record(
    fetcher: &dyn LogFetcher,
    facts: &Facts,
    end: LogPosition,
    staging: &Path,
) -> Result<Option<Lsn>, EngineError> {
    let size = SegmentSize::new(facts.segment_size)
        .map_err(|error| internal("the facts name no size of a segment").because(error))?;
    let system_id =
        facts.system_id.parse().map_err(|error| internal("the facts name no system identifier").because(error))?;
    let mut upto = end.lsn();
    loop {
        let segno = last_needed_segment(upto, size);
        let name = segment_file_name(TimelineId(end.branch), segno, size);
        let file = staging.join(&name);
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetcher.fetch(&name, &file)).await.map_err(|_| {
            EngineError::new(EngineErrorKind::Unreachable, format!("the piece of log {name} does not arrive"))
        })??;
        if fetched == LogFetch::BeyondPlan {
            if upto < end.lsn() {
                return Ok(None);
            }
            let what = format!("the piece of log {name} is not delivered although the plan goes on to {end}");
            return Err(corrupt(what, end));
        }
        let found = blocking(move || {
            let found = scan(&file, segno, size, system_id, upto).map_err(|error| match error.kind {
                EngineErrorKind::Corrupt => corrupt(error.what.clone(), end).because(error),
                _ => error,
            });
            // It lies in a directory that is removed anyway; here it only makes room.
            drop(std::fs::remove_file(&file));
            found
        })
        .await?;
        let start = size.start_of(segno);
        if found > start {
            return Ok(Some(found.min(end.lsn())));
        }
        // Nothing ends in this segment: one record fills it, and the one before ends in an earlier segment.
        if start == Lsn(0) {
            return Ok(None);
        }
        upto = start;
    }
}

/// The end of the last whole record in the first bytes of a segment's file, those before `upto`; the segment's start when
/// there is none.
fn scan(file: &Path, segno: u64, size: SegmentSize, system_id: u64, upto: Lsn) -> Result<Lsn, EngineError> {
    let wrap = |error| EngineError::io(format!("cannot read {}", file.display()), error);
    let start = size.start_of(segno);
    let mut scanner = RecordScanner::new(segno, size, Some(system_id));
    let mut bytes = std::fs::File::open(file).map_err(wrap)?.take(upto.0 - start.0);
    let (mut at, mut events) = (start, Vec::new());
    loop {
        let mut chunk = Vec::new();
        bytes.by_ref().take(CHUNK).read_to_end(&mut chunk).map_err(wrap)?;
        if chunk.is_empty() {
            break;
        }
        scanner.feed(at, &chunk, &mut events).map_err(|error| {
            EngineError::new(kind_of(error.class()), format!("the log is not intact behind {}", scanner.complete_to()))
                .because(error)
        })?;
        events.clear();
        at.0 += chunk.len() as u64;
    }
    if at < upto {
        let what = format!("the piece of log {} ends at {at}, before {upto}", file.display());
        return Err(EngineError::new(EngineErrorKind::Corrupt, what));
    }
    match scanner.end_of_log() {
        Some(last) => {
            let what = format!("the log has nothing from {last} on, although the plan goes on to {upto}");
            Err(EngineError::new(EngineErrorKind::Corrupt, what))
        }
        None => Ok(scanner.complete_to()),
    }
}
