//! What an attempt came to when it got to its end.
//!
//! Invariant: what was found is said also when it is not good: a check that finds damage has failed and has a report.

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use serde_json::Value;

use crate::error::AgentError;

/// A document with the figures, and whether that is what was asked for.
#[derive(Debug)]
pub struct Outcome {
    /// For people and programs. Moments are microseconds.
    pub summary: Value,
    /// Why it is not, or not all, that was asked for.
    pub fault: Option<AgentError>,
}

impl Outcome {
    /// All that was asked for.
    pub fn done(summary: Value) -> Self {
        Outcome { summary, fault: None }
    }

    /// Done, but for what `missing` says.
    pub fn partial(summary: Value, missing: impl Into<String>) -> Self {
        Outcome { summary, fault: Some(AgentError::Partial(missing.into())) }
    }

    /// Got to the end, and that is no good.
    pub fn failed(summary: Value, fault: AgentError) -> Self {
        Outcome { summary, fault: Some(fault) }
    }
}

/// The state that a controller is told, with the reason: partial work has succeeded, and says what is missing.
pub(super) fn state(fault: Option<&AgentError>) -> (v1::JobState, Option<v1::Failure>) {
    let state = match fault.map(AgentError::class) {
        None | Some(ErrorClass::Partial) => v1::JobState::Succeeded,
        Some(ErrorClass::Cancelled) => v1::JobState::Cancelled,
        Some(_) => v1::JobState::Failed,
    };
    (state, fault.map(AgentError::failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_work_has_succeeded_and_says_what_is_missing() {
        assert_eq!(state(None), (v1::JobState::Succeeded, None));
        let check = |fault: AgentError, state: v1::JobState, class: &str| {
            let (said, failure) = super::state(Some(&fault));
            assert_eq!((said, failure.unwrap().class.as_str()), (state, class));
        };
        check(AgentError::Partial("2 files".to_owned()), v1::JobState::Succeeded, "partial");
        check(AgentError::Cancelled, v1::JobState::Cancelled, "cancelled");
        check(AgentError::Corrupt("pack".to_owned()), v1::JobState::Failed, "corrupt");
    }
}
