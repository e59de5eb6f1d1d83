//! Packs that the garbage collection has moved: a restore finds every frame where it lies now.

use breakwater_core::ErrorClass;
use breakwater_repository::ObjectName;
use breakwater_repository::format::manifest::Manifest;
use breakwater_repository::gc::{GcOptions, GcOutcome};
use futures::TryStreamExt;

use crate::engine::FakeSession;
use crate::lab::{EXTENT, Lab};
use crate::tree::{Tree, noise, text};

fn tree(keep: impl Fn(u64) -> bool) -> Tree {
    let mut tree = Tree::default();
    tree.directory("d");
    for n in (0..24).filter(|n| keep(*n)) {
        tree.put(
            format!("d/f{n:02}").as_bytes(),
            crate::tree::Node::File(std::sync::Arc::new(noise(n, EXTENT * 64))),
            0o640,
        );
        tree.file(&format!("d/t{n:02}"), text(n, EXTENT * 3));
    }
    tree
}

/// Deletes a snapshot and moves what is left of its packs.
async fn delete(lab: &Lab, manifest: &Manifest) {
    lab.recipient.delete_snapshot(lab.source, manifest.snapshot).await.unwrap();
    let options = GcOptions { repack_below: 100, ..GcOptions::default() };
    let report = lab.recipient.gc_source(lab.source, &options).await.unwrap();
    assert!(matches!(report.outcome, GcOutcome::Done), "{report:?}");
}

async fn packs_of(lab: &Lab, manifest: &Manifest) -> usize {
    let session = manifest.session.to_string();
    let names: Vec<String> = lab.storages[0].list("").map_ok(|object| object.key).try_collect().await.unwrap();
    names.iter().filter(|name| name.contains("/pack/") && name.contains(&session)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_are_found_where_they_were_moved_to_however_often() {
    let lab = Lab::new(2).await;
    let first = lab.backup(FakeSession::new(&tree(|_| true))).await.manifest;
    let halved = tree(|n| n.is_multiple_of(2));
    let second = lab.backup(FakeSession::new(&halved)).await.manifest;
    assert!(lab.set.drained(std::time::Duration::from_secs(20)).await);
    delete(&lab, &first).await;
    assert_eq!(packs_of(&lab, &first).await, 0, "its packs are gone");
    let (restored, report) = lab.restore(&second).await;
    assert_eq!(restored, halved);
    assert!(report.damage.is_empty());

    let quartered = tree(|n| n.is_multiple_of(4));
    let third = lab.backup(FakeSession::new(&quartered)).await.manifest;
    assert!(lab.set.drained(std::time::Duration::from_secs(20)).await);
    delete(&lab, &second).await;
    assert_eq!(packs_of(&lab, &second).await, 0);
    assert_eq!(lab.restore(&third).await.0, quartered, "moved twice");
    for region in [0, 1] {
        lab.faults[region].set_reachable(false);
        assert_eq!(lab.restore(&third).await.0, quartered, "the other region alone has everything");
        lab.faults[region].heal();
    }

    // A pack that is gone without a word is lost, and named.
    for storage in &lab.storages {
        let names: Vec<String> = storage.list("data/").map_ok(|object| object.key).try_collect().await.unwrap();
        for name in names {
            assert!(matches!(ObjectName::parse(&name), Some(ObjectName::ContentPack(..))));
            storage.delete(&name).await.unwrap();
        }
    }
    let error = lab.restore_only(&third, &[]).await.unwrap_err();
    assert!(matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt | ErrorClass::Unavailable), "{error}");
    assert!(breakwater_core::Chain(&error).to_string().contains("data/"), "{error}");
}
