//! Starting jobs: which source, which agent, which repository; then a record that the dispatcher picks up.

use breakwater_core::{ErrorClass, JobId, Name, SnapshotId, SourceUid, Uid};
use breakwater_planner::job::JobLife;
use breakwater_proto::v1;
use breakwater_runtime::{SystemEntropy, telemetry};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Request;

use crate::assign;
use crate::catalogue::{self, Declared};
use crate::error::ControlError;
use crate::objects::SourceSpec;
use crate::operator::{Desk, name, namespace};
use crate::records::{JobRecord, Work};

/// The W3C context that a request carries.
pub(crate) fn traceparent<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Where a job runs and what it works on.
struct Place {
    source: String,
    source_uid: Option<SourceUid>,
    plan: String,
    repository: Name,
    agent: Uid,
    agent_name: Name,
}

fn refused<T>(message: String) -> Result<T, ControlError> {
    Err(ControlError::answer(ErrorClass::Refused, message))
}

impl Desk {
    pub(crate) async fn start_backups(
        &self,
        request: v1::RunBackupRequest,
        parent: Option<String>,
    ) -> Result<Vec<v1::Job>, ControlError> {
        let namespace = namespace(&request.namespace)?;
        if !matches!(request.read.as_str(), "" | "full") {
            return refused(format!("--type {} is not in this version (hint: full)", request.read));
        }
        let declared = catalogue::read(&self.book, &namespace).await?;
        let mut jobs = Vec::new();
        for source in sources_of(&declared, &request.name)? {
            let place = self.place_of_source(&declared, &source, None).await?;
            let id = self.job_id(&request.request_id, &source);
            let work = Work::Backup { snapshot: snapshot_of(id), read: "full".to_owned() };
            jobs.push(self.accept(&namespace, id, work, place, parent.clone()).await?);
        }
        Ok(jobs)
    }

    pub(crate) async fn start_restore(
        &self,
        request: v1::RunRestoreRequest,
        parent: Option<String>,
    ) -> Result<v1::Job, ControlError> {
        let namespace = namespace(&request.namespace)?;
        let declared = catalogue::read(&self.book, &namespace).await?;
        let (place, restore) = self.place_of_restore(&declared, &request).await?;
        let id = self.job_id(&request.request_id, &place.source);
        let work = Work::Restore { spec: hex::encode(restore.encode_to_vec()) };
        self.accept(&namespace, id, work, place, parent).await
    }

    pub(crate) async fn start_check(
        &self,
        request: v1::RunCheckRequest,
        parent: Option<String>,
    ) -> Result<v1::Job, ControlError> {
        let namespace = namespace(&request.namespace)?;
        let declared = catalogue::read(&self.book, &namespace).await?;
        let Some((repository, _)) = declared.repository(&request.repository) else {
            return Err(ControlError::not_found("repository", &request.repository));
        };
        let (agent, agent_name) = self.agent_with(&declared, &repository.name).await?;
        let place = Place {
            source: String::new(),
            source_uid: None,
            plan: String::new(),
            repository: repository.name.clone(),
            agent,
            agent_name,
        };
        let id = self.job_id(&request.request_id, &request.repository);
        self.accept(&namespace, id, Work::Check { read_data: request.read_data }, place, parent).await
    }

    /// Where a restore runs: on the agent that is named, else on the source's own; from the source's repository, else
    /// from the one that is named (for sources that are no longer declared).
    pub(crate) async fn restore_target(
        &self,
        declared: &Declared,
        request: &v1::RunRestoreRequest,
    ) -> Result<(Uid, v1::RestoreSpec, Name), ControlError> {
        let (place, restore) = self.place_of_restore(declared, request).await?;
        Ok((place.agent, restore, place.repository))
    }

    async fn place_of_restore(
        &self,
        declared: &Declared,
        request: &v1::RunRestoreRequest,
    ) -> Result<(Place, v1::RestoreSpec), ControlError> {
        let mut restore = request
            .restore
            .clone()
            .ok_or_else(|| ControlError::answer(ErrorClass::Invalid, "the request says nothing of what to restore"))?;
        if restore.point.as_ref().is_none_or(|point| point.point.is_none()) {
            let message = "no moment given (hint: --latest, --snapshot, --to-time, --to-lsn, --to-xid or --to-name)";
            return Err(ControlError::answer(ErrorClass::Invalid, message));
        }
        if !restore.target.starts_with('/') {
            let message = format!("the target `{}` is not an absolute path on the agent's host", restore.target);
            return Err(ControlError::answer(ErrorClass::Invalid, message));
        }
        let wanted_agent = if request.agent.is_empty() { None } else { Some(name(&request.agent)?) };
        let place = if declared.source(&request.source).is_some() {
            self.place_of_source(declared, &request.source, wanted_agent).await?
        } else {
            self.place_of_stranger(declared, request, wanted_agent).await?
        };
        restore.source_uid = place.source_uid.map(|uid| uid.to_string()).unwrap_or_default();
        restore.repository = place.repository.to_string();
        Ok((place, restore))
    }

    /// A source that is not declared any more: its uid, a repository and an agent have to be named.
    async fn place_of_stranger(
        &self,
        declared: &Declared,
        request: &v1::RunRestoreRequest,
        wanted_agent: Option<Name>,
    ) -> Result<Place, ControlError> {
        let uid: SourceUid = request.source.parse().map_err(|_| ControlError::not_found("source", &request.source))?;
        let repository = request.restore.as_ref().map(|restore| restore.repository.clone()).unwrap_or_default();
        let repository = match (declared.repository(&repository), declared.repositories.as_slice()) {
            (Some((stored, _)), _) => stored.name.clone(),
            (None, [(only, _)]) if repository.is_empty() => only.name.clone(),
            (None, _) if repository.is_empty() => {
                return refused("several repositories are declared (hint: name one with --repository)".to_owned());
            }
            (None, _) => return Err(ControlError::not_found("repository", &repository)),
        };
        let (agent, agent_name) = match wanted_agent {
            Some(agent) => (self.enrolled(&agent).await?, agent),
            None => self.agent_with(declared, &repository).await?,
        };
        Ok(Place {
            source: request.source.clone(),
            source_uid: Some(uid),
            plan: String::new(),
            repository,
            agent,
            agent_name,
        })
    }

