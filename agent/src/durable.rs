//! Files of the agent's own that must survive a crash whole: the old content or the new, never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::AgentError;

/// Makes `directory` and what is missing above it, for this user only.
pub(crate) fn make_private_directory(directory: &Path) -> Result<(), AgentError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(AgentError::file("cannot make", directory))
}

/// Writes `content` to `path` through a neighbour and a rename; readable by this user only, durable when this answers.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), AgentError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    write_new(&temporary, content)?;
    fs::rename(&temporary, path).map_err(AgentError::file("cannot replace", path))?;
    sync_parent(path)
}

/// Writes and syncs a file, whatever was there; its name is durable once its directory is synced.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), AgentError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(AgentError::file("cannot write", path))
}

/// Removes a file; one that is gone already is no error.
pub(crate) fn remove(path: &Path) -> Result<(), AgentError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(AgentError::file("cannot remove", path)(error)),
    }
}

/// The content of `path`; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, AgentError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AgentError::file("cannot read", path)(error)),
    }
}

/// Does `work` on files away from the threads that answer others.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(AgentError::Defect(format!("a thread that works on files ended: {error}"))))
}

/// Makes names in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), AgentError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(AgentError::file("cannot sync", parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_replaced_file_is_private_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(b"two".as_slice()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
