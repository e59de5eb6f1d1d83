//! A region whose directory goes away and comes back, as an unmounted volume does.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use breakwater_core::Chain;
use breakwater_storage::{Payload, Places, Storage, StorageError, StorageErrorKind};
use futures::TryStreamExt;

fn payload() -> Payload {
    Payload::from(b"content".as_slice())
}

fn assert_unreachable<T: std::fmt::Debug>(result: Result<T, StorageError>) {
    let error = result.expect_err("the root is gone");
    assert_eq!(error.kind(), StorageErrorKind::Unreachable, "{}", Chain(&error));
}

async fn assert_all_unreachable(storage: &Storage) {
    assert_unreachable(storage.create("data/new", payload()).await);
    assert_unreachable(storage.get("data/a").await);
    assert_unreachable(storage.get_range("data/a", 0..1).await);
    assert_unreachable(storage.get_tail("data/a", 1).await);
    assert_unreachable(storage.head("data/a").await);
    assert_unreachable(storage.exists("data/none").await);
    assert_unreachable(storage.list("").try_collect::<Vec<_>>().await);
    assert_unreachable(storage.list_directories("").await);
    assert_unreachable(storage.delete("data/a").await);
}

#[tokio::test]
async fn a_root_that_was_moved_away_is_unreachable_until_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (directory.path().join("r1"), directory.path().join("elsewhere"));
    let storage = Storage::file_system(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "opening writes nothing into the directory");
    storage.create("data/a", payload()).await.unwrap();

    fs::rename(&root, &elsewhere).unwrap();
    assert_all_unreachable(&storage).await;
    assert!(!root.exists(), "it is not made again");
    assert_eq!(fs::read_dir(elsewhere.join(".tmp")).unwrap().count(), 0, "and nothing is written where it was");

    fs::rename(&elsewhere, &root).unwrap();
    assert_eq!(storage.get("data/a").await.unwrap(), "content");
    storage.create("data/new", payload()).await.unwrap();
}

#[tokio::test]
async fn a_root_that_was_removed_is_unreachable_and_another_in_its_place_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("r1");
    let storage = Storage::file_system(&root).unwrap();
    storage.create("data/a", payload()).await.unwrap();
    fs::remove_dir_all(&root).unwrap();
    assert_all_unreachable(&storage).await;
    fs::write(&root, "a file is no region").unwrap();
    assert_all_unreachable(&storage).await;
    fs::remove_file(&root).unwrap();
    fs::create_dir(&root).unwrap();
    assert!(!storage.exists("data/a").await.unwrap());
    storage.create("data/a", payload()).await.unwrap();
}

#[tokio::test]
async fn a_known_region_is_opened_without_being_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("r1");
    let storage = Places::local().open_existing(root.to_str().unwrap()).await.unwrap();
    assert_all_unreachable(&storage).await;
    assert!(!root.exists());
    fs::create_dir(&root).unwrap();
    storage.create("data/a", payload()).await.unwrap();
}

#[test]
fn a_new_region_needs_a_place_to_be_in() {
    let directory = tempfile::tempdir().unwrap();
    let error = Storage::file_system(&directory.path().join("missing/r1")).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unreachable);
    assert!(Chain(&error).to_string().contains("(hint: create it, or mount"), "{}", Chain(&error));
    assert!(!directory.path().join("missing").exists());
    fs::write(directory.path().join("file"), "").unwrap();
    let error = Storage::file_system(&directory.path().join("file")).unwrap_err();
    assert!(Chain(&error).to_string().contains("not a directory"), "{}", Chain(&error));
}
