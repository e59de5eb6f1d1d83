//! Tasks that belong together: cancelled together, waited for together, and called by name when one will not stop.
//!
//! Invariant: every task spawned here is known to its group and to all groups above it until it has ended, also when it
//! panics or is aborted, so that [`TaskGroup::shutdown`] never answers `Ok` while one of them still runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long [`TaskGroup::shutdown`] waits for tasks that it had to abort; an abort takes effect at the next `await`.
const ABORT_GRACE: Duration = Duration::from_millis(200);

/// A named set of tasks. A clone is another handle to the same group; dropping handles stops nothing.
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

struct Inner {
    path: String,
    token: CancellationToken,
    tracker: TaskTracker,
    next_id: AtomicU64,
    running: Mutex<BTreeMap<u64, Running>>,
    parent: Option<Arc<Inner>>,
}

struct Running {
    path: String,
    /// Empty for the moment between registration and spawning.
    abort: Option<AbortHandle>,
}

impl TaskGroup {
    /// A group without a parent. `name` begins the path under which its tasks are reported.
    pub fn new(name: &str) -> TaskGroup {
        TaskGroup::make(name.to_owned(), CancellationToken::new(), None)
    }

    /// A group inside this one: cancelled with it and waited for by it, but can be shut down alone.
    pub fn child(&self, name: &str) -> TaskGroup {
        let path = format!("{}/{name}", self.inner.path);
        TaskGroup::make(path, self.inner.token.child_token(), Some(Arc::clone(&self.inner)))
    }

    fn make(path: String, token: CancellationToken, parent: Option<Arc<Inner>>) -> TaskGroup {
        let tracker = TaskTracker::new();
        // Closed from the start: `wait` then answers whenever the group is empty. Spawning stays possible.
        tracker.close();
        let running = Mutex::new(BTreeMap::new());
        TaskGroup { inner: Arc::new(Inner { path, token, tracker, next_id: AtomicU64::new(0), running, parent }) }
    }

    /// Spawns `future` as a task of this group. It should end soon after [`token`](Self::token) is cancelled.
    ///
    /// The task does not inherit the caller's tracing span; give it one with `.instrument(span)` where it should.
    pub fn spawn<F>(&self, name: &str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let path = format!("{}/{name}", self.inner.path);
        let memberships = self.lineage().map(|group| Membership::new(group, &path)).collect::<Vec<_>>();
        let ids = memberships.iter().map(|membership| membership.id).collect::<Vec<_>>();
        let presence = Presence { path, memberships };
        let handle = tokio::spawn(async move {
            let _presence = presence;
            future.await
        });
        for (group, id) in self.lineage().zip(ids) {
            // The entry is gone already when the task has ended in between.
            if let Some(running) = group.running().get_mut(&id) {
                running.abort = Some(handle.abort_handle());
            }
        }
        handle
    }

    /// The token that tells the tasks of this group to stop.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Tells the tasks of this group and of the groups inside it to stop, without waiting.
    pub fn cancel(&self) {
        self.inner.token.cancel();
    }

    /// The paths of the tasks that run now, those of child groups included.
    pub fn running(&self) -> Vec<String> {
        self.inner.running().values().map(|running| running.path.clone()).collect()
    }

