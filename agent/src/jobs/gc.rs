//! Collecting garbage: what no snapshot needs any more leaves every region.
//!
//! Invariant: an unfinished backup is only given up when the controller knows that its attempt will never write again, or
//! when whoever asked said so. What is not known keeps its packs.

use std::collections::{BTreeSet, HashMap};

use breakwater_core::{Chain, ErrorClass, SessionId, SourceUid};
use breakwater_proto::v1;
use breakwater_repository::format::open::OpenRecord;
use breakwater_repository::gc::renewal::RegionRenewal;
use breakwater_repository::gc::{Figure, GcOptions, GcOutcome, GcReport, Waiting};
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::renew;
use super::repository::Workplace;
use crate::contents;
use crate::error::AgentError;

/// Runs a round over every source.
pub(super) async fn perform(place: &Workplace, spec: &v1::GcSpec) -> Result<Outcome, AgentError> {
    std::fs::create_dir_all(&place.scratch).map_err(AgentError::file("cannot make", &place.scratch))?;
    let repack_below = u8::try_from(spec.repack_below).ok().filter(|percent| *percent <= 100);
    let options = GcOptions {
        dry_run: spec.dry_run,
        repack_below: repack_below
            .ok_or_else(|| AgentError::Invalid(format!("{} % is no share of a pack", spec.repack_below)))?,
        dead: dead_sessions(place, spec).await?,
        scratch: Some(place.scratch.clone()),
        cancel: place.cancel.clone(),
        ..GcOptions::default()
    };
    let collecting = place.repository.gc(&options).await;
    let rounds = collecting.map_err(AgentError::repository(format!("collecting garbage in `{}`", place.name)))?;
    let names = names(place).await;
    let mut total = Total::default();
    let mut sources = Vec::new();
    let mut faults = Faults::default();
    for (source, round) in rounds {
        let name = names.get(&source).cloned().unwrap_or_else(|| source.to_string());
        match round {
            Ok(report) => {
                total.add(&report);
                faults.note(&name, &report.outcome);
                sources.push(row(&name, &report));
            }
            Err(error) => {
                faults.worst = faults.worst.or(Some(error.class()));
                faults.lines.push(format!("source `{name}`: {}", Chain(&error)));
                sources.push(json!({ "source": name, "source_uid": source, "error": Chain(&error).to_string() }));
            }
        }
    }
    let done = sources.len() - faults.lines.len().min(sources.len());
    let mut summary = total.summary(spec.dry_run);
    if !spec.dry_run && !place.cancel.is_cancelled() {
        match renew::renew(place).await {
            Ok(renewals) => {
                faults.renewals(&renewals);
                summary["locks"] = json!(renew::rows(&renewals));
            }
            Err(error) => {
                faults.worst = faults.worst.or(Some(error.class()));
                faults.lines.push(Chain(&error).to_string());
            }
        }
    }
    summary["regions"] = json!(place.repository.regions().iter().map(|region| region.name()).collect::<Vec<_>>());
    summary["sources"] = Value::Array(sources);
    if faults.lines.is_empty() && place.cancel.is_cancelled() {
        return Err(AgentError::Cancelled);
    }
    Ok(faults.outcome(summary, done))
}

/// The unfinished sessions that are to be given up.
async fn dead_sessions(place: &Workplace, spec: &v1::GcSpec) -> Result<BTreeSet<SessionId>, AgentError> {
    let below: HashMap<&[u8], u32> = spec.over.iter().map(|over| (over.job.as_slice(), over.below)).collect();
    let doing = || AgentError::repository("looking for unfinished backups");
    let sources = place.repository.sources(&place.repository.read_order()).await.map_err(doing())?;
    let mut dead = BTreeSet::new();
    for source in sources.uids {
        let unfinished = place.repository.adoptable(source).await.map_err(doing())?;
        let over = unfinished.sessions.iter().map(|session| &session.open);
        dead.extend(over.filter(|open| is_over(open, &below, spec.fence_unknown)).map(|open| open.session));
    }
    Ok(dead)
}

fn is_over(open: &OpenRecord, below: &HashMap<&[u8], u32>, fence_unknown: bool) -> bool {
    match below.get(open.job.as_bytes().as_slice()) {
        Some(below) => open.attempt.0 < *below,
        None => fence_unknown,
    }
}

async fn names(place: &Workplace) -> HashMap<SourceUid, String> {
    // Without names the report says uids.
    let records = contents::sources(&place.repository).await.unwrap_or_default();
    records.into_iter().map(|record| (record.uid, record.name)).collect()
}

/// What stopped rounds.
#[derive(Debug, Default)]
struct Faults {
    lines: Vec<String>,
    worst: Option<ErrorClass>,
}

impl Faults {
    fn note(&mut self, name: &str, outcome: &GcOutcome) {
        let (class, line) = match outcome {
            GcOutcome::Done => return,
            GcOutcome::Cancelled => (ErrorClass::Cancelled, format!("source `{name}`: stopped on request")),
            GcOutcome::Away(causes) => {
                let regions = causes.iter().map(|cause| format!("region {}: {}", cause.region, cause.trouble));
                let regions = regions.collect::<Vec<_>>().join("; ");
                let line = format!("source `{name}`: nothing was deleted, since not every region answers: {regions}");
                (ErrorClass::Unavailable, line)
            }
            GcOutcome::Overtaken => {
                let line = format!("source `{name}`: another worker took over; the rest goes with the next round");
                (ErrorClass::Conflict, line)
            }
        };
        self.worst = self.worst.or(Some(class));
        self.lines.push(line);
    }

