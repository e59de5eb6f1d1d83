//! What a job is to do, as it is stored and as its agent is told.
//!
//! Invariant: what an agent gets is what was accepted; only what the controller learnt since (which jobs are over) is added.

use breakwater_core::{ErrorClass, SnapshotId};
use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work as OnRepository;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::error::ControlError;
use crate::records::JobRecord;

/// Attempts of a gc's order: as many as fit into a message with room to spare.
const OVER_MAX: usize = 1500;

/// What a job is to do, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Work {
    /// Take a snapshot.
    Backup {
        /// Its id, fixed when the job was accepted.
        snapshot: SnapshotId,
        /// How the source is read.
        read: String,
        /// The word of the compression; empty: the agent's own choice.
        #[serde(default)]
        compression: String,
        /// Packs on their way at once; 0: the agent's own choice.
        #[serde(default)]
        uploads: u32,
    },
    /// Bring something back. The protocol's message, encoded.
    Restore {
        /// The encoded `RestoreSpec`, hex.
        spec: String,
    },
    /// Work on the repository itself. The protocol's message, encoded.
    Repository {
        /// The encoded `RepositoryWork`, hex.
        spec: String,
    },
}

impl Work {
    /// The restore that `spec` asks for.
    pub fn restore(spec: &v1::RestoreSpec) -> Work {
        Work::Restore { spec: hex::encode(spec.encode_to_vec()) }
    }

    /// Work on a repository.
    pub fn on_repository(work: &v1::RepositoryWork) -> Work {
        Work::Repository { spec: hex::encode(work.encode_to_vec()) }
    }

    /// What kind of job it is.
    pub fn kind(&self) -> v1::JobKind {
        match self {
            Work::Backup { .. } => v1::JobKind::Backup,
            Work::Restore { .. } => v1::JobKind::Restore,
            Work::Repository { spec } => {
                decoded::<v1::RepositoryWork>(spec).map_or(v1::JobKind::Unspecified, |work| work.kind())
            }
        }
    }

    /// The snapshot that it takes or is about, as it was named; empty when it is about none.
    pub fn snapshot(&self) -> String {
        match self {
            Work::Backup { snapshot, .. } => snapshot.to_string(),
            Work::Restore { .. } => String::new(),
            Work::Repository { spec } => {
                decoded::<v1::RepositoryWork>(spec).map(|work| work.snapshot().to_owned()).unwrap_or_default()
            }
        }
    }

    /// The order as the job's agent gets it. `jobs` are those of which the controller knows.
    pub fn order(&self, job: &JobRecord, jobs: &[JobRecord]) -> Result<v1::start_job::Work, ControlError> {
        let unreadable = || {
            let message = format!("the stored order of job {} cannot be read", job.id);
            ControlError::answer(ErrorClass::Corrupt, message)
        };
        Ok(match self {
            Work::Backup { snapshot, read, compression, uploads } => v1::start_job::Work::Backup(v1::BackupSpec {
                source_uid: job.source_uid.map(|uid| uid.to_string()).unwrap_or_default(),
                snapshot_id: snapshot.to_string(),
                read: read.clone(),
                compression: compression.clone(),
                uploads: *uploads,
            }),
            Work::Restore { spec } => v1::start_job::Work::Restore(decoded(spec).ok_or_else(unreadable)?),
            Work::Repository { spec } => {
                let mut work: v1::RepositoryWork = decoded(spec).ok_or_else(unreadable)?;
                if let Some(OnRepository::Gc(gc)) = &mut work.work {
                    gc.over = over(jobs);
                }
                v1::start_job::Work::RepositoryWork(work)
            }
        })
    }
}

fn decoded<T: Message + Default>(hexed: &str) -> Option<T> {
    T::decode(hex::decode(hexed).ok()?.as_slice()).ok()
}

/// The attempts that will never write again: all of a job that ended, and those before the present one of a job that has
/// not. Backups only, since nothing else opens sessions; those that live first, so that none of them is left out.
fn over(jobs: &[JobRecord]) -> Vec<v1::JobsOver> {
    let mut backups: Vec<&JobRecord> = jobs.iter().filter(|job| matches!(job.work, Work::Backup { .. })).collect();
    backups.sort_by_key(|job| job.life.state.is_terminal());
    let known = backups.into_iter().map(|job| {
        let below = if job.life.state.is_terminal() { u32::MAX } else { job.life.attempt };
        v1::JobsOver { job: job.id.as_bytes().to_vec(), below }
    });
    known.take(OVER_MAX).collect()
}

#[cfg(test)]
mod tests {
    use breakwater_core::{JobId, Name, Timestamp, Uid};
    use breakwater_planner::job::{JobLife, JobState};

    use super::*;

    fn job(id: u8, work: Work, state: JobState, attempt: u32) -> JobRecord {
        let now = Timestamp(1);
        JobRecord {
            id: JobId::from_bytes([id; 16]),
            namespace: Name::new("default").unwrap(),
            work,
            source: String::new(),
            source_uid: None,
            plan: String::new(),
            repository: Name::new("main").unwrap(),
            agent: "01990000-0000-7000-8000-000000000001".parse::<Uid>().unwrap(),
            agent_name: Name::new("a").unwrap(),
            created: now,
            traceparent: None,
            life: JobLife { state, attempt, ..JobLife::accepted(now) },
            summary: String::new(),
            log: Vec::new(),
        }
    }

    #[test]
    fn a_gc_is_told_which_attempts_are_over_and_no_other() {
        let backup = || Work::Backup {
            snapshot: SnapshotId::from_bytes([9; 16]),
            read: "full".to_owned(),
            compression: String::new(),
            uploads: 0,
        };
        let gc = Work::on_repository(&OnRepository::Gc(v1::GcSpec { repack_below: 30, ..Default::default() }).into());
        let this = job(9, gc.clone(), JobState::Dispatched, 1);
        let jobs = [
            job(1, backup(), JobState::Running, 3),
            job(2, backup(), JobState::Failed, 1),
            job(3, backup(), JobState::Pending, 0),
            job(4, gc.clone(), JobState::Succeeded, 1),
        ];
        let Ok(v1::start_job::Work::RepositoryWork(told)) = gc.order(&this, &jobs) else { panic!("no order") };
        let Some(OnRepository::Gc(told)) = told.work else { panic!("no gc") };
        let over: Vec<(u8, u32)> = told.over.iter().map(|one| (one.job[0], one.below)).collect();
        assert_eq!((over, told.repack_below), (vec![(1, 3), (3, 0), (2, u32::MAX)], 30));
    }

    #[test]
    fn what_is_stored_is_what_was_asked() {
        let delete = OnRepository::Delete(v1::DeleteSpec { snapshot: "0199".to_owned() });
        let work = Work::on_repository(&delete.clone().into());
        let text = serde_json::to_string(&work).unwrap();
        let read: Work = serde_json::from_str(&text).unwrap();
        assert_eq!((read.kind(), read.snapshot().as_str()), (v1::JobKind::Delete, "0199"));
        let order = read.order(&job(1, work.clone(), JobState::Dispatched, 1), &[]).unwrap();
        assert_eq!(order, v1::start_job::Work::RepositoryWork(delete.into()));
        let bad = Work::Repository { spec: "zz".to_owned() };
        assert_eq!(
            bad.order(&job(1, bad.clone(), JobState::Dispatched, 1), &[]).unwrap_err().class(),
            ErrorClass::Corrupt
        );
    }
}
