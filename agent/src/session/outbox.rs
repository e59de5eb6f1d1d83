//! What is waiting to be said to a controller. Results wait in the journal; of everything else only the latest word
//! counts, so a controller that is away costs no memory and hears no old news.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use breakwater_proto::v1;
use breakwater_proto::v1::agent_message::Body;
use tokio::sync::Notify;

use crate::jobs::journal::Journal;

/// A result that is not acknowledged is repeated after this.
const REPEAT_RESULT: Duration = Duration::from_secs(10);

/// The outbox of one agent. Filled whether or not a controller is there.
#[derive(Debug)]
pub struct Outbox {
    journal: Arc<Journal>,
    waiting: Mutex<Waiting>,
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Jobs that just began to run.
    begun: Vec<v1::JobUpdate>,
    progress: BTreeMap<String, v1::JobUpdate>,
    streams: BTreeMap<String, v1::StreamStatus>,
    regions: BTreeMap<String, v1::RegionReport>,
    applied: Option<v1::AssignmentApplied>,
}

/// Which results one session has sent already.
#[derive(Debug, Default)]
pub struct SentResults(HashMap<u64, Instant>);

impl Outbox {
    /// An empty one beside `journal`.
    pub fn new(journal: Arc<Journal>) -> Self {
        Outbox { journal, waiting: Mutex::default(), urgent: Notify::new() }
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// A job has begun.
    pub fn begun(&self, update: v1::JobUpdate) {
        self.waiting().begun.push(update);
        self.urgent.notify_one();
    }

    /// How far a job is.
    pub fn progress(&self, update: v1::JobUpdate) {
        self.waiting().progress.insert(update.job_id.clone(), update);
    }

    /// A job has ended and its result is in the journal: what was to be said of it before is old news.
    pub fn ended(&self, job: &str) {
        let mut waiting = self.waiting();
        waiting.progress.remove(job);
        waiting.begun.retain(|update| update.job_id != job);
        drop(waiting);
        self.urgent.notify_one();
    }

    /// How a stream is.
    pub fn stream(&self, status: v1::StreamStatus) {
        self.waiting().streams.insert(status.source_uid.clone(), status);
    }

    /// A source is not looked after any more.
    pub fn forget_stream(&self, source_uid: &str) {
        self.waiting().streams.remove(source_uid);
    }

    /// How the regions of a repository are.
    pub fn regions(&self, report: v1::RegionReport) {
        self.waiting().regions.insert(report.repository.clone(), report);
    }

    /// What came of an assignment.
    pub fn applied(&self, applied: v1::AssignmentApplied) {
        let mut waiting = self.waiting();
        let mut forgotten = waiting.applied.take().map(|before| before.forgotten).unwrap_or_default();
        forgotten.retain(|uid| !applied.forgotten.contains(uid));
        forgotten.extend(applied.forgotten);
        waiting.applied = Some(v1::AssignmentApplied { forgotten, ..applied });
        drop(waiting);
        self.urgent.notify_one();
    }

    /// Returns when something cannot wait for the next second.
    pub async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// What cannot wait: begun jobs, results, applied assignments.
    pub fn take_urgent(&self, sent: &mut SentResults) -> Vec<v1::AgentMessage> {
        let (begun, applied) = {
            let mut waiting = self.waiting();
            (std::mem::take(&mut waiting.begun), waiting.applied.take())
        };
        let mut bodies: Vec<Body> = begun.into_iter().map(Body::JobUpdate).collect();
        bodies.extend(applied.map(Body::AssignmentApplied));
        let now = Instant::now();
        let results = self.journal.unacknowledged();
        sent.0.retain(|sequence, _| results.iter().any(|result| result.sequence == *sequence));
        for result in results {
            let due = sent.0.get(&result.sequence).is_none_or(|at| now.duration_since(*at) >= REPEAT_RESULT);
            if due {
                sent.0.insert(result.sequence, now);
                bodies.push(Body::JobResult(result));
            }
        }
        messages(bodies)
    }

    /// Everything that waits.
    pub fn take_all(&self, sent: &mut SentResults) -> Vec<v1::AgentMessage> {
        let mut all = self.take_urgent(sent);
        let (progress, streams, regions) = {
            let mut waiting = self.waiting();
            let waiting = &mut *waiting;
            (
                std::mem::take(&mut waiting.progress),
                std::mem::take(&mut waiting.streams),
                std::mem::take(&mut waiting.regions),
            )
        };
        let bodies = progress.into_values().map(Body::JobUpdate);
        let bodies = bodies.chain(streams.into_values().map(Body::StreamStatus));
        all.extend(messages(bodies.chain(regions.into_values().map(Body::RegionReport)).collect()));
        all
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn messages(bodies: Vec<Body>) -> Vec<v1::AgentMessage> {
    bodies.into_iter().map(|body| v1::AgentMessage { body: Some(body) }).collect()
}

#[cfg(test)]
mod tests {
    use breakwater_core::Timestamp;

    use super::*;

    fn update(job: &str, bytes_done: u64) -> v1::JobUpdate {
        let progress = Some(v1::Progress { bytes_done, ..v1::Progress::default() });
        v1::JobUpdate { job_id: job.to_owned(), progress, ..v1::JobUpdate::default() }
    }

    fn outbox() -> (tempfile::TempDir, Outbox) {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        (directory, Outbox::new(Arc::new(journal)))
    }

    #[test]
    fn of_progress_only_the_latest_is_sent_and_nothing_after_the_end() {
        let (_directory, outbox) = outbox();
        let mut sent = SentResults::default();
        outbox.progress(update("a", 1));
        outbox.progress(update("a", 2));
        outbox.progress(update("b", 3));
        outbox.ended("b");
        assert!(outbox.take_urgent(&mut sent).is_empty(), "progress waits for its second");
        let all = outbox.take_all(&mut sent);
        assert_eq!(all, messages(vec![Body::JobUpdate(update("a", 2))]));
        assert!(outbox.take_all(&mut sent).is_empty());
    }

    #[tokio::test]
    async fn results_are_sent_once_a_session_and_again_in_the_next() {
        let (_directory, outbox) = outbox();
        let result = v1::JobResult { job_id: "a".to_owned(), ..v1::JobResult::default() };
        outbox.journal().finish(result, Timestamp(1)).await.unwrap();
        let mut sent = SentResults::default();
        assert_eq!(outbox.take_urgent(&mut sent).len(), 1);
        assert!(outbox.take_urgent(&mut sent).is_empty());
        assert_eq!(outbox.take_urgent(&mut SentResults::default()).len(), 1, "a new session hears it again");
        outbox.journal().acknowledged(1).await.unwrap();
        assert!(outbox.take_urgent(&mut SentResults::default()).is_empty());
    }

    #[test]
    fn what_was_forgotten_is_told_also_when_a_second_assignment_follows_at_once() {
        let (_directory, outbox) = outbox();
        let applied = |revision, forgotten: &[&str]| v1::AssignmentApplied {
            revision,
            problems: Vec::new(),
            forgotten: forgotten.iter().map(|uid| (*uid).to_owned()).collect(),
        };
        outbox.applied(applied(1, &["x"]));
        outbox.applied(applied(2, &["y"]));
        let sent = outbox.take_urgent(&mut SentResults::default());
        assert_eq!(sent, messages(vec![Body::AssignmentApplied(applied(2, &["x", "y"]))]));
    }
}
