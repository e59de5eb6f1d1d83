//! Builds what an agent is told to look after, from the declared objects.

use breakwater_core::{Name, SourceUid, Uid};
use breakwater_planner::assignment::{self, DeclaredPlan, DeclaredSource};
use breakwater_proto::v1;
use breakwater_state::keyspace::{self, Key};

use crate::book::Book;
use crate::catalogue::{self, Declared, Stored, slot_of};
use crate::error::ControlError;
use crate::objects::{BandwidthRule, RegionLimits, RepositorySpec, SourceSpec, Spec, TierMove};
use crate::records::{AgentRecord, RemovedSource};

/// The whole assignment of the agent `name`.
pub async fn of_agent(book: &Book, name: &Name) -> Result<v1::Assignment, ControlError> {
    let revision = book.revision().await?;
    let mut sources = Vec::new();
    for namespace in catalogue::namespaces(book).await? {
        let declared = catalogue::read(book, &namespace).await?;
        let declared_sources: Vec<DeclaredSource> = declared
            .sources
            .iter()
            .map(|(stored, spec)| DeclaredSource { name: stored.name.clone(), agent: spec.agent.clone() })
            .collect();
        let plans: Vec<DeclaredPlan> = declared
            .plans
            .iter()
            .map(|(stored, plan)| DeclaredPlan {
                name: stored.name.clone(),
                sources: plan.sources.clone(),
                repository: plan.repository.clone(),
            })
            .collect();
        let Ok(mut derived) = assignment::derive(&declared_sources, &plans) else {
            // `apply` refuses this; a store edited by hand must not stop the other namespaces.
            tracing::error!(%namespace, "plans contradict each other; the namespace is not assigned");
            continue;
        };
        for one in derived.remove(name).unwrap_or_default() {
            let Some((stored, spec)) = declared.source(one.source.as_str()) else { continue };
            sources.push(source_message(&declared, stored, spec));
        }
    }
    let mut removed = Vec::new();
    for record in book.list::<RemovedSource>(&keyspace::removed()).await? {
        let Key::Removed(uid) = record.key else { continue };
        if record.value.agent == *name {
            removed.push(removed_message(uid, &record.value)?);
        }
    }
    Ok(v1::Assignment { revision, sources, removed })
}

/// One source as agents are told of it, with the plan and repository that cover it.
pub fn source_message(declared: &Declared, stored: &Stored, spec: &SourceSpec) -> v1::AssignedSource {
    let plan = declared.plan_of(stored.name.as_str());
    let repository = plan.and_then(|(_, plan)| declared.repository(plan.repository.as_str()));
    v1::AssignedSource {
        uid: stored.uid.to_string(),
        name: stored.name.to_string(),
        namespace: stored.namespace.to_string(),
        engine: spec.engine_word().to_owned(),
        settings_json: settings(&stored.name, spec),
        domain: spec.domain.to_string(),
        repository: repository.map(|(stored, spec)| repository_message(&stored.name, spec)),
        stream: plan.is_some() && spec.engine_word() == "postgres",
        stream_interval_ms: spec.stream.interval_ms,
        plan: plan.map(|(stored, _)| stored.name.to_string()).unwrap_or_default(),
    }
}

/// A repository as agents are told of it.
pub fn repository_message(name: &Name, spec: &RepositorySpec) -> v1::RepositorySpec {
    let regions = spec.regions.iter().map(|region| v1::RegionSpec {
        name: region.name.to_string(),
        url: region.url.clone(),
        role: region.role.word().to_owned(),
        tier: region.tier.map(|tier| tier.word().to_owned()).unwrap_or_default(),
        lock: region.lock.map(|lock| v1::RegionLock { mode: lock.mode.word().to_owned(), days: lock.days }),
        tier_moves: region.tier_moves.iter().map(tier_move_message).collect(),
        limits: region.limits.as_ref().map(limits_message),
    });
    v1::RepositorySpec { name: name.to_string(), regions: regions.collect(), commit: spec.commit }
}

fn tier_move_message(step: &TierMove) -> v1::TierMove {
    v1::TierMove { after_days: step.after_days, tier: step.tier.word().to_owned() }
}

fn limits_message(limits: &RegionLimits) -> v1::RegionLimits {
    let rule = |rule: &BandwidthRule| {
        // Checked when it was declared.
        let (bytes_per_second, from_minute, to_minute) = rule.resolve().ok()?;
        let days = rule.days.iter().map(|day| day.word().to_owned()).collect();
        Some(v1::BandwidthRule { bytes_per_second, days, from_minute, to_minute })
    };
    let bandwidth = limits.bandwidth.iter().filter_map(rule).collect();
    v1::RegionLimits { uploads: limits.uploads.unwrap_or(0), bandwidth }
}

fn removed_message(uid: SourceUid, removed: &RemovedSource) -> Result<v1::AssignedSource, ControlError> {
    let Spec::Source(spec) = Spec::from_json("Source", removed.spec.clone())? else {
        return Err(ControlError::not_found("source", removed.name.as_str()));
    };
    Ok(v1::AssignedSource {
        uid: uid.to_string(),
        name: removed.name.to_string(),
        namespace: removed.namespace.to_string(),
        engine: spec.engine_word().to_owned(),
        settings_json: settings(&removed.name, &spec),
        domain: spec.domain.to_string(),
        repository: None,
        stream: false,
        stream_interval_ms: spec.stream.interval_ms,
        plan: String::new(),
    })
}

/// The engine's settings with the slot's name filled in, so that agents need not know how it is made.
fn settings(name: &Name, spec: &SourceSpec) -> String {
    let mut spec = spec.clone();
    if let Some(postgres) = &mut spec.postgres {
        postgres.slot = Some(slot_of(name, postgres.slot.as_deref()));
    }
    spec.settings_json()
}

/// The agent called `name`.
pub async fn agent_named(book: &Book, name: &Name) -> Result<Option<(Uid, AgentRecord)>, ControlError> {
    let Some(register) = book.read::<Uid>(&Key::AgentName(name.clone())).await? else { return Ok(None) };
    let record = book.read::<AgentRecord>(&Key::Agent(register.value)).await?;
    Ok(record.map(|record| (register.value, record.value)))
}