    fn renewals(&mut self, renewals: &[RegionRenewal]) {
        let lines = renew::troubles(renewals);
        if !lines.is_empty() {
            self.worst = self.worst.or(Some(ErrorClass::Unavailable));
            self.lines.extend(lines);
        }
    }

    /// Done, partial where `done` rounds got to their end and others did not, or failed.
    fn outcome(self, summary: Value, done: usize) -> Outcome {
        let message = self.lines.join("; ");
        match self.worst {
            None => Outcome::done(summary),
            Some(ErrorClass::Cancelled) => Outcome::failed(summary, AgentError::Cancelled),
            Some(_) if done > 0 => Outcome::partial(summary, message),
            Some(class) => Outcome::failed(summary, AgentError::of_class(class, message)),
        }
    }
}

/// The figures of all rounds together.
#[derive(Debug, Default)]
struct Total {
    freed: u64,
    packs: Figure,
    deleted: Figure,
    repacked: Figure,
    moved: Figure,
    records: Figure,
    strays: Figure,
    waiting: Waiting,
    fenced: usize,
    pins: usize,
}

impl Total {
    fn add(&mut self, report: &GcReport) {
        self.freed += report.freed();
        self.fenced += report.fenced.len();
        self.pins += report.pins.len();
        self.waiting.held += report.waiting.held;
        self.waiting.until = self.waiting.until.max(report.waiting.until);
        for (sum, figure) in [
            (&mut self.packs, report.packs),
            (&mut self.deleted, report.deleted),
            (&mut self.repacked, report.repacked),
            (&mut self.moved, report.moved),
            (&mut self.records, report.records),
            (&mut self.strays, report.strays),
            (&mut self.waiting.figure, report.waiting.figure),
        ] {
            sum.objects += figure.objects;
            sum.bytes += figure.bytes;
        }
    }

    fn summary(&self, dry_run: bool) -> Value {
        json!({
            "dry_run": dry_run,
            "freed_bytes": self.freed,
            "packs": figure(self.packs),
            "deleted": figure(self.deleted),
            "repacked": figure(self.repacked),
            "moved": figure(self.moved),
            "records": figure(self.records),
            "strays": figure(self.strays),
            "waiting": waiting(self.waiting),
            "fenced": self.fenced,
            "pins": self.pins,
        })
    }
}

fn figure(figure: Figure) -> Value {
    json!({ "objects": figure.objects, "bytes": figure.bytes })
}

/// What could go but for locks and holds.
fn waiting(waiting: Waiting) -> Value {
    json!({
        "objects": waiting.figure.objects,
        "bytes": waiting.figure.bytes,
        "held": waiting.held,
        "locked_until": waiting.until,
    })
}

fn row(name: &str, report: &GcReport) -> Value {
    let outcome = match &report.outcome {
        GcOutcome::Done => "done",
        GcOutcome::Away(_) => "region away",
        GcOutcome::Cancelled => "cancelled",
        GcOutcome::Overtaken => "overtaken",
    };
    json!({
        "source": name,
        "source_uid": report.source,
        "outcome": outcome,
        "freed_bytes": report.freed(),
        "snapshots": report.snapshots,
        "tombstones": report.tombstones,
        "fenced": report.fenced,
        "leaned_on_by": report.leaners,
        "pins": report.pins.iter().map(|pin| json!({"session": pin.session, "started": pin.started})).collect::<Vec<_>>(),
        "packs": figure(report.packs),
        "deleted": figure(report.deleted),
        "repacked": figure(report.repacked),
        "moved": figure(report.moved),
        "records": figure(report.records),
        "unknown": figure(report.unknown),
        "unknown_names": report.unknown_names,
        "strays": figure(report.strays),
        "waiting": waiting(report.waiting),
    })
}

#[cfg(test)]
mod tests {
    use breakwater_core::{Attempt, JobId, SnapshotId, Timestamp};

    use super::*;

    fn open(job: u8, attempt: u32) -> OpenRecord {
        OpenRecord {
            session: SessionId::from_bytes([job; 16]),
            snapshot: SnapshotId::from_bytes([job; 16]),
            job: JobId::from_bytes([job; 16]),
            attempt: Attempt(attempt),
            bases: Vec::new(),
            adopts: Vec::new(),
            leans: Vec::new(),
            started: Timestamp(0),
        }
    }

    #[test]
    fn only_attempts_that_are_over_are_given_up() {
        let (running, ended) = ([1; 16], [2; 16]);
        let below: HashMap<&[u8], u32> = [(&running[..], 2), (&ended[..], u32::MAX)].into();
        assert!(is_over(&open(1, 1), &below, false), "an earlier attempt");
        assert!(!is_over(&open(1, 2), &below, true), "the one that runs, whatever was asked");
        assert!(is_over(&open(2, 7), &below, false));
        assert!(!is_over(&open(3, 1), &below, false), "nobody knows");
        assert!(is_over(&open(3, 1), &below, true), "nobody knows, and it was asked");
    }

    #[test]
    fn a_round_that_was_not_done_is_never_success() {
        let check = |outcomes: &[GcOutcome], done: usize, class: Option<ErrorClass>| {
            let mut faults = Faults::default();
            outcomes.iter().for_each(|outcome| faults.note("app", outcome));
            assert_eq!(faults.outcome(Value::Null, done).fault.map(|fault| fault.class()), class);
        };
        check(&[GcOutcome::Done], 1, None);
        check(&[GcOutcome::Away(Vec::new())], 0, Some(ErrorClass::Unavailable));
        check(&[GcOutcome::Done, GcOutcome::Overtaken], 1, Some(ErrorClass::Partial));
        check(&[GcOutcome::Done, GcOutcome::Cancelled], 1, Some(ErrorClass::Cancelled));
    }
}
