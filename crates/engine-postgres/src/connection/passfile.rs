//! Passwords that stand in files.
//!
//! Invariant: a file that others on the machine can read is refused rather than used.

use std::path::Path;

use super::ConnectionError;

/// The content of a file that only its owner can read.
pub(super) async fn read_private(path: &Path) -> Result<String, ConnectionError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| ConnectionError::PasswordFile { path: path.to_owned(), source };
    let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(ConnectionError::PasswordFileOpen { path: path.to_owned() });
    }
    tokio::fs::read_to_string(path).await.map_err(failed)
}

/// The password of the first line of a libpq password file that fits: `host:port:database:user:password`, where `*` fits
/// anything and a backslash takes the next character as it is.
pub(super) fn look_up(content: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    let wanted = [host, &port, database, user];
    content.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line);
        let (patterns, password) = fields.split_at_checked(4)?;
        let fits = patterns.iter().zip(wanted).all(|(pattern, value)| pattern == "*" || pattern == value);
        fits.then(|| password.join(":")).filter(|password| !password.is_empty())
    })
}

fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.trim_end_matches('\r').chars();
    while let Some(c) = chars.next() {
        match (c, fields.last_mut()) {
            (':', _) => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(chars.next()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_wins() {
        let content = "# note\nlocalhost:5432:app:bob:one\n*:*:*:bob:t\\:w\\\\o\nshort:line\n";
        assert_eq!(look_up(content, "localhost", 5432, "app", "bob").as_deref(), Some("one"));
        assert_eq!(look_up(content, "localhost", 5432, "replication", "bob").as_deref(), Some("t:w\\o"));
        assert_eq!(look_up(content, "localhost", 5432, "app", "eve"), None);
    }
}
