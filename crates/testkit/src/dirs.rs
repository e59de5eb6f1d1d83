//! Temporary directories that the servers' users can reach, and the cache of `tests/setup`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

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

/// Where `tests/setup` may have put things, the most specific first.
pub(crate) fn caches() -> Vec<PathBuf> {
    let chosen = std::env::var_os("BREAKWATER_TEST_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/breakwater-tests"));
    chosen.into_iter().chain(home).chain([PathBuf::from("/var/cache/breakwater-tests")]).collect()
}
