//! The figures that people look at: status of every source, lag of every region.

use std::sync::Arc;

use breakwater_core::{Clock, Name, SourceUid, Timestamp, Uid};
use breakwater_planner::lag::{self, LagFigures, RegionObservation};
use breakwater_planner::protection::{self, SourceFacts};
use breakwater_proto::v1;
use breakwater_state::keyspace::{self, Key};

use crate::assign;
use crate::book::Book;
use crate::catalogue::{self, Declared, Stored};
use crate::error::ControlError;
use crate::fleet::Fleet;
use crate::jobs::Jobs;
use crate::objects::SourceSpec;
use crate::records::{AgentRecord, JobRecord, SourceSummary};
use crate::summary;

/// Jobs shown in a status.
const RECENT_JOBS: usize = 5;

/// Computes overviews.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The store.
    pub book: Book,
    /// Live agents.
    pub fleet: Arc<Fleet>,
    /// The jobs.
    pub jobs: Jobs,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Overview {
    /// Everything on one screen.
    pub async fn status(&self, namespace: &Name) -> Result<v1::StatusResponse, ControlError> {
        let now = self.clock.now();
        let declared = catalogue::read(&self.book, namespace).await?;
        let jobs = self.jobs.list(namespace).await?;
        let agents = self.agents().await?;
        let mut sources = Vec::new();
        let mut next_steps = Vec::new();
        for (stored, spec) in &declared.sources {
            let last_job = jobs.iter().find(|(job, _)| job.source_uid == Some(SourceUid(stored.uid)));
            let (status, step) = self.source_status(&declared, stored, spec, last_job, &agents, now).await?;
            next_steps.extend(step.map(|step| format!("{}: {step}", stored.name)));
            sources.push(status);
        }
        if declared.sources.is_empty() {
            next_steps.push("nothing is protected yet: brctl agent discover, then brctl apply -f FILE".to_owned());
        }
        let recent_jobs = jobs.iter().take(RECENT_JOBS).map(|(job, revision)| self.jobs.show(job, *revision)).collect();
        Ok(v1::StatusResponse { now: now.as_micros(), sources, agents, recent_jobs, next_steps })
    }

    async fn source_status(
        &self,
        declared: &Declared,
        stored: &Stored,
        spec: &SourceSpec,
        last_job: Option<&(JobRecord, u64)>,
        agents: &[v1::Agent],
        now: Timestamp,
    ) -> Result<(v1::SourceStatus, Option<String>), ControlError> {
        let uid = SourceUid(stored.uid);
        let summary = summary::read(&self.book, uid).await?;
        let stream = summary::stream(&self.fleet, uid, &summary);
        let rows = self.rows(declared, stored, &summary, now);
        let sync: Vec<(String, LagFigures)> = rows
            .iter()
            .filter(|row| row.role == "sync")
            .map(|row| {
                let exposure_micros = (row.exposure_micros >= 0).then_some(row.exposure_micros);
                let figures = LagFigures { state: row.state.clone(), exposure_micros, lag_micros: row.lag_micros };
                (row.region.clone(), figures)
            })
            .collect();
        let plan = declared.plan_of(stored.name.as_str()).map(|(plan, _)| plan.name.to_string());
        let streams = spec.engine_word() == "postgres";
        let silent = stream.as_ref().is_none_or(|stream| now.as_micros() - stream.observed > lag::SILENCE_MICROS);
        let stream_state = match &stream {
            _ if !streams => "none".to_owned(),
            None => "never".to_owned(),
            Some(_) if silent => "unknown".to_owned(),
            Some(stream) => stream.state.clone(),
        };
        let agent_connected =
            agents.iter().any(|agent| agent.name == spec.agent.as_str() && agent.state == "connected");
        let facts = SourceFacts {
            name: stored.name.as_str(),
            plan: plan.as_deref(),
            agent: spec.agent.as_str(),
            agent_connected,
            has_snapshot: summary.last_snapshot.is_some(),
            stream: streams.then_some(stream_state.as_str()),
            regions: &sync,
            last_failure: summary.last_failure.as_deref(),
            last_partial: summary.last_partial.as_deref(),
        };
        let verdict = protection::judge(&facts);
        // The worst region speaks for the source; one region without a point leaves nothing to say.
        let worst = sync.iter().map(|(_, figures)| figures.exposure_micros).collect::<Option<Vec<_>>>();
        let status = v1::SourceStatus {
            name: stored.name.to_string(),
            namespace: stored.namespace.to_string(),
            engine: spec.engine_word().to_owned(),
            agent: spec.agent.to_string(),
            plan: plan.clone().unwrap_or_default(),
            protection: verdict.word.to_owned(),
            reason: verdict.reason,
            last_backup: summary.last_consistent_at.map_or(0, Timestamp::as_micros),
            last_backup_id: summary.last_snapshot.map(|id| id.to_string()).unwrap_or_default(),
            stream_state,
            exposure_micros: worst.and_then(|all| all.into_iter().max()).unwrap_or(-1),
            lag: rows,
            last_job: last_job.map(|(job, revision)| self.jobs.show(job, *revision)),
        };
        Ok((status, verdict.next_step))
    }

    /// The lag of every source of the namespace, or of one.
    pub async fn lag(&self, namespace: &Name, source: &str) -> Result<v1::LagResponse, ControlError> {
        let now = self.clock.now();
        let declared = catalogue::read(&self.book, namespace).await?;
        if !source.is_empty() && declared.source(source).is_none() {
            return Err(ControlError::not_found("source", source));
        }
        let mut rows = Vec::new();
        for (stored, _) in
            declared.sources.iter().filter(|(stored, _)| source.is_empty() || stored.name.as_str() == source)
        {
            let summary = summary::read(&self.book, SourceUid(stored.uid)).await?;
            rows.extend(self.rows(&declared, stored, &summary, now));
        }
        Ok(v1::LagResponse { now: now.as_micros(), rows })
    }

    fn rows(&self, declared: &Declared, stored: &Stored, summary: &SourceSummary, now: Timestamp) -> Vec<v1::LagRow> {
        let Some((_, plan)) = declared.plan_of(stored.name.as_str()) else { return Vec::new() };
        let Some((_, repository)) = declared.repository(plan.repository.as_str()) else { return Vec::new() };
        let stream = summary::stream(&self.fleet, SourceUid(stored.uid), summary);
        let rows = repository.regions.iter().map(|region| {
            let point = stream
                .as_ref()
                .and_then(|stream| stream.regions.iter().find(|point| point.region == region.name.as_str()));
            let health = self.health_for_snapshots(declared, stored, region.name.as_str());
            let observed = stream.as_ref().map_or(0, |stream| stream.observed);
            let observation = point.map(|point| RegionObservation {
                state: point.state.clone(),
                recoverable: (point.recoverable != 0).then(|| Timestamp::from_micros(point.recoverable)),
                oldest_pending: (point.oldest_pending != 0).then(|| Timestamp::from_micros(point.oldest_pending)),
                observed: Timestamp::from_micros(observed),
            });
            let observation = observation.or_else(|| health.as_ref().map(|health| snapshot_only(health, summary)));
            let figures = lag::figures(observation.as_ref(), now);
            v1::LagRow {
                source: stored.name.to_string(),
                region: region.name.to_string(),
                role: region.role.word().to_owned(),
                state: figures.state,
                recoverable: observation.as_ref().and_then(|seen| seen.recoverable).map_or(0, Timestamp::as_micros),
                exposure_micros: figures.exposure_micros.unwrap_or(-1),
                lag_micros: figures.lag_micros,
                pending_bytes: point.map_or(0, |point| point.pending_bytes)
                    + health.as_ref().map_or(0, |health| health.owed_bytes),
                pending_items: point.map_or(0, |point| point.pending_items)
                    + health.as_ref().map_or(0, |health| health.owed_objects),
                drain_seconds: point.map_or(-1, |point| point.drain_seconds),
                observed: observation.as_ref().map_or(0, |seen| seen.observed.as_micros()),
                detail: match (point, &health) {
                    (Some(point), _) => point.last_error.clone(),
                    (None, Some(health)) => health.last_error.clone(),
                    (None, None) => String::new(),
                },
                position: point.and_then(|point| point.position),
                namespace: stored.namespace.to_string(),
            }
        });
        rows.collect()
    }

    /// What its agent says of a region, for a source without a stream; one with a stream reports by itself.
    fn health_for_snapshots(&self, declared: &Declared, stored: &Stored, region: &str) -> Option<v1::RegionHealth> {
        let (_, spec) = declared.source(stored.name.as_str())?;
        let (_, plan) = declared.plan_of(stored.name.as_str())?;
        if spec.engine_word() == "postgres" {
            return None;
        }
        let agent = self.agent_called(&spec.agent)?;
        let report = self.fleet.regions(agent, plan.repository.as_str())?;
        report.regions.into_iter().find(|health| health.region == region)
    }

    fn agent_called(&self, name: &Name) -> Option<Uid> {
        self.fleet.connected().into_iter().find(|uid| self.fleet.name_of(*uid).as_deref() == Some(name.as_str()))
    }

    /// All agents, connected or not.
    pub async fn agents(&self) -> Result<Vec<v1::Agent>, ControlError> {
        let mut running: std::collections::HashMap<Uid, u32> = std::collections::HashMap::new();
        let mut sources: std::collections::HashMap<String, u32> = std::collections::HashMap::new();
        for namespace in catalogue::namespaces(&self.book).await? {
            for (job, _) in self.jobs.list(&namespace).await? {
                if !job.life.state.is_terminal() {
                    *running.entry(job.agent).or_default() += 1;
                }
            }
            for (_, spec) in catalogue::read(&self.book, &namespace).await?.sources {
                *sources.entry(spec.agent.to_string()).or_default() += 1;
            }
        }
        let records = self.book.list::<AgentRecord>(&keyspace::agents()).await?;
        let mut agents: Vec<v1::Agent> = records
            .into_iter()
            .filter_map(|record| {
                let Key::Agent(uid) = record.key else { return None };
                let agent = record.value;
                let last_seen = self.fleet.last_seen(uid);
                let state = match (&agent.locked, self.fleet.session(uid), last_seen) {
                    (Some(_), _, _) => "locked",
                    (None, Some(_), _) => "connected",
                    (None, None, Some(_)) => "silent",
                    (None, None, None) if agent.host.is_empty() => "never",
                    (None, None, None) => "silent",
                };
                Some(v1::Agent {
                    uid: uid.to_string(),
                    name: agent.name.to_string(),
                    host: agent.host,
                    version: agent.version,
                    state: state.to_owned(),
                    last_seen: last_seen.map_or(0, Timestamp::as_micros),
                    certificate_expires: agent.certificate_expires.as_micros(),
                    sources: sources.get(agent.name.as_str()).copied().unwrap_or(0),
                    running_jobs: running.get(&uid).copied().unwrap_or(0),
                })
            })
            .collect();
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(agents)
    }

    /// A connected agent by name, or why there is none.
    pub async fn connected_agent(&self, name: &Name) -> Result<Uid, ControlError> {
        let (uid, _) = assign::agent_named(&self.book, name)
            .await?
            .ok_or_else(|| ControlError::not_found("agent", name.as_str()))?;
        if self.fleet.session(uid).is_some() {
            return Ok(uid);
        }
        let message = format!("agent `{name}` is not connected (hint: brctl agent show {name})");
        Err(ControlError::answer(breakwater_core::ErrorClass::Unavailable, message))
    }
}

