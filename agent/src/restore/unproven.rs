//! Laid files that are not proven yet to be a database.
//!
//! Invariant: a recovery that failed, was stopped or was dropped leaves a target that says that it is not usable and does
//! not start: the mark of incompleteness stays, and the file without which nothing starts has another name.

use std::path::{Path, PathBuf};

use breakwater_core::Chain;
use breakwater_pipeline::restore::MARKER;

use crate::durable;
use crate::error::AgentError;

/// Marked files in a target. Dropping it puts the vital file away.
#[derive(Debug)]
pub(super) struct Unproven {
    target: PathBuf,
    /// The file without which a database of this kind does not start.
    vital: Option<PathBuf>,
    proven: bool,
}

impl Unproven {
    /// The files below `target`, of which `vital` (a path below it) is the one that nothing starts without.
    pub(super) fn new(target: &Path, vital: Option<&Path>) -> Self {
        Unproven { target: target.to_owned(), vital: vital.map(|file| target.join(file)), proven: false }
    }

    /// What lies there is usable: the mark goes.
    pub(super) async fn proven(mut self) -> Result<(), AgentError> {
        let finishing = breakwater_pipeline::restore::finish(&self.target).await;
        finishing.map_err(AgentError::pipeline(format!("restoring into {}", self.target.display())))?;
        self.proven = true;
        Ok(())
    }

    /// What lies there is not usable. Answers what a person should know.
    pub(super) fn put_away(&self) -> String {
        let target = self.target.display();
        let Some(vital) = &self.vital else { return format!("{target} is not usable and stays marked: {MARKER}") };
        let mut aside = vital.as_os_str().to_owned();
        aside.push(".");
        aside.push(MARKER);
        let moved = std::fs::rename(vital, &aside).map_err(AgentError::file("cannot put away", vital));
        match moved.and_then(|()| durable::sync_parent(vital)) {
            Err(error) if vital.exists() => {
                tracing::error!(error = %Chain(&error), "a restored database that is not proven could still be started");
                format!("{target} is not usable and stays marked: {MARKER}")
            }
            _ => format!(
                "{target} is not usable, stays marked with {MARKER} and does not start: it has no {} any more",
                vital.file_name().unwrap_or_default().to_string_lossy()
            ),
        }
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        if !self.proven {
            // Not within the macro, which evaluates nothing when nobody listens.
            let left = self.put_away();
            tracing::warn!("{left}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid() -> tempfile::TempDir {
        let target = tempfile::tempdir().unwrap();
        std::fs::create_dir(target.path().join("global")).unwrap();
        std::fs::write(target.path().join("global/pg_control"), "control").unwrap();
        std::fs::write(target.path().join(MARKER), "incomplete").unwrap();
        target
    }

    #[test]
    fn what_was_not_proven_stays_marked_and_does_not_start() {
        let target = laid();
        drop(Unproven::new(target.path(), Some(Path::new("global/pg_control"))));
        assert!(target.path().join(MARKER).exists());
        assert!(!target.path().join("global/pg_control").exists());
        let aside = target.path().join(format!("global/pg_control.{MARKER}"));
        assert_eq!(std::fs::read(aside).unwrap(), b"control");
        let again = Unproven::new(target.path(), Some(Path::new("global/pg_control")));
        assert!(again.put_away().contains("has no pg_control"), "a second time changes nothing");
    }

    #[tokio::test]
    async fn what_is_proven_loses_its_mark_and_nothing_else() {
        let target = laid();
        Unproven::new(target.path(), Some(Path::new("global/pg_control"))).proven().await.unwrap();
        assert!(!target.path().join(MARKER).exists());
        assert!(target.path().join("global/pg_control").exists());
    }
}
