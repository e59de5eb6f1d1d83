//! The syntax of PostgreSQL's configuration files, as far as a restore writes and mends them.

use std::path::Path;

/// Settings of a recovery. At most one target may be set, so those of an earlier recovery must not be found.
const RECOVERY: [&str; 12] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "restore_command",
];

/// One line of a configuration file. Quotes and backslashes in the value are escaped.
pub(crate) fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// One word of a shell command, whatever is in it.
pub(crate) fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The `restore_command` that runs `program` with the socket of a fetch server, or without one. `%` is special there.
pub(crate) fn restore_command(program: &Path, socket: Option<&Path>) -> String {
    let word = |path: &Path| shell_word(&path.display().to_string()).replace('%', "%%");
    match socket {
        Some(socket) => format!("{} wal-fetch --socket {} %f %p", word(program), word(socket)),
        None => format!("{} wal-fetch %f %p", word(program)),
    }
}

/// Comments out every setting of an earlier recovery; `None` when there is none.
pub(crate) fn without_recovery_settings(text: &str) -> Option<String> {
    let mut changed = false;
    let mended: String = text
        .split_inclusive('\n')
        .map(|line| {
            if is_recovery_setting(line) {
                changed = true;
                format!("# taken out by breakwater restore: {line}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    changed.then_some(mended)
}

fn is_recovery_setting(line: &str) -> bool {
    let line = line.trim_start();
    let name: String =
        line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>().to_ascii_lowercase();
    RECOVERY.contains(&name.as_str()) || name == "recovery_target_timeline"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        assert_eq!(line("a", "it's a \\ b"), "a = 'it''s a \\\\ b'\n");
        let command = restore_command(Path::new("/opt/it's 100%/agent"), Some(Path::new("/run/x")));
        assert_eq!(command, r"'/opt/it'\''s 100%%/agent' wal-fetch --socket '/run/x' %f %p");
    }

    #[test]
    fn earlier_recoveries_are_commented_out_and_nothing_else() {
        let text = "# Do not edit\nwork_mem = '4MB'\nrestore_command = 'cp /a/%f %p'\n  Recovery_Target_Time='x'\n\
            #recovery_target_xid = '1'\nrecovery_prefetch = 'on'\nrecovery_target_timeline = 'latest'";
        let mended = without_recovery_settings(text).unwrap();
        assert_eq!(
            mended,
            "# Do not edit\nwork_mem = '4MB'\n# taken out by breakwater restore: restore_command = 'cp /a/%f %p'\n\
             # taken out by breakwater restore:   Recovery_Target_Time='x'\n#recovery_target_xid = '1'\nrecovery_prefetch = 'on'\n\
             # taken out by breakwater restore: recovery_target_timeline = 'latest'"
        );
        assert_eq!(without_recovery_settings("work_mem = '4MB'\n"), None);
    }
}
