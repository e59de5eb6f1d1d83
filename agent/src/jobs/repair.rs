//! Repairing a repository: what a region lost or has damaged is put again from the regions that have it whole.

use breakwater_proto::v1;
use breakwater_repository::repair::{Loss, RegionRepair, RepairProgress, Wrong};
use breakwater_repository::{RepairOptions, RepairReport, RepairVerdict};
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Losses and objects that an error text names; the report has them all.
const SHOWN: usize = 5;

/// Repairs the repository.
pub(super) async fn perform(place: &Workplace, spec: &v1::RepairSpec) -> Result<Outcome, AgentError> {
    let options = RepairOptions { dry_run: spec.dry_run, read_data: spec.read_data, regions: spec.regions.clone() };
    let watch = |progress: &RepairProgress| tracing::debug!(object = %progress.object, "repairing");
    let repairing = place.repository.repair_watched(&options, &watch);
    // Every object is whole, or missing and whole elsewhere, between any two steps, so it may be stopped at each of them.
    let report = tokio::select! {
        report = repairing => report.map_err(AgentError::repository(format!("repairing repository `{}`", place.name)))?,
        () = place.cancel.cancelled() => return Err(AgentError::Cancelled),
    };
    Ok(outcome(&place.name, &report, spec.read_data))
}

fn outcome(name: &str, report: &RepairReport, read_data: bool) -> Outcome {
    let (verdict, fault) = match report.verdict() {
        RepairVerdict::Whole => ("whole", None),
        RepairVerdict::Pending => ("pending", None),
        RepairVerdict::Unfinished => {
            let message = format!(
                "repository `{name}` is not whole yet: {} (hint: repair again once that is mended)",
                unfinished(report)
            );
            ("unfinished", Some(AgentError::Partial(message)))
        }
        RepairVerdict::Lost => {
            let message = format!(
                "repository `{name}` has lost what no region has whole: {} (hint: a new backup stores what the source still \
                 has; snapshots and files that are named cannot be restored whole)",
                lost(report)
            );
            ("lost", Some(AgentError::Corrupt(message)))
        }
    };
    let mut warnings = Vec::new();
    if !read_data {
        warnings.push("damage inside packs of content is found with --read-data only".to_owned());
    }
    let summary = json!({
        "verdict": verdict,
        "dry_run": report.dry_run,
        "objects": report.objects,
        "regions": report.regions.iter().map(row).collect::<Vec<_>>(),
        "lost_count": report.lost_count,
        "lost": report.lost.iter().map(loss).collect::<Vec<_>>(),
        "uncertain": report.uncertain,
        "warnings": warnings,
    });
    Outcome { summary, fault }
}

fn row(region: &RegionRepair) -> Value {
    let state = match (&region.unreached, region.unmended_objects) {
        (Some(_), _) => "unreached",
        (None, 0) => "whole",
        (None, _) => "damaged",
    };
    let word = |wrong: Wrong| match wrong {
        Wrong::Missing => "missing",
        Wrong::Damaged => "damaged",
    };
    let mended =
        region.mended.iter().map(|one| json!({"object": one.object, "was": word(one.wrong), "from": one.from}));
    let unmended = region.unmended.iter().map(|one| json!({"object": one.object, "why": one.why}));
    json!({
        "region": region.region,
        "state": state,
        "unreached": region.unreached,
        "mended_count": region.mended_objects,
        "mended_bytes": region.mended_bytes,
        "mended": mended.collect::<Vec<_>>(),
        "unmended_count": region.unmended_objects,
        "unmended": unmended.collect::<Vec<_>>(),
    })
}

fn loss(loss: &Loss) -> Value {
    json!({
        "source_uid": loss.source,
        "snapshot": loss.snapshot,
        "session": loss.session,
        "path": loss.path,
        "object": loss.object,
        "why": loss.why,
    })
}

fn lost(report: &RepairReport) -> String {
    let line = |loss: &Loss| {
        let what = loss.path.as_deref().unwrap_or(&loss.object);
        format!("snapshot {}: `{what}`: {}", loss.snapshot, loss.why)
    };
    shortened(report.lost.iter().map(line), report.lost_count)
}

fn unfinished(report: &RepairReport) -> String {
    let unreached =
        report.regions.iter().filter_map(|region| Some(format!("{}: {}", region.region, region.unreached.as_ref()?)));
    let left = report
        .regions
        .iter()
        .flat_map(|region| region.unmended.iter().map(|one| format!("{}: {}: {}", region.region, one.object, one.why)));
    let lines: Vec<String> = unreached.chain(left).chain(report.uncertain.clone()).collect();
    let count = lines.len() as u64;
    if lines.is_empty() { "it has no regions".to_owned() } else { shortened(lines.into_iter(), count) }
}

fn shortened(lines: impl Iterator<Item = String>, count: u64) -> String {
    let text = lines.take(SHOWN).collect::<Vec<_>>().join("; ");
    let more = count.saturating_sub(SHOWN as u64);
    if more > 0 { format!("{text}; and {more} more") } else { text }
}