/// What is known of a region from the last snapshot and the debt that the agent reports.
fn snapshot_only(health: &v1::RegionHealth, summary: &SourceSummary) -> RegionObservation {
    let owes = health.owed_objects > 0;
    // A report from before the last backup ended knows nothing of it, and a region that owes or is away is only known to
    // hold what it held then.
    let whole = !owes && health.reachable && health.observed > summary.last_ended.as_micros();
    let state = match (health.reachable, owes) {
        (false, _) => "unreachable",
        (true, true) => "behind",
        (true, false) => "ok",
    };
    RegionObservation {
        state: state.to_owned(),
        recoverable: if whole { summary.last_consistent_at } else { summary.held.get(&health.region).copied() },
        oldest_pending: (health.oldest_owed != 0).then(|| Timestamp::from_micros(health.oldest_owed)),
        observed: Timestamp::from_micros(health.observed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_only_known_to_hold_what_was_reported_after_the_backup() {
        let moment = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let summary = SourceSummary {
            last_consistent_at: Some(moment(90)),
            last_ended: moment(95),
            held: [("east".to_owned(), moment(50))].into(),
            ..SourceSummary::default()
        };
        let health = |observed: i64, reachable, owed_objects| v1::RegionHealth {
            region: "east".to_owned(),
            reachable,
            owed_objects,
            observed: moment(observed).as_micros(),
            ..Default::default()
        };
        let check = |health: v1::RegionHealth, state: &str, recoverable: i64| {
            let seen = snapshot_only(&health, &summary);
            assert_eq!((seen.state.as_str(), seen.recoverable), (state, Some(moment(recoverable))), "{health:?}");
        };
        check(health(100, true, 0), "ok", 90);
        check(health(94, true, 0), "ok", 50);
        check(health(100, true, 3), "behind", 50);
        check(health(100, false, 0), "unreachable", 50);
    }
}
