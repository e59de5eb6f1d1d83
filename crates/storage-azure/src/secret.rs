//! Secrets in files: readable by their owner alone, or not read at all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

/// More than any key, signature or certificate with its key.
const LENGTH_MAX: u64 = 64 * 1024;

/// The text in `path` without white space at its ends; what is wrong with it otherwise, for people.
pub(crate) async fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let about = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(about)?;
    let metadata = file.metadata().await.map_err(about)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("others can read {0} (hint: chmod 600 {0})", path.display()));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LENGTH_MAX).read_to_string(&mut text).await.map_err(about)?;
    match text.trim() {
        "" => Err(format!("{} is empty", path.display())),
        secret => Ok(Zeroizing::new(secret.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[tokio::test]
    async fn what_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "secret\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).await.unwrap_err().contains("chmod 600"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(*read(&path).await.unwrap(), "secret");
        fs::write(&path, " \n").unwrap();
        assert!(read(&path).await.unwrap_err().contains("is empty"));
        assert!(read(&dir.path().join("none")).await.unwrap_err().contains("cannot read"));
    }
}
