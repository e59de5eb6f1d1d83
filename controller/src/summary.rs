//! The last known condition of each source, kept so that a new controller shows ageing figures instead of "never".

use breakwater_core::{SourceUid, Timestamp, Uid};
use breakwater_proto::v1;
use breakwater_state::keyspace::Key;
use prost::Message;

use crate::book::{Book, Versioned};
use crate::error::ControlError;
use crate::fleet::Fleet;
use crate::records::{JobRecord, SourceSummary};
use crate::work::Work;
use breakwater_planner::job::JobState;

/// A stream's status is stored at most this often; in between it lives in memory.
const STREAM_STORED_EVERY_MICROS: i64 = 30_000_000;

/// The summary of a source.
pub async fn read(book: &Book, source: SourceUid) -> Result<SourceSummary, ControlError> {
    let record: Option<Versioned<SourceSummary>> = book.read(&Key::Summary(source)).await?;
    Ok(record.map(|record| record.value).unwrap_or_default())
}

/// Takes in what an agent says of a stream.
pub async fn note_stream(
    book: &Book,
    fleet: &Fleet,
    agent: Uid,
    status: v1::StreamStatus,
    now: Timestamp,
) -> Result<(), ControlError> {
    let Ok(source) = status.source_uid.parse::<SourceUid>() else { return Ok(()) };
    let before = fleet.stream(&status.source_uid);
    let new_state = before.is_none_or(|before| before.status.state != status.state);
    fleet.note_stream(agent, status.clone());
    let encoded = hex::encode(status.encode_to_vec());
    let change = |present: Option<&SourceSummary>| {
        let present = present.cloned().unwrap_or_default();
        let due = now.micros_since(present.stored) >= STREAM_STORED_EVERY_MICROS;
        let next = SourceSummary { stream: Some(encoded.clone()), stored: now, ..present };
        Ok((due || new_state).then_some(next))
    };
    book.change::<SourceSummary, _>(&Key::Summary(source), change).await.map(|_| ())
}

/// Takes in how a backup ended.
pub async fn note_backup(
    book: &Book,
    source: SourceUid,
    job: &JobRecord,
    ended: Timestamp,
    now: Timestamp,
) -> Result<(), ControlError> {
    let change = |present: Option<&SourceSummary>| {
        let mut next = present.cloned().unwrap_or_default();
        match (&job.work, job.life.state) {
            (Work::Backup { snapshot, .. }, JobState::Succeeded) => {
                let said: serde_json::Value = serde_json::from_str(&job.summary).unwrap_or_default();
                let micros = said.get("consistent_at").and_then(serde_json::Value::as_i64);
                let consistent_at = micros.map_or(now, Timestamp::from_micros);
                next.last_snapshot = Some(*snapshot);
                next.last_consistent_at = Some(consistent_at);
                next.last_ended = ended;
                let regions = said.get("regions").and_then(serde_json::Value::as_object);
                for (region, state) in regions.into_iter().flatten() {
                    if state == "held" {
                        next.held.insert(region.clone(), consistent_at);
                    }
                }
                next.last_failure = None;
                next.last_partial = job.life.failure.as_ref().map(|failure| failure.message.clone());
            }
            (_, JobState::Failed) => {
                next.last_failure = job.life.failure.as_ref().map(|failure| failure.message.clone());
            }
            _ => return Ok(None),
        }
        Ok(Some(next))
    };
    book.change::<SourceSummary, _>(&Key::Summary(source), change).await.map(|_| ())
}

/// The stream as last reported: live, or as stored by this controller's predecessor.
pub fn stream(fleet: &Fleet, source: SourceUid, summary: &SourceSummary) -> Option<v1::StreamStatus> {
    if let Some(seen) = fleet.stream(&source.to_string()) {
        return Some(seen.status);
    }
    let bytes = hex::decode(summary.stream.as_ref()?).ok()?;
    v1::StreamStatus::decode(bytes.as_slice()).ok()
}
