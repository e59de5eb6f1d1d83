//! Trees that would write where they must not, and targets that must not be written.

use breakwater_core::{ErrorClass, Timestamp};
use breakwater_pipeline::restore::run_restore;
use breakwater_repository::Class;
use breakwater_repository::format::Codec;
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::session::ObjectWriter;
use tokio_util::sync::CancellationToken;

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise};

/// A manifest whose tree has these lines, well sealed: what a writer's stolen key could make.
async fn forged(lab: &Lab, lines: &[&str]) -> Manifest {
    let mut tree = Tree::default();
    tree.file("a", noise(1, 10));
    let mut manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let job = lab.job(FakeSession::new(&tree), CancellationToken::new()).await.unwrap();
    let mut packs = job.session.structure_packs();
    let plain: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let id = lab.writer.suite().chunk_id(lab.writer.id_key(), Class::Tree.byte(), &plain);
    let length = u32::try_from(plain.len()).unwrap();
    manifest.tree = vec![packs.push(id, Class::Tree, Codec::None, length, &plain).unwrap()];
    for pack in packs.finish().unwrap() {
        job.writer.create_all(&pack.name, pack.payload).await.unwrap();
    }
    manifest
}

fn line(path: &str, rest: &str) -> String {
    format!("{{\"path\":\"{path}\",\"mode\":448,\"uid\":0,\"gid\":0,\"mtime\":{},{rest}}}", Timestamp(0).0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_trees_are_refused_before_anything_is_written() {
    let lab = Lab::new(1).await;
    let (dir, link) = ("\"type\":\"dir\"", "\"type\":\"symlink\",\"target\":\"/etc\"");
    let marker = breakwater_pipeline::restore::MARKER;
    let trees = [
        vec![line("/etc", dir)],
        vec![line("..", dir)],
        vec![line("a", dir), line("a/../../b", dir)],
        vec![line("a/b", dir)],
        vec![line("%2e%2e", dir)],
        vec![line("a", link), line("a/b", dir)],
        vec![line("b", dir), line("a", dir)],
        vec![line("a", dir), line("a", dir)],
        vec![line("a%00", dir)],
        vec![line(&"x".repeat(300), dir)],
        vec![line(marker, dir)],
        vec![line("a", "\"type\":\"hardlink\",\"target\":\"../outside\"")],
        vec![line("b", "\"type\":\"hardlink\",\"target\":\"/etc/passwd\"")],
        vec![line("a", dir), line("b", "\"type\":\"hardlink\",\"target\":\"a\"")],
        vec![line("a", link), line("b", "\"type\":\"hardlink\",\"target\":\"a\"")],
        vec![line("b", "\"type\":\"hardlink\",\"target\":\"a\"")],
    ];
    for lines in trees {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let manifest = forged(&lab, &lines).await;
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("t");
        let error = run_restore(lab.restore_job(&manifest, target.clone())).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt, "{lines:?}: {error}");
        assert!(!target.exists(), "{lines:?}: nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_holds_something_is_left_alone() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("a", noise(1, EXTENT));
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("precious"), "data").unwrap();
    let before = Tree::read(directory.path());
    let error = run_restore(lab.restore_job(&manifest, directory.path().to_owned())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.to_string().contains("precious"), "{error}");
    assert_eq!(Tree::read(directory.path()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writers_key_cannot_restore_and_nothing_is_written() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("a", noise(1, EXTENT));
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("t");
    let mut job = lab.restore_job(&manifest, target.clone());
    job.repository = lab.writer.clone();
    job.order = lab.writer.read_order();
    let error = run_restore(job).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Denied, "{error}");
    assert!(!target.exists());
}
