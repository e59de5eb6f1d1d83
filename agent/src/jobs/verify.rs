//! A look at one snapshot: is it there and whole, in each region alone?

use breakwater_proto::v1;
use breakwater_repository::Selector;
use breakwater_repository::check::{CheckProgress, Level, VerifyOptions};
use serde_json::json;

use super::check;
use super::outcome::Outcome;
use super::repository::Workplace;
use crate::error::AgentError;

/// Whether it needs a key that opens content. A word that is no level is refused later.
pub(super) fn opens_content(spec: &v1::VerifySpec) -> bool {
    spec.vouch || spec.level.parse::<Level>().is_ok_and(Level::opens_content)
}

/// Looks at the snapshot that `spec` names.
pub(super) async fn perform(place: &Workplace, spec: &v1::VerifySpec) -> Result<Outcome, AgentError> {
    let level: Level = spec.level.parse().map_err(|bad| AgentError::Invalid(format!("{bad}")))?;
    let order = place.repository.read_order();
    let doing = || AgentError::repository(format!("verifying snapshot {}", spec.snapshot));
    let found =
        place.repository.find_snapshot(&order, None, &Selector::Id(spec.snapshot.clone())).await.map_err(doing())?;
    if spec.vouch && !spec.regions.is_empty() {
        return Err(AgentError::Invalid(
            "what others may lean on is read in every region, so none can be chosen (hint: leave out the regions)"
                .to_owned(),
        ));
    }
    let options = VerifyOptions { level, regions: spec.regions.clone() };
    let watch = |progress: &CheckProgress| place.progress.read_so_far(progress.bytes_read);
    let looking = place.repository.verify_snapshot(found.source.uid, (found.id, found.session), &options, &watch);
    let report = looking.await.map_err(doing())?;
    let mut outcome = check::outcome(&format!("snapshot {}", found.id), &report);
    outcome.summary["snapshot"] = json!(found.id);
    outcome.summary["source"] = json!(found.source.name);
    outcome.summary["level"] = json!(level.word());
    if spec.vouch && outcome.fault.is_none() {
        let already = report.regions.iter().map(|region| region.bytes_read).sum::<u64>();
        let watch = |progress: &CheckProgress| place.progress.read_so_far(already + progress.bytes_read);
        let vouching = place.repository.vouch(found.source.uid, (found.id, found.session), &watch);
        let vouched = vouching.await.map_err(AgentError::repository(format!("vouching for snapshot {}", found.id)))?;
        outcome.summary["vouched"] = json!({
            "packs": vouched.packs,
            "known": vouched.known,
            "read_bytes": vouched.bytes_read,
            "left_out": vouched.left_out,
            "named": vouched.named.iter().map(|(pack, why)| json!({ "pack": pack, "why": why })).collect::<Vec<_>>(),
        });
    }
    Ok(outcome)
}
