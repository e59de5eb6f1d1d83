//! Temporary directories that the servers' users can reach.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::user::is_root;

/// A new temporary directory whose name contains `label`; removed with everything in it when dropped. Under root it is open to
/// every user, because the servers run as others. Its path is short enough for Unix sockets.
pub fn temp_dir(label: &str) -> Result<TempDir> {
    let dir =
        tempfile::Builder::new().prefix(&format!("bw-{label}-")).tempdir().context("make a temporary directory")?;
    if is_root() {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("open {} to every user", dir.path().display()))?;
    }
    Ok(dir)
}

/// The last `lines` lines of a text file, for messages about a server that failed; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
