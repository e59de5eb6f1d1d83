//! Whether a restore may be laid onto what its target holds.

use std::path::Path;

use breakwater_pipeline::restore::{MARKER, Onto, OwnerBy};

use crate::error::AgentError;
use crate::wiring;

/// Reads the words of a request for what may lie in the target: nothing, `delta` or `resume`.
pub fn onto(word: &str, delete_extra: bool) -> Result<Onto, AgentError> {
    match (word, delete_extra) {
        ("", false) => Ok(Onto::Nothing),
        ("resume", false) => Ok(Onto::Unfinished),
        ("delta", delete_extra) => Ok(Onto::Copy { delete_extra }),
        ("" | "resume", true) => Err(AgentError::Invalid(
            "only a restore onto a copy can remove what the snapshot does not have (hint: --delta)".to_owned(),
        )),
        _ => Err(AgentError::Invalid(format!("`{word}` is no way to enter a target (hint: delta or resume)"))),
    }
}

/// Reads the word for whom restored files belong to; nothing is `number`.
pub fn owner(word: &str) -> Result<OwnerBy, AgentError> {
    match word {
        "" | "number" => Ok(OwnerBy::Number),
        "name" => Ok(OwnerBy::Name),
        "nobody" => Ok(OwnerBy::Nobody),
        _ => Err(AgentError::Invalid(format!("`{word}` says nobody (hint: number, name or nobody)"))),
    }
}

/// Refuses what must not be restored onto what lies in `target`, for a source of this kind. Answers whether the engine has to
/// look at it as at a new one.
pub(super) fn check(target: &Path, onto: Onto, kind: &str, vital: bool, recover: bool) -> Result<bool, AgentError> {
    let marked = target.join(MARKER).symlink_metadata().is_ok();
    if onto == Onto::Nothing {
        if marked {
            return Err(AgentError::Refused(format!(
                "{} holds an unfinished restore (hint: --resume continues it; or remove the directory)",
                target.display()
            )));
        }
        return Ok(true);
    }
    let holds_something = std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some());
    if !holds_something {
        return Ok(true);
    }
    if let Some(running) = wiring::running_in(kind, target) {
        return Err(AgentError::Refused(format!(
            "{} is in use: {running} (hint: stop it first, or restore into another directory)",
            target.display()
        )));
    }
    if vital && recover && onto == (Onto::Copy { delete_extra: false }) {
        return Err(AgentError::Refused(
            "a database with files in it that its snapshot does not have is not that database (hint: --delete-extra removes \
             them, --no-recover leaves them and lays files only)"
                .to_owned(),
        ));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(onto("", false).unwrap(), Onto::Nothing);
        assert_eq!(onto("resume", false).unwrap(), Onto::Unfinished);
        assert_eq!(onto("delta", true).unwrap(), Onto::Copy { delete_extra: true });
        assert!(onto("", true).is_err() && onto("resume", true).is_err() && onto("over", false).is_err());
        assert_eq!(owner("").unwrap(), OwnerBy::Number);
        assert_eq!(owner("name").unwrap(), OwnerBy::Name);
        assert!(owner("ada").is_err());
    }

    #[test]
    fn what_may_be_restored_onto() {
        let target = tempfile::tempdir().unwrap();
        let check = |onto, recover| check(target.path(), onto, "postgres", true, recover);
        let copy = |delete_extra| Onto::Copy { delete_extra };
        assert!(check(copy(false), true).unwrap(), "an empty one is a new one");
        std::fs::write(target.path().join("PG_VERSION"), "15\n").unwrap();
        assert!(check(Onto::Nothing, true).unwrap(), "the engine refuses it");
        assert!(check(copy(false), true).is_err());
        assert!(!check(copy(true), true).unwrap() && !check(copy(false), false).unwrap());
        std::fs::write(target.path().join("postmaster.pid"), format!("{}\n/srv\n", std::process::id())).unwrap();
        assert!(check(copy(true), true).unwrap_err().to_string().contains("in use"));
        std::fs::write(target.path().join("postmaster.pid"), "999999999\n").unwrap();
        assert!(!check(copy(true), true).unwrap(), "a server that is gone");
        std::fs::write(target.path().join(MARKER), "x").unwrap();
        assert!(check(Onto::Nothing, true).unwrap_err().to_string().contains("--resume"));
    }
}
