//! Where the programs of a PostgreSQL version lie.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use breakwater_engine::{EngineError, EngineErrorKind};

/// Finds the directory of the `postgres` program of a major version: the one given, else the usual places. Blocking.
///
/// # Errors
/// When none of them holds that version; the message lists the places.
pub fn find_programs(major: u32, given: Option<&Path>) -> Result<PathBuf, EngineError> {
    let mut looked = Vec::new();
    for place in places(major, given) {
        let found = match version_of(&place.join("postgres")) {
            Some(version) if version == major => return Ok(place),
            Some(version) => format!("{} (version {version})", place.display()),
            None => place.display().to_string(),
        };
        looked.push(found);
    }
    let what = format!("PostgreSQL {major} is not installed here; looked in {}", looked.join(", "));
    Err(EngineError::new(EngineErrorKind::Refused, what)
        .hint(format!("install it (Debian: apt install postgresql-{major}), or name the directory of its programs")))
}

fn places(major: u32, given: Option<&Path>) -> Vec<PathBuf> {
    if let Some(given) = given {
        return vec![given.to_owned()];
    }
    let usual = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        "/usr/local/pgsql/bin".to_owned(),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    usual.into_iter().map(PathBuf::from).chain(std::env::split_paths(&path).filter(|dir| dir.is_absolute())).collect()
}

/// The major version that a `postgres` program says it has.
fn version_of(program: &Path) -> Option<u32> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `postgres (PostgreSQL) 18beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("bash 5"), None);
    }

    #[test]
    fn what_is_missing_is_named_with_the_places() {
        let dir = tempfile::tempdir().unwrap();
        let error = find_programs(15, Some(dir.path())).unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Refused);
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        let error = find_programs(99, None).unwrap_err();
        assert!(error.to_string().contains("/usr/lib/postgresql/99/bin"), "{error}");
    }
}
