//! The life of a job: one state, one transition function.
//!
//! A job is dispatched at least once; its effect happens once because every attempt commits through the repository's
//! register. Each dispatch raises the fence (the state store's revision), and whatever an agent says under an older
//! fence is ignored.

use breakwater_core::{ErrorClass, Timestamp};
use serde::{Deserialize, Serialize};

/// Attempts before a job that fails for passing reasons is given up.
pub const ATTEMPTS_MAX: u32 = 5;

/// How long a dispatched job may stay silent on a connected agent before it is dispatched again, in microseconds.
pub const DISPATCH_PATIENCE_MICROS: i64 = 30_000_000;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted; no agent has it.
    Pending,
    /// An agent was told.
    Dispatched,
    /// The agent says that it runs.
    Running,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
    /// Stopped on request.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub fn is_terminal(self) -> bool {
        matches!(self, JobState::Succeeded | JobState::Failed | JobState::Cancelled)
    }
}

/// What went wrong with an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// The word of its class.
    pub class: String,
    /// For people.
    pub message: String,
}

impl JobFailure {
    fn is_transient(&self) -> bool {
        ErrorClass::from_word(&self.class).is_transient()
    }
}

/// The part of a job that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLife {
    /// Where it is.
    pub state: JobState,
    /// The present or last attempt; 0 before the first dispatch.
    pub attempt: u32,
    /// The fence of that attempt.
    pub fence: u64,
    /// Someone asked for it to stop.
    pub cancel_requested: bool,
    /// Not to be dispatched before this.
    pub not_before: Timestamp,
    /// When the last attempt was dispatched.
    pub dispatched: Option<Timestamp>,
    /// When it first ran.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Why the last attempt failed.
    pub failure: Option<JobFailure>,
}

