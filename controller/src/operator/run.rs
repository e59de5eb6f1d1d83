//! Starting jobs: which source, which agent, which repository; then a record that the dispatcher picks up.

use breakwater_core::{ErrorClass, JobId, Name, SnapshotId, SourceUid, Uid};
use breakwater_planner::job::JobLife;
use breakwater_proto::v1;
use breakwater_runtime::{SystemEntropy, telemetry};
use sha2::{Digest, Sha256};
use tonic::Request;

use crate::assign;
use crate::catalogue::{self, Declared};
use crate::error::ControlError;
use crate::objects::SourceSpec;
use crate::objects::compression;
use crate::operator::{Desk, name, namespace};
use crate::records::JobRecord;
use crate::work::Work;

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
        if !request.compression.is_empty() {
            compression::check(&request.compression)
                .map_err(|bad| ControlError::answer(ErrorClass::Invalid, format!("--compression: {bad}")))?;
        }
        let declared = catalogue::read(&self.book, &namespace).await?;
        let mut jobs = Vec::new();
        for source in sources_of(&declared, &request.name)? {
            let place = self.place_of_source(&declared, &source, None).await?;
            let id = self.job_id(&request.request_id, &source);
            let plan = declared.plan_of(&source).map(|(_, plan)| plan);
            let compression = match request.compression.as_str() {
                "" => plan.and_then(|plan| plan.compression.clone()).unwrap_or_default(),
                asked => asked.to_owned(),
            };
            let uploads = match request.uploads {
                0 => plan.and_then(|plan| plan.uploads).unwrap_or(0),
                asked => asked,
            };
            let work = Work::Backup { snapshot: snapshot_of(id), read: "full".to_owned(), compression, uploads };
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
        self.accept(&namespace, id, Work::restore(&restore), place, parent).await
    }

    /// Work on a repository itself: on the agent that is named, else on one that reaches all of its regions.
    pub(crate) async fn start_repository_work(
        &self,
        request: v1::RunRepositoryWorkRequest,
        parent: Option<String>,
    ) -> Result<v1::Job, ControlError> {
        let namespace = namespace(&request.namespace)?;
        let work = request.work.unwrap_or_default();
        if work.kind() == v1::JobKind::Unspecified {
            let message = "the request says nothing that this controller knows of what to do (hint: update it)";
            return Err(ControlError::answer(ErrorClass::Invalid, message));
        }
        let declared = catalogue::read(&self.book, &namespace).await?;
        let repository = repository_named(&declared, &request.repository)?;
        let (agent, agent_name) = if request.agent.is_empty() {
            self.agent_with(&declared, &repository).await?
        } else {
            let wanted = name(&request.agent)?;
            (self.enrolled(&wanted).await?, wanted)
        };
        let id = self.job_id(&request.request_id, &format!("{}/{repository}", work.kind().word()));
        let (source, plan) = (String::new(), String::new());
        let place = Place { source, source_uid: None, plan, repository, agent, agent_name };
        self.accept(&namespace, id, Work::on_repository(&work), place, parent).await
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
        let repository = repository_named(declared, &repository)?;
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

    /// An agent that looks after a source of `repository`: a connected one that reaches all regions before a connected one,
    /// and that before one that is away.
    async fn agent_with(&self, declared: &Declared, repository: &Name) -> Result<(Uid, Name), ControlError> {
        let plans = declared.plans.iter().filter(|(_, plan)| plan.repository == *repository);
        let mut best: Option<(u8, Uid, Name)> = None;
        for source in plans.flat_map(|(_, plan)| &plan.sources) {
            let Some((_, spec)) = declared.source(source.as_str()) else { continue };
            let Some((uid, record)) = assign::agent_named(&self.book, &spec.agent).await? else { continue };
            let worth = match self.fleet.session(uid) {
                _ if record.locked.is_some() => continue,
                None => 0,
                Some(_) if !self.reaches_all(uid, repository) => 1,
                Some(_) => 2,
            };
            if best.as_ref().is_none_or(|(least, ..)| worth > *least) {
                best = Some((worth, uid, spec.agent.clone()));
            }
        }
        match best {
            Some((_, uid, agent)) => Ok((uid, agent)),
            None => {
                refused(format!("no enrolled agent works with repository `{repository}` (hint: name one with --agent)"))
            }
        }
    }

    /// Whether the agent said last that every region of the repository answers it.
    fn reaches_all(&self, agent: Uid, repository: &Name) -> bool {
        let report = self.fleet.regions(agent, repository.as_str());
        report.is_some_and(|report| report.regions.iter().all(|region| region.reachable))
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
        let kind = work.kind().word();
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

/// The repository that is named, or the only one.
fn repository_named(declared: &Declared, wanted: &str) -> Result<Name, ControlError> {
    match (declared.repository(wanted), declared.repositories.as_slice()) {
        (Some((stored, _)), _) => Ok(stored.name.clone()),
        (None, [(only, _)]) if wanted.is_empty() => Ok(only.name.clone()),
        (None, []) if wanted.is_empty() => {
            refused("no repository is declared (hint: brctl repository create, then brctl apply -f FILE)".to_owned())
        }
        (None, _) if wanted.is_empty() => {
            refused("several repositories are declared (hint: name one with --repository)".to_owned())
        }
        (None, _) => Err(ControlError::not_found("repository", wanted)),
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
