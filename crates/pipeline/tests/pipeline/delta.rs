//! Restores onto what is there: what is right is kept, what differs is fetched, nothing outside the target is touched.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use breakwater_core::ErrorClass;
use breakwater_pipeline::PipelineError;
use breakwater_pipeline::restore::{MARKER, Onto, RestoreReport, preview_delta, run_restore};
use breakwater_repository::format::manifest::Manifest;
use breakwater_storage::{Effect, Operation, Rule};

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise, text};

fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.directory("base").directory("base/1").directory("global").directory("empty");
    tree.file("base/1/a", noise(1, EXTENT * 40 + 9)).file("base/1/b", text(2, EXTENT * 30));
    tree.file("base/1/zeros", vec![0; EXTENT * 5 + 1]).file("base/none", Vec::new());
    tree.file("global/pg_control", noise(4, 8192)).link("base/link", "1/a");
    for n in 0..60 {
        tree.file(&format!("base/1/small{n:02}"), noise(100 + n, 300 + n as usize));
    }
    tree
}

async fn onto(lab: &Lab, manifest: &Manifest, target: &Path, onto: Onto) -> Result<RestoreReport, PipelineError> {
    let mut job = lab.restore_job(manifest, target.to_owned());
    job.onto = onto;
    run_restore(job).await
}

