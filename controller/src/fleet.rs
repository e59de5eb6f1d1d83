//! What is known of connected agents right now. In memory only: a controller that starts learns it anew within seconds,
//! and what has to outlive it is in the store.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use breakwater_core::{Timestamp, Uid};
use breakwater_proto::v1;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, watch};

/// Messages waiting for one agent. A slow agent is cut off rather than waited for: it reconnects and is told anew.
const OUTBOX_MESSAGES: usize = 256;

/// Pieces of one answer waiting for whoever asked.
const ANSWER_PIECES: usize = 16;

/// Job changes waiting for a watcher; a slower one reads the job afresh.
const CHANGES: usize = 256;

/// A piece of an answer, or why there is none.
pub type AnswerPiece = Result<Bytes, v1::Failure>;

/// An agent's live session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Distinguishes this session from an earlier one of the same agent.
    pub number: u64,
    /// Since when.
    pub since: Timestamp,
    /// When it last said anything.
    pub last_seen: Timestamp,
    /// Its name.
    pub name: String,
    /// What it said of itself.
    pub hello: v1::Hello,
    outbox: mpsc::Sender<v1::ControllerMessage>,
}

/// What one agent last said of one source's stream.
#[derive(Clone, Debug)]
pub struct SeenStream {
    /// The agent.
    pub agent: Uid,
    /// What it said.
    pub status: v1::StreamStatus,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<Uid, Session>,
    last_seen: HashMap<Uid, Timestamp>,
    streams: HashMap<String, SeenStream>,
    regions: HashMap<(Uid, String), v1::RegionReport>,
    progress: HashMap<String, v1::Progress>,
    questions: HashMap<String, (Uid, mpsc::Sender<AnswerPiece>)>,
    session_number: u64,
}

