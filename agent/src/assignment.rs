//! What this agent is to look after: kept on disk, so that it goes on with no controller in sight.

use std::collections::BTreeMap;
use std::path::PathBuf;

use breakwater_proto::v1;
use prost::Message;

use crate::durable;
use crate::error::AgentError;

/// The file with the last assignment.
#[derive(Clone, Debug)]
pub struct AssignmentFile {
    path: PathBuf,
}

/// What is to be done when an assignment follows another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Uids of sources whose runtime ends, because they are gone, removed, or begin anew.
    pub stop: Vec<String>,
    /// Sources whose runtime begins.
    pub start: Vec<v1::AssignedSource>,
    /// Sources that were deleted on purpose: their servers need not hold the log any more.
    pub forget: Vec<v1::AssignedSource>,
}

impl AssignmentFile {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        AssignmentFile { path: path.into() }
    }

    /// The last assignment; none before the first one. A damaged file is said and treated as none: the controller sends
    /// it whole at each connect.
    pub fn load(&self) -> Result<Option<v1::Assignment>, AgentError> {
        let Some(bytes) = durable::read(&self.path)? else { return Ok(None) };
        match v1::Assignment::decode(bytes.as_slice()) {
            Ok(assignment) => Ok(Some(assignment)),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the last assignment is damaged; waiting for a controller");
                Ok(None)
            }
        }
    }

    /// Keeps `assignment`.
    pub fn store(&self, assignment: &v1::Assignment) -> Result<(), AgentError> {
        durable::replace(&self.path, &assignment.encode_to_vec())
    }
}

/// The way from what runs to what `next` says. A source that is merely absent is stopped and nothing of it is given up:
/// only what `removed` names was deleted on purpose.
pub fn changes(running: &BTreeMap<String, v1::AssignedSource>, next: &v1::Assignment) -> Changes {
    let mut changes = Changes { forget: next.removed.clone(), ..Changes::default() };
    for (uid, source) in running {
        match next.sources.iter().find(|wanted| wanted.uid == *uid) {
            Some(wanted) if wanted == source => {}
            Some(wanted) => {
                changes.stop.push(uid.clone());
                changes.start.push(wanted.clone());
            }
            None => changes.stop.push(uid.clone()),
        }
    }
    changes.start.extend(next.sources.iter().filter(|wanted| !running.contains_key(&wanted.uid)).cloned());
    // What is assigned is not given up, whatever else the assignment says.
    changes.forget.retain(|removed| next.sources.iter().all(|source| source.uid != removed.uid));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uid: &str, plan: &str) -> v1::AssignedSource {
        v1::AssignedSource { uid: uid.to_owned(), plan: plan.to_owned(), ..v1::AssignedSource::default() }
    }

    fn uids(sources: &[v1::AssignedSource]) -> Vec<&str> {
        sources.iter().map(|source| source.uid.as_str()).collect()
    }

    #[test]
    fn only_what_changed_is_touched() {
        let running = ["a", "b", "c"].map(|uid| (uid.to_owned(), source(uid, "p"))).into();
        let next = v1::Assignment {
            revision: 2,
            sources: vec![source("a", "p"), source("b", "q"), source("d", "p")],
            removed: vec![],
        };
        let changes = changes(&running, &next);
        assert_eq!(changes.stop, ["b", "c"]);
        assert_eq!(uids(&changes.start), ["b", "d"]);
        assert!(changes.forget.is_empty(), "an absent source keeps its slot");
    }

    #[test]
    fn a_source_is_forgotten_only_when_it_was_removed_on_purpose() {
        let running = [("a".to_owned(), source("a", "p"))].into();
        let next = v1::Assignment {
            revision: 2,
            sources: vec![source("b", "p")],
            removed: vec![source("a", ""), source("b", "")],
        };
        let changes = changes(&running, &next);
        assert_eq!(changes.stop, ["a"]);
        assert_eq!(uids(&changes.forget), ["a"], "what is assigned is never forgotten");
    }

    #[test]
    fn the_last_assignment_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = AssignmentFile::new(directory.path().join("assignment.pb"));
        assert_eq!(file.load().unwrap(), None);
        let assignment = v1::Assignment { revision: 9, sources: vec![source("a", "p")], removed: vec![] };
        file.store(&assignment).unwrap();
        assert_eq!(file.load().unwrap(), Some(assignment));
        std::fs::write(directory.path().join("assignment.pb"), [0xff; 9]).unwrap();
        assert_eq!(file.load().unwrap(), None);
    }
}