    /// Cancels the group and waits up to `patience` for its tasks, those of child groups included. Tasks that have not
    /// ended by then are aborted, and their paths are the error.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), Vec<String>> {
        self.cancel();
        if tokio::time::timeout(patience, self.inner.tracker.wait()).await.is_ok() {
            return Ok(());
        }
        let stubborn: Vec<String> = {
            let running = self.inner.running();
            for abort in running.values().filter_map(|running| running.abort.as_ref()) {
                abort.abort();
            }
            running.values().map(|running| running.path.clone()).collect()
        };
        if stubborn.is_empty() {
            return Ok(());
        }
        // A task that blocks its thread outlives the abort; the caller learns its name all the same.
        drop(tokio::time::timeout(ABORT_GRACE, self.inner.tracker.wait()).await);
        Err(stubborn)
    }

    /// This group and those above it.
    fn lineage(&self) -> impl Iterator<Item = &Arc<Inner>> {
        std::iter::successors(Some(&self.inner), |group| group.parent.as_ref())
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup").field("path", &self.inner.path).field("running", &self.running()).finish()
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Running>> {
        // No code panics while it holds the lock, so a poisoned map is a whole one.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running task's entry in one group.
struct Membership {
    group: Arc<Inner>,
    id: u64,
    _tracked: TaskTrackerToken,
}

impl Membership {
    fn new(group: &Arc<Inner>, path: &str) -> Membership {
        let id = group.next_id.fetch_add(1, Ordering::Relaxed);
        group.running().insert(id, Running { path: path.to_owned(), abort: None });
        Membership { group: Arc::clone(group), id, _tracked: group.tracker.token() }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.group.running().remove(&self.id);
    }
}

/// Lives inside the task, so that it is dropped however the task ends.
struct Presence {
    path: String,
    #[expect(dead_code, reason = "held for its drop")]
    memberships: Vec<Membership>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.path, "task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn tasks_that_listen_stop_in_time() {
        let group = TaskGroup::new("agent");
        let token = group.token();
        let task = group.spawn("listener", async move {
            token.cancelled().await;
            "clean"
        });
        assert_eq!(group.running(), ["agent/listener"]);
        group.shutdown(LONG).await.unwrap();
        assert_eq!(task.await.unwrap(), "clean");
        assert!(group.running().is_empty());
    }

    #[tokio::test]
    async fn tasks_that_do_not_listen_are_named_and_aborted() {
        let group = TaskGroup::new("agent");
        let token = group.token();
        group.spawn("good", async move { token.cancelled().await });
        let (held, gone) = oneshot::channel::<()>();
        group.child("session").spawn("stuck", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        assert_eq!(group.shutdown(SHORT).await.unwrap_err(), ["agent/session/stuck"]);
        assert!(gone.await.is_err(), "the aborted task dropped what it held");
        group.shutdown(SHORT).await.unwrap();
    }

    #[tokio::test]
    async fn a_child_stops_alone_and_with_its_parent() {
        let parent = TaskGroup::new("controller");
        let (one, two) = (parent.child("one"), parent.child("two"));
        for group in [&parent, &one, &two] {
            let token = group.token();
            group.spawn("task", async move { token.cancelled().await });
        }
        one.shutdown(LONG).await.unwrap();
        assert_eq!(parent.running(), ["controller/task", "controller/two/task"]);
        assert!(!parent.token().is_cancelled());
        parent.shutdown(LONG).await.unwrap();
        assert!(two.token().is_cancelled());
        assert!(two.running().is_empty());
    }

    #[tokio::test]
    async fn a_panic_leaves_the_group_usable() {
        let group = TaskGroup::new("agent");
        assert!(group.spawn("broken", async { panic!("on purpose") }).await.unwrap_err().is_panic());
        assert!(group.running().is_empty());
        assert_eq!(group.spawn("next", async { 7 }).await.unwrap(), 7);
        group.shutdown(LONG).await.unwrap();
    }

    #[tokio::test]
    async fn work_after_the_cancel_is_still_waited_for() {
        let group = TaskGroup::new("agent");
        let (token, inside) = (group.token(), group.clone());
        let (release, released) = oneshot::channel::<()>();
        group.spawn("first", async move {
            token.cancelled().await;
            inside.spawn("flush", async move { released.await.is_ok() });
        });
        let shutdown = tokio::spawn({
            let group = group.clone();
            async move { group.shutdown(LONG).await }
        });
        while group.running() != ["agent/flush"] {
            tokio::task::yield_now().await;
        }
        assert!(!shutdown.is_finished());
        release.send(()).unwrap();
        shutdown.await.unwrap().unwrap();
    }
}
