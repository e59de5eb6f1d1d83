//! Everything that a file tree keeps comes back, or is counted as what could not.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use breakwater_core::{Attributes, DeviceNumber};
use breakwater_engine::{Chunking, EntryKind};
use breakwater_pipeline::restore::{OwnerBy, run_restore};

use crate::lab::{EXTENT, Lab};
use crate::shelf::{Shelf, entry, file};
use crate::tree::noise;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_links_holes_pipes_and_attributes_come_back() {
    let lab = Lab::new(1).await;
    let mut sparse = vec![0; EXTENT * 8];
    sparse[EXTENT * 3 + 100] = 7;
    let attributes = Attributes {
        nanos: 789,
        sparse: true,
        xattrs: vec![(b"user.colour".to_vec(), b"blue\0green".to_vec())],
        ..Attributes::default()
    };
    let mut dressed = file("d/a-sparse", sparse.clone(), Chunking::Extents);
    dressed.attributes = attributes;
    let mut directory = entry("d", EntryKind::Directory);
    (directory.mode, directory.attributes.nanos) = (0o2750, 5);
    let mut link = entry("d/link", EntryKind::Symlink { target: b"../../outside".to_vec() });
    link.attributes.nanos = 3;
    let mut setuid = file("d/tool", noise(1, 100), Chunking::Extents);
    setuid.mode = 0o4755;
    let shelf = vec![
        directory,
        dressed,
        file("d/base", noise(2, EXTENT * 3 + 5), Chunking::Extents),
        entry("d/door", EntryKind::Socket),
        link,
        entry("d/name", EntryKind::Hardlink { target: b"d/base".to_vec() }),
        entry("d/pipe", EntryKind::Fifo),
        setuid,
        entry("z", EntryKind::Hardlink { target: b"d/base".to_vec() }),
    ];
    let manifest = lab.backup(Shelf(shelf)).await.manifest;
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("t");
    let report = run_restore(lab.restore_job(&manifest, target.clone())).await.unwrap();
    let meta = |path: &str| std::fs::symlink_metadata(target.join(path)).unwrap();
    assert_eq!(std::fs::read(target.join("d/a-sparse")).unwrap(), sparse);
    let holes = meta("d/a-sparse");
    assert_eq!((holes.mtime(), holes.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert!(holes.blocks() * 512 <= (EXTENT * 2) as u64, "{} blocks", holes.blocks());
    assert_eq!((meta("d").mode() & 0o7777, meta("d").mtime_nsec()), (0o2750, 123_456_005));
    assert_eq!(meta("d/link").mtime_nsec(), 123_456_003);
    assert_eq!(meta("d/tool").mode() & 0o7777, 0o4755);
    assert_eq!(meta("d/base").ino(), meta("d/name").ino());
    assert_eq!((meta("d/base").ino(), meta("z").nlink()), (meta("z").ino(), 3));
    assert!(meta("d/pipe").file_type().is_fifo() && meta("d/door").file_type().is_socket());
    assert_eq!((meta("d/pipe").mode() & 0o777, meta("d/pipe").mtime()), (0o640, 1_700_000_000));
    let mut value = [0; 32];
    match rustix::fs::getxattr(target.join("d/a-sparse"), "user.colour", &mut value[..]) {
        Ok(length) => assert_eq!((&value[..length], report.shortfalls.len()), (&b"blue\0green"[..], 0)),
        // A file system without them: it is told.
        Err(_) => assert!(report.shortfalls.iter().any(|one| one.what.contains("user.colour") && one.count == 1)),
    }
    let left = std::fs::read_dir(target.join("d")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).filter(|name| name.len() > 20).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_put_back_is_counted() {
    let lab = Lab::new(1).await;
    let mut owned = file("a", noise(1, 50), Chunking::Extents);
    owned.attributes.xattrs = vec![(b"nonsense.name".to_vec(), b"x".to_vec())];
    owned.attributes.user = Some("nobody-has-this-name".to_owned());
    let mut second = file("b", noise(2, 50), Chunking::Extents);
    (second.uid, second.gid) = (12_345, 54_321);
    let null = entry("null", EntryKind::CharDevice(DeviceNumber { major: 1, minor: 3 }));
    let manifest = lab.backup(Shelf(vec![owned, second, null])).await.manifest;
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("t");
    let mut job = lab.restore_job(&manifest, target.clone());
    job.owner = OwnerBy::Name;
    let report = run_restore(job).await.unwrap();
    let count = |part: &str| report.shortfalls.iter().filter(|one| one.what.contains(part)).map(|one| one.count).sum();
    assert_eq!(
        (count("nonsense.name"), count("its name is not known here")),
        (1_u64, 1_u64),
        "{:?}",
        report.shortfalls
    );
    let privileged = rustix::process::geteuid().is_root();
    let meta = std::fs::metadata(target.join("b")).unwrap();
    assert_eq!((meta.uid(), meta.gid()) == (12_345, 54_321), privileged);
    assert_eq!(count("owner not set"), u64::from(!privileged));
    assert_eq!(count("device not made"), u64::from(!target.join("null").exists()));
    let mut job = lab.restore_job(&manifest, root.path().join("mine"));
    job.owner = OwnerBy::Nobody;
    run_restore(job).await.unwrap();
    let meta = std::fs::metadata(root.path().join("mine/b")).unwrap();
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chosen_name_of_a_file_that_was_not_chosen_has_its_content() {
    let lab = Lab::new(1).await;
    let content = noise(3, EXTENT * 2);
    let shelf = vec![
        entry("a", EntryKind::Directory),
        file("a/file", content.clone(), Chunking::Extents),
        entry("b", EntryKind::Directory),
        entry("b/first", EntryKind::Hardlink { target: b"a/file".to_vec() }),
        entry("b/second", EntryKind::Hardlink { target: b"a/file".to_vec() }),
    ];
    let manifest = lab.backup(Shelf(shelf)).await.manifest;
    let root = tempfile::tempdir().unwrap();
    let mut job = lab.restore_job(&manifest, root.path().join("t"));
    job.only = vec!["b".to_owned()];
    run_restore(job).await.unwrap();
    assert!(!root.path().join("t/a").exists());
    let meta = |path: &str| std::fs::metadata(root.path().join("t/b").join(path)).unwrap();
    assert_eq!(std::fs::read(root.path().join("t/b/second")).unwrap(), content);
    assert_eq!((meta("first").ino(), meta("first").nlink()), (meta("second").ino(), 2));
}
