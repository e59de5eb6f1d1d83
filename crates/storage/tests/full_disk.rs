//! A volume without room: a real one, 8 MiB of memory mounted in a namespace of the test's own.
//!
//! The test binary starts itself again inside the namespace. Where the machine allows no namespaces the test says so and
//! stops there.

use std::path::Path;
use std::process::Command;

use breakwater_storage::{Payload, Storage, StorageErrorKind};
use futures::TryStreamExt;

const ROOT: &str = "BREAKWATER_TEST_FULL_ROOT";

#[tokio::test]
async fn inside() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let storage = Storage::file_system(Path::new(&root)).unwrap();
    storage.create("data/fits", vec![1; 1 << 20].into()).await.unwrap();
    let temporaries = || std::fs::read_dir(Path::new(&root).join(".tmp")).unwrap().count();
    for _ in 0..5 {
        let error = storage.create("data/large", Payload::from(vec![2; 9 << 20])).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Full, "{error:?}");
        assert_eq!(temporaries(), 0, "what did not fit is removed");
    }
    // The room is free again, and what was there is unharmed.
    storage.create("data/also-fits", vec![3; 5 << 20].into()).await.unwrap();
    let keys: Vec<_> = storage.list("").map_ok(|meta| meta.key).try_collect().await.unwrap();
    assert_eq!(keys, ["data/also-fits", "data/fits"]);
    assert_eq!(storage.get("data/fits").await.unwrap(), vec![1; 1 << 20]);
}

#[test]
fn a_full_volume_says_so_and_keeps_nothing_unfinished() {
    if std::env::var_os(ROOT).is_some() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let namespace = ["--user", "--map-root-user", "--mount", "--"];
    let allowed = Command::new("unshare")
        .args(namespace)
        .args(["mount", "-t", "tmpfs", "-o", "size=8m", "t"])
        .arg(directory.path())
        .output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: this machine allows no mounts in a namespace of one's own");
        return;
    }
    let script = r#"mount -t tmpfs -o size=8m t "$1" && exec "$2" --exact inside --nocapture"#;
    let output = Command::new("unshare")
        .args(namespace)
        .args(["sh", "-c", script, "sh"])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .env(ROOT, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
