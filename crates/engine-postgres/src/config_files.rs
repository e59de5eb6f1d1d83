//! Configuration files that lie outside of the data directory, as on Debian. They are kept as facts of the backup, never
//! mixed into the data directory silently.

use std::path::{Path, PathBuf};

use breakwater_engine::EngineError;

use crate::connection::SqlClient;
use crate::facts::ConfigFile;
use crate::failure::{blocking, of_sql};

/// A longer file is not kept: it would weigh down every manifest.
const LIMIT: u64 = 256 << 10;
/// More files than anybody's configuration has.
const MOST: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub files: Vec<ConfigFile>,
    pub warnings: Vec<String>,
}

/// Reads every configuration file that the server uses and that lies outside of `directory`.
pub(crate) async fn outside(client: &SqlClient, directory: &Path) -> Result<Outside, EngineError> {
    let rows = client
        .query(
            "SELECT setting FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') AND setting <> '' \
             UNION SELECT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL",
            &[],
        )
        .await
        .map_err(|error| of_sql("cannot ask for the configuration files", error))?;
    let paths: Vec<PathBuf> = rows.iter().map(|row| PathBuf::from(row.get::<_, String>(0))).collect();
    let directory = directory.to_owned();
    blocking(move || Ok(read(paths, &directory))).await
}

fn read(mut paths: Vec<PathBuf>, directory: &Path) -> Outside {
    let mut found = Outside::default();
    let inside = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    paths.sort();
    if paths.len() > MOST {
        found
            .warnings
            .push(format!("{} configuration files are outside of the data directory; {MOST} are kept", paths.len()));
        paths.truncate(MOST);
    }
    for path in paths {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        if real.starts_with(&inside) || path.starts_with(directory) {
            continue;
        }
        let text = std::fs::metadata(&real).and_then(|metadata| {
            if metadata.len() > LIMIT {
                return Err(std::io::Error::other(format!("it has more than {LIMIT} bytes")));
            }
            std::fs::read_to_string(&real)
        });
        match text {
            Ok(text) => found.files.push(ConfigFile { path: path.display().to_string(), text }),
            // The data can be restored without it, so this does not spoil the backup.
            Err(error) => {
                found.warnings.push(format!("a configuration file is not in the backup: {}: {error}", path.display()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_outside_is_kept() {
        let (data, etc) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |dir: &tempfile::TempDir, name: &str, text: &[u8]| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let long = vec![b'#'; 300 << 10];
        let paths = vec![
            put(&data, "postgresql.auto.conf", b"a = 1"),
            put(&etc, "postgresql.conf", b"b = 2"),
            put(&etc, "long.conf", &long),
            etc.path().join("missing.conf"),
        ];
        let found = read(paths, data.path());
        assert_eq!(found.files.len(), 1);
        assert_eq!(found.files[0].text, "b = 2");
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
    }
}
