//! What a backup of files keeps in its manifest.

use breakwater_engine::{EngineError, EngineErrorKind};
use serde::{Deserialize, Serialize};

use crate::judge::Count;
use crate::look::Moment;

/// The engine's facts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The directories.
    pub(crate) roots: Vec<RootFacts>,
    /// How consistent the copy is: `file`, each file by itself.
    pub(crate) consistency: String,
    /// Grows when the clock was set back, after which no older stamp is worth anything.
    pub(crate) generation: u64,
    /// The local clock when the scan began, and when it ended.
    pub(crate) began: Option<Moment>,
    /// See `began`.
    pub(crate) ended: Option<Moment>,
    /// Files whose content will be known by their stamp next time.
    pub(crate) stamped: u64,
    /// Files that will be read again next time, because they were written just before.
    pub(crate) unstamped: u64,
    /// What was left out, by reason.
    pub(crate) excluded: Vec<Count>,
}

/// One directory of the source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RootFacts {
    /// The name under which it is shown.
    pub(crate) name: String,
    /// Where it lay.
    pub(crate) path: String,
    /// Entries directly in it.
    pub(crate) entries: u64,
}

impl Facts {
    pub(crate) fn of_json(value: &serde_json::Value) -> Result<Facts, EngineError> {
        Facts::deserialize(value).map_err(|error| {
            EngineError::new(EngineErrorKind::Corrupt, "the snapshot's facts are not those of a source of files")
                .because(error)
        })
    }

    pub(crate) fn to_json(&self) -> Result<serde_json::Value, EngineError> {
        serde_json::to_value(self)
            .map_err(|error| EngineError::new(EngineErrorKind::Internal, "facts do not become JSON").because(error))
    }
}

/// The generation of stamps for a scan that begins at `now`, after the one with the facts of `base`.
pub(crate) fn generation(base: Option<&Facts>, now: Option<Moment>) -> u64 {
    let Some(base) = base else { return 0 };
    // Set back during the last scan, or since it; or nobody knows.
    let steady = matches!((base.began, base.ended, now), (Some(began), Some(ended), Some(now)) if began <= ended && ended <= now);
    if steady { base.generation } else { base.generation.wrapping_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_ends_the_trust_in_older_stamps() {
        let facts = |began, ended| Facts {
            roots: Vec::new(),
            consistency: "file".to_owned(),
            generation: 7,
            began,
            ended,
            stamped: 0,
            unstamped: 0,
            excluded: Vec::new(),
        };
        let good = facts(Some((10, 0)), Some((11, 0)));
        assert_eq!(generation(None, Some((1, 0))), 0);
        assert_eq!(generation(Some(&good), Some((12, 0))), 7);
        assert_eq!(generation(Some(&good), Some((10, 5))), 8, "set back since");
        assert_eq!(generation(Some(&facts(Some((10, 0)), Some((9, 0)))), Some((12, 0))), 8, "set back meanwhile");
        assert_eq!(generation(Some(&good), None), 8);
        assert_eq!(generation(Some(&facts(None, Some((1, 0)))), Some((12, 0))), 8);
        let json = good.to_json().unwrap();
        assert_eq!(Facts::of_json(&json).unwrap().ended, Some((11, 0)));
        assert!(Facts::of_json(&serde_json::json!({"a": 1})).is_err());
    }
}
