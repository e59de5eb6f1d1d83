//! Who owns what is laid.

use std::collections::HashMap;
use std::path::Path;

use super::attributes::Metadata;

/// Whom restored files belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnerBy {
    /// The numbers that the snapshot holds.
    #[default]
    Number,
    /// The user and group of this host that have the names of the snapshot; the numbers where it holds no name.
    Name,
    /// Whoever runs the restore.
    Nobody,
}

/// The rule, and the names of this host.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    by: OwnerBy,
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

/// Whom an entry is to belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// A name that the snapshot holds is not known here, so that a number stands for it.
    pub(crate) unknown_name: bool,
}

impl Owners {
    /// The names come from the files in `etc`; users that only a directory service knows have their numbers.
    pub(crate) fn new(by: OwnerBy, etc: &Path) -> Owners {
        let read = |file: &str| match by {
            OwnerBy::Name => names(&std::fs::read_to_string(etc.join(file)).unwrap_or_default()),
            OwnerBy::Number | OwnerBy::Nobody => HashMap::new(),
        };
        Owners { by, users: read("passwd"), groups: read("group") }
    }

    /// The owner of an entry; none where the one who restores keeps it.
    pub(crate) fn wanted(&self, metadata: &Metadata) -> Option<Owner> {
        let more = metadata.more.as_deref();
        let numbers = Owner { uid: metadata.uid, gid: metadata.gid, unknown_name: false };
        match self.by {
            OwnerBy::Nobody => None,
            OwnerBy::Number => Some(numbers),
            OwnerBy::Name => {
                let user = more.and_then(|more| more.user.as_ref());
                let group = more.and_then(|more| more.group.as_ref());
                let (uid, gid) = (user.map(|name| self.users.get(name)), group.map(|name| self.groups.get(name)));
                Some(Owner {
                    uid: uid.flatten().copied().unwrap_or(metadata.uid),
                    gid: gid.flatten().copied().unwrap_or(metadata.gid),
                    unknown_name: uid == Some(None) || gid == Some(None),
                })
            }
        }
    }
}

/// Name and number of each line of a passwd or group file.
fn names(text: &str) -> HashMap<String, u32> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use breakwater_core::{Attributes, Timestamp};

    use super::*;

    #[test]
    fn owners_by_name_and_number() {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join("passwd"), "root:x:0:0::/:/bin/sh\nada:x:1234:5::/:/bin/sh\nbroken\n").unwrap();
        std::fs::write(etc.path().join("group"), "staff:x:77:ada\n").unwrap();
        let named = |user: &str, group: &str| Metadata {
            mode: 0,
            uid: 9,
            gid: 8,
            mtime: Timestamp(0),
            more: Some(Box::new(Attributes {
                user: Some(user.to_owned()),
                group: Some(group.to_owned()),
                ..Attributes::default()
            })),
        };
        let owner = |uid, gid, unknown_name| Some(Owner { uid, gid, unknown_name });
        let by = |by| Owners::new(by, etc.path());
        assert_eq!(by(OwnerBy::Name).wanted(&named("ada", "staff")), owner(1234, 77, false));
        assert_eq!(by(OwnerBy::Name).wanted(&named("bob", "staff")), owner(9, 77, true));
        assert_eq!(by(OwnerBy::Name).wanted(&Metadata { more: None, ..named("", "") }), owner(9, 8, false));
        assert_eq!(by(OwnerBy::Number).wanted(&named("ada", "staff")), owner(9, 8, false));
        assert_eq!(by(OwnerBy::Nobody).wanted(&named("ada", "staff")), None);
    }
}