const COPY: Onto = Onto::Copy { delete_extra: false };
const MIRROR: Onto = Onto::Copy { delete_extra: true };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_right_is_kept_and_what_differs_is_fetched() {
    let lab = Lab::new(1).await;
    let tree = tree();
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("t");
    onto(&lab, &manifest, &target, COPY).await.unwrap();
    assert_eq!(Tree::read(&target), tree, "onto nothing it is a restore like any other");
    let inode = |path: &str| std::fs::metadata(target.join(path)).unwrap().ino();
    let kept = (inode("base/1/b"), inode("base/1/small07"));
    let again = onto(&lab, &manifest, &target, COPY).await.unwrap();
    assert_eq!((again.totals.stored, again.totals.new), (0, 0), "nothing was fetched");
    assert_eq!(again.totals.unchanged + again.totals.zeros, tree.bytes());
    assert_eq!(Tree::read(&target), tree);
    assert_eq!(kept, (inode("base/1/b"), inode("base/1/small07")));

    // One byte in one extent, a cut file, a file too many, one too few, a mode, a link elsewhere, a byte among zeros.
    let mut content = std::fs::read(target.join("base/1/a")).unwrap();
    content[EXTENT * 7] ^= 1;
    std::fs::write(target.join("base/1/a"), &content).unwrap();
    std::fs::write(target.join("base/1/small03"), b"short").unwrap();
    std::fs::remove_file(target.join("base/1/small04")).unwrap();
    std::fs::write(target.join("base/1/foreign"), b"mine").unwrap();
    std::fs::set_permissions(target.join("base/1/small05"), std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::remove_file(target.join("base/link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", target.join("base/link")).unwrap();
    let mut zeros = vec![0; EXTENT * 5 + 1];
    zeros[EXTENT + 1] = 1;
    std::fs::write(target.join("base/1/zeros"), zeros).unwrap();
    let before = Tree::read(&target);
    let mut job = lab.restore_job(&manifest, target.clone());
    job.onto = COPY;
    let preview = preview_delta(&job).await.unwrap();
    assert_eq!(Tree::read(&target), before, "a preview changes nothing");
    let report = onto(&lab, &manifest, &target, COPY).await.unwrap();
    assert_eq!(report.totals.new, (EXTENT + 303 + 304) as u64);
    assert_eq!(preview.bytes_changed, report.totals.new);
    assert!(preview.bytes_fetched > 0 && preview.bytes_fetched <= report.totals.stored, "{preview:?} {report:?}");
    assert_eq!(preview.files_kept + preview.files_changed, 65);
    let mut expected = tree.clone();
    assert_eq!(std::fs::read(target.join("base/1/foreign")).unwrap(), b"mine", "left alone");
    expected.0.insert(b"base/1/foreign".to_vec(), Tree::read(&target).0[&b"base/1/foreign"[..]].clone());
    assert_eq!(Tree::read(&target), expected);
    onto(&lab, &manifest, &target, MIRROR).await.unwrap();
    assert_eq!(Tree::read(&target), tree, "and removed on request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_restore_is_continued_without_fetching_again() {
    let lab = Lab::new(1).await;
    let mut tree = tree();
    for n in 0..24 {
        tree.file(&format!("base/1/large{n:02}"), noise(500 + n, EXTENT * 60));
    }
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let whole = lab.restore(&manifest).await.1.totals.stored;
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("t");
    let mut job = lab.restore_job(&manifest, target.clone());
    job.parallel = 1;
    let (cancel, progress) = (job.cancel.clone(), std::sync::Arc::clone(&job.progress));
    // Packs after the first few are held, so that there is something left to do.
    let held = lab.faults[0].add(Rule::on(Operation::GetRange).prefix("data/").from(12), Effect::Hold);
    let running = tokio::spawn(run_restore(job));
    held.reached(1).await;
    cancel.cancel();
    running.await.unwrap().unwrap_err();
    lab.faults[0].heal();
    let first = progress.totals().stored;
    assert!(first > whole / 5 && first < whole, "{first} of {whole}");
    assert!(!target.join("global/pg_control").exists());

    let refused = onto(&lab, &manifest, &target, Onto::Nothing).await.unwrap_err();
    assert!(refused.to_string().contains("--resume"), "{refused}");
    std::fs::write(target.join("base/left-by-a-recovery"), b"x").unwrap();
    let report = onto(&lab, &manifest, &target, Onto::Unfinished).await.unwrap();
    assert_eq!(Tree::read(&target), tree);
    let second = report.totals.stored;
    // Ranges may overlap a little where neighbours were there already.
    assert!(first + second < whole + whole / 5, "{first} and {second} of {whole}");
    assert!(!target.join(MARKER).exists());
    let error = onto(&lab, &manifest, &target, Onto::Unfinished).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_snapshot_is_not_continued() {
    let lab = Lab::new(1).await;
    let mut tree = tree();
    let first = lab.backup(FakeSession::new(&tree)).await.manifest;
    tree.file("new", noise(9, 10));
    let second = lab.backup(FakeSession::new(&tree)).await.manifest;
    let root = tempfile::tempdir().unwrap();
    lab.faults[0]
        .add(Rule::on(Operation::GetRange).prefix("data/"), Effect::Fail(breakwater_storage::StorageErrorKind::Denied));
    onto(&lab, &first, root.path(), Onto::Nothing).await.unwrap_err();
    lab.faults[0].heal();
    let error = onto(&lab, &second, root.path(), Onto::Unfinished).await.unwrap_err();
    assert!(error.class() == ErrorClass::Refused && error.to_string().contains("another snapshot"), "{error}");
    onto(&lab, &second, root.path(), MIRROR).await.unwrap();
    assert_eq!(Tree::read(root.path()), tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outside_is_touched_by_way_of_links_or_other_names() {
    let lab = Lab::new(1).await;
    let tree = tree();
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let root = tempfile::tempdir().unwrap();
    let (target, outside) = (root.path().join("t"), root.path().join("outside"));
    std::fs::create_dir_all(target.join("base/1")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    for name in ["a", "b", "small00", "zeros"] {
        std::fs::write(outside.join(name), "precious").unwrap();
    }
    // The same content and another mode: what has a name outside too is not even dressed.
    std::fs::write(outside.join("small02"), noise(102, 302)).unwrap();
    std::fs::set_permissions(outside.join("small02"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::hard_link(outside.join("a"), target.join("base/1/a")).unwrap();
    std::fs::hard_link(outside.join("small02"), target.join("base/1/small02")).unwrap();
    std::os::unix::fs::symlink(outside.join("b"), target.join("base/1/b")).unwrap();
    std::os::unix::fs::symlink(outside.join("small00"), target.join("base/1/small00")).unwrap();
    std::os::unix::fs::symlink(&outside, target.join("global")).unwrap();
    std::os::unix::fs::symlink(&outside, target.join("empty")).unwrap();
    std::os::unix::fs::symlink(&outside, target.join("extra")).unwrap();
    let before = Tree::read(&outside);
    onto(&lab, &manifest, &target, MIRROR).await.unwrap();
    assert_eq!(Tree::read(&outside), before);
    assert_eq!(Tree::read(&target), tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_holds_something_goes_for_a_file_only_on_request() {
    let lab = Lab::new(1).await;
    let mut tree = Tree::default();
    tree.file("thing", noise(1, 100)).directory("was-a-file");
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("thing")).unwrap();
    std::fs::write(root.path().join("thing/inside"), "x").unwrap();
    std::fs::write(root.path().join("was-a-file"), "x").unwrap();
    let before = Tree::read(root.path());
    let error = onto(&lab, &manifest, root.path(), COPY).await.unwrap_err();
    assert!(error.class() == ErrorClass::Refused && error.to_string().contains("`thing`"), "{error}");
    assert_eq!(Tree::read(root.path()), before, "nothing was changed");
    onto(&lab, &manifest, root.path(), MIRROR).await.unwrap();
    assert_eq!(Tree::read(root.path()), tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_last_is_away_while_the_rest_is_written() {
    let lab = Lab::new(1).await;
    let mut tree = tree();
    let manifest = lab.backup(FakeSession::new(&tree)).await.manifest;
    let root = tempfile::tempdir().unwrap();
    onto(&lab, &manifest, root.path(), COPY).await.unwrap();
    tree.file("base/1/a", noise(77, EXTENT * 40));
    let newer = lab.backup(FakeSession::new(&tree)).await.manifest;
    let held = lab.faults[0].add(Rule::on(Operation::GetRange).prefix("data/"), Effect::Hold);
    let mut job = lab.restore_job(&newer, root.path().to_owned());
    job.onto = COPY;
    let cancel = job.cancel.clone();
    let running = tokio::spawn(run_restore(job));
    held.reached(1).await;
    assert!(root.path().join(MARKER).exists() && !root.path().join("global/pg_control").exists());
    let a = std::fs::read(root.path().join("base/1/a")).unwrap();
    assert_eq!(a, noise(1, EXTENT * 40 + 9), "old as long as it is not new");
    cancel.cancel();
    running.await.unwrap().unwrap_err();
    lab.faults[0].heal();
    assert!(!root.path().join("global/pg_control").exists());
    onto(&lab, &newer, root.path(), Onto::Unfinished).await.unwrap();
    assert_eq!(Tree::read(root.path()), tree);
}
