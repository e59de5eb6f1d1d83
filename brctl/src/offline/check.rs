//! Checking a repository without a controller.

use breakwater_core::ErrorClass;
use breakwater_repository::check::RegionReport;
use breakwater_repository::{CheckOptions, CheckReport, Verdict};
use serde_json::{Value, json};

use super::Glass;
use crate::failure::Failure;

/// Findings that an error names; the report has them all.
const FINDINGS_SHOWN: usize = 5;

/// One row a region, and what the check comes to when that is not good.
pub(crate) async fn check(glass: &Glass, read_data: bool) -> Result<(Vec<Value>, Option<Failure>), Failure> {
    if read_data {
        glass.needs_content()?;
    }
    let report = glass.repository.check(&CheckOptions { read_data, ..CheckOptions::default() }).await?;
    Ok((report.regions.iter().map(row).collect(), verdict(&report)))
}

fn row(region: &RegionReport) -> Value {
    let state = match (&region.unchecked, region.findings.is_empty()) {
        (_, false) => "damaged",
        (Some(_), true) => "unchecked",
        (None, true) => "sound",
    };
    let findings: Vec<Value> =
        region.findings.iter().map(|finding| json!({"object": finding.object, "problem": finding.problem})).collect();
    json!({
        "region": region.region,
        "state": state,
        "unchecked": region.unchecked,
        "objects": region.objects,
        "snapshots": region.snapshots,
        "packs": region.packs,
        "frames": region.frames,
        "frames_read": region.frames_read,
        "findings": findings,
        "findings_count": findings.len() as u64 + region.more_findings,
        "missing": region.missing,
        "missing_count": region.missing.len(),
        "unknown": region.unknown,
    })
}

fn verdict(report: &CheckReport) -> Option<Failure> {
    match report.verdict() {
        Verdict::Sound => None,
        Verdict::Damaged => {
            let all: Vec<String> = report
                .regions
                .iter()
                .flat_map(|region| {
                    let text = |finding: &breakwater_repository::check::Finding| {
                        format!("region {}: {}: {}", region.region, finding.object, finding.problem)
                    };
                    region.findings.iter().map(text).collect::<Vec<_>>()
                })
                .collect();
            let more = all.len().saturating_sub(FINDINGS_SHOWN);
            let shown = all.into_iter().take(FINDINGS_SHOWN).collect::<Vec<_>>().join("; ");
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            Some(
                Failure::new(ErrorClass::Corrupt, format!("the repository is damaged: {shown}{more}"))
                    .hint("restore from another region: --region NAME; the report names every object"),
            )
        }
        Verdict::Incomplete => {
            let unchecked: Vec<String> = report
                .regions
                .iter()
                .filter_map(|region| Some(format!("region {}: {}", region.region, region.unchecked.as_ref()?)))
                .collect();
            let message = format!("not everything could be checked: {}", unchecked.join("; "));
            Some(Failure::new(ErrorClass::Unavailable, message).hint("check again once the region answers"))
        }
    }
}