impl JobLife {
    /// A job accepted at `now`.
    pub fn accepted(now: Timestamp) -> Self {
        JobLife {
            state: JobState::Pending,
            attempt: 0,
            fence: 0,
            cancel_requested: false,
            not_before: now,
            dispatched: None,
            started: None,
            finished: None,
            failure: None,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// The dispatcher gives it to its agent under a new fence.
    Dispatch {
        /// The new fence.
        fence: u64,
    },
    /// The agent says that it runs under `fence`.
    Running {
        /// The fence the agent was given.
        fence: u64,
    },
    /// The agent says that it ended under `fence`.
    Ended {
        /// The fence the agent was given.
        fence: u64,
        /// How; terminal.
        state: JobState,
        /// Why, unless it succeeded.
        failure: Option<JobFailure>,
    },
    /// The agent is connected and does not know the job: it restarted, or never got it.
    Lost {
        /// The fence the controller believes in.
        fence: u64,
    },
    /// Someone asked for it to stop.
    CancelRequested,
}

/// What the caller is to do after a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEffect {
    /// Nothing.
    None,
    /// Send it to the agent with the life's attempt and fence.
    Send,
    /// Tell the agent to stop it.
    Stop,
    /// It ended; tell whoever waits.
    Announce,
}

/// The next life of a job, and what to do. Events that do not fit (an older fence, an ended job) change nothing.
pub fn transition(life: &JobLife, event: JobEvent, now: Timestamp) -> (JobLife, JobEffect) {
    let mut next = life.clone();
    if life.state.is_terminal() {
        return (next, JobEffect::None);
    }
    match event {
        JobEvent::Dispatch { fence } => {
            if life.state != JobState::Pending || now < life.not_before || fence <= life.fence {
                return (next, JobEffect::None);
            }
            next.state = JobState::Dispatched;
            next.attempt = life.attempt.saturating_add(1);
            next.fence = fence;
            next.dispatched = Some(now);
            (next, JobEffect::Send)
        }
        JobEvent::Running { fence } => {
            if fence != life.fence || life.state == JobState::Pending {
                return (next, JobEffect::None);
            }
            next.state = JobState::Running;
            next.started = life.started.or(Some(now));
            let effect = if life.cancel_requested { JobEffect::Stop } else { JobEffect::None };
            (next, effect)
        }
        JobEvent::Ended { fence, state, failure } => {
            if fence != life.fence || life.state == JobState::Pending || !state.is_terminal() {
                return (next, JobEffect::None);
            }
            let again = state == JobState::Failed
                && failure.as_ref().is_some_and(JobFailure::is_transient)
                && !life.cancel_requested
                && life.attempt < ATTEMPTS_MAX;
            next.failure = failure;
            if again {
                next.state = JobState::Pending;
                next.not_before = now.plus_micros(backoff_micros(life.attempt));
                return (next, JobEffect::None);
            }
            next.state = state;
            next.started = life.started.or(Some(now));
            next.finished = Some(now);
            (next, JobEffect::Announce)
        }
        JobEvent::Lost { fence } => {
            if fence != life.fence || life.state == JobState::Pending {
                return (next, JobEffect::None);
            }
            if life.cancel_requested {
                next.state = JobState::Cancelled;
                next.finished = Some(now);
                return (next, JobEffect::Announce);
            }
            if life.attempt >= ATTEMPTS_MAX {
                next.state = JobState::Failed;
                next.finished = Some(now);
                next.failure = Some(JobFailure {
                    class: ErrorClass::Unavailable.as_str().to_owned(),
                    message: format!("the agent lost the job {} times", life.attempt),
                });
                return (next, JobEffect::Announce);
            }
            next.state = JobState::Pending;
            next.not_before = now;
            (next, JobEffect::None)
        }
        JobEvent::CancelRequested => {
            next.cancel_requested = true;
            if life.state == JobState::Pending {
                next.state = JobState::Cancelled;
                next.finished = Some(now);
                return (next, JobEffect::Announce);
            }
            (next, JobEffect::Stop)
        }
    }
}

/// The pause after attempt number `attempt` failed: 5 s doubling to 80 s.
fn backoff_micros(attempt: u32) -> i64 {
    5_000_000 << attempt.saturating_sub(1).min(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn unavailable() -> Option<JobFailure> {
        Some(JobFailure { class: "unavailable".to_owned(), message: "region east".to_owned() })
    }

    fn running(fence: u64) -> JobLife {
        let (life, effect) = transition(&JobLife::accepted(NOW), JobEvent::Dispatch { fence }, NOW);
        assert_eq!(effect, JobEffect::Send);
        transition(&life, JobEvent::Running { fence }, NOW).0
    }

    #[test]
    fn passing_failures_are_tried_again_later_and_others_are_not() {
        let ended = |failure| JobEvent::Ended { fence: 7, state: JobState::Failed, failure };
        let (again, _) = transition(&running(7), ended(unavailable()), NOW);
        assert_eq!(again.state, JobState::Pending);
        assert!(again.not_before > NOW);
        let corrupt = Some(JobFailure { class: "corrupt".to_owned(), message: "pack".to_owned() });
        let (given_up, effect) = transition(&running(7), ended(corrupt), NOW);
        assert_eq!((given_up.state, effect), (JobState::Failed, JobEffect::Announce));
    }

    #[test]
    fn an_older_fence_says_nothing() {
        let lost = transition(&running(7), JobEvent::Lost { fence: 7 }, NOW).0;
        let second = transition(&lost, JobEvent::Dispatch { fence: 9 }, NOW).0;
        let stale = JobEvent::Ended { fence: 7, state: JobState::Succeeded, failure: None };
        assert_eq!(transition(&second, stale, NOW).0, second);
        assert_eq!(second.attempt, 2);
    }

    #[test]
    fn cancelling_what_nobody_has_ends_it_at_once() {
        let (life, effect) = transition(&JobLife::accepted(NOW), JobEvent::CancelRequested, NOW);
        assert_eq!((life.state, effect), (JobState::Cancelled, JobEffect::Announce));
        let (life, effect) = transition(&running(3), JobEvent::CancelRequested, NOW);
        assert_eq!((life.state, effect), (JobState::Running, JobEffect::Stop));
    }

    fn any_event() -> impl Strategy<Value = JobEvent> {
        let state = prop_oneof![
            Just(JobState::Succeeded),
            Just(JobState::Failed),
            Just(JobState::Cancelled),
            Just(JobState::Running)
        ];
        prop_oneof![
            (1..9_u64).prop_map(|fence| JobEvent::Dispatch { fence }),
            (1..9_u64).prop_map(|fence| JobEvent::Running { fence }),
            (1..9_u64, state, any::<bool>()).prop_map(|(fence, state, passing)| JobEvent::Ended {
                fence,
                state,
                failure: if passing { unavailable() } else { None }
            }),
            (1..9_u64).prop_map(|fence| JobEvent::Lost { fence }),
            Just(JobEvent::CancelRequested),
        ]
    }

    proptest! {
        #[test]
        fn lives_only_go_forward(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut life = JobLife::accepted(NOW);
            let mut now = NOW;
            for event in events {
                now = now.plus_micros(100_000_000);
                let (next, _) = transition(&life, event, now);
                prop_assert!(next.attempt >= life.attempt && next.attempt <= ATTEMPTS_MAX + 1);
                prop_assert!(next.fence >= life.fence);
                prop_assert!(!life.state.is_terminal() || next == life);
                prop_assert_eq!(next.state.is_terminal(), next.finished.is_some());
                prop_assert!(!life.cancel_requested || next.cancel_requested);
                life = next;
            }
        }
    }
}
