//! Archived data of a restore: what of it is needed, and waiting until it can be read.
//!
//! Invariant: nothing is thawed unless the person asked for it; all of it is asked for before the first wait, and before
//! anything is written into the target.

use std::collections::BTreeSet;
use std::time::Duration;

use breakwater_pipeline::restore::needed_packs;
use breakwater_repository::ObjectName;
use breakwater_repository::thaw::{ThawPlan, expected_wait};
use breakwater_storage::{Thaw, ThawSpeed};
use serde_json::{Value, json};

use super::RestoreRequest;
use crate::error::AgentError;

/// Days that thawed data stays readable unless said: enough for a restore that is tried again.
const DAYS: u32 = 7;
/// How often it is looked whether data can be read: at first, and at last.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_secs(300);

/// All speeds, the cheapest first, with their words.
const SPEEDS: [(&str, ThawSpeed); 3] =
    [("bulk", ThawSpeed::Bulk), ("standard", ThawSpeed::Standard), ("fast", ThawSpeed::Fast)];

/// Reads what was asked for; nothing for the empty word.
pub fn wanted(speed: &str, days: u32) -> Result<Option<Thaw>, AgentError> {
    if speed.is_empty() {
        return Ok(None);
    }
    let days = if days == 0 { DAYS } else { days };
    match SPEEDS.into_iter().find(|(word, _)| *word == speed) {
        Some((_, speed)) => Ok(Some(Thaw { days, speed })),
        None => Err(AgentError::Invalid(format!("`{speed}` is no speed of a thaw (hint: bulk, standard or fast)"))),
    }
}

/// What of the data that `request` needs is archived in every region that has it.
pub async fn plan(request: &RestoreRequest) -> Result<ThawPlan, AgentError> {
    let doing = || AgentError::repository("finding out what of the snapshot is archived");
    let (repository, order) = (&request.side.repository, &request.side.order);
    let log = request.plan.log.iter().flat_map(|log| &log.ranges).flat_map(|leg| &leg.extents);
    let mut needed: BTreeSet<ObjectName> = log.filter_map(|extent| ObjectName::parse(&extent.piece.name)).collect();
    if request.only.is_empty() {
        needed.extend(repository.packs_of(order, &request.plan.manifest).await.map_err(doing())?);
    } else if repository.may_be_archived(order).await {
        // Only what was chosen: thawing is paid by the byte.
        let packs = needed_packs(&request.job()).await;
        needed.extend(packs.map_err(AgentError::pipeline("finding out what the chosen files need"))?);
    }
    repository.plan_thaw(order, needed).await.map_err(doing())
}

/// The plan as a document: per region, with the waiting time that its provider states for each speed.
pub fn shown(plan: &ThawPlan) -> Value {
    if plan.is_empty() {
        return Value::Null;
    }
    let regions: Vec<Value> = plan
        .regions
        .iter()
        .map(|one| {
            let waits = SPEEDS.into_iter().map(|(word, speed)| {
                let wait = expected_wait(&one.scheme, speed);
                let wait = wait.map(|(from, to)| json!({"from_seconds": from.as_secs(), "to_seconds": to.as_secs()}));
                (word.to_owned(), wait.unwrap_or(Value::Null))
            });
            json!({
                "region": one.region,
                "objects": one.figure.objects,
                "bytes": one.figure.bytes,
                "thawing": one.thawing,
                "expected_wait": waits.collect::<serde_json::Map<_, _>>(),
            })
        })
        .collect();
    json!({ "objects": plan.objects(), "bytes": plan.bytes(), "ready_objects": plan.ready.objects, "regions": regions })
}

/// Makes sure that everything which `request` needs can be read: refuses, or thaws and waits, as was asked for.
pub async fn ready(request: &RestoreRequest) -> Result<(), AgentError> {
    let plan = plan(request).await?;
    if plan.is_empty() {
        return Ok(());
    }
    let Some(thaw) = request.thaw else { return Err(refusal(&plan)) };
    let doing = || AgentError::repository("thawing what the restore needs");
    let repository = &request.side.repository;
    tracing::info!(objects = plan.objects(), bytes = plan.bytes(), days = thaw.days, "archived data is thawed");
    let waiting = async {
        repository.begin_thaw(&plan, thaw).await.map_err(doing())?;
        let mut pause = FIRST_LOOK;
        loop {
            let left = repository.still_thawing(&plan).await.map_err(doing())?;
            if left.objects == 0 {
                return Ok(());
            }
            tracing::info!(objects = left.objects, bytes = left.bytes, "waiting for archived data");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    };
    tokio::select! {
        biased;
        () = request.cancel.cancelled() => Err(AgentError::Cancelled),
        done = waiting => done,
    }
}

fn refusal(plan: &ThawPlan) -> AgentError {
    let regions = plan.regions.iter().map(|one| {
        let wait = expected_wait(&one.scheme, ThawSpeed::Standard)
            .map(|(from, to)| format!(", which usually takes {} to {}", in_words(from), in_words(to)));
        format!(
            "{} objects of {} in region {} must be thawed first{}",
            one.figure.objects,
            breakwater_core::ByteCount(one.figure.bytes),
            one.region,
            wait.unwrap_or_default()
        )
    });
    AgentError::Refused(format!(
        "{}; nothing was asked for (hint: --preview shows the waiting times, --thaw bulk, standard or fast begins)",
        regions.collect::<Vec<_>>().join("; ")
    ))
}

fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_words() {
        assert_eq!(wanted("", 3).unwrap(), None);
        assert_eq!(wanted("bulk", 0).unwrap(), Some(Thaw { days: DAYS, speed: ThawSpeed::Bulk }));
        assert!(wanted("slow", 1).unwrap_err().to_string().contains("standard"));
    }
}
