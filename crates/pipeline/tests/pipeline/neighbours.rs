//! What another source has stored, and a recipient vouches for, is not stored again.

use std::time::Duration;

use breakwater_core::SourceUid;
use breakwater_pipeline::backup::BackupOutcome;
use breakwater_repository::CreateOptions;
use breakwater_repository::gc::{GcOptions, GcOutcome};

use crate::engine::{Behaviour, FakeSession};
use crate::lab::{EXTENT, Lab, options};
use crate::tree::{Tree, noise, text};

const OTHER: SourceUid = SourceUid::from_bytes([8; 16]);

fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.directory("d").file("d/large", noise(1, 3 << 20)).file("d/text", text(2, EXTENT * 40));
    tree
}

/// Cut where the content says, or into extents.
fn session(tree: &Tree, chunked: bool) -> FakeSession {
    FakeSession::behaving(tree, Behaviour { chunked, ..Behaviour::default() })
}

async fn vouch(lab: &Lab, outcome: &BackupOutcome) {
    assert!(lab.set.drained(Duration::from_secs(20)).await);
    let of = (outcome.manifest.snapshot, outcome.manifest.session);
    let report = lab.recipient.vouch(outcome.manifest.source.uid, of, &|_| ()).await.unwrap();
    assert!(report.packs > 0 && report.left_out == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_source_stores_nothing_and_restores_when_the_first_is_deleted() {
    for chunked in [false, true] {
        let mut lab = Lab::with(2, 1, CreateOptions { verified_chunks: true, ..options() }).await;
        let tree = tree();
        let first = lab.backup(session(&tree, chunked)).await;

        // Nobody has vouched for it yet.
        lab.source = SourceUid::from_bytes([9; 16]);
        let unverified = lab.backup(session(&tree, chunked)).await;
        assert_eq!(unverified.totals.new, tree.bytes());
        assert_eq!(unverified.manifest.leans, []);

        vouch(&lab, &first).await;
        lab.source = OTHER;
        let before = lab.names(0, "data/").await;
        let second = lab.backup(session(&tree, chunked)).await;
        assert_eq!((second.totals.new, second.totals.repeated), (0, tree.bytes()), "{:?}", second.totals);
        assert_eq!(lab.names(0, "data/").await, before);
        assert_eq!(second.manifest.leans.len(), 1);

        let changed = {
            let mut tree = tree.clone();
            tree.file("d/new", noise(7, 9000));
            tree
        };
        let third = lab.backup(session(&changed, chunked)).await;
        assert!(third.totals.new <= 9000, "{:?}", third.totals);
        assert!(lab.set.drained(Duration::from_secs(20)).await);

        let of = first.manifest.source.uid;
        lab.recipient.delete_snapshot(of, first.manifest.snapshot).await.unwrap();
        let report = lab.recipient.gc_source(of, &GcOptions::default()).await.unwrap();
        assert!(matches!(report.outcome, GcOutcome::Done) && report.leaners == [OTHER], "{report:?}");
        for region in [0, 1] {
            lab.faults[region].set_reachable(false);
            assert_eq!(lab.restore(&second.manifest).await.0, tree);
            assert_eq!(lab.restore(&third.manifest).await.0, changed);
            lab.faults[region].heal();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_away_means_that_everything_is_stored() {
    let mut lab = Lab::with(2, 1, CreateOptions { verified_chunks: true, ..options() }).await;
    let tree = tree();
    let first = lab.backup(session(&tree, false)).await;
    vouch(&lab, &first).await;
    lab.source = OTHER;
    lab.faults[1].set_reachable(false);
    let second = lab.backup(session(&tree, false)).await;
    assert_eq!((second.totals.new, second.manifest.leans.len()), (tree.bytes(), 0));
    lab.faults[1].heal();
}
