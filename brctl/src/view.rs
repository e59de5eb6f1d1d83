//! Messages of the protocol as JSON for people's programs: the field names of the protocol, moments as RFC 3339, what is
//! not known as null.

use breakwater_core::LogPosition;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::output::moment::{rfc3339, seconds};

fn known(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

/// A text of JSON as a value; as text when it is none.
fn embedded(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    match serde_json::from_str(text) {
        Ok(mut value) => {
            readable(&mut value);
            value
        }
        Err(_) => Value::from(text),
    }
}

/// A job.
pub(crate) fn job(job: &v1::Job) -> Value {
    let duration = (job.started != 0 && job.finished != 0).then(|| seconds(job.finished - job.started));
    json!({
        "id": job.id,
        "namespace": job.namespace,
        "kind": job.kind().word(),
        "state": job.state().word(),
        "outcome": outcome(job),
        "source": known(&job.source),
        "plan": known(&job.plan),
        "agent": job.agent,
        "attempt": job.attempt,
        "created": rfc3339(job.created),
        "started": rfc3339(job.started),
        "finished": rfc3339(job.finished),
        "duration_seconds": duration,
        "snapshot_id": known(&job.snapshot_id),
        "progress": job.progress.as_ref().map(progress),
        "failure": job.failure.as_ref().map(|failure| json!({"class": failure.class, "message": failure.message})),
        "summary": embedded(&job.summary_json),
        "trace_id": known(&job.trace_id),
        "revision": job.revision,
        "log": job.log,
    })
}

/// Of a job that succeeded: whether with all that was asked for.
fn outcome(job: &v1::Job) -> Option<&'static str> {
    (job.state() == v1::JobState::Succeeded).then_some(if job.failure.is_some() { "partial" } else { "complete" })
}

fn progress(progress: &v1::Progress) -> Value {
    json!({
        "phase": progress.phase,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "bytes_new": progress.bytes_new,
        "bytes_stored": progress.bytes_stored,
        "files_done": progress.files_done,
        "at": rfc3339(progress.at),
    })
}

/// One region of one source.
pub(crate) fn lag_row(row: &v1::LagRow) -> Value {
    let known_seconds = |micros: i64| (micros >= 0).then(|| seconds(micros));
    json!({
        "source": row.source,
        "namespace": row.namespace,
        "region": row.region,
        "role": row.role,
        "state": row.state,
        "recoverable": rfc3339(row.recoverable),
        "exposure_seconds": known_seconds(row.exposure_micros),
        "lag_seconds": seconds(row.lag_micros),
        "pending_bytes": row.pending_bytes,
        "pending_items": row.pending_items,
        "drain_seconds": (row.drain_seconds >= 0).then_some(row.drain_seconds),
        "observed": rfc3339(row.observed),
        "detail": known(&row.detail),
        "position": row.position.map(|position| LogPosition::from(position).to_string()),
    })
}

/// All regions of all sources.
pub(crate) fn lag(response: &v1::LagResponse) -> Value {
    json!({"now": rfc3339(response.now), "rows": response.rows.iter().map(lag_row).collect::<Vec<_>>()})
}

/// One region: as declared, as agents see it, and how much lay there when that was last counted.
pub(crate) fn region(row: &v1::RegionRow) -> Value {
    let region = row.region.clone().unwrap_or_default();
    let usage: Value = serde_json::from_str(&row.usage_json).unwrap_or_default();
    let here = usage["regions"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let here: Vec<&Value> = here.filter(|tier| tier["region"] == region.name).collect();
    json!({
        "repository": row.repository,
        "namespace": row.namespace,
        "region": region.name,
        "role": region.role,
        "url": region.url,
        "tier": if region.tier.is_empty() { "hot" } else { &region.tier },
        "lock": region.lock.map(|lock| format!("{} {} d", lock.mode, lock.days)),
        "sights": row.sights.iter().map(sight).collect::<Vec<_>>(),
        "usage": here,
        "counted_at": usage["counted_at"].as_i64().filter(|_| !here.is_empty()).map(rfc3339),
    })
}

/// How a region answers one agent.
fn sight(sight: &v1::AgentSight) -> Value {
    let health = sight.health.clone().unwrap_or_default();
    let mut value = json!({
        "agent": sight.agent,
        "reachable": health.reachable,
        "observed": rfc3339(health.observed),
        "owed_objects": health.owed_objects,
        "owed_bytes": health.owed_bytes,
        "oldest_owed": rfc3339(health.oldest_owed),
        "last_error": known(&health.last_error),
    });
    if let Some(traffic) = health.traffic {
        let latency = |micros: u64| i64::try_from(micros).ok().filter(|micros| *micros > 0).map(seconds);
        value["counting_since"] = json!(rfc3339(traffic.since));
        value["requests"] = traffic.requests.into();
        value["errors"] = traffic.errors.into();
        value["bytes_up"] = traffic.bytes_up.into();
        value["bytes_down"] = traffic.bytes_down.into();
        value["recent_requests"] = traffic.recent_requests.into();
        value["recent_errors"] = traffic.recent_errors.into();
        value["latency_p50_seconds"] = json!(latency(traffic.latency_p50_micros));
        value["latency_p95_seconds"] = json!(latency(traffic.latency_p95_micros));
        value["last_success"] = json!(rfc3339(traffic.last_success));
    }
    value
}

/// An agent.
pub(crate) fn agent(agent: &v1::Agent) -> Value {
    json!({
        "name": agent.name,
        "uid": agent.uid,
        "host": known(&agent.host),
        "version": known(&agent.version),
        "state": agent.state,
        "last_seen": rfc3339(agent.last_seen),
        "certificate_expires": rfc3339(agent.certificate_expires),
        "sources": agent.sources,
        "running_jobs": agent.running_jobs,
    })
}

/// The one screen.
pub(crate) fn status(status: &v1::StatusResponse) -> Value {
    json!({
        "now": rfc3339(status.now),
        "sources": status.sources.iter().map(source).collect::<Vec<_>>(),
        "agents": status.agents.iter().map(agent).collect::<Vec<_>>(),
        "recent_jobs": status.recent_jobs.iter().map(job).collect::<Vec<_>>(),
        "next_steps": status.next_steps,
    })
}

fn source(source: &v1::SourceStatus) -> Value {
    json!({
        "name": source.name,
        "namespace": source.namespace,
        "engine": source.engine,
        "agent": source.agent,
        "plan": known(&source.plan),
        "protection": source.protection,
        "reason": known(&source.reason),
        "last_backup": rfc3339(source.last_backup),
        "last_backup_id": known(&source.last_backup_id),
        "stream_state": source.stream_state,
        "exposure_seconds": (source.exposure_micros >= 0).then(|| seconds(source.exposure_micros)),
        "lag": source.lag.iter().map(lag_row).collect::<Vec<_>>(),
        "last_job": source.last_job.as_ref().map(job),
    })
}

/// A join token without its secret.
pub(crate) fn token(token: &v1::Token) -> Value {
    json!({
        "id": token.id,
        "agent_name": known(&token.agent_name),
        "expires": rfc3339(token.expires),
        "state": token.state,
    })
}

/// A declared object: `apiVersion`, `kind`, `metadata`, `spec`.
pub(crate) fn object(object: &v1::Object) -> Value {
    let mut value = embedded(&object.json);
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("revision".to_owned(), Value::from(object.revision));
    }
    value
}