/// The live part of the fleet.
#[derive(Debug)]
pub struct Fleet {
    inner: Mutex<Inner>,
    job_changes: broadcast::Sender<String>,
    work: watch::Sender<u64>,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet { inner: Mutex::default(), job_changes: broadcast::channel(CHANGES).0, work: watch::channel(0).0 }
    }
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves maps that are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new session of `agent` in; an older one of it is cut off. Answers its number and what to send to it.
    pub fn connect(
        &self,
        agent: Uid,
        name: &str,
        hello: v1::Hello,
        now: Timestamp,
    ) -> (u64, mpsc::Receiver<v1::ControllerMessage>) {
        let (outbox, messages) = mpsc::channel(OUTBOX_MESSAGES);
        let mut inner = self.lock();
        inner.session_number += 1;
        let number = inner.session_number;
        inner
            .sessions
            .insert(agent, Session { number, since: now, last_seen: now, name: name.to_owned(), hello, outbox });
        inner.last_seen.insert(agent, now);
        drop(inner);
        self.wake();
        (number, messages)
    }

    /// Forgets session `number` of `agent`, unless a newer one took its place. Its open questions fail.
    pub fn disconnect(&self, agent: Uid, number: u64) {
        let mut inner = self.lock();
        if inner.sessions.get(&agent).is_some_and(|session| session.number == number) {
            inner.sessions.remove(&agent);
            inner.questions.retain(|_, (asked, _)| *asked != agent);
        }
    }

    /// Notes that `agent` said something.
    pub fn seen(&self, agent: Uid, now: Timestamp) {
        let mut inner = self.lock();
        inner.last_seen.insert(agent, now);
        if let Some(session) = inner.sessions.get_mut(&agent) {
            session.last_seen = now;
        }
    }

    /// The session of `agent`.
    pub fn session(&self, agent: Uid) -> Option<Session> {
        self.lock().sessions.get(&agent).cloned()
    }

    /// The name of a connected agent.
    pub fn name_of(&self, agent: Uid) -> Option<String> {
        self.lock().sessions.get(&agent).map(|session| session.name.clone())
    }

    /// When `agent` last said anything to this controller.
    pub fn last_seen(&self, agent: Uid) -> Option<Timestamp> {
        self.lock().last_seen.get(&agent).copied()
    }

    /// All connected agents.
    pub fn connected(&self) -> Vec<Uid> {
        self.lock().sessions.keys().copied().collect()
    }

    /// Sends `body` to `agent`. False when it is not connected; one that does not take its messages is cut off.
    pub fn send(&self, agent: Uid, body: v1::controller_message::Body) -> bool {
        let mut inner = self.lock();
        let Some(session) = inner.sessions.get(&agent) else { return false };
        let sent = session.outbox.try_send(v1::ControllerMessage { body: Some(body) }).is_ok();
        if !sent {
            inner.sessions.remove(&agent);
        }
        sent
    }

    /// Ends the session of `agent` with a reason.
    pub fn dismiss(&self, agent: Uid, reason: v1::Failure) {
        let goodbye = v1::controller_message::Body::Goodbye(v1::Goodbye { reason: Some(reason) });
        self.send(agent, goodbye);
        self.lock().sessions.remove(&agent);
    }

    /// Notes what `agent` says of a stream.
    pub fn note_stream(&self, agent: Uid, status: v1::StreamStatus) {
        self.lock().streams.insert(status.source_uid.clone(), SeenStream { agent, status });
    }

    /// What was last said of the stream of `source_uid`.
    pub fn stream(&self, source_uid: &str) -> Option<SeenStream> {
        self.lock().streams.get(source_uid).cloned()
    }

    /// Forgets the stream of a deleted source.
    pub fn forget_stream(&self, source_uid: &str) {
        self.lock().streams.remove(source_uid);
    }

    /// Notes what `agent` says of a repository's regions.
    pub fn note_regions(&self, agent: Uid, report: v1::RegionReport) {
        self.lock().regions.insert((agent, report.repository.clone()), report);
    }

    /// What `agent` last said of the regions of `repository`.
    pub fn regions(&self, agent: Uid, repository: &str) -> Option<v1::RegionReport> {
        self.lock().regions.get(&(agent, repository.to_owned())).cloned()
    }

    /// Notes a job's progress and wakes its watchers.
    pub fn note_progress(&self, job: &str, progress: v1::Progress) {
        self.lock().progress.insert(job.to_owned(), progress);
        self.job_changed(job);
    }

    /// A job's progress.
    pub fn progress(&self, job: &str) -> Option<v1::Progress> {
        self.lock().progress.get(job).cloned()
    }

    /// Forgets the progress of an ended job.
    pub fn forget_progress(&self, job: &str) {
        self.lock().progress.remove(job);
    }

    /// Tells the watchers of `job` that it changed.
    pub fn job_changed(&self, job: &str) {
        // Nobody watching is not an error.
        self.job_changes.send(job.to_owned()).ok();
    }

    /// The names of jobs that change from now on.
    pub fn watch_jobs(&self) -> broadcast::Receiver<String> {
        self.job_changes.subscribe()
    }

    /// Tells the dispatcher that there may be work.
    pub fn wake(&self) {
        self.work.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes when there may be work.
    pub fn watch_work(&self) -> watch::Receiver<u64> {
        self.work.subscribe()
    }

    /// Asks `agent`; the answer comes in pieces. `None` when it is not connected.
    pub fn ask(&self, agent: Uid, question: v1::Question) -> Option<mpsc::Receiver<AnswerPiece>> {
        let (sender, pieces) = mpsc::channel(ANSWER_PIECES);
        let id = question.id.clone();
        self.lock().questions.insert(id.clone(), (agent, sender));
        if self.send(agent, v1::controller_message::Body::Question(question)) {
            return Some(pieces);
        }
        self.lock().questions.remove(&id);
        None
    }

    /// Where the answer to question `id` from `agent` goes, once.
    pub fn take_question(&self, agent: Uid, id: &str) -> Option<mpsc::Sender<AnswerPiece>> {
        let mut inner = self.lock();
        let (asked, _) = inner.questions.get(id)?;
        if *asked != agent {
            return None;
        }
        inner.questions.remove(id).map(|(_, sender)| sender)
    }
}
