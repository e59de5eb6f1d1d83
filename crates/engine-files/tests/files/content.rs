//! Reading files that are written, cut, replaced and removed meanwhile.

use std::sync::Arc;

use breakwater_core::Xattrs;
use breakwater_engine::{EngineErrorKind, EntryKind, ExtentReader, Settled};

use rustix::fs::{XattrFlags, setxattr};

use crate::kit::{Lab, Taken, noise, sparse};

fn reader(taken: &Taken, path: &str) -> Arc<dyn ExtentReader> {
    match &taken.entry(path).kind {
        EntryKind::File { reader, .. } => Arc::clone(reader),
        other => panic!("a file: {other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_read_again() {
    let lab = Lab::new();
    let path = lab.root("docs").join("f");
    std::fs::write(&path, noise(50_000)).unwrap();
    let taken = lab.take(&lab.settings(&["docs"]), None).await;
    let reader = reader(&taken, "docs/f");
    let mut buffer = vec![0; 10_000];
    reader.read_at(0, &mut buffer).unwrap();
    std::fs::write(&path, "grown, cut, or written over").unwrap();
    assert_eq!(reader.settle().unwrap(), Settled::Changed { size: 27 });
    assert_eq!(reader.read_at(0, &mut buffer).unwrap().length, 27);
    assert_eq!(reader.settle().unwrap(), Settled::Stable, "the second reading was undisturbed");
    assert_eq!(&buffer[..27], b"grown, cut, or written over");
}

#[tokio::test]
async fn attributes_come_with_the_content_and_belong_to_the_same_state() {
    let lab = Lab::new();
    let root = lab.root("docs");
    let colour = |value: &str| vec![(b"user.colour".to_vec(), value.as_bytes().to_vec())];
    let paint = |name: &str, value: &str| {
        setxattr(root.join(name), "user.colour", value.as_bytes(), XattrFlags::empty()).unwrap();
    };
    std::fs::write(root.join("f"), "content").unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    for name in ["f", "empty"] {
        paint(name, "blue");
    }
    let taken = lab.take(&lab.settings(&["docs"]), None).await;
    let users = |xattrs: &Xattrs| {
        let users = xattrs.iter().filter(|(name, _)| name.starts_with(b"user."));
        users.cloned().collect::<Xattrs>()
    };
    assert_eq!(users(&taken.entry("docs/empty").attributes.xattrs), colour("blue"), "nobody opens an empty file");
    let reader = reader(&taken, "docs/f");
    let mut buffer = [0; 7];
    reader.read_at(0, &mut buffer).unwrap();
    assert_eq!(users(&reader.xattrs().unwrap().unwrap()), colour("blue"));
    paint("f", "green");
    assert_eq!(reader.settle().unwrap(), Settled::Changed { size: 7 }, "a stamp stands for the attributes too");
    reader.read_at(0, &mut buffer).unwrap();
    assert_eq!(users(&reader.xattrs().unwrap().unwrap()), colour("green"));
    assert_eq!(reader.settle().unwrap(), Settled::Stable);
}

#[tokio::test]
async fn a_file_that_was_replaced_after_it_was_listed_is_not_taken_for_what_was_listed() {
    let lab = Lab::new();
    let root = lab.root("docs");
    std::fs::write(root.join("f"), "12345").unwrap();
    let taken = lab.take(&lab.settings(&["docs"]), None).await;
    std::fs::write(root.join("new"), "abcdefgh").unwrap();
    std::fs::rename(root.join("new"), root.join("f")).unwrap();
    let reader = reader(&taken, "docs/f");
    let mut buffer = vec![0; 5];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap().length, 5);
    assert_eq!(reader.settle().unwrap(), Settled::Changed { size: 8 }, "five bytes of eight are no file");
    let mut buffer = vec![0; 8];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap().length, 8);
    assert_eq!((reader.settle().unwrap(), buffer.as_slice()), (Settled::Stable, b"abcdefgh".as_slice()));
}

#[tokio::test]
async fn a_file_that_is_gone_or_became_something_else_is_not_found() {
    let lab = Lab::new();
    let root = lab.root("docs");
    for name in ["gone", "directory", "link", "pipe", "d/below"] {
        std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        std::fs::write(root.join(name), "x").unwrap();
    }
    std::fs::write(lab.path().join("secret"), "secret").unwrap();
    let taken = lab.take(&lab.settings(&["docs"]), None).await;
    for name in ["gone", "directory", "link", "pipe"] {
        std::fs::remove_file(root.join(name)).unwrap();
    }
    std::fs::create_dir(root.join("directory")).unwrap();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    std::fs::rename(root.join("d"), lab.path().join("moved")).unwrap();
    std::os::unix::fs::symlink("../moved", root.join("d")).unwrap();
    for name in ["gone", "directory", "link", "pipe", "d/below"] {
        let error = reader(&taken, &format!("docs/{name}")).read_at(0, &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::NotFound, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_file_that_shrinks_ends_early() {
    let lab = Lab::new();
    let path = lab.root("docs").join("f");
    std::fs::write(&path, noise(50_000)).unwrap();
    let taken = lab.take(&lab.settings(&["docs"]), None).await;
    let reader = reader(&taken, "docs/f");
    let mut buffer = vec![0; 50_000];
    reader.read_at(0, &mut buffer[..10]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert_eq!(reader.read_at(0, &mut buffer).unwrap().length, 100);
    assert_eq!(reader.settle().unwrap(), Settled::Changed { size: 100 });
}

#[tokio::test]
async fn holes_are_known_without_reading() {
    let lab = Lab::new();
    let path = lab.root("docs").join("s");
    sparse(&path);
    let taken = lab.take(&lab.settings(&["docs"]), None).await;
    assert!(taken.entry("docs/s").attributes.sparse);
    let reader = reader(&taken, "docs/s");
    let first = reader.zeros_at(0).unwrap();
    assert!(first > (1 << 20) - 65_536 && first <= 1 << 20, "{first}");
    assert_eq!(reader.zeros_at(1 << 20).unwrap(), 0);
    let end = reader.zeros_at(2 << 20).unwrap();
    assert_eq!(end, 1 << 20, "to the end of the file");
    let mut buffer = vec![1; 3 << 20];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap().length, 3 << 20);
    assert_eq!(buffer, std::fs::read(&path).unwrap());
    assert_eq!(reader.settle().unwrap(), Settled::Stable);
}

#[tokio::test]
async fn directories_that_vanish_while_they_are_listed_are_no_error() {
    let lab = Lab::new();
    let root = lab.root("docs");
    for number in 0..40 {
        let directory = root.join(format!("d{number:02}"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("f"), "x").unwrap();
    }
    let mut session = lab.begin(&lab.settings(&["docs"]), None).await.unwrap();
    assert_eq!(session.next_entries(3).await.unwrap().len(), 3);
    for number in 10..40 {
        std::fs::remove_dir_all(root.join(format!("d{number:02}"))).unwrap();
    }
    let taken = crate::kit::take(session).await;
    assert!(taken.entries.contains_key("docs/d09/f"));
    assert!(!taken.entries.contains_key("docs/d20/f"));
    assert_eq!(taken.end.unreadable.count, 0, "{:?}", taken.end.unreadable);
}
