//! What is listed, with which metadata.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;

use breakwater_engine::{Chunking, EntryKind};

use crate::kit::{Lab, everything, set_mtime};

#[tokio::test]
async fn every_kind_with_its_metadata() {
    let lab = Lab::new();
    let root = lab.root("docs");
    everything(&root);
    std::fs::set_permissions(root.join("a-b/two"), std::fs::Permissions::from_mode(0o6751)).unwrap();
    set_mtime(&root.join("a-b/two"), 1_700_000_000, 123_456_789);
    let taken = lab.take(&lab.settings(&["docs"]), None).await;

    let two = taken.entry("docs/a-b/two");
    assert!(matches!(two.kind, EntryKind::File { size: 2, chunking: Chunking::ContentDefined, .. }));
    assert_eq!((two.mode, two.mtime.as_micros(), two.attributes.nanos), (0o6751, 1_700_000_000_123_456, 789));
    assert_eq!(two.uid, rustix::process::getuid().as_raw());
    assert!(two.attributes.born.is_some());
    assert!(two.tolerant);
    if rustix::process::getuid().is_root() {
        assert_eq!(two.attributes.user.as_deref(), Some("root"));
        assert_eq!(two.attributes.group.as_deref(), Some("root"));
        let EntryKind::CharDevice(null) = taken.entry("docs/null").kind else { panic!("a device") };
        assert_eq!((null.major, null.minor), (1, 3));
        assert!(matches!(taken.entry("docs/disk").kind, EntryKind::BlockDevice(number) if number.minor == 200));
    }
    let coloured = &taken.entry("docs/a-b/hard").attributes;
    assert!(coloured.xattrs.contains(&(b"user.colour".to_vec(), b"blue".to_vec())), "of the file, whatever its name");
    let target = |path: &str| match &taken.entry(path).kind {
        EntryKind::Symlink { target } | EntryKind::Hardlink { target } => String::from_utf8(target.clone()).unwrap(),
        other => panic!("{path} is a link: {other:?}"),
    };
    // The first name in the order of the tree carries the content.
    assert_eq!(taken.content("docs/a-b/hard").unwrap(), b"1");
    assert_eq!((target("docs/a/one"), target("docs/z-hard")), ("docs/a-b/hard".to_owned(), "docs/a-b/hard".to_owned()));
    assert_eq!(target("docs/link"), "../outside");
    assert_eq!(target("docs/link-to-directory"), "a");
    assert!(!taken.entries.contains_key("docs/link-to-directory/one"), "links are not followed");
    assert!(matches!(taken.entry("docs/pipe").kind, EntryKind::Fifo));
    assert!(matches!(taken.entry("docs/socket").kind, EntryKind::Socket));
    assert!(matches!(taken.entry("docs").kind, EntryKind::Directory));
    assert!(matches!(taken.entry("docs/empty").kind, EntryKind::Directory));
    assert_eq!(taken.content(r"docs/not \xff utf-8\n").unwrap(), b"bytes");
    assert_eq!(taken.end.unreadable.count, 0);
}

#[tokio::test]
async fn one_name_of_a_hard_linked_file_has_the_content_and_the_others_name_it() {
    let lab = Lab::new();
    let root = lab.root("docs");
    std::fs::create_dir(root.join("d")).unwrap();
    std::fs::write(root.join("d/b"), "content").unwrap();
    std::fs::hard_link(root.join("d/b"), root.join("d-")).unwrap();
    // A name outside the source: the count of names is not reached, and that is fine.
    std::fs::hard_link(root.join("d/b"), lab.path().join("elsewhere")).unwrap();
    let second = lab.root("more");
    std::fs::hard_link(root.join("d/b"), second.join("c")).unwrap();
    let taken = lab.take(&lab.settings(&["docs", "more"]), None).await;
    assert_eq!(taken.content("docs/d-").unwrap(), b"content", "comes first: `-` is before `/`");
    for later in ["docs/d/b", "more/c"] {
        let EntryKind::Hardlink { target } = &taken.entry(later).kind else { panic!("{later}") };
        assert_eq!(target, b"docs/d-");
    }
}

#[tokio::test]
async fn several_directories_are_shown_under_their_names_and_links_to_them_are_followed() {
    let lab = Lab::new();
    std::fs::write(lab.root("real").join("f"), "x").unwrap();
    std::fs::create_dir(lab.path().join("a-b")).unwrap();
    std::os::unix::fs::symlink("real", lab.path().join("a")).unwrap();
    let taken = lab.take(&lab.settings(&["a", "a-b"]), None).await;
    assert_eq!(taken.paths(), ["a", "a-b", "a/f"]);
}

#[tokio::test]
async fn devices_and_other_file_systems_of_the_system_are_listed_and_not_entered() {
    let lab = Lab::new();
    let mut settings = lab.settings(&[]);
    settings.roots = vec![breakwater_engine_files::Root::named_by_path("/dev").unwrap()];
    settings.defaults = false;
    let taken = lab.take(&settings, None).await;
    assert!(matches!(taken.entry("dev/null").kind, EntryKind::CharDevice(_)));
    // Wherever something is mounted below /dev, as /dev/pts or /dev/shm are.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with("/dev/")) {
        let shown = mount.trim_start_matches('/');
        if taken.entries.contains_key(shown) && std::path::Path::new(mount).is_dir() {
            assert!(taken.excluded("another file system") > 0);
            let below = format!("{shown}/");
            assert!(taken.entries.keys().all(|path| !path.starts_with(&below)), "{mount} is not entered");
        }
    }
}

#[tokio::test]
async fn names_that_only_the_kernel_likes() {
    let lab = Lab::new();
    let root = lab.root("docs");
    let long = "x".repeat(255);
    for name in [b"\x01\x02".as_slice(), b"...", b"-rf", b" ", b"%41", b"\\", long.as_bytes()] {
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let taken = lab.take(&lab.settings(&["docs"]), None).await;
    assert_eq!(taken.entries.len(), 8);
    for (path, entry) in taken.entries.iter().filter(|(path, _)| *path != "docs") {
        let name = entry.path.strip_prefix(b"docs/").unwrap();
        assert_eq!(taken.content(path).unwrap(), name);
    }
}
