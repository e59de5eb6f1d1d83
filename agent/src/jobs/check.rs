//! A check of a repository: is everything that its regions show really there?

use std::sync::Arc;

use breakwater_proto::v1;
use breakwater_repository::{CheckOptions, CheckReport, Verdict};

use super::context::JobContext;
use crate::error::AgentError;
use crate::toolbox::Toolbox;

/// Findings that an error text names.
const FINDINGS_SHOWN: usize = 5;

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
        Verdict::Damaged => {
            Err(AgentError::Corrupt(format!("repository `{}` is damaged: {}", repository.name, findings(&report))))
        }
        Verdict::Incomplete => Err(AgentError::Unavailable(format!(
            "repository `{}` could not be checked whole: {}",
            repository.name,
            unchecked(&report)
        ))),
    }
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

fn summary(report: &CheckReport) -> serde_json::Value {
    let regions = report.regions.iter().map(|region| {
        serde_json::json!({
            "region": region.region,
            "objects": region.objects,
            "snapshots": region.snapshots,
            "packs": region.packs,
            "frames": region.frames,
            "frames_read": region.frames_read,
            "missing_objects": region.missing.len(),
            "unknown_objects": region.unknown.len(),
        })
    });
    let missing: Vec<String> = report
        .regions
        .iter()
        .filter(|region| !region.missing.is_empty())
        .map(|region| format!("{} misses {} objects that another region holds", region.region, region.missing.len()))
        .collect();
    serde_json::json!({ "verdict": "sound", "regions": regions.collect::<Vec<_>>(), "warnings": missing })
}
