//! A writer that is killed at an arbitrary instruction leaves whole objects or nothing.
//!
//! The test binary starts itself again as the writer, told by an environment variable.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use breakwater_storage::{Payload, Storage, StorageErrorKind, conformance};
use futures::TryStreamExt;

const ROOT: &str = "BREAKWATER_TEST_WRITER_ROOT";
const ROUNDS: u32 = 15;
/// Large enough that most kills hit the middle of a write.
const OBJECT_BYTES: usize = 3 << 20;

/// Not a test of its own: the writer, which is killed. Without the variable there is nothing to do.
#[tokio::test]
async fn writer() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let storage = Storage::file_system(Path::new(&root)).unwrap();
    let content = Payload::from(conformance::pattern(5, OBJECT_BYTES));
    for n in 0_u64.. {
        match storage.create(&format!("data/{}/{n}", n % 3), content.clone()).await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), StorageErrorKind::AlreadyExists),
        }
    }
}

fn start_writer(root: &Path) -> Child {
    Command::new(std::env::current_exe().expect("the path of this test"))
        .args(["--exact", "writer", "--nocapture"])
        .env(ROOT, root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test starts itself")
}

async fn objects(storage: &Storage) -> usize {
    storage.list("data/").try_collect::<Vec<_>>().await.expect("a list succeeds").len()
}

#[tokio::test]
async fn a_killed_writer_leaves_whole_objects_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("r1");
    let storage = Storage::file_system(&root).unwrap();
    let content = conformance::pattern(5, OBJECT_BYTES);
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        let before = objects(&storage).await;
        let mut writer = start_writer(&root);
        let deadline = Instant::now() + Duration::from_secs(30);
        while objects(&storage).await == before {
            assert!(Instant::now() < deadline, "the writer makes progress");
            assert!(writer.try_wait().unwrap().is_none(), "the writer runs until it is killed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Another instant of the write each round.
        tokio::time::sleep(Duration::from_micros(u64::from(round) * 700)).await;
        writer.kill().unwrap();
        writer.wait().unwrap();
        for meta in storage.list("").try_collect::<Vec<_>>().await.unwrap() {
            assert!(storage.get(&meta.key).await.unwrap() == content, "{} is whole", meta.key);
        }
        unfinished = std::fs::read_dir(root.join(".tmp")).unwrap().count();
    }
    assert!(objects(&storage).await >= ROUNDS as usize);
    assert!(unfinished > 0, "at least one kill hit the middle of a write");
}