    async fn place_of_source(
        &self,
        declared: &Declared,
        source: &str,
        wanted_agent: Option<Name>,
    ) -> Result<Place, ControlError> {
        let (stored, spec): &(_, SourceSpec) =
            declared.source(source).ok_or_else(|| ControlError::not_found("source", source))?;
        let Some((plan, plan_spec)) = declared.plan_of(source) else {
            return refused(format!("no plan covers source `{source}`, so it has no repository (hint: apply a Plan)"));
        };
        let agent_name = wanted_agent.unwrap_or_else(|| spec.agent.clone());
        Ok(Place {
            source: source.to_owned(),
            source_uid: Some(SourceUid(stored.uid)),
            plan: plan.name.to_string(),
            repository: plan_spec.repository.clone(),
            agent: self.enrolled(&agent_name).await?,
            agent_name,
        })
    }

    async fn enrolled(&self, agent: &Name) -> Result<Uid, ControlError> {
        match assign::agent_named(&self.book, agent).await? {
            Some((uid, record)) => {
                crate::enrolment::refuse_locked(&record)?;
                Ok(uid)
            }
            None => refused(format!("agent `{agent}` is not enrolled (hint: brctl agent token create --name {agent})")),
        }
    }

    /// An agent that looks after a source of `repository`, connected if one is.
    async fn agent_with(&self, declared: &Declared, repository: &Name) -> Result<(Uid, Name), ControlError> {
        let plans = declared.plans.iter().filter(|(_, plan)| plan.repository == *repository);
        let mut first = None;
        for source in plans.flat_map(|(_, plan)| &plan.sources) {
            let Some((_, spec)) = declared.source(source.as_str()) else { continue };
            let Some((uid, _)) = assign::agent_named(&self.book, &spec.agent).await? else { continue };
            if self.fleet.session(uid).is_some() {
                return Ok((uid, spec.agent.clone()));
            }
            first.get_or_insert((uid, spec.agent.clone()));
        }
        match first {
            Some(found) => Ok(found),
            None => {
                refused(format!("no enrolled agent works with repository `{repository}` (hint: name one with --agent)"))
            }
        }
    }

    /// A new id, or for a request that may be repeated the same one each time.
    fn job_id(&self, request_id: &str, of: &str) -> JobId {
        if request_id.is_empty() {
            return JobId::v7(self.clock.now(), &SystemEntropy);
        }
        JobId::from_bytes(hash16(&[b"breakwater/v1/job", request_id.as_bytes(), of.as_bytes()]))
    }

    async fn accept(
        &self,
        namespace: &Name,
        id: JobId,
        work: Work,
        place: Place,
        parent: Option<String>,
    ) -> Result<v1::Job, ControlError> {
        let kind = match &work {
            Work::Backup { .. } => "backup",
            Work::Restore { .. } => "restore",
            Work::Check { .. } => "check",
        };
        // The root of the job's trace, unless the caller brought one.
        let span = tracing::info_span!("job.accept", job.id = %id, job.kind = kind, source.name = place.source);
        if let Some(parent) = &parent {
            telemetry::set_parent(&span, parent);
        }
        let now = self.clock.now();
        let traceparent = span.in_scope(telemetry::current_traceparent).or(parent);
        let record = JobRecord {
            id,
            namespace: namespace.clone(),
            work,
            source: place.source,
            source_uid: place.source_uid,
            plan: place.plan,
            repository: place.repository,
            agent: place.agent,
            agent_name: place.agent_name,
            created: now,
            traceparent,
            life: JobLife::accepted(now),
            summary: String::new(),
            log: vec![format!("{now} accepted")],
        };
        let record = self.jobs.accept(record).await?;
        let (record, revision) = self.jobs.get(namespace, record.id).await?;
        Ok(self.jobs.show(&record, revision))
    }
}

/// The sources that `what` names: a plan's, or the one source.
fn sources_of(declared: &Declared, what: &str) -> Result<Vec<String>, ControlError> {
    let plan = declared.plans.iter().find(|(stored, _)| stored.name.as_str() == what);
    match (plan, declared.source(what)) {
        (Some(_), Some(_)) => {
            refused(format!("`{what}` is the name of a plan and of a source (hint: rename one of them)"))
        }
        (Some((_, plan)), None) => Ok(plan.sources.iter().map(ToString::to_string).collect()),
        (None, Some(_)) => Ok(vec![what.to_owned()]),
        (None, None) => Err(ControlError::answer(
            ErrorClass::NotFound,
            format!("no plan and no source is named `{what}` (hint: brctl get plan, brctl get source)"),
        )),
    }
}

/// The snapshot that a manual job takes: one snapshot per job, whatever is sent twice.
fn snapshot_of(job: JobId) -> SnapshotId {
    let mut bytes = hash16(&[b"breakwater/v1/snapshot", job.as_bytes()]);
    // The time part of a UUIDv7 is kept, so that ids of later snapshots sort after earlier ones.
    bytes[..6].copy_from_slice(&job.as_bytes()[..6]);
    SnapshotId::from_bytes(bytes)
}

fn hash16(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes
}
