//! The regions of repositories: as declared, as the agents that use them see them, and how much lies there.
//!
//! Invariant: what nobody reports is not there: a region without a sight is unknown, never well.

use breakwater_core::{Name, Uid};
use breakwater_planner::job::JobState;
use breakwater_proto::v1;

use crate::assign;
use crate::catalogue;
use crate::error::ControlError;
use crate::overview::Overview;
use crate::records::JobRecord;

impl Overview {
    /// The regions of the repository `only`, or of all when that is empty.
    pub async fn regions(&self, namespace: &Name, only: &str) -> Result<v1::RegionsResponse, ControlError> {
        let declared = catalogue::read(&self.book, namespace).await?;
        if !only.is_empty() && declared.repository(only).is_none() {
            return Err(ControlError::not_found("repository", only));
        }
        let jobs = self.jobs.list(namespace).await?;
        let agents = self.fleet.connected();
        let mut rows = Vec::new();
        for (stored, spec) in
            declared.repositories.iter().filter(|(stored, _)| only.is_empty() || stored.name.as_str() == only)
        {
            let message = assign::repository_message(&stored.name, spec);
            let usage_json = jobs.iter().map(|(job, _)| job).find(|job| is_usage_of(job, &stored.name));
            let usage_json = usage_json.map(|job| job.summary.clone()).unwrap_or_default();
            for region in message.regions {
                rows.push(v1::RegionRow {
                    repository: stored.name.to_string(),
                    namespace: stored.namespace.to_string(),
                    sights: self.sights(&agents, &stored.name, &region.name),
                    region: Some(region),
                    usage_json: usage_json.clone(),
                });
            }
        }
        Ok(v1::RegionsResponse { now: self.clock.now().as_micros(), rows })
    }

    fn sights(&self, agents: &[Uid], repository: &Name, region: &str) -> Vec<v1::AgentSight> {
        let sight = |agent: &Uid| {
            let report = self.fleet.regions(*agent, repository.as_str())?;
            let health = report.regions.into_iter().find(|health| health.region == region)?;
            Some(v1::AgentSight { agent: self.fleet.name_of(*agent)?, health: Some(health) })
        };
        let mut sights: Vec<v1::AgentSight> = agents.iter().filter_map(sight).collect();
        sights.sort_by(|a, b| a.agent.cmp(&b.agent));
        sights
    }
}

/// Whether `job` counted what lies in `repository`. Jobs are listed newest first.
fn is_usage_of(job: &JobRecord, repository: &Name) -> bool {
    job.repository == *repository
        && job.work.kind() == v1::JobKind::Usage
        && job.life.state == JobState::Succeeded
        && !job.summary.is_empty()
}