/// Fields of agents' documents that are moments in microseconds.
const MOMENTS: [&str; 26] = [
    "mtime",
    "at",
    "clock",
    "committed",
    "consistent_at",
    "created",
    "earliest",
    "ended",
    "expires",
    "finished",
    "first",
    "from",
    "joined",
    "locked_until",
    "last",
    "last_transaction",
    "latest",
    "mtime",
    "observed",
    "reaches",
    "recoverable",
    "scheduled",
    "started",
    "time",
    "to",
    "until",
];

/// Turns the moments of a document into RFC 3339.
pub(crate) fn readable(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(readable),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_i64() {
                    Some(micros) if MOMENTS.contains(&name.as_str()) => *field = rfc3339(micros),
                    _ => readable(field),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_keeps_the_names_and_tells_never_from_zero() {
        let row = v1::LagRow {
            source: "app".to_owned(),
            region: "one".to_owned(),
            role: "sync".to_owned(),
            state: "never".to_owned(),
            exposure_micros: -1,
            drain_seconds: -1,
            ..v1::LagRow::default()
        };
        let value = lag_row(&row);
        for absent in ["recoverable", "exposure_seconds", "drain_seconds", "observed", "position", "detail"] {
            assert!(value[absent].is_null(), "{absent}: {value}");
        }
        let position = Some(v1::Position { branch: 1, offset: 0x16B_3748 });
        let row = v1::LagRow {
            recoverable: 1_000_000,
            exposure_micros: 2_500_000,
            drain_seconds: 7,
            pending_bytes: 9,
            position,
            ..row
        };
        let value = lag_row(&row);
        assert_eq!(value["recoverable"], "1970-01-01T00:00:01.000000Z");
        assert_eq!(value["exposure_seconds"], 2.5);
        assert_eq!((&value["drain_seconds"], &value["pending_bytes"]), (&json!(7), &json!(9)));
        assert_eq!(value["position"], "1:0/16B3748");
    }

    #[test]
    fn jobs_show_outcome_and_summary() {
        let message = v1::Job {
            id: "j".to_owned(),
            kind: v1::JobKind::Backup.into(),
            state: v1::JobState::Failed.into(),
            started: 1_000_000,
            finished: 3_500_000,
            failure: Some(v1::Failure { class: "corrupt".to_owned(), message: "pack".to_owned() }),
            summary_json: r#"{"consistent_at": 1000000, "bytes": 5}"#.to_owned(),
            ..v1::Job::default()
        };
        let value = job(&message);
        assert_eq!((&value["kind"], &value["state"]), (&json!("backup"), &json!("failed")));
        assert_eq!(value["duration_seconds"], 2.5);
        assert_eq!(value["failure"]["class"], "corrupt");
        assert_eq!(value["summary"], json!({"consistent_at": "1970-01-01T00:00:01.000000Z", "bytes": 5}));
        assert!(value["created"].is_null() && value["source"].is_null() && value["outcome"].is_null());
        let partial = v1::Job { state: v1::JobState::Succeeded.into(), ..message.clone() };
        assert_eq!(job(&partial)["outcome"], "partial");
        assert_eq!(job(&v1::Job { failure: None, ..partial })["outcome"], "complete");
    }
}
