//! Putting files back: what was laid is what there is; a directory tree needs no recovery.

use std::path::Path;

use breakwater_engine::{EngineError, EngineErrorKind, RecoveryOutcome, RecoveryRequest, RecoveryTarget, Restorer};

use crate::engine::blocking;
use crate::facts::Facts;

/// Restores file trees.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilesRestorer;

#[async_trait::async_trait]
impl Restorer for FilesRestorer {
    async fn check_target(&self, target: &Path, facts: &serde_json::Value) -> Result<(), EngineError> {
        drop(Facts::of_json(facts)?);
        let target = target.to_owned();
        blocking(move || check_target(&target)).await
    }

    async fn recover(&self, request: RecoveryRequest) -> Result<RecoveryOutcome, EngineError> {
        check_stop(&request.stop)?;
        let facts = Facts::of_json(&request.facts)?;
        let names: Vec<String> =
            facts.roots.into_iter().map(|root| format!("{} (was {})", root.name, root.path)).collect();
        let checks =
            vec![format!("every file was proven by its hash as it was laid; directories: {}", names.join(", "))];
        Ok(RecoveryOutcome { reached: None, last_transaction: None, checks })
    }

    async fn prepare(&self, request: RecoveryRequest) -> Result<(), EngineError> {
        check_stop(&request.stop)
    }
}

fn check_stop(stop: &RecoveryTarget) -> Result<(), EngineError> {
    match stop {
        RecoveryTarget::End | RecoveryTarget::Consistent => Ok(()),
        _ => Err(EngineError::new(
            EngineErrorKind::Refused,
            "a source of files has no continuous log to restore a moment from",
        )
        .hint("restore a snapshot: `--latest` or `--snapshot ID`")),
    }
}

fn check_target(target: &Path) -> Result<(), EngineError> {
    let refuse = |what: String, hint: &str| Err(EngineError::new(EngineErrorKind::Refused, what).hint(hint));
    let directory = match std::fs::metadata(target) {
        Ok(metadata) if !metadata.is_dir() => {
            return refuse(format!("the target is not a directory: {}", target.display()), "name a directory");
        }
        Ok(_) => target.to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !parent.is_dir() {
                return refuse(
                    format!("no such directory: {}", parent.display()),
                    "make it first, or choose another target",
                );
            }
            parent.to_owned()
        }
        Err(error) => return Err(EngineError::io(format!("cannot look at the target: {}", target.display()), error)),
    };
    rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(|error| {
        EngineError::io(format!("cannot write into the target: {}", directory.display()), error.into())
            .hint("run the restore as a user who may, or choose another target")
    })
}
