//! Static credentials from a file of the AWS form (`[default]`, `aws_access_key_id = …`), which only its owner may read.
//!
//! The file is read again whenever the SDK asks, at least every quarter of an hour, so that keys which somebody else renews in it are
//! taken up without a restart.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

/// Permissions that others must not have on a file of secrets.
const OTHERS: u32 = 0o077;

/// Credentials in a file.
#[derive(Debug)]
pub(crate) struct CredentialsFile {
    path: PathBuf,
    profile: String,
}

/// Why a file of credentials is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadCredentialsFile {
    #[error("the file of credentials {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("others can read the file of credentials {} (hint: chmod 600 {})", path.display(), path.display())]
    Open { path: PathBuf },
}

impl CredentialsFile {
    /// The credentials of `profile` in the file `path`.
    pub(crate) fn new(path: &Path, profile: Option<&str>) -> Result<CredentialsFile, BadCredentialsFile> {
        check(path)?;
        Ok(CredentialsFile { path: path.to_owned(), profile: profile.unwrap_or("default").to_owned() })
    }
}

fn check(path: &Path) -> Result<(), BadCredentialsFile> {
    let unreadable = |source| BadCredentialsFile::Unreadable { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & OTHERS == 0 { Ok(()) } else { Err(BadCredentialsFile::Open { path: path.to_owned() }) }
}

impl ProvideCredentials for CredentialsFile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            check(&self.path).map_err(CredentialsError::invalid_configuration)?;
            let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, &self.path).build();
            let file =
                ProfileFileCredentialsProvider::builder().profile_files(files).profile_name(&self.profile).build();
            file.provide_credentials().await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn the_file_is_read_each_time_and_must_be_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let write = |key: &str| {
            let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n[other]\n");
            std::fs::write(&path, text).unwrap();
        };
        assert!(CredentialsFile::new(&path, None).unwrap_err().to_string().contains("cannot be read"));
        write("first");
        set_mode(&path, 0o640);
        assert!(CredentialsFile::new(&path, None).unwrap_err().to_string().contains("chmod 600"));
        set_mode(&path, 0o600);
        let file = CredentialsFile::new(&path, None).unwrap();
        assert_eq!(file.provide_credentials().await.unwrap().access_key_id(), "first");
        write("second");
        assert_eq!(file.provide_credentials().await.unwrap().access_key_id(), "second");
        set_mode(&path, 0o604);
        assert!(file.provide_credentials().await.is_err(), "it must stay private");
        set_mode(&path, 0o600);
        assert!(CredentialsFile::new(&path, Some("other")).unwrap().provide_credentials().await.is_err());
    }
}
