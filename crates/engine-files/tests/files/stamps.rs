//! Stamps: equal ones promise that nothing was written, and no write goes unnoticed.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::kit::{Lab, Taken, set_mtime};

fn stamp(taken: &Taken, path: &str) -> Option<String> {
    taken.entry(path).stamp.clone()
}

/// Waits until the clock of the file system has moved past everything written so far.
fn let_the_clock_tick(directory: &Path) {
    let ctime = |path: &Path| {
        let look = std::fs::metadata(path).unwrap();
        (look.ctime(), look.ctime_nsec())
    };
    let (first, second) = (directory.join(".tick-1"), directory.join(".tick-2"));
    std::fs::write(&first, "x").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        std::fs::write(&second, "x").unwrap();
        if ctime(&second) > ctime(&first) {
            break;
        }
        assert!(Instant::now() < deadline, "the clock of the file system stands still");
    }
    std::fs::remove_file(first).unwrap();
    std::fs::remove_file(second).unwrap();
}

#[tokio::test]
async fn a_file_that_nobody_wrote_keeps_its_stamp_and_any_write_changes_it() {
    let lab = Lab::new();
    let root = lab.root("docs");
    let names = ["same", "written", "spoofed", "appended", "replaced", "chmod", "moved-over"];
    for name in names {
        std::fs::write(root.join(name), "12345678").unwrap();
        set_mtime(&root.join(name), 1_600_000_000, 5);
    }
    let_the_clock_tick(lab.path());
    let settings = lab.settings(&["docs"]);
    let first = lab.take(&settings, None).await;
    for name in names {
        assert!(stamp(&first, &format!("docs/{name}")).is_some(), "{name} is older than the mark");
    }
    OpenOptions::new().write(true).open(root.join("written")).unwrap().write_all_at(b"8", 0).unwrap();
    // The same size and the same modification time.
    OpenOptions::new().write(true).open(root.join("spoofed")).unwrap().write_all_at(b"8", 0).unwrap();
    set_mtime(&root.join("spoofed"), 1_600_000_000, 5);
    OpenOptions::new().append(true).open(root.join("appended")).unwrap().write_all(b"9").unwrap();
    std::fs::remove_file(root.join("replaced")).unwrap();
    std::fs::write(root.join("replaced"), "87654321").unwrap();
    set_mtime(&root.join("replaced"), 1_600_000_000, 5);
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(root.join("chmod"), permissions).unwrap();
    std::fs::write(root.join("other"), "abcdefgh").unwrap();
    set_mtime(&root.join("other"), 1_600_000_000, 5);
    std::fs::rename(root.join("other"), root.join("moved-over")).unwrap();

    let second = lab.take(&settings, Some(&first)).await;
    assert_eq!(stamp(&second, "docs/same"), stamp(&first, "docs/same"));
    for name in names.iter().filter(|name| **name != "same") {
        let path = format!("docs/{name}");
        assert_ne!(stamp(&second, &path), stamp(&first, &path), "{name}");
    }
}

#[tokio::test]
async fn a_file_that_is_written_after_the_scan_began_gets_no_stamp() {
    let lab = Lab::new();
    let root = lab.root("docs");
    for name in ["old", "touched"] {
        std::fs::write(root.join(name), "x").unwrap();
    }
    let_the_clock_tick(lab.path());
    let settings = lab.settings(&["docs"]);
    let session = lab.begin(&settings, None).await.unwrap();
    // In the tick of the mark, perhaps: a second write in it would leave the same time.
    std::fs::write(root.join("touched"), "y").unwrap();
    std::fs::write(root.join("new"), "z").unwrap();
    let taken = crate::kit::take(session).await;
    assert!(stamp(&taken, "docs/old").is_some());
    assert_eq!(stamp(&taken, "docs/touched"), None);
    assert_eq!(stamp(&taken, "docs/new"), None);
    assert_eq!(taken.end.facts["unstamped"], 2);
}

/// Writers that hide: same size, modification time put back, as often as they can. Whatever the scan between two writes
/// saw, the next one either has no stamp to compare with, or another one.
#[tokio::test]
async fn a_write_right_after_a_scan_is_never_taken_for_no_write() {
    let lab = Lab::new();
    let path = lab.root("docs").join("f");
    let settings = lab.settings(&["docs"]);
    let mut before: Option<Taken> = None;
    for round in 0u8..60 {
        std::fs::write(&path, [round; 8]).unwrap();
        set_mtime(&path, 1_600_000_000, 5);
        let taken = lab.take(&settings, before.as_ref()).await;
        if let Some(before) = &before {
            let (then, now) = (stamp(before, "docs/f"), stamp(&taken, "docs/f"));
            assert!(then.is_none() || then != now, "round {round}: {then:?}");
        }
        before = Some(taken);
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_makes_all_older_stamps_worthless() {
    let lab = Lab::new();
    std::fs::write(lab.root("docs").join("f"), "x").unwrap();
    let_the_clock_tick(lab.path());
    let settings = lab.settings(&["docs"]);
    let mut first = lab.take(&settings, None).await;
    let second = lab.take(&settings, Some(&first)).await;
    assert_eq!(stamp(&first, "docs/f"), stamp(&second, "docs/f"));
    // As if the last scan had been made by a clock that is ahead of ours.
    first.end.facts["ended"] = serde_json::json!([4_000_000_000_i64, 0]);
    let third = lab.take(&settings, Some(&first)).await;
    assert!(stamp(&third, "docs/f").is_some());
    assert_ne!(stamp(&first, "docs/f"), stamp(&third, "docs/f"));
    let fourth = lab.take(&settings, Some(&third)).await;
    assert_eq!(stamp(&third, "docs/f"), stamp(&fourth, "docs/f"), "and is trusted again from then on");
}
