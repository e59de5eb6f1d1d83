//! The key files of this host, found by the repository that they are for.
//!
//! Invariant: a key file that others on the host could read is refused, not used with a warning.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use breakwater_core::{Chain, RepositoryId};
use breakwater_crypto::{KeyKind, ReaperKey, RecipientKey, WriterKey, key_kind};
use breakwater_repository::Access;

use crate::error::AgentError;

/// Where key files lie. Files are read each time they are needed, so that a key laid down later is found.
#[derive(Clone, Debug)]
pub struct Keyring {
    directory: PathBuf,
}

/// The keys of one repository on this host.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Adds backups.
    pub writer: Option<WriterKey>,
    /// Opens everything.
    pub recipient: Option<RecipientKey>,
    /// Lists and deletes.
    pub reaper: Option<ReaperKey>,
}

impl Keyring {
    /// The key files in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Keyring { directory: directory.into() }
    }

    /// Where they lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The keys of `repository`. A bad file of another repository is skipped with a line in the log; it is an error when no
    /// key is found, because it may have been that one.
    pub fn of(&self, repository: RepositoryId) -> Result<Keys, AgentError> {
        let mut keys = Keys::default();
        let mut troubles = Vec::new();
        for path in self.files()? {
            match read(&path) {
                Ok(Access::Writer(key)) if key.repository == repository => keys.writer = Some(key),
                Ok(Access::Recipient(key)) if key.repository == repository => keys.recipient = Some(key),
                Ok(Access::Reaper(key)) if key.repository == repository => keys.reaper = Some(key),
                Ok(_) => {}
                Err(error) => troubles.push(Chain(&error).to_string()),
            }
        }
        if keys.writer.is_none() && keys.recipient.is_none() && keys.reaper.is_none() {
            let unusable = if troubles.is_empty() { String::new() } else { format!("; {}", troubles.join("; ")) };
            return Err(AgentError::Denied(format!(
                "no key of repository {repository} in {}{unusable} (hint: put the writer key that `repository create` \
                 made there, mode 0600)",
                self.directory.display()
            )));
        }
        for trouble in troubles {
            tracing::warn!(error = trouble, "a key file is not used");
        }
        Ok(keys)
    }

    fn files(&self) -> Result<Vec<PathBuf>, AgentError> {
        let listed = match std::fs::read_dir(&self.directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(AgentError::file("cannot list", &self.directory)(error)),
        };
        let mut files = Vec::new();
        for entry in listed {
            let path = entry.map_err(AgentError::file("cannot list", &self.directory))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

impl Keys {
    /// For adding: the writer key alone where there is one, so that what needs no more does not hold more.
    pub fn for_writing(&self) -> Option<Access> {
        self.writer.clone().map(Access::Writer).or_else(|| self.recipient.clone().map(Access::Recipient))
    }

    /// For deleting: the key that can do nothing else where there is one.
    pub fn for_deleting(&self) -> Option<Access> {
        self.reaper.clone().map(Access::Reaper).or_else(|| self.for_writing())
    }

    /// For opening content.
    pub fn for_restoring(&self) -> Option<Access> {
        self.recipient.clone().map(Access::Recipient)
    }
}

/// Reads one key file that only its owner can read.
pub fn read(path: &Path) -> Result<Access, AgentError> {
    let metadata = std::fs::metadata(path).map_err(AgentError::file("cannot read", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AgentError::Denied(format!(
            "key file {} can be read by others: mode {mode:04o} (hint: chmod 600 {})",
            path.display(),
            path.display()
        )));
    }
    Ok(match key_kind(path)? {
        KeyKind::Writer => Access::Writer(WriterKey::read(path)?),
        KeyKind::Recipient => Access::Recipient(RecipientKey::read(path)?),
        KeyKind::Reaper => Access::Reaper(ReaperKey::read(path)?),
        KeyKind::Share | KeyKind::Identity | KeyKind::Grant => {
            return Err(AgentError::Denied(format!(
                "{} opens nothing by itself: it is a share of a key, an identity or a grant (hint: `brctl --offline --key` \
                 takes these)",
                path.display()
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use breakwater_core::ErrorClass;
    use breakwater_crypto::{Fingerprint, RecipientSecret};
    use breakwater_runtime::SystemEntropy;

    use super::*;

    fn key(id: u8) -> RecipientKey {
        let secret = RecipientSecret::generate(&SystemEntropy);
        let (repository, fingerprint) = (RepositoryId::from_bytes([id; 16]), Fingerprint([id; 32]));
        RecipientKey { repository, fingerprint, name: "primary".to_owned(), secret }
    }

    #[test]
    fn keys_are_found_by_repository_and_open_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Keyring::new(directory.path());
        let (one, two) = (key(1), key(2));
        let paths = [directory.path().join("one.json"), directory.path().join("two.json")];
        one.write_new(&paths[0]).unwrap();
        two.write_new(&paths[1]).unwrap();
        std::fs::write(directory.path().join("notes.txt"), "not a key").unwrap();
        assert_eq!(keyring.of(one.repository).unwrap().recipient, Some(one.clone()));
        assert_eq!(keyring.of(two.repository).unwrap().recipient, Some(two.clone()));

        set_permissions(&paths[1], Permissions::from_mode(0o640)).unwrap();
        assert_eq!(keyring.of(one.repository).unwrap().recipient, Some(one.clone()), "the other is not affected");
        let refused = keyring.of(two.repository).unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Denied);
        assert!(refused.to_string().contains("chmod 600") && refused.to_string().contains("0640"), "{refused}");
    }

    #[test]
    fn a_missing_key_says_where_to_put_it() {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Keyring::new(directory.path().join("absent"));
        let text = keyring.of(RepositoryId::from_bytes([7; 16])).unwrap_err().to_string();
        assert!(text.contains("absent") && text.contains("writer key"), "{text}");
    }
}
