//! What must not be forgotten about jobs when this process ends: results that no controller has acknowledged, and which
//! jobs were being worked on.
//!
//! Invariant: a result is on disk before it is sent, and stays there until a controller says that it has it; where the disk
//! takes nothing, it is sent from memory. A job that was cut off by the end of the process is never reported as running.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use breakwater_core::{Chain, Timestamp};
use breakwater_proto::v1;
use prost::Message;

use crate::durable::{self, blocking};
use crate::error::AgentError;

/// The journal of one agent.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    results: Mutex<BTreeMap<u64, v1::JobResult>>,
}

impl Journal {
    /// Opens the journal in `directory`, and says which jobs the last process did not finish.
    pub fn open(directory: &Path) -> Result<(Journal, Vec<String>), AgentError> {
        durable::make_private_directory(directory)?;
        let mut results = BTreeMap::new();
        let mut interrupted = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(AgentError::file("cannot list", directory))? {
            let path = entry.map_err(AgentError::file("cannot list", directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(job) = name.strip_prefix(RUNNING) {
                interrupted.push(job.to_owned());
                durable::remove(&path)?;
            } else if name.starts_with(RESULT) && !name.ends_with(".new") {
                let bytes = durable::read(&path)?.unwrap_or_default();
                match v1::JobResult::decode(bytes.as_slice()) {
                    Ok(result) => drop(results.insert(result.sequence, result)),
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "a journalled result is damaged; its job runs again");
                        durable::remove(&path)?;
                    }
                }
            }
        }
        Ok((Journal { directory: directory.to_owned(), results: Mutex::new(results) }, interrupted))
    }

    /// Notes that `job` is being worked on.
    pub async fn begin(self: &Arc<Self>, job: &str) -> Result<(), AgentError> {
        let path = self.directory.join(format!("{RUNNING}{job}"));
        blocking(move || durable::replace(&path, b"")).await
    }

    /// Keeps `result` under the next sequence number until it is acknowledged.
    pub async fn finish(self: &Arc<Self>, mut result: v1::JobResult, now: Timestamp) -> Result<(), AgentError> {
        let journal = Arc::clone(self);
        blocking(move || {
            let mut results = journal.results();
            result.sequence = next_sequence(&results, now);
            durable::replace(&journal.path_of(result.sequence), &result.encode_to_vec())?;
            let running = journal.directory.join(format!("{RUNNING}{}", result.job_id));
            results.insert(result.sequence, result);
            // The result counts from here on; a mark that stays makes the next process say too much, not too little.
            if let Err(error) = durable::remove(&running) {
                tracing::warn!(error = %Chain(&error), "an ended job stays marked as running");
            }
            Ok(())
        })
        .await
    }

    /// Keeps `result` in memory only, for when it cannot be written: it is sent all the same, and lost when this process
    /// ends before a controller has it.
    pub fn keep_unwritten(&self, mut result: v1::JobResult, now: Timestamp) {
        let mut results = self.results();
        result.sequence = next_sequence(&results, now);
        results.insert(result.sequence, result);
    }

    /// Forgets a result that a controller has.
    pub async fn acknowledged(self: &Arc<Self>, sequence: u64) -> Result<(), AgentError> {
        let journal = Arc::clone(self);
        blocking(move || {
            let mut results = journal.results();
            if results.contains_key(&sequence) {
                durable::remove(&journal.path_of(sequence))?;
                results.remove(&sequence);
            }
            Ok(())
        })
        .await
    }

    /// The results that nobody has acknowledged, oldest first.
    pub fn unacknowledged(&self) -> Vec<v1::JobResult> {
        self.results().values().cloned().collect()
    }

    /// Whether the attempt of `job` under `fence` has ended and is still to be acknowledged.
    pub fn has_ended(&self, job: &str, fence: u64) -> bool {
        self.results().values().any(|result| result.job_id == job && result.fence == fence)
    }

    fn path_of(&self, sequence: u64) -> PathBuf {
        self.directory.join(format!("{RESULT}{sequence:020}"))
    }

    fn results(&self) -> MutexGuard<'_, BTreeMap<u64, v1::JobResult>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock makes numbers of a later process higher, so that no old acknowledgement can meet a new result.
fn next_sequence(results: &BTreeMap<u64, v1::JobResult>, now: Timestamp) -> u64 {
    let floor = u64::try_from(now.as_micros()).unwrap_or(0);
    results.keys().next_back().map_or(floor, |last| floor.max(last + 1))
}

const RESULT: &str = "result-";
const RUNNING: &str = "running-";

#[cfg(test)]
mod tests {
    use super::*;

    fn result(job: &str, fence: u64) -> v1::JobResult {
        v1::JobResult { job_id: job.to_owned(), fence, summary_json: "{}".to_owned(), ..v1::JobResult::default() }
    }

    #[tokio::test]
    async fn results_outlive_the_process_until_they_are_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Journal::open(directory.path()).map(|(journal, cut)| (Arc::new(journal), cut)).unwrap();
        let (journal, cut) = open();
        assert!(cut.is_empty());
        for job in ["one", "two", "three"] {
            journal.begin(job).await.unwrap();
        }
        journal.finish(result("one", 7), Timestamp(100)).await.unwrap();
        journal.finish(result("two", 8), Timestamp(50)).await.unwrap();
        let sequences: Vec<u64> = journal.unacknowledged().iter().map(|result| result.sequence).collect();
        assert_eq!(sequences, [100, 101], "they ascend also when the clock goes back");

        let (journal, cut) = open();
        assert_eq!(cut, ["three"], "only what did not end was cut off");
        assert!(journal.has_ended("one", 7) && !journal.has_ended("one", 6) && !journal.has_ended("three", 1));
        journal.acknowledged(100).await.unwrap();
        journal.acknowledged(100).await.unwrap();
        journal.acknowledged(4).await.unwrap();
        let (journal, cut) = open();
        assert!(cut.is_empty());
        assert_eq!(journal.unacknowledged().iter().map(|result| result.job_id.as_str()).collect::<Vec<_>>(), ["two"]);
    }

    #[tokio::test]
    async fn a_damaged_result_is_dropped_and_the_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        Arc::new(journal).finish(result("one", 1), Timestamp(5)).await.unwrap();
        std::fs::write(directory.path().join("result-00000000000000000009"), b"\xff\xff\xff").unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        assert_eq!(journal.unacknowledged().len(), 1);
    }

    #[tokio::test]
    async fn a_result_that_cannot_be_written_is_sent_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(&directory.path().join("journal")).unwrap();
        let journal = Arc::new(journal);
        std::fs::remove_dir_all(directory.path()).unwrap();
        journal.finish(result("one", 3), Timestamp(5)).await.unwrap_err();
        assert!(!journal.has_ended("one", 3), "nothing is sent before it was tried to be written");
        journal.keep_unwritten(result("one", 3), Timestamp(5));
        assert!(journal.has_ended("one", 3));
        journal.acknowledged(5).await.unwrap();
        assert!(journal.unacknowledged().is_empty());
    }
}
