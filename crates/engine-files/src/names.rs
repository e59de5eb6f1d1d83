//! The names of users and groups on this host.

use std::collections::HashMap;
use std::path::Path;

/// Names by number, read once for a backup. Only the local files are asked: numbers of a directory service stay numbers.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// The names of this host; none where they cannot be read.
    pub(crate) fn read() -> Names {
        Names { users: read(Path::new("/etc/passwd")), groups: read(Path::new("/etc/group")) }
    }

    /// The user of this number.
    pub(crate) fn user(&self, uid: u32) -> Option<String> {
        self.users.get(&uid).cloned()
    }

    /// The group of this number.
    pub(crate) fn group(&self, gid: u32) -> Option<String> {
        self.groups.get(&gid).cloned()
    }
}

fn read(path: &Path) -> HashMap<u32, String> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

/// Both files begin with name, password and number; the first line of a number counts.
fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
            && let Ok(number) = number.parse()
            && !name.is_empty()
        {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts_and_bad_lines_do_not() {
        let names = parse("root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:\n# comment\nbad\nada:x:1000:1000\n:x:7:\n");
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(names.get(&1000).map(String::as_str), Some("ada"));
        assert_eq!(names.len(), 2);
    }
}
