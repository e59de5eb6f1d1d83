//! A check of a repository: is everything that its regions show really there?

use breakwater_proto::v1;
use breakwater_repository::check::{CheckProgress, RegionReport, Subset};
use breakwater_repository::{CheckOptions, CheckReport, Verdict};
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Findings that an error text names; the report has them all.
const FINDINGS_SHOWN: usize = 5;

/// Checks the repository.
pub(super) async fn perform(place: &Workplace, spec: &v1::CheckSpec) -> Result<Outcome, AgentError> {
    let subset = match spec.subset.as_str() {
        "" => Subset::All,
        text => text.parse().map_err(|bad| AgentError::Invalid(format!("{bad}")))?,
    };
    let options = CheckOptions { read_data: spec.read_data, subset, regions: spec.regions.clone() };
    let watch = |progress: &CheckProgress| place.progress.read_so_far(progress.bytes_read);
    let checking = place.repository.check_watched(&options, &watch).await;
    let report = checking.map_err(AgentError::repository(format!("checking repository `{}`", place.name)))?;
    Ok(outcome(&format!("repository `{}`", place.name), &report))
}

/// The report on `what` as a document, and what it comes to.
pub(super) fn outcome(what: &str, report: &CheckReport) -> Outcome {
    let (verdict, fault) = match report.verdict() {
        Verdict::Sound => ("sound", None),
        Verdict::Damaged => {
            let message = format!(
                "{what} is damaged: {} (hint: brctl repository repair puts it again from the regions that have it whole; \
                 until then restore from another one with --region)",
                findings(report)
            );
            ("damaged", Some(AgentError::Corrupt(message)))
        }
        Verdict::Incomplete => {
            let message = format!(
                "{what} could not be checked whole: {} (hint: check again once the region answers)",
                unchecked(report)
            );
            ("incomplete", Some(AgentError::Unavailable(message)))
        }
    };
    let lacking = report.regions.iter().filter(|region| region.missing_objects > 0);
    let warnings: Vec<String> = lacking
        .map(|region| format!("region {} lacks {} objects that another holds", region.region, region.missing_objects))
        .collect();
    let regions: Vec<Value> = report.regions.iter().map(row).collect();
    Outcome { summary: json!({ "verdict": verdict, "regions": regions, "warnings": warnings }), fault }
}

fn row(region: &RegionReport) -> Value {
    let state = match (&region.unchecked, region.findings.is_empty()) {
        (_, false) => "damaged",
        (Some(_), true) => "unchecked",
        (None, true) => "sound",
    };
    let findings: Vec<Value> = region
        .findings
        .iter()
        .map(|finding| {
            json!({
                "object": finding.object, "problem": finding.problem, "meaning": region.meaning(finding),
            })
        })
        .collect();
    let affected: Vec<Value> = region
        .affected
        .iter()
        .map(|(object, who)| {
            json!({
                "object": object,
                "snapshots": who.snapshots,
                "more": who.more,
                "files": who.files,
                "example": who.example,
            })
        })
        .collect();
    json!({
        "region": region.region,
        "state": state,
        "unchecked": region.unchecked,
        "objects": region.objects,
        "snapshots": region.snapshots,
        "deleted": region.deleted,
        "packs": region.packs,
        "packs_read": region.packs_read,
        "archived": region.archived,
        "frames": region.frames,
        "frames_read": region.frames_read,
        "bytes_read": region.bytes_read,
        "findings_count": findings.len() as u64 + region.more_findings,
        "findings": findings,
        "affected": affected,
        "missing_count": region.missing_objects,
        "missing": region.missing,
        "unknown": region.unknown,
    })
}

fn findings(report: &CheckReport) -> String {
    let all = report.regions.iter().flat_map(|region| {
        region.findings.iter().map(|finding| format!("{}: {}: {}", region.region, finding.object, finding.problem))
    });
    let mut lines: Vec<String> = all.collect();
    let listed: u64 = report.regions.iter().map(|region| region.more_findings).sum();
    let more = (lines.len() as u64).saturating_sub(FINDINGS_SHOWN as u64) + listed;
    lines.truncate(FINDINGS_SHOWN);
    let text = lines.join("; ");
    if more > 0 { format!("{text}; and {more} more") } else { text }
}

fn unchecked(report: &CheckReport) -> String {
    let lines = report
        .regions
        .iter()
        .filter_map(|region| region.unchecked.as_ref().map(|why| format!("{}: {why}", region.region)));
    let text = lines.collect::<Vec<_>>().join("; ");
    if text.is_empty() { "it has no regions".to_owned() } else { text }
}
