//! A check of a repository: is everything that its regions show really there?

use breakwater_proto::v1;
use breakwater_repository::check::RegionReport;
use breakwater_repository::{CheckOptions, CheckReport, Verdict};
use serde_json::{Value, json};

use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Findings that an error text names; the report has them all.
const FINDINGS_SHOWN: usize = 5;

<<<<<<< HEAD
/// Checks the repository that `spec` names.
pub(super) async fn run(
    tools: &Arc<Toolbox>,
    context: &JobContext,
    start: &v1::StartJob,
    spec: &v1::CheckSpec,
) -> Result<serde_json::Value, AgentError> {
    let repository = start
        .repository
        .as_ref()
        .ok_or_else(|| AgentError::NotFound(format!("repository `{}` is not declared any more", spec.repository)))?;
    let options = CheckOptions { read_data: spec.read_data, ..CheckOptions::default() };
    let report = context
        .phase("checking", async {
            // Content is opened by recipients only; everything else a writer's key can check.
            let opened = match spec.read_data {
                true => tools.repositories.open_for_restore(repository).await?,
                false => tools.repositories.open(repository).await?.repository.clone(),
            };
            let checking = opened.check(&options);
            checking.await.map_err(AgentError::repository(format!("checking repository `{}`", repository.name)))
        })
        .await?;
    match report.verdict() {
        Verdict::Sound => Ok(summary(&report)),
=======
/// Checks the repository.
pub(super) async fn perform(place: &Workplace, spec: &v1::CheckSpec) -> Result<Outcome, AgentError> {
    let options = CheckOptions { read_data: spec.read_data, regions: spec.regions.clone() };
    let checking = place.repository.check(&options).await;
    let report = checking.map_err(AgentError::repository(format!("checking repository `{}`", place.name)))?;
    Ok(outcome(&place.name, &report))
}

/// The report as a document, and what it comes to.
pub(super) fn outcome(name: &str, report: &CheckReport) -> Outcome {
    let (verdict, fault) = match report.verdict() {
        Verdict::Sound => ("sound", None),
>>>>>>> 9e2c470 (Work on a repository is one message from brctl through the controller to the agent, or done by brctl itself; plans and runs say how data is compressed; partial work says what is missing)
        Verdict::Damaged => {
            let message = format!(
                "repository `{name}` is damaged: {} (hint: restore from another region with --region; brctl repository \
                 repair {name})",
                findings(report)
            );
            ("damaged", Some(AgentError::Corrupt(message)))
        }
        Verdict::Incomplete => {
            let message = format!(
                "repository `{name}` could not be checked whole: {} (hint: check again once the region answers)",
                unchecked(report)
            );
            ("incomplete", Some(AgentError::Unavailable(message)))
        }
    };
    let lacking = report.regions.iter().filter(|region| !region.missing.is_empty());
    let warnings: Vec<String> = lacking
        .map(|region| format!("region {} lacks {} objects that another holds", region.region, region.missing.len()))
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
        "findings_count": findings.len() as u64 + region.more_findings,
        "findings": findings,
        "missing_count": region.missing.len(),
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
